"""Where the time of the mini job goes: the share of each stage, and of the parts of reinforcement learning.

    python tests/benchmarks/shares.py

The default job is run with a fifth of its queries and episodes, in a temporary folder, on all cores; its stages are
proportional to these. Parts are timed around the calls that make them. Drawing figures and tables is left out.
"""

import functools
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from common import mini_stages, write_result
from rich.console import Console

from rkd.generation.local import LocalGenerator
from rkd.models.cpu_workers import cores
from rkd.pipeline.pipeline import run_experiment
from rkd.pipeline.stage_runner import StageRunner
from rkd.rl import rollout as collector
from rkd.rl.policy_module import PolicyModule
from rkd.rl.rewards import LearnedReward

OVERRIDES = (
    "dataset.max_training_queries=1000",
    "dataset.max_validation_queries=80",
    "dataset.max_test_queries=200",
    "validation_queries=60",
    "evaluation.max_pass_at_k_queries=40",
    "rl.rollouts.episodes=2048",
    "tracking=none",
    "trainer/callbacks=none",
)
# What a stage's name in the store begins with, and the row of the table.
STAGES = {
    "overlap": "overlap of test and training questions",
    "teacher": "teacher samples",
    "sft": "SFT",
    "student_samples": "student samples",
    "reward_model": "reward model",
    "rl": "RL",
    "evaluation": "evaluation",
    "dpo": "DPO",
}
PARTS = {
    (LocalGenerator, "sample"): "sampling",
    (collector, "in_minibatches"): "log-probabilities of policy and reference",
    (LearnedReward, "__call__"): "reward model",
    (PolicyModule, "train_on"): "training",
    (PolicyModule, "validation_step"): "validation",
}

_seconds: dict[str, float] = defaultdict(float)


def time_calls(owner: Any, name: str, part: str) -> None:
    """Add the seconds of each call of `owner.name` to a part."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            _seconds[part] += time.perf_counter() - start

    setattr(owner, name, timed)


def main() -> None:
    """Run the job, add up, write."""
    stages = mini_stages(*OVERRIDES)
    for (owner, name), part in PARTS.items():
        time_calls(owner, name, part)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w", encoding="utf-8") as nowhere:
        runner = StageRunner(Path(folder), Console(file=nowhere))
        start = time.perf_counter()
        with cores(None, small_models=True):
            run_experiment(stages, runner, {})
        total = time.perf_counter() - start
    of_stages: dict[str, float] = defaultdict(float)
    for name, cost in runner.costs.items():
        of_stages[STAGES[max((prefix for prefix in STAGES if name.startswith(prefix)), key=len)]] += cost["seconds"]
    of_stages["between the stages"] = total - sum(of_stages.values())
    of_rl = {part: _seconds[part] for part in PARTS.values()}
    of_rl["the rest"] = of_stages["RL"] - sum(of_rl.values())
    write_result(
        "shares",
        {"overrides": OVERRIDES},
        {
            "seconds": total,
            "stages": {name: seconds / total for name, seconds in of_stages.items()},
            "rl": {name: seconds / of_stages["RL"] for name, seconds in of_rl.items()},
        },
    )


if __name__ == "__main__":
    main()
