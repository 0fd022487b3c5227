"""Where a job's metrics go: W&B, CSV files, TensorBoard or nowhere; `tracking=...` selects the class.

In: the config once, then metrics of each stage through a Lightning logger, tables, images and the outputs of stages.
Out: one run per job. Its keys are `<stage>/<metric>`, and each stage has its own x-axis, `<stage>/step`, since the
steps of two stages count different things. A tracker keeps its run in a field of its own and `finish` closes it: the
jobs of a multirun share one process, and no state may pass from one job to the next.

`rkd.training.tracking_wandb` and `rkd.training.tracking_files` hold the trackers; `rkd.jobs.run_log` gives them a job's
data.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from rkd.training.curves import OfStage

Run = TypeVar("Run")

WriteMetrics = Callable[[str, dict[str, float], int | None], None]


@dataclass(frozen=True, kw_only=True)
class RunDescription:
    """A run's name in a dashboard, and the values by which runs are filtered and grouped.

    Args:
        group: the table that the job belongs to.
        job_type: the row.
        tags: the first 64 characters of each are kept, the most that W&B allows.
    """

    name: str
    group: str
    job_type: str
    tags: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Output:
    """The output of a stage: responses, labels, pairs or a model.

    Args:
        name: its stage and digest, as "sft-0123456789abcdef".
        kind: what it is, as "model".
        metadata: its digest, those of its inputs, its files with sizes and checksums.
        files: its files by name; they stay where they are, unaltered.
        texts: contents of files that are not on disk, by name.
        was_made: whether this job made it; otherwise another job did, and it is an input of this run.
    """

    name: str
    kind: str
    metadata: Mapping[str, Any]
    files: Mapping[str, Path] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    was_made: bool = True


class Tracker(Protocol):
    """One run of one job: `start`, any number of the others, `finish` in a `finally`."""

    def start(self, config: dict[str, Any], run: RunDescription, folder: Path, *, run_id: str) -> None:
        """Open the run; files lie in `folder`. `run_id` is the job's digest."""
        ...

    def logger_for(self, stage: str) -> Logger | Literal[False]:
        """The logger for this stage's `Trainer(logger=...)`."""
        ...

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Keep a table under `key`."""
        ...

    def extend_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Append rows to the table under `key`; all calls of a run give the same columns."""
        ...

    def log_summary(self, values: Mapping[str, Any]) -> None:
        """Set final values of the run."""
        ...

    def log_output(self, output: Output) -> None:
        """Record the output of a stage."""
        ...

    def log_image(self, key: str, path: Path) -> None:
        """Keep a PNG under `key`."""
        ...

    def where(self) -> str:
        """Where the run is and what shows it, in one line; empty if nothing is kept."""
        ...

    def finish(self, failure: str | None = None) -> None:
        """Close the run; do nothing if none is open. `failure` says why the job did not finish, if it did not."""
        ...


class StageLogger(OfStage):
    """The Lightning logger of one stage: writes into the job's run, which outlives the stage's trainer."""

    def __init__(self, stage: str, folder: Path, write: WriteMetrics) -> None:
        super().__init__(stage, folder)
        self.write = write

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        prefix = f"{self.stage}/"
        named = {key if key.startswith(prefix) else prefix + key: value for key, value in metrics.items()}
        self.write(self.stage, named, step)


@dataclass
class NoTracker:
    """Keeps nothing; result files are still written."""

    def start(self, *_: Any, **__: Any) -> None: ...

    def logger_for(self, stage: str) -> Literal[False]:  # noqa: ARG002
        return False

    def log_table(self, *_: Any, **__: Any) -> None: ...

    def extend_table(self, *_: Any, **__: Any) -> None: ...

    def log_summary(self, *_: Any, **__: Any) -> None: ...

    def log_output(self, *_: Any, **__: Any) -> None: ...

    def log_image(self, *_: Any, **__: Any) -> None: ...

    def where(self) -> str:
        return ""

    def finish(self, *_: Any, **__: Any) -> None: ...


def started(run: Run | None) -> Run:
    """The open run.

    Raises:
        RuntimeError: no run is open.
    """
    if run is None:
        raise RuntimeError("This tracker has no open run: call `start(...)` first, `finish()` last.")
    return run


def refuse_second_start(run: object) -> None:
    """Refuse to start while a run is open.

    Raises:
        RuntimeError: a run is open.
    """
    if run is not None:
        raise RuntimeError("This tracker's run is still open: call `finish()` in a `finally` before the next `start`.")
