"""The private parts of Lightning: they are there, and tell what the trainer then does."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger
from torch.utils.data import DataLoader

from rkd.training.lightning_private import VERSION, is_validated_next, logged_step, metrics_to_log

BATCHES = DataLoader(torch.ones(5, 1), batch_size=1)


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, _):
        loss = self.layer(batch).mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, _):
        self.log("validation/loss", self.layer(batch).mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Kept(Logger):
    """What is logged of batches, by step."""

    name, version = "kept", ""

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_hyperparams(self, *_, **__):
        pass

    def log_metrics(self, metrics, step=None):
        if "train/loss" in metrics:
            self.rows.append((step, metrics["train/loss"]))


class Told(Callback):
    """What the private parts tell at the end of each batch, and the batches behind which there was a validation."""

    def __init__(self):
        self.rows, self.foretold, self.validated = [], [], []

    def on_train_batch_end(self, trainer, *_):
        if metrics := metrics_to_log(trainer):
            assert set(metrics) == {"train/loss"}
            self.rows.append((logged_step(trainer), float(metrics["train/loss"])))
        if is_validated_next(trainer):
            self.foretold.append(trainer.fit_loop.total_batch_idx)

    def on_validation_start(self, trainer, *_):
        self.validated.append(trainer.fit_loop.total_batch_idx)


def test_they_hold_for_the_version_that_is_pinned():
    requirements = (Path(__file__).parents[2] / "requirements.txt").read_text(encoding="utf-8")
    assert re.search(r"^pytorch-lightning==(\S+)", requirements, re.MULTILINE)[1] == VERSION


def test_they_tell_what_the_trainer_then_logs_and_whether_it_validates(tmp_path):
    told, kept = Told(), Kept()
    Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=2, val_check_interval=2, log_every_n_steps=2,
        num_sanity_val_steps=0, callbacks=[told], logger=kept, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    ).fit(Module(), BATCHES, BATCHES)  # fmt: skip
    # Ten batches in two epochs of five: every second step is logged, validations follow batches 2 and 4 of an epoch.
    assert [step for step, _ in told.rows] == [1, 3, 5, 7, 9]
    assert told.rows == kept.rows
    assert told.foretold == told.validated == [1, 3, 6, 8]


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        (metrics_to_log, "_logger_connector"),
        (logged_step, "_batches_that_stepped"),
        (is_validated_next, "_should_check_val_fx"),
    ],
)
def test_a_part_that_is_gone_is_named_with_the_version_to_install(ask, name):
    other = SimpleNamespace(fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace()))
    with pytest.raises(RuntimeError, match=rf"has no \w+\.{name}, .*pip install pytorch-lightning=={VERSION}"):
        ask(other)
