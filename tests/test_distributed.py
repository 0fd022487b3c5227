"""Several processes train one model: the gradient of one, and the sums of all."""

import dataclasses
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback
from torch.distributed.tensor import DTensor

from rkd import distributed as parallel
from rkd.protocols import Rewards
from rkd.records import Checkpoint, PreferencePair
from rkd.rl.advantages import GAE
from rkd.rl.kl_controller import FixedKL
from rkd.rl.reward_mix import Term
from rkd.rl.settings import KLPenalty, Optimisation, RewardScaling, Rollouts
from rkd.rl.stage import RL, RLInputs
from rkd.stages.dpo import DPO
from rkd.stages.reward_model import PairSets, RewardModelTraining
from rkd.stages.sft import SFT
from rkd.store.partial_results import PartialResults
from rkd.training.stage import TrainingContext
from rkd.training.trainer import Training
from tests.support import tiny_world
from tests.support.fakes import context, scored
from tests.support.tiny_models import weights

QUERIES = tiny_world.queries(0, 4)
LONG = " and again, and again, and again, and again"
SETTINGS = {"learning_rate": 1e-3, "epochs": 1, "max_tokens": 256, "gradient_clip": None}


class KeepGradient(Callback):
    """Saves the gradient of the first optimiser step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:  # noqa: ARG002
        if not self.path.exists():
            torch.save({name: _whole(p.grad) for name, p in module.named_parameters() if p.grad is not None}, self.path)


def _whole(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient.clone()


def fit_sft(processes: int, where: TrainingContext) -> None:
    """Two examples in one batch, one of them much longer."""
    texts = [tiny_world.response("1") + LONG, tiny_world.response("2")]
    examples = list(zip(QUERIES[:2], texts, strict=True))
    SFT(batch_size=max(1, 2 // processes), **SETTINGS).fit(examples, where)


def fit_reward_model(processes: int, where: TrainingContext) -> None:
    """Three pairs in one batch: of two processes, one gets two."""
    RewardModelTraining(batch_size=4 // processes, **SETTINGS).fit(PairSets(three_pairs(), []), where)


def three_pairs() -> list[PreferencePair]:
    """Pairs of different lengths."""
    return [
        PreferencePair(query, *scored(query.id, (tiny_world.response("1") + LONG * place, 1.0), ("No.", 0.0)))
        for place, query in enumerate(QUERIES[:3])
    ]


def fit_dpo(processes: int, where: TrainingContext) -> None:
    """The pairs of the reward model."""
    DPO(batch_size=4 // processes, **SETTINGS).fit(three_pairs(), where)


def fit_rl(processes: int, where: TrainingContext) -> None:  # noqa: ARG001
    """One minibatch of four queries; a rollout is shared out, whatever the number of processes."""
    stage = RL(
        rollouts=Rollouts(episodes=16, queries_per_rollout=4, responses_per_query=4, max_response_tokens=10),
        optimisation=Optimisation(
            learning_rate=1e-3, epochs_per_rollout=1, minibatches_per_epoch=1, gradient_clip=None
        ),
        kl=KLPenalty(controller=FixedKL(0.1)),
        advantages=GAE(whiten=True),
        scaling=RewardScaling(whiten=True),
    )
    terms = [Term(name="length", weight=1.0, queries=QUERIES, reward=length_reward)]
    stage.fit(RLInputs(build_terms=lambda _: terms), dataclasses.replace(where, validate=lambda _: 0.5))


def length_reward(_, responses):
    """A reward that the processes have different ones of."""
    lengths = torch.tensor([float(len(response.text) + 3 * ("2" in response.text)) for response in responses])
    return Rewards(lengths, {"length": lengths})


STAGES = {"sft": fit_sft, "dpo": fit_dpo, "reward_model": fit_reward_model, "rl": fit_rl}


def take_part(stage: str, student: Checkpoint, folder: Path, place: dict[str, str], strategy: str = "ddp") -> None:
    """Train a stage as one of the processes of a place in the environment."""
    os.environ |= place
    torch.set_num_threads(1)
    processes = parallel.count()
    training = Training(
        accelerator="cpu", devices=processes, strategy=strategy if processes > 1 else "auto",
        callbacks={"gradient": lambda: KeepGradient(folder / f"gradient{parallel.rank()}of{processes}.pt")},
    )  # fmt: skip
    own = folder / f"process{parallel.rank()}of{processes}"
    partial = PartialResults(folder / f"progress{processes}")
    STAGES[stage](processes, context(student, own, prompt=tiny_world.PROMPT, training=training, partial=partial))


def gradient(folder: Path, name: str) -> torch.Tensor:
    """All numbers of a saved gradient."""
    return torch.cat([value.flatten() for value in torch.load(folder / name, weights_only=True).values()])


@pytest.fixture
def student(guessing_student) -> Checkpoint:
    return guessing_student


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "strategy"),
    [
        ("sft", "ddp"),
        ("dpo", "ddp"),
        ("reward_model", "ddp"),
        ("rl", "ddp"),
        ("sft", "fsdp"),
        ("dpo", "fsdp"),
        ("reward_model", "fsdp"),
    ],
)
def test_two_processes_get_the_gradient_that_one_gets_on_the_whole_batch(student, tmp_path, stage, strategy):
    take_part(stage, student, tmp_path, {})
    context, port = multiprocessing.get_context("forkserver"), parallel.free_port()
    context.set_forkserver_preload(["tests.test_distributed"])
    processes = [
        context.Process(target=take_part, args=(stage, student, tmp_path, parallel.place_of(rank, 2, port), strategy))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    names = ("gradient0of1.pt", "gradient0of2.pt", "gradient1of2.pt")
    alone, first, second = (gradient(tmp_path, name) for name in names)
    assert alone.norm() > 1e-3
    assert torch.equal(first, second)
    # Sums in another order: their rounding goes with the largest numbers, which in DPO, a sum over tokens, are large.
    torch.testing.assert_close(first, alone, rtol=1e-4, atol=1e-6 * max(1.0, float(alone.abs().max())))
    one, two = (weights(tmp_path / name) for name in ("process0of1", "process0of2"))
    assert one.keys() == two.keys()
    assert not (tmp_path / "process1of2" / "model.safetensors").exists()


def test_alone_a_sum_is_ones_own_and_every_share_is_whole():
    values = torch.tensor([1.0, 2.0])
    assert torch.equal(parallel.sum_over_processes(values), values)
    assert parallel.share_of_weight(3, values.device) == 1
    assert parallel.mean_over_processes({"loss": 2.0}, values.device) == {"loss": 2.0}
    assert parallel.own_share([1, 2, 3]) == [1, 2, 3]


def test_processes_share_out_what_they_have_in_common(monkeypatch):
    monkeypatch.setenv("RKD_PROCESSES", "3")
    shares = []
    for rank in range(3):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        shares.append(parallel.own_share(range(7)))
    assert [list(own) for own in shares] == [[0, 3, 6], [1, 4], [2, 5]]


@pytest.mark.parametrize(("devices", "strategy"), [(2, "auto"), (1, "ddp"), (0, "auto")])
def test_several_devices_need_a_strategy_and_one_needs_none(devices, strategy):
    with pytest.raises(ValueError, match=r"trainer=ddp trainer\.devices=2"):
        Training(devices=devices, strategy=strategy)


def test_a_rollout_that_does_not_fall_evenly_to_the_processes_is_refused(student, tmp_path, monkeypatch):
    monkeypatch.setenv("RKD_PROCESSES", "3")
    with pytest.raises(ValueError, match=r"rl\.rollouts\.queries_per_rollout=4 must be a multiple of the 3 processes"):
        take_part("rl", student, tmp_path, {})


def test_examples_fewer_than_processes_are_refused(student, tmp_path, monkeypatch):
    monkeypatch.setenv("RKD_PROCESSES", "3")
    with pytest.raises(ValueError, match="2 examples are too few for 3 processes"):
        take_part("sft", student, tmp_path, {})
