"""The protocol of a training stage: data and a `TrainingContext` enter, a trained model in a folder leaves."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from pytorch_lightning.loggers import Logger

from rkd.data.prompts import PromptTemplate
from rkd.models.loading import ModelOptions
from rkd.records import Checkpoint
from rkd.store.partial_results import PartialResults
from rkd.training.trainer import Training, Validate
from rkd.work import Sizes, Work

LogRows = Callable[[Sequence[Mapping[str, Any]]], None]
"""Takes rows of the table of a training, as it makes them; a value may be a mapping of further columns."""


def log_nothing(_: Sequence[Mapping[str, Any]]) -> None:
    """Keep no rows."""


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """The inputs of every training besides its data.

    Args:
        start: the model that training starts from.
        prompt: the student's prompt, here and wherever it is sampled.
        training: the devices, and the settings that all stages share.
        logger: gets the curves, which the folder gets too; False: only the folder does.
        folder: where the trained model is written.
        partial: the partial results of an interrupted attempt, from which this one continues.
        seed: of all random draws.
        options: how the model is loaded, placed and trained.
        validate: measures how good a student is; None keeps the last weights.
        log_rows: gets rows for people to read while the training runs.
    """

    start: Checkpoint
    prompt: PromptTemplate
    training: Training
    logger: Logger | Literal[False]
    folder: Path
    partial: PartialResults
    seed: int
    options: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    validate: Validate | None = None
    log_rows: LogRows = log_nothing


Data = TypeVar("Data", contravariant=True)


class TrainingStage(Protocol[Data]):
    """A stage of the method that trains: SFT, DPO, reward model, RL; each has a stand-in that leaves it out."""

    @property
    def is_left_out(self) -> bool:
        """Whether the stage does nothing."""
        ...

    def fit(self, data: Data, context: TrainingContext) -> Any:
        """Train on the data, write the model to `context.folder`, and return a report, a dataclass of numbers."""
        ...

    def planned_work(self, sizes: Sizes) -> list[Work]:
        """The queries it will ask and the data it will train on; empty for a stage that is left out."""
        ...
