"""Supervised training for data and reward distillation: a module and examples enter, its best weights leave.

Fine-tuning and the reward model pass over a fixed set of examples in the same way: they share these batches, this
optimiser, this schedule and these settings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from rkd.config import ABOVE_0, AT_LEAST_1, NOT_NEGATIVE, SHARE, check_ranges
from rkd.distributed import count, own_share
from rkd.io import write_rows
from rkd.models.loading import load_tokenizer
from rkd.models.lora import save_merged
from rkd.training.checkpointing import HISTORY_FILE, Batches, KeepBest, fit, state_of
from rkd.training.fsdp import ShardableModule
from rkd.training.stage import TrainingContext
from rkd.training.trainer import adamw, learning_rate_factor, one_validation, seeded

Example = TypeVar("Example")

# Examples are sorted by length within so many batches: sorted as a whole, a batch would hold one length only.
POOL_BATCHES = 50

RANGES = {
    "learning_rate": ABOVE_0,
    "epochs": AT_LEAST_1,
    "batch_size": AT_LEAST_1,
    "max_tokens": (lambda value: value >= 2, "at least 2"),
    "warmup_fraction": (lambda value: 0 <= value < 1, "in [0, 1)"),
    "final_learning_rate_fraction": SHARE,
    "weight_decay": NOT_NEGATIVE,
    "gradient_clip": ABOVE_0,
    "validations_per_epoch": AT_LEAST_1,
    "patience": AT_LEAST_1,
}


@dataclass(frozen=True, kw_only=True)
class SupervisedTraining:
    """The settings of a stage with examples; the stage inherits them, so that they are config keys of its own.

    Args:
        learning_rate: peak rate of AdamW.
        epochs: passes over the examples.
        batch_size: examples per optimiser step and device.
        max_tokens: largest prompt + response, in tokens; longer examples are dropped and counted, never cut.
        warmup_fraction: share of the steps in which the rate rises to its peak.
        final_learning_rate_fraction: the rate falls along a half cosine to this share of its peak; 1 keeps it constant.
        weight_decay: of matrices.
        gradient_clip: largest norm of the gradient; None clips nothing.
        validations_per_epoch: how often the module is validated; the best weights are kept.
        patience: validations without a better one before training stops; None trains all epochs.
    """

    stage: ClassVar[str]  # its config group
    is_left_out: ClassVar[Literal[False]] = False

    learning_rate: float
    epochs: int
    batch_size: int
    max_tokens: int
    warmup_fraction: float = 0.0
    final_learning_rate_fraction: float = 0.0
    weight_decay: float = 0.0
    gradient_clip: float | None = 1.0
    validations_per_epoch: int = 1
    patience: int | None = None

    def __post_init__(self) -> None:
        check_ranges(self.stage, self, RANGES)

    def check_left(self, examples: Sequence[Any], given: int, one: str, advice: str) -> None:
        """Refuse to train on nothing.

        Args:
            examples: those of the `given` ones that fit into `max_tokens`.
            one: what one of them is called.
            advice: why none may have been given, and what to do then.

        Raises:
            ValueError: there is no example.
        """
        if examples:
            return
        if not given:
            raise ValueError(f"{self.stage}: there is no {one} to train on: {advice}")
        key, limit = f"{self.stage}.max_tokens", self.max_tokens
        raise ValueError(
            f"{self.stage}: all {given} {one}s are longer than {key}={limit} with their prompts, none is left to train "
            f"on. Raise it: `python run.py {key}={2 * limit}`."
        )

    def train(
        self,
        build: Callable[[], ShardableModule],
        examples: Sequence[Example],
        length: Callable[[Example], int],
        collate: Callable[[Sequence[Example]], Any],
        best: KeepBest,
        context: TrainingContext,
        *,
        has_validation: bool,
        shown_metrics: tuple[str, ...],
        validates_start: bool = False,
    ) -> int:
        """Train over all epochs, or until patience ends; returns the number of optimiser steps.

        The folder then has the model with its best weights, its tokenizer, and the history of the validations.

        Args:
            build: makes the module that is trained, under the seed.
            length: the tokens of an example; a batch holds examples of similar length.
            collate: makes a batch of the examples of one optimiser step.
            best: keeps the best weights; without a validation the last ones are used.
            shown_metrics: as `Training.trainer` takes them, besides the best one.
            validates_start: the weights that training starts from may be the best ones.
        """
        batches = length_batches(examples, length, self.batch_size * count(), context.seed)
        with seeded(context.seed):
            module = build()
            trainer = context.training.trainer(
                self.stage,
                logger=context.logger,
                folder=context.folder,
                max_epochs=self.epochs,
                gradient_clip=self.gradient_clip,
                callbacks=[best] if has_validation else [],
                val_check_interval=1 / self.validations_per_epoch,
                shown_metrics=(*shown_metrics, best.metric),
                partial=context.partial,
                seed=context.seed,
            )
            loader = Batches(self._shares(batches), collate, None if context.training.overfit_batches else context.seed)
            if validates_start and has_validation and context.partial.find(state_of(trainer)) is None:
                trainer.validate(module, one_validation(), verbose=False)
            fit(trainer, module, loader, one_validation() if has_validation else None, context.partial)
            whole = module.whole()
            if trainer.is_global_zero:
                best.restore(whole)
        if trainer.is_global_zero:
            folder = context.folder
            folder.mkdir(parents=True, exist_ok=True)
            steps = trainer.estimated_stepping_batches  # of all epochs, even if patience ended the training before
            write_rows(folder / HISTORY_FILE, [{**row, "share": row["step"] / steps} for row in best.history])
            save_merged(attrgetter(module.saved)(whole), load_tokenizer(context.start.folder), folder)
        return trainer.global_step

    def _shares(self, batches: Sequence[Sequence[Example]]) -> list[Sequence[Example]]:
        """The examples of this process in each batch, at least one.

        Raises:
            ValueError: there are fewer examples than processes.
        """
        whole = [list(batch) for batch in batches]
        if len(whole) > 1 and len(whole[-1]) < count():
            whole[-2] += whole.pop()
        if len(whole[-1]) < count():
            raise ValueError(f"{self.stage}: {len(whole[-1])} examples are too few for {count()} processes.")
        return [own_share(batch) for batch in whole]

    def adamw(
        self, module: LightningModule, own_rates: Mapping[Tensor, float] | None = None
    ) -> OptimizerLRSchedulerConfig:
        """What `configure_optimizers` returns: AdamW, its rate by `learning_rate_factor` over the trainer's own steps.

        Vectors (biases and norms) are not decayed.

        Args:
            own_rates: peak rates of parameters that do not have `learning_rate`.
        """
        rates = own_rates or {}
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad and parameter not in rates]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
            *({"params": [p], "weight_decay": self.weight_decay, "lr": rate} for p, rate in rates.items()),
        ]
        optimizer = adamw(groups, lr=self.learning_rate)
        total, final = int(module.trainer.estimated_stepping_batches), self.final_learning_rate_fraction
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, total, self.warmup_fraction, final)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def length_batches(
    examples: Sequence[Example], length: Callable[[Example], int], batch_size: int, seed: int
) -> list[list[Example]]:
    """Batches of similar length with every example once, drawn by the seed; the last batch may be smaller."""
    order = np.random.default_rng(seed).permutation(len(examples)).tolist()
    batches = []
    for start in range(0, len(order), POOL_BATCHES * batch_size):
        pool = sorted(order[start : start + POOL_BATCHES * batch_size], key=lambda index: length(examples[index]))
        batches += [[examples[i] for i in pool[at : at + batch_size]] for at in range(0, len(pool), batch_size)]
    return batches
