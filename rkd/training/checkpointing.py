"""Resuming an interrupted training: the place in the batches, the best weights and the trainer's state are saved.

In: a stage's `PartialResults` and its trainer's hooks. Out: files in it. The next attempt finds them and continues
as an attempt without interruption would have done.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins import TorchCheckpointIO
from pytorch_lightning.trainer.states import TrainerFn
from torch import nn
from torch.utils.data import DataLoader

from rkd.store.partial_results import PartialResults
from rkd.training.lightning_private import is_validated_next

BEST = "best"  # the weights of the best validations, numbered
HISTORY_FILE = "history.jsonl"  # beside a trained model: the metrics of its validations

# Most of the time that checkpoints between validations may take: 1.6 GB, of 10⁸ weights, took 3 to 6 s.
SAVING_SHARE = 0.02

Raw = TypeVar("Raw")
Batch = TypeVar("Batch")


class Batches(Generic[Raw, Batch]):
    """A loader that can resume in the middle of an epoch, where `state_dict` was taken.

    Args:
        batches: the raw content of each batch.
        collate: makes a batch of its raw content.
        seed: of the order, drawn anew for each epoch; None keeps the order of `batches`.
    """

    def __init__(self, batches: Sequence[Raw], collate: Callable[[Raw], Batch], seed: int | None) -> None:
        self.batches, self.collate, self.seed = batches, collate, seed
        self.epoch, self.position = -1, len(batches)  # as if an epoch had just ended
        self._goes_on = False

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        # This code runs at the first batch, not before: Lightning makes iterators that it never uses.
        if not self._goes_on or self.position >= len(self.batches):
            self.epoch, self.position = self.epoch + 1, 0
        self._goes_on = False
        order = self._order()
        while self.position < len(order):
            self.position += 1
            yield self.collate(self.batches[order[self.position - 1]])

    def state_dict(self) -> dict[str, int]:
        """The epoch, and the number of its batches that were yielded."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume where `state_dict` was taken."""
        self.epoch, self.position, self._goes_on = state["epoch"], state["position"], True

    def _order(self) -> list[int]:
        """The order of this epoch, the same whether earlier epochs ran in this process or not."""
        if self.seed is None:
            return list(range(len(self.batches)))
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.arange(len(self.batches))
        for _ in range(self.epoch + 1):
            # A DataLoader draws a seed for its workers before each order; drawing it here too gives the same orders.
            torch.empty((), dtype=torch.int64).random_(generator=generator)
            order = torch.randperm(len(self.batches), generator=generator)
        return [int(number) for number in order]


