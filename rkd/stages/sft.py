"""Data distillation, METHOD 2.3: a student and (query, response) pairs enter, the fine-tuned student's folder leaves.

The student learns the teacher's responses by the negative log-likelihood of their tokens, Eq. 3, the end-of-sequence
token included, so that it learns to stop. Which responses those are (voted, unfiltered, a share) is decided before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rkd.data.prompts import PromptTemplate
from rkd.distributed import count, share_of_weight
from rkd.losses import sft_loss
from rkd.models.batches import ResponseBatch, collate, encode_responses, in_parts
from rkd.models.cpu_workers import mean_loss, part_count
from rkd.models.loading import ModelOptions, copy_model, load_causal_lm, load_tokenizer
from rkd.models.lora import save_merged
from rkd.models.policy import Policy
from rkd.records import Checkpoint, Query
from rkd.stages.labels import AllResponses, CorrectResponses
from rkd.store.partial_results import Progress
from rkd.training.checkpointing import KeepBest
from rkd.training.fsdp import ShardableModule
from rkd.training.supervised import SupervisedTraining, length_batches
from rkd.training.trainer import Training, Validate, seeded

Tokens = tuple[list[int], list[int]]
"""The tokens of one prompt and of its response."""

NO_EXAMPLE = (
    "no response of the teacher was kept. Take more queries, `python run.py dataset.max_training_queries=null`, or do "
    "without this stage, `python run.py sft=none`."
)


@dataclass(frozen=True, slots=True)
class SFTReport:
    """What a fit did: optimiser steps, examples trained on and left out for their length, score of the kept weights."""

    steps: int
    examples: int
    dropped_too_long: int
    best_validation: float | None


class SFTModule(ShardableModule):
    """The student under Eq. 3; a validation is one call of `validate`."""

    part = "policy"

    def __init__(self, policy: Policy, settings: "SFT", validate: Validate | None) -> None:
        super().__init__()
        self.policy = policy
        self.settings = settings
        self.validate = validate

    def training_step(self, batch: ResponseBatch, batch_idx: int) -> Tensor:  # noqa: ARG002
        def loss_of(part: ResponseBatch) -> tuple[Tensor, dict[str, Tensor]]:
            return sft_loss(self.policy(part).logprobs, part.response_mask), {}

        loss, _ = mean_loss(self.policy, loss_of, in_parts(batch, part_count(self.policy)))
        loss = loss * share_of_weight(batch.weight, self.device)
        self.log("train/loss", loss, sync_dist=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:  # noqa: ARG002
        self.log("validation/accuracy", self.validate(self.whole().policy.lm), batch_size=1, sync_dist=True)

    def configure_optimizers(self) -> dict:
        return self.settings.adamw(self)


@dataclass(frozen=True, kw_only=True)
class SFT(SupervisedTraining):
    """Supervised fine-tuning of the student; an example is a query with one response.

    Args:
        data: which of the teacher's responses are the examples.
    """

    stage = "sft"

    data: CorrectResponses | AllResponses = field(default_factory=CorrectResponses)

    def fingerprint(self) -> dict[str, Any]:
        """The settings of the training; `data` decides the examples, and these are named by their content."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "data"}

    def fit(
        self,
        student: Checkpoint,
        examples: Sequence[tuple[Query, str]],
        *,
        prompt: PromptTemplate,
        validate: Validate | None,
        training: Training,
        logger: Logger | bool,
        folder: Path,
        progress: Progress,
        seed: int,
        options: ModelOptions = ModelOptions(),
    ) -> SFTReport:
        """Train `student` on the examples, and write model and tokenizer of the best validation to `folder`.

        Args:
            examples: queries and complete responses; a query may come with several.
            prompt: how the student is asked, here and wherever it is sampled.
            validate: None keeps the last weights.
            progress: where an interrupted fit goes on from.
            options: how the student is loaded and trained.

        Raises:
            ValueError: no example is left to train on.
        """
        tokenizer = load_tokenizer(student.folder)
        tokens, dropped = _encode(tokenizer, prompt, examples, self.max_tokens)
        self.check_left(tokens, len(examples), "example", NO_EXAMPLE)
        # By the longer part: prompts and responses are padded apart (GSM8K: 22 % of padding; by their sum 43 %).
        batches = length_batches(tokens, lambda example: max(map(len, example)), self.batch_size * count(), seed)
        pad_id = tokenizer.pad_token_id
        best = KeepBest("validation/accuracy", "max", progress, self.patience)
        with seeded(seed):
            lm = options.prepare(load_causal_lm(student.folder, options))
            module = SFTModule(Policy(lm), self, validate).train()
            trainer, whole = self.train(
                module,
                batches,
                lambda batch: collate(*zip(*batch, strict=True), pad_id),
                best,
                has_validation=validate is not None,
                shown_metrics=("train/loss", best.metric),
                training=training,
                logger=logger,
                folder=folder,
                seed=seed,
            )
        if trainer.is_global_zero:
            save_merged(whole.policy.lm, tokenizer, folder)
        return SFTReport(trainer.global_step, len(tokens), dropped, best.best)


@dataclass(frozen=True, kw_only=True)
class NoSFT:
    """No supervised fine-tuning (the rows ICL and w/o D): the student goes on as it came.

    Args:
        data: which of the teacher's responses would be the examples; they are counted.
    """

    data: CorrectResponses | AllResponses = field(default_factory=CorrectResponses)

    def fingerprint(self) -> dict[str, Any]:
        """Nothing: without a training no setting decides what is left."""
        return {}

    def fit(self, student: Checkpoint, *_: object, folder: Path, **__: object) -> SFTReport:
        """Copy the student's folder to `folder`."""
        copy_model(student.folder, folder)
        return SFTReport(steps=0, examples=0, dropped_too_long=0, best_validation=None)


def _encode(
    tokenizer: PreTrainedTokenizerBase,
    prompt: PromptTemplate,
    examples: Sequence[tuple[Query, str]],
    max_tokens: int,
) -> tuple[list[Tokens], int]:
    """The examples that fit into `max_tokens`, and how many do not."""
    prompts = prompt.encode([query for query, _ in examples], tokenizer)
    responses = encode_responses(tokenizer, [text for _, text in examples], [True] * len(examples))
    tokens = list(zip(prompts, responses, strict=True))
    kept = [example for example in tokens if sum(map(len, example)) <= max_tokens]
    return kept, len(tokens) - len(kept)
