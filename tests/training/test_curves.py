"""The curves of a training: kept beside the model, and replayed where the training goes on or its model is reused."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger

from rkd.io import read_rows
from rkd.store.partial_results import PartialResults
from rkd.training.checkpointing import Batches, fit
from rkd.training.curves import CURVES_FILE, Curves, replay
from rkd.training.trainer import Training


class Recorder(Logger):
    """A tracker's logger that remembers what it was told."""

    name, version = "probe", ""

    def __init__(self) -> None:
        super().__init__()
        self.advance = []

    def log_metrics(self, metrics, step=None) -> None:
        self.advance.append((step, dict(metrics)))

    def log_hyperparams(self, *_, **__) -> None: ...


class Probe(pl.LightningModule):
    """Logs the number of its batch; fails before batch `fails_at`."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.fails_at = fails_at

    def training_step(self, batch, batch_idx):
        if batch_idx == self.fails_at:
            raise InterruptedError
        self.log("batch", float(batch_idx))
        return (self.weight * batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(folder, recorder, fails_at: int | None = None) -> None:
    training = Training(accelerator="cpu", log_every_n_steps=1, seconds_between_checkpoints=0)
    partial = PartialResults(folder / "progress")
    trainer = training.trainer("probe", logger=recorder, folder=folder / "model", max_epochs=1, partial=partial)
    fit(trainer, Probe(fails_at), Batches([1.0] * 6, lambda raw: torch.tensor([raw]), seed=None), None, partial)


WHOLE = [(step, {"batch": float(step), "epoch": 0}) for step in range(6)]


def test_what_the_tracker_is_told_lies_beside_the_model(tmp_path):
    recorder = Recorder()
    train(tmp_path, recorder)
    assert recorder.advance == WHOLE
    rows = read_rows(tmp_path / "model" / CURVES_FILE)
    assert [(row["step"], row["metrics"]) for row in rows] == WHOLE


def test_an_interrupted_training_tells_the_next_tracker_the_whole_of_it(tmp_path):
    first, second = Recorder(), Recorder()
    with pytest.raises(InterruptedError):
        train(tmp_path, first, fails_at=4)
    train(tmp_path, second)
    assert first.advance == WHOLE[:4]
    assert second.advance == WHOLE
    assert len(read_rows(tmp_path / "model" / CURVES_FILE)) == 6


def test_curves_are_kept_where_nobody_tracks(tmp_path):
    train(tmp_path, False)
    recorder = Recorder()
    replay(read_rows(tmp_path / "model" / CURVES_FILE), recorder)
    assert recorder.advance == WHOLE


def test_a_training_whose_progress_is_not_kept_keeps_no_curves(tmp_path):
    trainer = Training(accelerator="cpu").trainer("probe", logger=False, folder=tmp_path)
    assert not any(isinstance(callback, Curves) for callback in trainer.callbacks)
