"""What a training stage is: it is given data and a `TrainingContext`, and leaves a trained model in a folder."""

import dataclasses
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


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """What every training is given, whatever it learns from.

    Args:
        start: the model that training starts from.
        prompt: how the student is asked, here and wherever it is sampled.
        training: the devices, and how carefully they train.
        logger: where the curves go beside the folder; False: nowhere.
        folder: where the trained model is written.
        partial: what an interrupted attempt left, from which this one goes on.
        seed: of all that is drawn.
        options: how the model is loaded, placed and trained.
        validate: how good a student is; None keeps the last weights.
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


Data = TypeVar("Data", contravariant=True)


class TrainingStage(Protocol[Data]):
    """A stage of the method that trains: SFT, DPO, reward model, RL; each has a stand-in that leaves it out."""

    @property
    def is_left_out(self) -> bool:
        """Whether it does nothing."""
        ...

    def fit(self, data: Data, context: TrainingContext) -> Any:
        """Train on the data, write the model to `context.folder`, and return a report, a dataclass of numbers."""
        ...

    def planned_work(self, sizes: Sizes) -> list[Work]:
        """What it is going to ask and to train on; nothing of a stage that is left out."""
        ...