class KeepBest(Callback):
    """Keeps the weights of the best validation; stops after `patience` validations without a better one.

    The first of equal validations is kept: it needed the fewest steps. `patience` None never stops early. `history` has
    a row for each validation: the optimiser steps before it and its metrics, named without the prefix before "/".
    """

    def __init__(
        self, metric: str, mode: Literal["max", "min"], partial: PartialResults, patience: int | None = None
    ) -> None:
        self.metric = metric
        self.sign = {"max": 1.0, "min": -1.0}[mode]
        self.partial, self.patience = partial, patience
        self.best: float | None = None
        self.metrics: dict[str, float] = {}
        self.history: list[dict[str, float]] = []
        self._without_better = self._betters = 0
        self._file: str | None = None

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:  # noqa: ARG002
        value = float(trainer.callback_metrics[self.metric])
        self.history.append({"step": trainer.global_step, **self._measured(trainer)})
        if self.best is not None and self.sign * value <= self.sign * self.best:
            self._without_better += 1
            trainer.should_stop |= self._is_out_of_patience
            return
        self.best, self._without_better = value, 0
        self.metrics = self._measured(trainer)
        self._file = f"{BEST}-{self._betters}"
        self._betters += 1
        state = trainer.strategy.lightning_module_state_dict()  # the whole state: all processes take part
        if trainer.is_global_zero:
            self.partial.save(self._file, lambda path: torch.save(state, path))
            # The last checkpoint may name the file before this one, but none older: one follows every validation.
            self.partial.forget(f"{BEST}-{self._betters - 3}")

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:  # noqa: ARG002
        trainer.should_stop |= self._is_out_of_patience  # patience may have ended before the interruption

    def state_dict(self) -> dict[str, Any]:
        counts = {"without_better": self._without_better, "betters": self._betters}
        return {"best": self.best, "metrics": self.metrics, "history": self.history, "file": self._file, **counts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.metrics = state_dict["best"], state_dict["metrics"]
        self.history, self._file = state_dict["history"], state_dict["file"]
        self._without_better, self._betters = state_dict["without_better"], state_dict["betters"]

    def _measured(self, trainer: Trainer) -> dict[str, float]:
        """The metrics of the validation, without those of the training."""
        prefix = self.metric.rpartition("/")[0]
        names = {name: name.removeprefix(f"{prefix}/") for name in trainer.callback_metrics if name.startswith(prefix)}
        return {short: float(trainer.callback_metrics[name]) for name, short in names.items()}

    @property
    def _is_out_of_patience(self) -> bool:
        return self.patience is not None and self._without_better >= self.patience

    def restore(self, module: nn.Module) -> None:
        """Give `module` the best weights; without any validation it keeps its own.

        Raises:
            FileNotFoundError: they were removed or altered.
        """
        if self._file is None:
            return
        if (path := self.partial.find(self._file)) is None:
            raise FileNotFoundError(
                f"the best weights, {self.partial.folder / self._file}.…, were removed or altered since they were "
                "saved. Remove that folder and run again: the stage is then made from its start."
            )
        module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


class Checkpoints(Callback):
    """Saves the state of a fit after validations and batches, and seeds each batch by its place.

    Args:
        partial: where the state is saved.
        seconds: least time between a save after a batch and the save before it; longer where saves after batches would
            take more than `SAVING_SHARE` of the time. 0 saves after every batch.
        seed: of the stage. Each batch gets a seed of its own from it, so that dropout is the same in every attempt.
    """

    def __init__(self, partial: PartialResults, seconds: float, seed: int) -> None:
        self.partial, self.seconds, self.seed = partial, seconds, seed
        self._last = time.monotonic()
        self._pause = seconds
        self._place: dict[str, int] | None = None

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        checkpoint["batches"] = batches_of(trainer).state_dict()

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        self._place = checkpoint["batches"]

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        # Lightning does the same, but not if an optimiser has asked for the number of steps before.
        if self._place is not None:
            batches_of(trainer).load_state_dict(self._place)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        place = [self.seed, trainer.fit_loop.total_batch_idx, trainer.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        # If a validation follows, an attempt that resumes from a checkpoint before it would skip that validation.
        is_due = time.monotonic() - self._last >= self._pause and not is_validated_next(trainer)
        if trainer.strategy.broadcast(is_due):  # the clocks of two processes differ
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        start = time.monotonic()
        if trainer.is_global_zero:
            self.partial.save(state_of(trainer), lambda path: trainer.save_checkpoint(path))
        else:
            trainer.save_checkpoint(self.partial.folder / "unused")  # all processes take part, one writes
        self._last = time.monotonic()
        self._pause = max(self.seconds, (self._last - start) / SAVING_SHARE) if self.seconds else 0.0


def batches_of(trainer: Trainer) -> Batches[Any, Any]:
    """The training batches of a trainer."""
    loader = trainer.train_dataloader
    assert isinstance(loader, Batches)
    return loader


class PlainFiles(TorchCheckpointIO):
    """Writes checkpoints directly to their path; Lightning makes each in memory first, then in a temporary file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:  # noqa: ARG002
        torch.save(checkpoint, path)


def fit(
    trainer: Trainer,
    module: LightningModule,
    loader: Batches[Any, Any],
    validation: DataLoader[int] | None,
    partial: PartialResults,
) -> None:
    """Train, starting from the state that an interrupted attempt saved, if there is one."""
    trainer.fit(module, loader, validation, ckpt_path=partial.find(state_of(trainer)), weights_only=True)


def state_of(trainer: Trainer) -> str:
    """The name of a trainer's saved state; one strategy cannot resume from the state of another."""
    return f"training-{type(trainer.strategy).__name__}"
