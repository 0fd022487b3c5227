"""How every stage trains: a stage's module and batches enter, a configured Lightning trainer leaves.

`Training` has the hardware and debugging switches of all stages. A stage passes its own settings to `trainer`: epochs,
clipping, how often it validates. Randomness comes from the stage's seed, which `seeded` sets.
"""

import contextlib
import logging
import math
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.accelerators import AcceleratorRegistry
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel

from rkd.config import AT_LEAST_1, NOT_NEGATIVE, check_ranges
from rkd.models.cpu_workers import is_small
from rkd.models.low_precision import cpu_prefers_bfloat16
from rkd.store.partial_results import PartialResults
from rkd.training.callbacks import GiveBackMemory, StageProgress, StopOnNaN
from rkd.training.checkpointing import Checkpoints, PlainFiles
from rkd.training.curves import Curves
from rkd.training.fsdp import sharded

Validate = Callable[[PreTrainedModel], float]
"""Maps a student to its greedy accuracy on validation queries, against their pseudo-labels, in [0, 1]."""

Precision = Literal["32", "16", "bf16", "32-true", "16-mixed", "bf16-mixed"]
"""The precision of a training, by its name in Lightning. Its others convert the batches, which are frozen."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """The hardware and the shared settings with which all stages train.

    Args:
        accelerator: as Lightning takes it.
        devices: how many; a stage's batch size holds for each of them.
        strategy: how several devices train, each on its share of a batch. "ddp": each has the whole model; "fsdp": each
            has a shard of the weights, gradients and optimiser states (only for fine-tuning and reward model). The job
            starts a process for each device (`rkd.distributed`).
        precision: as Lightning takes it; None: `bf16-mixed` on a GPU, and on a CPU that computes bfloat16 itself if the
            model is not small (`rkd.models.cpu_workers.is_small`); otherwise `32-true`.
        deterministic: choose deterministic GPU kernels where there are any. On a CPU the same seed and thread count
            give the same weights without it.
        log_every_n_steps: optimiser steps between two logged training losses.
        seconds_between_checkpoints: least time between checkpoints, from which an interrupted stage resumes.
        fast_dev_run: batches of training and of validation to try a stage with; False runs it whole.
        overfit_batches: train on so many batches again and again; 0 takes all.
        max_epochs: epochs of every stage, with one validation at the end, so that no validation stops the stage early;
            None: the stage decides both.
        callbacks: factories of the callbacks of every stage, by name; each stage makes its own.
    """

    accelerator: str = "auto"
    devices: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    precision: Precision | None = None
    deterministic: bool = False
    log_every_n_steps: int = 10
    seconds_between_checkpoints: float = 30.0
    fast_dev_run: bool | int = False
    overfit_batches: int = 0
    max_epochs: int | None = None
    callbacks: Mapping[str, Callable[[], Callback]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        ranges = {"log_every_n_steps": AT_LEAST_1, "overfit_batches": NOT_NEGATIVE}
        check_ranges("trainer", self, ranges | {"seconds_between_checkpoints": NOT_NEGATIVE})
        accelerators = ["auto", "gpu", *AcceleratorRegistry.available_accelerators()]
        if self.accelerator not in accelerators:
            raise ValueError(f"trainer.accelerator={self.accelerator}: choose one of {', '.join(accelerators)}.")
        if self.devices < 1 or (self.devices > 1) != (self.strategy != "auto"):
            raise ValueError(
                f"trainer.devices={self.devices}, trainer.strategy={self.strategy}: several devices train together "
                "with `trainer=ddp trainer.devices=2`, one trains with trainer.strategy=auto."
            )
        for name, make in self.callbacks.items():
            if not callable(make):
                raise ValueError(
                    f"trainer.callbacks.{name} is one {type(make).__name__} for all stages: add `_partial_: true` "
                    "beside its `_target_`, so that each stage makes its own."
                )

    def trainer(
        self,
        stage: str,
        *,
        logger: Logger | Literal[False],
        folder: Path,
        max_epochs: int = -1,
        max_steps: int = -1,
        callbacks: Sequence[Callback] = (),
        gradient_clip: float | None = None,
        val_check_interval: int | float | None = None,
        shown_metrics: tuple[str, ...] = (),
        learning_rate_key: str | None = None,
        log_every_n_steps: int | None = None,
        partial: PartialResults | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Trainer:
        """A Lightning trainer for one stage; it writes nothing but its partial results and its curves.

        Args:
            stage: its name, which is also its config group: "`sft.learning_rate`" in the advice of `StopOnNaN`.
            folder: of the trained model; its curves are written there, and a callback may write there.
            gradient_clip: largest norm of the gradient; None clips nothing, and manual optimisation needs None.
            val_check_interval: batches, or share of an epoch, between validations; None: once an epoch.
            shown_metrics: logged metrics that are shown beside the progress.
            learning_rate_key: the rate's config key, for the same advice; None: `<stage>.learning_rate`.
            log_every_n_steps: batches between two records of the tracker; None: as set for all stages.
            partial: where the training's state is saved at intervals; None: it is not saved, and no curves are kept.
            seed: of the stage.
            options: further arguments of Lightning's `Trainer`.
        """
        quiet_lightning()
        if self.max_epochs is not None:
            max_epochs, val_check_interval = self.max_epochs, 1.0
            options["check_val_every_n_epoch"] = self.max_epochs
        curves = [] if partial is None else [Curves(stage, logger, folder)]
        return Trainer(
            accelerator=self.accelerator,
            devices=self.devices,
            strategy=sharded(self.devices) if self.strategy == "fsdp" else self.strategy,
            use_distributed_sampler=False,  # each process takes its own share
            precision=self.precision or self.of_size(0).precision,
            deterministic="warn" if self.deterministic else False,
            fast_dev_run=self.fast_dev_run,
            overfit_batches=self.overfit_batches,
            logger=curves or logger,
            log_every_n_steps=log_every_n_steps or self.log_every_n_steps,
            max_epochs=max_epochs,
            max_steps=max_steps,
            gradient_clip_val=gradient_clip,
            val_check_interval=val_check_interval,
            callbacks=[
                StopOnNaN(stage, learning_rate_key or f"{stage}.learning_rate"),
                StageProgress(stage, shown_metrics=shown_metrics),
                GiveBackMemory(),
                *callbacks,
                *(make() for make in self.callbacks.values()),
                *curves,
                *self._checkpoints(partial, seed),  # last, because it saves the state of the others
            ],
            default_root_dir=folder,
            plugins=[PlainFiles(), LightningEnvironment()],  # under any scheduler: the job starts all processes
            num_sanity_val_steps=0,
            inference_mode=False,  # its tensors cannot be saved for backward, and validation runs the trained model
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )

    def _checkpoints(self, partial: PartialResults | None, seed: int) -> list[Callback]:
        if partial is None or self.fast_dev_run or self.overfit_batches:
            return []
        return [Checkpoints(partial, self.seconds_between_checkpoints, seed)]

    def check_device(self) -> None:
        """Refuse a GPU that this machine does not have; the machine that plans a job may have none.

        Raises:
            ValueError: there is no such device.
        """
        if self.accelerator in ("gpu", "cuda") and torch.cuda.device_count() < self.devices:
            raise ValueError(
                f"trainer.accelerator={self.accelerator}, trainer.devices={self.devices}: torch finds "
                f"{torch.cuda.device_count()} GPUs here. `trainer.accelerator=auto` takes what there is."
            )

    def of_size(self, parameters: int) -> "Training":
        """The same, with the precision decided for a model with this number of parameters."""
        is_mixed = self.on_gpu or cpu_prefers_bfloat16(parameters)
        return replace(self, precision=self.precision or ("bf16-mixed" if is_mixed else "32-true"))

    @property
    def on_gpu(self) -> bool:
        """Whether `accelerator` means a CUDA device here."""
        return self.accelerator in ("gpu", "cuda") or (self.accelerator == "auto" and torch.cuda.is_available())


class _OneEmptyBatch(Dataset[int]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        return index


def one_validation() -> DataLoader[int]:
    """A loader of one empty batch, for a stage whose validation is one call."""
    return DataLoader(_OneEmptyBatch(), batch_size=None)


def learning_rate_factor(step: int, total_steps: int, warmup_fraction: float, final_fraction: float) -> float:
    """Share of the peak rate in steps 0, 1, …: a linear rise to 1, then a half cosine to `final_fraction`."""
    warmup = round(warmup_fraction * total_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * progress)) / 2


def adamw(groups: Sequence[Mapping[str, Any]], **options: Any) -> torch.optim.AdamW:
    """AdamW over groups of parameters; one pass over the weights updates a large model on a CPU (`fused` in torch)."""
    trained = [parameter for group in groups for parameter in group["params"]]
    is_large = not is_small(sum(parameter.numel() for parameter in trained))
    on_cpu = all(parameter.device.type == "cpu" and not isinstance(parameter, DTensor) for parameter in trained)
    optimizer = torch.optim.AdamW(
        [dict(group) for group in groups], fused=True if is_large and on_cpu else None, **options
    )
    # Lightning clips no gradients of an optimiser that unscales them. In bfloat16 and float32 nothing is scaled.
    optimizer._step_supports_amp_scaling = False
    return optimizer


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Set torch's generators (dropout, new weights) to `seed` in the block, and restore their state afterwards."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt in the block as elsewhere: Lightning ends the process with exit code 1."""
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores further ones
            raise KeyboardInterrupt from error
        raise


def quiet_lightning() -> None:
    """Keep Lightning's tips and device lists out of the log; its warnings about real faults stay."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    # Batches are small lists of tokens: worker processes would cost more than they save.
    warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
    # A stage without validation examples keeps its last weights, and says so in its report.
    warnings.filterwarnings("ignore", message=r"You defined a `validation_step` but have no `val_dataloader`")
    # A job starts its own processes, also where there is Slurm.
    warnings.filterwarnings("ignore", message="The `srun` command is available on your system but is not used")
    # Reinforcement learning keeps dropout off in both passes, or the first ratio would not be 1.
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
    # A short stage has fewer batches than `log_every_n_steps`.
    warnings.filterwarnings("ignore", message=r"The number of training batches .* is smaller than the logging interval")
    warnings.filterwarnings("ignore", message="You requested to overfit but enabled train dataloader shuffling")
