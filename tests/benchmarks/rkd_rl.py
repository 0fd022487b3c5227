"""Some iterations of `rkd.rl.stage` on a CPU, by Lightning's trainer as in a job; `rl.py` runs this and compares.

    python tests/benchmarks/rkd_rl.py JOB.json RESULT.json

The job is that of `trl_rl.py` without its `settings`, with `precision` as `Training` takes it, and with `small_models`
as `rkd.models.cpu_workers.cores` does. The result is the same, without versions.
"""

import copy
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import Clock, resident  # first: it makes rkd importable
from pytorch_lightning.callbacks import LambdaCallback
from torch import tensor
from torch.utils.data import DataLoader

from rkd.data.prompts import PromptTemplate
from rkd.models.cpu_workers import cores
from rkd.models.loading import load_causal_lm, load_tokenizer
from rkd.protocols import Rewards
from rkd.records import Query, Response
from rkd.rl.advantages import GAE, GroupRelative
from rkd.rl.kl_controller import FixedKL
from rkd.rl.reward_mix import Term
from rkd.rl.settings import KLPenalty, Optimisation, Rollouts
from rkd.rl.stage import RL
from rkd.training.trainer import Training


def reward(_: Sequence[Query], responses: Sequence[Response]) -> Rewards:
    """The share of digits in each response."""
    texts = [response.text for response in responses]
    shares = tensor([sum(letter.isdigit() for letter in text) / max(1, len(text)) for text in texts])
    return Rewards(shares, {"digits": shares})


def stage_of(job: dict[str, Any]) -> RL:
    """PPO or GRPO as the job says."""
    queries, is_ppo = len(job["prompts"]), job["algorithm"] == "ppo"
    return RL(
        rollouts=Rollouts(
            episodes=job["iterations"] * queries * job["samples"],
            queries_per_rollout=queries,
            responses_per_query=job["samples"],
            max_response_tokens=job["tokens"],
            temperature=job["temperature"],
        ),
        optimisation=Optimisation(
            learning_rate=job["learning_rate"], epochs_per_rollout=job["epochs"],
            minibatches_per_epoch=job["minibatches"],
        ),
        kl=KLPenalty(
            controller=FixedKL(job["kl_coefficient"]), place="reward" if is_ppo else "loss",
            estimator="k1" if is_ppo else "k3",
        ),
        advantages=GAE(discount=1.0, gae_lambda=1.0) if is_ppo else GroupRelative(group_size=job["samples"]),
    )  # fmt: skip


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Train; what it took."""
    queries = [Query(f"q{place}", "svamp", prompt) for place, prompt in enumerate(job["prompts"])]
    clock, count = Clock(), job["iterations"]
    tokenizer, reference = load_tokenizer(Path(job["folder"])), load_causal_lm(job["folder"])
    with cores(None, small_models=job["small_models"]), tempfile.TemporaryDirectory() as folder:
        stage, prompt = stage_of(job), PromptTemplate(template="{question}", is_chat=False)
        terms = [Term(name="digits", weight=1.0, queries=queries, reward=reward)]
        sampler = stage.sampler(copy.deepcopy(reference), tokenizer, prompt)
        module = stage.module(sampler, reference, terms, validate=None, seed=0)
        trainer = Training(accelerator="cpu", precision=job["precision"]).trainer(
            "rl", logger=False, folder=Path(folder), max_epochs=1, limit_val_batches=0,
            callbacks=[LambdaCallback(on_train_start=clock.mark, on_train_batch_end=clock.mark)],
        )  # fmt: skip
        trainer.fit(module, DataLoader([[queries]] * count, batch_size=None, collate_fn=lambda rows: rows))
    return {
        **clock.steps(warm_up=job["warm_up"]),
        "peak_mb": resident("VmHWM") / 2**20,
        "response_tokens": sum(row["response_tokens"] * row["responses_sampled"] for row in module.history) / count,
    }


if __name__ == "__main__":
    found = run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")
