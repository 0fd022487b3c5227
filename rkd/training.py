"""How every stage trains: a stage's module and batches enter, a configured Lightning trainer leaves.

Hardware and debugging switches live in `Training`, one for all stages; what a stage alone decides (epochs, clipping,
how often it validates) it passes to `trainer`. Randomness comes from the stage's seed, and `seeded` keeps it there.
"""

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from rkd.callbacks import StageProgress, StopOnNaN

"""A stage's name to what its trainer logs to: `Tracker.logger_for`."""

Validate = Callable[[PreTrainedModel], float]
"""A student to its greedy accuracy on validation queries, against their pseudo-labels, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """On what, and how carefully, all stages train.

    Args:
        accelerator, devices: as Lightning takes them; a stage's batch size holds for each device.
        precision: as Lightning takes it; None: `32-true` on a CPU, `bf16-mixed` on a GPU.
        deterministic: choose deterministic GPU kernels where there are any. On a CPU the same seed and thread count
            give the same weights without it.
        log_every_n_steps: optimiser steps between two logged training losses.
        fast_dev_run: batches of training and of validation to try a stage with; False runs it whole.
        overfit_batches: train on so many batches again and again; 0 takes all.
        max_epochs: of every stage, with one validation at their end, so that none stops the stage early; None leaves
            both to the stage.
        callbacks: makers of what watches every stage, by name; each stage makes its own.
    """

    accelerator: str = "auto"
    devices: int | str = 1
    precision: str | None = None
    deterministic: bool = False
    log_every_n_steps: int = 10
    fast_dev_run: bool | int = False
    overfit_batches: int = 0
    max_epochs: int | None = None
    callbacks: Mapping[str, Callable[[], Callback]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.log_every_n_steps < 1 or self.overfit_batches < 0:
            raise ValueError(
                f"log_every_n_steps={self.log_every_n_steps} must be at least 1, "
                f"overfit_batches={self.overfit_batches} at least 0."
            )
        for name, make in self.callbacks.items():
            if not callable(make):
                raise ValueError(
                    f"callbacks.{name} is one {type(make).__name__} for all stages: add `_partial_: true` beside its "
                    "`_target_`, so that each stage makes its own."
                )

    def trainer(
        self,
        stage: str,
        *,
        logger: Logger | bool,
        folder: Path,
        max_epochs: int = -1,
        max_steps: int = -1,
        callbacks: Sequence[Callback] = (),
        gradient_clip: float | None = None,
        val_check_interval: int | float | None = None,
        shown_metrics: tuple[str, ...] = (),
        learning_rate_key: str | None = None,
        log_every_n_steps: int | None = None,
        **options: Any,
    ) -> Trainer:
        """A Lightning trainer for one stage; it writes no checkpoint of its own.

        Args:
            stage: its name, which is also its config group: "`sft.learning_rate`" in the advice of `StopOnNaN`.
            folder: where a callback may write.
            gradient_clip: largest norm of the gradient; None clips nothing, and manual optimisation needs None.
            val_check_interval: batches, or share of an epoch, between validations; None: once an epoch.
            shown_metrics: logged metrics that stand beside the progress.
            learning_rate_key: the rate's config key, for the same advice; None: `<stage>.learning_rate`.
            log_every_n_steps: batches between two records of the tracker; None: as set for all stages.
            options: further arguments of Lightning's `Trainer`.
        """
        quiet_lightning()
        if self.max_epochs is not None:
            max_epochs, val_check_interval = self.max_epochs, 1.0
            options["check_val_every_n_epoch"] = self.max_epochs
        return Trainer(
            accelerator=self.accelerator,
            devices=self.devices,
            precision=self.precision or ("bf16-mixed" if self.on_gpu else "32-true"),
            deterministic="warn" if self.deterministic else False,
            fast_dev_run=self.fast_dev_run,
            overfit_batches=self.overfit_batches,
            logger=logger,
            log_every_n_steps=log_every_n_steps or self.log_every_n_steps,
            max_epochs=max_epochs,
            max_steps=max_steps,
            gradient_clip_val=gradient_clip,
            val_check_interval=val_check_interval,
            callbacks=[
                StopOnNaN(stage, learning_rate_key or f"{stage}.learning_rate"),
                StageProgress(stage, shown_metrics=shown_metrics),
                *callbacks,
                *(make() for make in self.callbacks.values()),
            ],
            default_root_dir=folder,
            num_sanity_val_steps=0,
            inference_mode=False,  # its tensors cannot be saved for backward, and validation runs the trained model
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )

    @property
    def on_gpu(self) -> bool:
        """Whether `accelerator` means a CUDA device here."""
        return self.accelerator in ("gpu", "cuda") or (self.accelerator == "auto" and torch.cuda.is_available())


class KeepBest(Callback):
    """Keeps the weights of the best validation in `folder`; stops after `patience` validations without a better one.

    The first of equal validations is kept: it needed the fewest steps. `patience` None never stops early.
    """

    def __init__(self, metric: str, mode: Literal["max", "min"], folder: Path, patience: int | None = None) -> None:
        self.metric = metric
        self.sign = {"max": 1.0, "min": -1.0}[mode]
        self.patience = patience
        self.path = folder / "best.pt"
        self.best: float | None = None
        self.metrics: dict[str, float] = {}
        self._without_better = 0

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        value = float(trainer.callback_metrics[self.metric])
        if self.best is not None and self.sign * value <= self.sign * self.best:
            self._without_better += 1
            if self.patience is not None and self._without_better >= self.patience:
                trainer.should_stop = True
            return
        self.best, self._without_better = value, 0
        self.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if trainer.is_global_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(module.state_dict(), self.path)

    def restore(self, module: nn.Module) -> None:
        """Give `module` the best weights, and remove their file; without any validation it keeps its own."""
        if self.best is not None:
            module.load_state_dict(torch.load(self.path, map_location="cpu", weights_only=True))
            self.path.unlink()


def one_validation() -> DataLoader:
    """A loader of one empty batch, for a stage whose validation is one call."""
    return DataLoader([0], batch_size=None)


def learning_rate_factor(step: int, total_steps: int, warmup_fraction: float, final_fraction: float) -> float:
    """Share of the peak rate in steps 0, 1, …: a linear rise to 1, then a half cosine to `final_fraction`."""
    warmup = round(warmup_fraction * total_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * progress)) / 2


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's generators (dropout, new weights) at `seed`, and back to where they were afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def quiet_lightning() -> None:
    """Keep Lightning's tips and device lists out of the log; its warnings about real faults stay."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    # Batches are small lists of tokens: worker processes would cost more than they save.
    warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
    # A stage without validation examples keeps its last weights, and says so in its report.
    warnings.filterwarnings("ignore", message=r"You defined a `validation_step` but have no `val_dataloader`")
    # Reinforcement learning keeps dropout off in both passes, or the first ratio would not be 1.
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
    # A short stage has fewer batches than `log_every_n_steps`.
    warnings.filterwarnings("ignore", message=r"The number of training batches .* is smaller than the logging interval")
    warnings.filterwarnings("ignore", message="You requested to overfit but enabled train dataloader shuffling")
