"""Callbacks that only watch: they stop a diverged stage or show its progress, and never change batch, loss or model.

In: what the stage's module logs, and the trainer's counters. Out: an error that names the metric, or progress.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from torch.optim import Optimizer

from rkd.errors import TrainingDivergedError
from rkd.models.cpu_memory import SECONDS_BETWEEN_BATCHES, SECONDS_BETWEEN_STEPS, give_back, give_back_at_times


class StopOnNaN(Callback):
    """Ends a stage as soon as its loss or any other logged metric becomes NaN or infinite.

    `lr_key` is the config key that the message tells the user to lower.
    """

    def __init__(self, stage: str, lr_key: str | None = None) -> None:
        self.stage = stage
        self.lr_key = lr_key or f"{stage}.learning_rate"

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, *_: Any) -> None:  # noqa: ARG002
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs  # None under manual optimisation
        self._check({"loss": 0.0 if loss is None else loss, **trainer.callback_metrics}, trainer)

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        self._check(trainer.callback_metrics, trainer)

    def _check(self, metrics: Mapping[str, Any], trainer: Trainer) -> None:
        for name, value in metrics.items():
            number = float(value)
            if not math.isfinite(number):
                step = trainer.fit_loop.total_batch_idx  # batches since the stage began, however they are optimised
                raise TrainingDivergedError(
                    f"{self.stage}: {name} is {number} at step {step}. Lower `{self.lr_key}` (a third of it is a good "
                    f"next try), or clip gradients harder; the log shows which metric of {self.stage} went first."
                )


class GiveBackMemory(Callback):
    """Returns memory that large models keep (`rkd.models.cpu_memory`) to the system.

    It does so from time to time, and where other work begins. Without it, a training of 135 M weights was seen to grow
    from 8 to 15 GB, and to leave 12 GB of free memory to the stages after it.
    """

    def on_train_batch_end(self, *_: Any) -> None:
        give_back_at_times(SECONDS_BETWEEN_STEPS)

    def on_validation_batch_end(self, *_: Any) -> None:
        give_back_at_times(SECONDS_BETWEEN_BATCHES)

    def on_validation_start(self, *_: Any) -> None:
        give_back()

    def on_validation_end(self, *_: Any) -> None:
        give_back()

    def on_fit_end(self, *_: Any) -> None:
        give_back()


class StageProgress(Callback):
    """One bar for a whole stage; if the output is no terminal, a plain line every `seconds_between_lines`.

    `total_steps` counts training batches; None takes Lightning's estimate, or shows no end if there is none.
    """

    def __init__(
        self,
        stage: str,
        total_steps: int | None = None,
        *,
        shown_metrics: tuple[str, ...] = (),
        seconds_between_lines: float = 20.0,
        console: Console | None = None,
    ) -> None:
        self.stage = stage
        self.total_steps = total_steps
        self.shown_metrics = shown_metrics
        self.seconds_between_lines = seconds_between_lines
        self.console = console or Console()
        self._bar: Progress | None = None
        self._step = 0
        self._start = self._last_line = 0.0

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        if not trainer.is_global_zero:
            return
        if self.total_steps is None:
            batches = trainer.num_training_batches * (trainer.max_epochs or math.inf)
            known = min((limit for limit in (batches, trainer.max_steps) if 0 < limit < math.inf), default=None)
            self.total_steps = None if known is None else int(known)
        # A resumed training has done some batches already.
        self._step, self._start = trainer.fit_loop.total_batch_idx + 1, time.monotonic()
        self._last_line = self._start
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[metrics]}"),
                console=self.console,
            )
            self._bar.add_task(self.stage, total=self.total_steps, metrics="")
            self._bar.start()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if not trainer.is_global_zero:
            return
        self._step += 1
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._step, metrics=self._metrics_text(trainer))
        elif time.monotonic() - self._last_line >= self.seconds_between_lines:
            self._print_line(trainer)

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        self._close(trainer)

    def on_exception(self, trainer: Trainer, *_: Any) -> None:
        self._close(trainer)

    def _close(self, trainer: Trainer) -> None:
        if self._bar is not None:
            self._bar.stop()  # before anything else is printed: an open bar would write over it
            self._bar = None
        elif trainer.is_global_zero and self._step:
            self._print_line(trainer)

    def _print_line(self, trainer: Trainer) -> None:
        self._last_line = time.monotonic()
        total = "" if self.total_steps is None else f"/{self.total_steps}"
        line = f"{self.stage}: step {self._step}{total}, {self._last_line - self._start:.0f} s"
        self.console.print(Text(", ".join(filter(None, [line, self._metrics_text(trainer)]))), soft_wrap=True)

    def _metrics_text(self, trainer: Trainer) -> str:
        values = trainer.callback_metrics
        return ", ".join(f"{name} {float(values[name]):.4g}" for name in self.shown_metrics if name in values)


class LogLearningRate(Callback):
    """Logs the rate that each optimiser step takes as `learning_rate`, in every stage alike."""

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:  # noqa: ARG002
        module.log("learning_rate", optimizer.param_groups[0]["lr"], batch_size=1)


class ShowChange(Callback):
    """Prints at the end of a stage the first and last value of its metric: the first of `metrics` that it logs."""

    def __init__(self, metrics: Sequence[str] = ("train/loss", "reward"), *, console: Console | None = None) -> None:
        self.metrics = metrics
        self.console = console or Console(highlight=False)
        self._values: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._values.append(float(trainer.callback_metrics[self._metric(trainer)]))

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        first, last = self._values[0], self._values[-1]
        self.console.print(f"    {self._metric(trainer)} {first:.4g} → {last:.4g} in {len(self._values)} steps")

    def _metric(self, trainer: Trainer) -> str:
        return next(name for name in self.metrics if name in trainer.callback_metrics)
