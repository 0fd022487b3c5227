"""Trainings of two processes at SmolLM2's size end where one process ends on the same batches.

    python -m rkd models get smollm2_135m
    pytest -m "" -n 0 tests/cluster/test_two_processes.py

It takes ten minutes and 12 GB. tests/cluster/README.md has the last result.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.jobs import started
from tests.support.tiny_world import REPOSITORY, overrides

CHECKPOINT = REPOSITORY / "checkpoints" / "smollm2_135m"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHECKPOINT.is_dir(), reason="no model: python -m rkd models get smollm2_135m"),
]
ROLLOUTS = ["episodes=32", "queries_per_rollout=4", "responses_per_query=4", "max_response_tokens=8"]
RL = [*(f"rl.rollouts.{one}" for one in ROLLOUTS), "rl.optimisation.minibatches_per_epoch=2"]
OF_STAGE = {"sft": ["sft.learning_rate=1e-4"], "reward_model": ["reward_model.pooling=last"], "rl": RL}
CASES = {"ddp": ("sft", "reward_model", "rl"), "fsdp": ("sft", "reward_model")}


def trained(world: Path, root: Path, stages: tuple[str, ...], batch: int, *more: str) -> Path:
    """The store of a job with SmolLM2 as student, which trains the stages for one epoch each."""
    root.mkdir()
    settings = [value for stage in stages for value in OF_STAGE[stage]]
    left_out = ["rl=none"] if "rl" not in stages else []
    sizes = [f"{stage}.batch_size={batch}" for stage in ("sft", "reward_model")]
    epochs = ["sft.epochs=1", "reward_model.epochs=1", "trainer.precision=32-true"]
    student = f"student.name_or_path={CHECKPOINT}"
    job = overrides(world, root, student, *epochs, *sizes, *left_out, *more, stages=settings)
    process = started(*job, folder=root)
    told, said = process.communicate(timeout=1200)
    assert process.returncode == 0, told + said
    return root / "artifacts"


def weights(store: Path, stage: str) -> torch.Tensor:
    """All weights that a stage has trained, one after the other."""
    (file,) = (store / stage).glob("[!.]*/model.safetensors")
    return torch.cat([tensor.flatten() for _, tensor in sorted(load_file(file).items())])


@pytest.mark.parametrize("strategy", CASES)
def test_two_processes_end_where_one_ends(world, tmp_path, strategy):
    alone = trained(world, tmp_path / "alone", CASES[strategy], 16, "trainer=default")
    together = trained(world, tmp_path / "together", CASES[strategy], 8, f"trainer={strategy}")
    start = load_file(CHECKPOINT / "model.safetensors")
    start = torch.cat([tensor.flatten() for _, tensor in sorted(start.items())])
    for stage in CASES[strategy]:
        one, two = weights(alone, stage), weights(together, stage)
        way = (one - start).norm() if one.numel() == start.numel() else one.norm()
        assert (one - two).norm() < 0.02 * way, stage
