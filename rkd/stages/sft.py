"""Data distillation, docs/method.md 2.3: a student and (query, response) pairs enter, the fine-tuned student leaves.

The student is trained on the teacher's responses by the negative log-likelihood of their tokens, Eq. 3. The
token that ends a response is included, so that the student learns to stop. The responses (voted, unfiltered, a share)
are chosen before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, ClassVar, Literal

from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rkd.data.calculator_tokens import CalculatorTokens, chosen_tokens
from rkd.data.prompts import PromptTemplate
from rkd.distributed import share_of_weight
from rkd.generation.local import end_ids
from rkd.losses import sft_loss
from rkd.models.batches import ResponseBatch, collate, in_parts
from rkd.models.cpu_workers import mean_loss, part_count
from rkd.models.loading import copy_model, load_causal_lm, load_tokenizer
from rkd.models.policy import Policy
from rkd.records import Query
from rkd.stages.labels import AllResponses, CorrectResponses
from rkd.training.checkpointing import KeepBest
from rkd.training.fsdp import ShardableModule
from rkd.training.stage import TrainingContext
from rkd.training.supervised import SupervisedTraining
from rkd.training.trainer import Validate
from rkd.work import STUDENT, Sizes, Work, about, epochs_said

Examples = Sequence[tuple[Query, str]]
"""The training examples: queries, each with one whole response, since all are taught with an end."""

Tokens = tuple[list[int], list[int]]
"""The tokens of one prompt and of its response."""

NO_EXAMPLE = (
    "no response of the teacher was kept: none is right, whole and not empty. Take more queries, `python run.py "
    "dataset.max_training_queries=null`, let the teacher write more, `teacher_samples.max_response_tokens=...`, or do "
    "without this stage, `python run.py sft=none`."
)


@dataclass(frozen=True, slots=True)
class SFTReport:
    """The outcome of a fit: optimiser steps, examples used and left out as too long, score of the kept weights."""

    steps: int
    examples: int
    dropped_too_long: int
    best_validation: float | None


class SFTModule(ShardableModule):
    """A model under Eq. 3; a validation is one call of `validate`, whose result is logged as `metric`."""

    part, saved = "policy", "policy.lm"

    def __init__(
        self,
        policy: Policy,
        settings: SupervisedTraining,
        validate: Validate | None,
        *,
        metric: str = "validation/accuracy",
    ) -> None:
        super().__init__()
        self.policy = policy
        self.settings = settings
        self.validate = validate
        self.metric = metric

    def training_step(self, batch: ResponseBatch, batch_idx: int) -> Tensor:  # noqa: ARG002
        def loss_of(part: ResponseBatch) -> tuple[Tensor, dict[str, Tensor]]:
            return sft_loss(self.policy(part).logprobs, part.chosen_mask), {}

        loss, _ = mean_loss(self.policy, loss_of, in_parts(batch, part_count(self.policy, batch.tokens)))
        loss = loss * share_of_weight(batch.weight, self.device)
        self.log("train/loss", loss, sync_dist=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:  # noqa: ARG002
        assert self.validate is not None  # without it there is no validation
        self.log(self.metric, self.validate(self.whole_part(Policy).lm), batch_size=1, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return self.settings.adamw(self)


@dataclass(frozen=True, kw_only=True)
class SFT(SupervisedTraining):
    """Supervised fine-tuning of the student; an example is a query with one response.

    Args:
        data: selects the teacher's responses that are the examples.
    """

    stage = "sft"

    data: CorrectResponses | AllResponses = field(default_factory=CorrectResponses)

    def fingerprint(self) -> dict[str, Any]:
        """The settings of the training without `data`: the content of the examples has its own fingerprint."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "data"}

    def fit(self, examples: Examples, context: TrainingContext) -> SFTReport:
        """Train the student on the examples; write model and tokenizer of the best validation to the folder.

        Args:
            examples: queries and complete responses; a query may occur several times.

        Raises:
            ValueError: no example is left to train on.
        """
        tokenizer = load_tokenizer(context.start.folder)
        tokens, dropped = _encode(tokenizer, context.prompt, examples, self.max_tokens)
        self.check_left(tokens, len(examples), "example", NO_EXAMPLE)
        best = KeepBest("validation/accuracy", "max", context.partial, self.patience)

        def build() -> SFTModule:
            lm = context.options.prepare(load_causal_lm(context.start.folder, context.options))
            if context.prompt.end_id(tokenizer) is not None:  # other programs stop where the configuration says
                lm.generation_config.eos_token_id = end_ids(context.prompt, tokenizer, lm.generation_config)
            return SFTModule(Policy(lm), self, context.validate).train()

        steps = self.train(
            build,
            tokens,
            # Batches are sorted by the longer part, because prompts and responses are padded separately
            # (GSM8K: 22 % of padding; sorted by the sum, 43 %).
            lambda example: max(map(len, example)),
            partial(_collated, calculator=context.prompt.calculator_tokens(tokenizer)),
            best,
            context,
            has_validation=context.validate is not None,
            shown_metrics=("train/loss",),
        )
        return SFTReport(steps, len(tokens), dropped, best.best)

    def planned_work(self, sizes: Sizes) -> list[Work]:
        """The examples, and the validations between them."""
        asked = self.epochs * self.validations_per_epoch * sizes.validated
        amount = f"{about(sizes.examples)} responses, {epochs_said(self.epochs)}"
        limit = self.max_tokens if sizes.example_tokens is None else sizes.example_tokens
        return [Work("sft", amount, STUDENT, limit, [(asked, sizes.greedy)], trained=self.epochs * sizes.examples)]


@dataclass(frozen=True, kw_only=True)
class NoSFT:
    """No supervised fine-tuning (the rows ICL and w/o D): the student stays unchanged.

    Args:
        data: selects the teacher's responses that would be the examples; they are counted.
    """

    data: CorrectResponses | AllResponses = field(default_factory=CorrectResponses)

    def fingerprint(self) -> dict[str, Any]:
        """Return no settings: without a training none decides the result."""
        return {}

    is_left_out: ClassVar[Literal[True]] = True

    def planned_work(self, sizes: Sizes) -> list[Work]:  # noqa: ARG002
        """Return no work."""
        return []

    def fit(self, examples: Examples, context: TrainingContext) -> SFTReport:  # noqa: ARG002
        """Copy the student."""
        copy_model(context.start.folder, context.folder)
        return SFTReport(steps=0, examples=0, dropped_too_long=0, best_validation=None)


def _collated(examples: Sequence[Tokens], calculator: CalculatorTokens | None) -> ResponseBatch:
    prompts, responses = [prompt for prompt, _ in examples], [response for _, response in examples]
    return collate(prompts, responses, is_chosen=chosen_tokens(calculator, responses))


def _encode(
    tokenizer: PreTrainedTokenizerBase,
    prompt: PromptTemplate,
    examples: Examples,
    max_tokens: int,
) -> tuple[list[Tokens], int]:
    """The examples that fit into `max_tokens`, and the number of the others."""
    prompts = prompt.encode([query for query, _ in examples], tokenizer)
    responses = prompt.encode_responses([text for _, text in examples], [True] * len(examples), tokenizer)
    tokens = list(zip(prompts, responses, strict=True))
    kept = [example for example in tokens if sum(map(len, example)) <= max_tokens]
    return kept, len(tokens) - len(kept)
