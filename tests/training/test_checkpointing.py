"""Training that goes on: from wherever it was interrupted, it ends as an attempt without interruption does."""

import json
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from rkd.store.partial_results import PartialResults
from rkd.training import checkpointing
from rkd.training.checkpointing import Batches, KeepBest, fit
from rkd.training.trainer import Training, one_validation

BATCHES, EPOCHS = 5, 3
STATE = "training-SingleDeviceStrategy"
EVERY_BATCH = Training(accelerator="cpu", seconds_between_checkpoints=0)


class Killed(BaseException):
    """What stands for the end of the process; nothing may catch it."""


class Regression(pl.LightningModule):
    """A layer with dropout, momentum and a falling rate: everything that a resumed training could forget.

    Args:
        steps: training steps and validations until the process ends; None does them all.
        rises: whether the score of the validation rises as the weights fall.
    """

    def __init__(self, steps: int | None = None, *, rises: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.sign = -1 if rises else 1
        self.layer, self.steps, self.seen, self.validated = torch.nn.Linear(4, 1), steps, [], 0

    def live(self):
        if self.steps is not None and len(self.seen) + self.validated >= self.steps:
            raise Killed

    def training_step(self, batch, *_):
        self.live()
        self.seen.append(batch[0].item())
        return self.layer(F.dropout(torch.ones(3, 4) * batch, 0.3)).square().mean()

    def validation_step(self, *_):
        self.live()
        self.validated += 1
        self.log("score", self.sign * self.layer.weight.square().sum(), batch_size=1)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def attempt(folder, partial, *, steps=None, patience=None, validations=1.0, rises=True):
    """One attempt at the training: the module, the keeper of its best weights, and its trainer."""
    module, best = Regression(steps, rises=rises), KeepBest("score", "max", partial, patience)
    trainer = EVERY_BATCH.trainer(
        "sft", logger=False, folder=folder, max_epochs=EPOCHS, callbacks=[best], val_check_interval=validations,
        partial=partial, seed=1,
    )  # fmt: skip
    loader = Batches([[float(i)] for i in range(BATCHES)], torch.tensor, seed=3)
    try:
        fit(trainer, module, loader, one_validation(), partial)
    except Killed:
        return None
    return module, best, trainer


def state(module, best, trainer):
    """What has to be equal."""
    weights = {name: value.tolist() for name, value in module.state_dict().items()}
    best.restore(module)
    kept = {name: value.tolist() for name, value in module.state_dict().items()}
    return weights, kept, best.best, trainer.global_step, best.metrics


@pytest.mark.parametrize("rises", [True, False], ids=["better and better", "worse and worse"])
@pytest.mark.parametrize(
    "validations",
    [
        pytest.param(1.0, id="once an epoch"),
        pytest.param(2, id="every second batch", marks=pytest.mark.slow),
        pytest.param(0.5, id="twice an epoch", marks=pytest.mark.slow),
    ],
)
def test_a_training_that_was_killed_at_any_step_or_validation_ends_like_one_that_was_not(tmp_path, validations, rises):
    how = {"validations": validations, "rises": rises}
    whole = attempt(tmp_path, PartialResults(tmp_path / "whole"), **how)
    expected, total = state(*whole), len(whole[0].seen) + whole[0].validated
    for steps in range(total):
        folder = tmp_path / f"killed{steps}"
        assert attempt(tmp_path, PartialResults(folder), steps=steps, **how) is None
        resumed = attempt(tmp_path, PartialResults(folder), **how)
        assert state(*resumed) == expected, steps
        # Nothing is done twice but the step before a validation that did not end.
        assert len(resumed[0].seen) + resumed[0].validated <= total - steps + 1


def test_a_training_that_is_killed_again_and_again_ends_like_one_that_was_not(tmp_path):
    partial = PartialResults(tmp_path / "killed")
    seen = []
    while (done := attempt(tmp_path, partial, steps=3)) is None:
        seen.append(partial.find(STATE))
    assert state(*done) == state(*attempt(tmp_path, PartialResults(tmp_path / "whole")))
    assert 4 <= len(seen) <= 9  # of 15 steps and 3 validations, two or three at a time


def test_a_training_that_was_killed_after_its_last_step_does_no_step_more(tmp_path):
    whole = state(*attempt(tmp_path, PartialResults(tmp_path)))
    again = attempt(tmp_path, PartialResults(tmp_path))
    assert again[0].seen == []
    assert state(*again) == whole


def test_patience_that_had_run_out_stays_so(tmp_path):
    def run():
        return attempt(tmp_path, PartialResults(tmp_path), patience=1, validations=2, rises=False)

    assert run()[2].global_step == 4  # two validations, the second one no better
    again = run()
    assert again[0].seen == []
    assert again[2].global_step == 4


def test_a_checkpoint_that_was_altered_is_not_used(tmp_path, caplog):
    partial = PartialResults(tmp_path / "killed")
    attempt(tmp_path, partial, steps=9)
    saved = partial.find(STATE)
    saved.write_bytes(saved.read_bytes()[:-1])
    assert len(attempt(tmp_path, partial)[0].seen) == BATCHES * EPOCHS
    assert "was altered" in caplog.text


def test_tries_save_nothing(tmp_path):
    partial = PartialResults(tmp_path / "progress")
    for training in (Training(accelerator="cpu", fast_dev_run=True), Training(accelerator="cpu", overfit_batches=1)):
        assert not any(
            type(callback).__name__ == "Checkpoints"
            for callback in training.trainer("sft", logger=False, folder=tmp_path, partial=partial).callbacks
        )


def test_an_epoch_begun_before_goes_on_and_the_next_has_the_order_it_would_have_had():
    def batches():
        return Batches(range(6), lambda index: index, seed=0)

    whole, first, second = batches(), batches(), batches()
    epochs = [list(whole) for _ in range(3)]
    assert sorted(epochs[0]) == list(range(6))
    assert epochs[0] != epochs[1]
    list(first)
    begun = iter(first)
    started = [next(begun) for _ in range(2)]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert started + list(second) == epochs[1]
    assert list(second) == epochs[2]


@pytest.mark.parametrize(("seconds", "saves"), [(0.0, 4), (1.0, 2), (60.0, 1)])
def test_saves_after_batches_take_a_small_share_of_the_time(seconds, saves, tmp_path, monkeypatch):
    clock, saved = [100.0], []
    monkeypatch.setattr(checkpointing.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(checkpointing, "is_validated_next", lambda _: False)

    def save(*_):
        clock[0] += 1  # a save takes a second, so that the next one is due after 50
        saved.append(clock[0])

    partial = PartialResults(tmp_path)
    monkeypatch.setattr(partial, "save", save)
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(broadcast=lambda value: value), is_global_zero=True, save_checkpoint=None
    )
    checkpoints = checkpointing.Checkpoints(partial, seconds, 0)
    for _ in range(4):
        clock[0] += 26
        checkpoints.on_train_batch_end(trainer)
    assert len(saved) == saves
