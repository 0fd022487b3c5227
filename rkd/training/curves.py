"""The curves of a training stage: its logged metrics go to the tracker, and into a file beside the trained model.

A job that reuses the model, or resumes an interrupted training, replays them into its own run. Every run thus has the
curves of all its stages, and a stage's curves look the same whether this job or an earlier one trained it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from rkd.io import write_rows
from rkd.training.lightning_private import logged_step, metrics_to_log

CURVES_FILE = "curves.jsonl"  # a row for each call of the logger: its step, and its metrics


class OfStage(Logger):
    """The properties of a Lightning logger of one stage; its folder is that of the stage's model or of the run."""

    def __init__(self, stage: str, folder: Path) -> None:
        super().__init__()
        self.stage, self.folder = stage, folder

    @property
    def name(self) -> str:
        return self.stage

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: the run holds the whole config from its start."""


class Curves(OfStage, Callback):
    """A trainer's logger that keeps the rows it passes on; as a callback, its state is in the trainer's checkpoints.

    Args:
        stage: its name.
        logger: of the tracker; False: rows are kept but not passed on.
        folder: of the trained model, where the rows are written once the training is done.
    """

    def __init__(self, stage: str, logger: Logger | Literal[False], folder: Path) -> None:
        super().__init__(stage, folder)
        self.logger = logger
        self.rows: list[dict[str, Any]] = []
        self._pending: list[dict[str, Any]] = []

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._pending = []
        self.rows.append({"step": step, "metrics": dict(metrics)})
        replay(self.rows[-1:], self.logger)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        # Lightning logs the batch after this hook. A checkpoint saved in this hook resumes after the batch.
        self._pending = []
        if measured := metrics_to_log(trainer):
            metrics = {name: float(value) for name, value in measured.items()} | {"epoch": trainer.current_epoch}
            self._pending = [{"step": logged_step(trainer), "metrics": metrics}]

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [*self.rows, *self._pending]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])
        replay(self.rows, self.logger)  # this attempt has a run of its own

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:  # noqa: ARG002
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_rows(self.folder / CURVES_FILE, self.rows)


def replay(rows: Sequence[Mapping[str, Any]], logger: Logger | Literal[False]) -> None:
    """Log the rows again; with `logger=False`, do nothing."""
    if logger:
        for row in rows:
            logger.log_metrics(row["metrics"], row["step"])
