"""One iteration of reinforcement learning (collect and train), ours against TRL's PPO and GRPO.

    python -m venv .venv-trl-ppo && .venv-trl-ppo/bin/pip install -r tests/benchmarks/requirements-trl-ppo.txt
    python -m venv .venv-trl-grpo && .venv-trl-grpo/bin/pip install -r tests/benchmarks/requirements-trl-grpo.txt
    python tests/benchmarks/rl.py .venv-trl-ppo/bin/python .venv-trl-grpo/bin/python

Both sides: `mini_1` (0.29 M weights), 64 queries × 8 responses, the same prompts each iteration, float32, four
minibatches, the reference's KL in reward (PPO) or loss (GRPO), a cheap reward, nothing logged, validated or saved.
A response has 30 tokens, none of which can end it, or ends by itself, after 120 tokens at most. Each side runs in a
process of its own, one after the other in turn; the first iteration of each process is not counted.

TRL's settings are searched first, one after the other, on responses of fixed length; all that was tried is in the
result. What differs: TRL's PPO has a value model beside the policy, ours a value head on it, so its ratio is also
measured against a value model of 14 thousand weights (`tiny_value`); TRL's PPO scores tokens, the others text.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from common import FOLDER, checkpoint, mini_stages, ratio, rounded, write_result  # first: it makes rkd importable

from rkd.store.provenance import code_revision

QUERIES, SAMPLES, ITERATIONS, ROUNDS, TEMPERATURE = 64, 8, 3, 3, 1.0
COMMON = {"samples": SAMPLES, "minibatches": 4, "temperature": TEMPERATURE, "iterations": ITERATIONS}
FIXED, NATURAL = {"tokens": 30, "natural_end": False}, {"tokens": 120, "natural_end": True}
# By algorithm, in the order of their variation; several processes share out the responses, one thread each.
VARIED = {
    "ppo": (
        [{"processes": 2, "threads": 1}],
        [{"rows": 64}],
        [{"attention": "eager"}],
    ),
    "grpo": ([{"processes": 2, "threads": 1}], [{"attention": "eager"}], [{"cache": "static"}]),
}
DEFAULTS = {
    "ppo": {"processes": 1, "threads": 2, "rows": 512, "attention": "sdpa", "tiny_value": False},
    "grpo": {"processes": 1, "threads": 2, "attention": "sdpa", "cache": None},
}
CASES = (
    {"algorithm": "ppo", "epochs": 1, **FIXED},
    {"algorithm": "grpo", "epochs": 1, **FIXED},
    {"algorithm": "ppo", "epochs": 1, **NATURAL},
    {"algorithm": "grpo", "epochs": 1, **NATURAL},
    {"algorithm": "ppo", "epochs": 4, **FIXED},
)


def run(python: str, script: Path, job: dict[str, Any], folder: Path, processes: int = 1) -> dict[str, Any]:
    """The result of a job in a process of its own, or in several."""
    job_file, result_file = folder / "job.json", folder / "result.json"
    job_file.write_text(json.dumps(job), encoding="utf-8")
    launch = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"] if processes > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(job["settings"].get("threads", os.cpu_count()))}
    command = [python, *launch, str(script), str(job_file), str(result_file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(result_file.read_text(encoding="utf-8"))


def run_ours(job: dict[str, Any]) -> dict[str, Any]:
    """Some iterations of `rkd.rl.stage`, by Lightning's trainer as a job runs them."""
    import copy

    import torch
    from pytorch_lightning import Callback
    from torch.utils.data import DataLoader

    from rkd.models.cpu_workers import cores
    from rkd.models.loading import load_causal_lm, load_tokenizer
    from rkd.protocols import Rewards
    from rkd.rl.advantages import GAE, GroupRelative
    from rkd.rl.kl_controller import FixedKL
    from rkd.rl.reward_mix import Term
    from rkd.rl.settings import KLPenalty, Optimisation, Rollouts
    from rkd.rl.stage import RL
    from rkd.training.trainer import Training

    times: list[float] = []

    class Clock(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            times.append(time.perf_counter())

    def reward(_: Any, responses: Any) -> Rewards:
        texts = [response.text for response in responses]
        shares = torch.tensor([sum(letter.isdigit() for letter in text) / max(1, len(text)) for text in texts])
        return Rewards(shares, {"digits": shares})

    stages = mini_stages()
    queries = stages.dataset.training_queries()[:QUERIES]
    is_ppo, count = job["algorithm"] == "ppo", job["iterations"]
    stage = RL(
        rollouts=Rollouts(
            episodes=count * len(queries) * job["samples"],
            queries_per_rollout=len(queries),
            responses_per_query=job["samples"],
            max_response_tokens=job["tokens"],
            temperature=job["temperature"],
        ),
        optimisation=Optimisation(
            learning_rate=1e-4, epochs_per_rollout=job["epochs"], minibatches_per_epoch=job["minibatches"]
        ),
        kl=KLPenalty(
            controller=FixedKL(0.02), place="reward" if is_ppo else "loss", estimator="k1" if is_ppo else "k3"
        ),
        advantages=GAE(discount=1.0, gae_lambda=1.0) if is_ppo else GroupRelative(group_size=job["samples"]),
    )
    terms = [Term(name="digits", weight=1.0, queries=queries, reward=reward)]
    tokenizer, reference = load_tokenizer(Path(job["folder"])), load_causal_lm(job["folder"])
    module = stage.module(
        copy.deepcopy(reference), reference, tokenizer, stages.zero_shot, terms, validate=None, seed=0
    )
    with cores(None, small_models=True), tempfile.TemporaryDirectory() as folder:  # as a job does
        trainer = Training(accelerator="cpu").trainer(
            "rl", logger=False, folder=Path(folder), max_epochs=1, callbacks=[Clock()], limit_val_batches=0
        )
        trainer.fit(module, DataLoader([[queries]] * count, batch_size=None, collate_fn=lambda rows: rows))
    tokens = [row["response_tokens"] * len(queries) * job["samples"] for row in module.history]
    return {
        "seconds": [after - before for before, after in itertools.pairwise(times)],
        "response_tokens": sum(tokens) / count,
        "updates": stage.optimisation.epochs_per_rollout * stage.optimisation.minibatches_per_epoch,
    }


def without_end(folder: Path) -> Path:
    """`mini_1` with an end-of-sequence token beyond its vocabulary, so that no response ends by itself."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (kind.from_pretrained(checkpoint("mini_1")) for kind in (AutoModelForCausalLM, AutoTokenizer))
    tokenizer.add_special_tokens({"eos_token": "<never>"})
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Comparison:
    """Jobs on both sides, with the same prompts and models."""

    def __init__(self, pythons: dict[str, str], folder: Path) -> None:
        stages = mini_stages()
        queries = stages.dataset.training_queries()[:QUERIES]
        self.pythons, self.folder = pythons, folder
        self.prompts = [stages.zero_shot.render(query) for query in queries]
        self.models = {False: without_end(folder / "endless"), True: checkpoint("mini_1")}

    def ours(self, case: dict[str, Any]) -> dict[str, Any]:
        """Seconds and tokens of our side."""
        return run(sys.executable, Path(__file__).resolve(), self._job(case, {}), self.folder)

    def trl(self, case: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
        """Seconds and tokens of TRL's side."""
        job = self._job(case, settings)
        return run(self.pythons[case["algorithm"]], FOLDER / "trl_rl.py", job, self.folder, settings["processes"])

    def _job(self, case: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
        model = str(self.models[case["natural_end"]])
        return {**COMMON, **case, "folder": model, "prompts": self.prompts, "settings": settings}

    def search(self, algorithm: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """TRL's settings that were tried, with the median of their iterations, and the best."""
        best, tried = DEFAULTS[algorithm], []
        case = {"algorithm": algorithm, "epochs": 1, **FIXED}
        for choices in ([{}], *VARIED[algorithm]):
            for choice in choices:
                setting = {**best, **choice}
                try:
                    tried.append({"settings": setting, "seconds": median(self.trl(case, setting)["seconds"])})
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    tried.append({"settings": setting, "seconds": None, "error": str(error).strip()[-200:]})
                print(tried[-1], flush=True)
            best = min(tried, key=lambda one: one["seconds"] or float("inf"))["settings"]
        return tried, best

    def compare(self, case: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
        """Both sides in turn; for PPO TRL without the cost of its value model as well."""
        sides = {"ours": lambda: self.ours(case), "trl": lambda: self.trl(case, settings)}
        if case["algorithm"] == "ppo" and not case["natural_end"]:
            sides["trl_tiny_value"] = lambda: self.trl(case, {**settings, "tiny_value": True})
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
        for _ in range(ROUNDS):
            for name, measure in sides.items():
                results[name].append(measure())
        seconds = {name: [median(one["seconds"]) for one in found] for name, found in results.items()}
        found = {
            **case,
            "seconds_per_iteration": {name: median(values) for name, values in seconds.items()},
            "response_tokens": {name: median(one["response_tokens"] for one in results[name]) for name in sides},
            "times_faster": {name: ratio(seconds["ours"], seconds[name]) for name in sides if name != "ours"},
            "versions": results["trl"][0]["versions"],
        }
        print(json.dumps(rounded(found)), flush=True)
        return found


def main(ppo_python: str, grpo_python: str) -> None:
    """Search, compare, write; cases and settings that the result file holds already are taken from there."""
    file = FOLDER / "results" / "rl.json"
    measured: dict[str, Any] = {"compared": [], "trl_settings": {}, "tried_with_trl": {}}
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        measured = {name: before[name] for name in measured}
    settings = {"model": "mini_1", "queries": QUERIES, "rounds": ROUNDS, "kl_coefficient": 0.02, **COMMON}
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison({"ppo": ppo_python, "grpo": grpo_python}, Path(folder))
        for case in CASES:
            if any(case.items() <= done.items() for done in measured["compared"]):
                continue
            algorithm = case["algorithm"]
            if algorithm not in measured["trl_settings"]:
                tried, best = comparison.search(algorithm)
                measured["trl_settings"][algorithm], measured["tried_with_trl"][algorithm] = best, tried
            compared = comparison.compare(case, measured["trl_settings"][algorithm])
            measured["compared"].append({**compared, "revision": code_revision()})
            write_result("rl", settings, measured)  # each time: a comparison takes minutes


if __name__ == "__main__":
    if sys.argv[1].endswith(".json"):  # one of the processes of `Comparison.ours`
        result = run_ours(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
        Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")
    else:
        main(*sys.argv[1:])
