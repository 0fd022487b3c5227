"""Generalised knowledge distillation (docs/method.md 6.1): a student and a local teacher enter, the student leaves.

The student learns the teacher's probabilities of all tokens, on the teacher's responses and on its own samples
(arXiv:2306.13649). It stands in the place of reinforcement learning, and starts from the SFT student.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from rkd.config import ABOVE_0, AT_LEAST_1, SHARE, check_ranges
from rkd.data.calculator_tokens import CalculatorTokens, chosen_tokens
from rkd.distributed import count, share_of_weight
from rkd.generation.local import LocalGenerator, LocalModel
from rkd.losses import generalised_jsd, masked_mean
from rkd.models.batches import ResponseBatch, collate, in_parts
from rkd.models.cpu_workers import mean_loss, part_count
from rkd.models.loading import load_causal_lm, load_teacher, load_tokenizer
from rkd.models.policy import Policy, without_dropout
from rkd.protocols import Sampling
from rkd.records import Query
from rkd.rl.policy_module import rollout_seed
from rkd.stages.sft import NO_EXAMPLE, Examples
from rkd.training.checkpointing import KeepBest
from rkd.training.fsdp import ShardableModule
from rkd.training.stage import TrainingContext
from rkd.training.supervised import SupervisedTraining
from rkd.training.trainer import Validate
from rkd.work import FORWARD, STUDENT, Sizes, Work, about, epochs_said


@dataclass(frozen=True, slots=True)
class GKDInputs:
    """The teacher's responses with their queries, and the teacher whose probabilities are learned."""

    examples: Examples
    teacher: LocalModel


@dataclass(frozen=True, slots=True)
class GKDReport:
    """The outcome of a fit: optimiser steps, those on samples of the student, examples, score of the kept weights."""

    steps: int
    steps_on_samples: int
    examples: int
    dropped_too_long: int
    best_validation: float | None


@dataclass(frozen=True, slots=True)
class TaughtBatch:
    """The queries of a step with the teacher's responses to them."""

    queries: Sequence[Query]
    responses: ResponseBatch

    def to(self, device: torch.device) -> "TaughtBatch":
        """The same batch on another device."""
        return TaughtBatch(self.queries, self.responses.to(device))


@dataclass(frozen=True, kw_only=True)
class OwnSamples:
    """How much the student samples.

    Args:
        student_share: λ, the share of steps whose responses the student samples itself; 0: the teacher's alone.
        max_response_tokens: tokens of the student's tokenizer.
        temperature: of the samples.
    """

    student_share: float
    max_response_tokens: int
    temperature: float = 1.0

    def __post_init__(self) -> None:
        ranges = {"student_share": SHARE, "max_response_tokens": AT_LEAST_1, "temperature": ABOVE_0}
        check_ranges("rl.rollouts", self, ranges)

    @property
    def sampling(self) -> Sampling:
        """The sampling settings of a step: one response to each query."""
        return Sampling(self.temperature, 1, self.max_response_tokens)

    def has_step(self, seed: int, step: int) -> bool:
        """Whether the student samples the responses of a step, drawn by seed and step alone."""
        return random.Random(f"gkd {seed} {step}").random() < self.student_share


class GKDModule(ShardableModule):
    """A policy under the divergence from the teacher; a step of the student's share samples its responses first.

    Args:
        teacher: the frozen teacher.
        generator: samples from the policy's model.
    """

    part, saved = "policy", "policy.lm"

    def __init__(
        self,
        policy: Policy,
        settings: "GKD",
        teacher: Policy,
        generator: LocalGenerator,
        *,
        validate: Validate | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.policy, self.settings, self.generator = policy, settings, generator
        self.validate, self.seed = validate, seed
        self._teacher = (teacher,)  # in a tuple, so that it is neither trained nor saved
        self.sampled_tokens = 0

    def training_step(self, batch: TaughtBatch, batch_idx: int) -> Tensor:  # noqa: ARG002
        responses = self._responses(batch)
        (teacher,), divergence = self._teacher, partial(generalised_jsd, beta=self.settings.beta)
        teacher.to(self.device)

        def loss_of(part: ResponseBatch) -> tuple[Tensor, dict[str, Tensor]]:
            return masked_mean(self.policy.divergence(part, teacher, divergence), part.chosen_mask), {}

        parts = in_parts(responses, part_count(self.policy, responses.tokens))
        loss, _ = mean_loss(self.policy, loss_of, parts)
        loss = loss * share_of_weight(responses.weight, self.device)
        self.log("train/loss", loss, sync_dist=True)
        return loss

    def _responses(self, batch: TaughtBatch) -> ResponseBatch:
        """The teacher's responses, or samples of the policy to the same queries."""
        if not self.settings.rollouts.has_step(self.seed, self.global_step):
            return batch.responses
        self.policy.eval()
        sampled = self.generator.sample(
            batch.queries, self.settings.rollouts.sampling, rollout_seed(self.seed, self.global_step)
        )
        self.policy.train()
        self.sampled_tokens += int(sampled.response_mask.sum())
        return sampled

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:  # noqa: ARG002
        assert self.validate is not None  # without it there is no validation
        self.log("validation/accuracy", self.validate(self.policy.lm), batch_size=1, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return self.settings.adamw(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the count that Lightning does not save."""
        checkpoint["sampled_tokens"] = self.sampled_tokens

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore it."""
        self.sampled_tokens = checkpoint["sampled_tokens"]


@dataclass(frozen=True, kw_only=True)
class GKD(SupervisedTraining):
    """Training on the teacher's probabilities; an example is a query with a response of the teacher.

    Args:
        beta: β of the generalised Jensen–Shannon divergence: 0 is the forward KL, KL(π_T ‖ π), 1 the reverse KL.
        rollouts: the student's own samples.
    """

    stage = "rl"
    reads_teacher: ClassVar[Literal[True]] = True

    beta: float
    rollouts: OwnSamples

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self.stage, self, {"beta": SHARE})

    def fit(self, data: GKDInputs, context: TrainingContext) -> GKDReport:
        """Train the student; write model and tokenizer of the best validation, the start included, to the folder.

        Raises:
            ValueError: no example is left to train on.
            ModelError: the teacher has another vocabulary.
        """
        tokenizer, prompt = load_tokenizer(context.start.folder), context.prompt
        prompts = prompt.encode([query for query, _ in data.examples], tokenizer)
        texts = [text for _, text in data.examples]
        rows = prompt.encode_responses(texts, [True] * len(texts), tokenizer)
        encoded = [(query, own) for (query, _), *own in zip(data.examples, prompts, rows, strict=True)]
        kept = [(query, own) for query, own in encoded if sum(map(len, own)) <= self.max_tokens]
        self.check_left(kept, len(encoded), "example", NO_EXAMPLE)
        best = KeepBest("validation/accuracy", "max", context.partial, self.patience)
        teacher = load_teacher(data.teacher.source().folder, context.start.folder, data.teacher.options)
        modules: list[GKDModule] = []

        def build() -> GKDModule:
            lm = context.options.prepare(load_causal_lm(context.start.folder, context.options))
            without_dropout(lm)
            generator = LocalGenerator("student", lm, tokenizer, prompt)
            made = GKDModule(Policy(lm), self, Policy(teacher), generator, validate=context.validate, seed=context.seed)
            modules.append(made.train())
            return made

        steps = self.train(
            build,
            kept,
            lambda example: max(map(len, example[1])),
            partial(_collated, calculator=prompt.calculator_tokens(tokenizer)),
            best,
            context,
            has_validation=context.validate is not None,
            shown_metrics=("train/loss",),
            validates_start=True,
        )
        context.partial.tokens = modules[0].sampled_tokens * count()
        on_samples = sum(self.rollouts.has_step(context.seed, step) for step in range(steps))
        return GKDReport(steps, on_samples, len(kept), len(encoded) - len(kept), best.best)

    @property
    def validations(self) -> int:
        """Number of validations in the whole training, with the one at the start."""
        return 1 + self.epochs * self.validations_per_epoch

    def planned_work(self, sizes: Sizes) -> list[Work]:
        """The student's samples, the training, and the validations; the teacher reads as the student does."""
        own, examples = self.rollouts, self.epochs * sizes.examples
        asked = [(own.student_share * examples, own.sampling), (self.validations * sizes.validated, sizes.greedy)]
        amount = f"{about(sizes.examples)} responses, {epochs_said(self.epochs)}"
        return [Work("rl", amount, STUDENT, own.max_response_tokens, asked, trained=(1 + FORWARD) * examples)]


def _collated(
    examples: Sequence[tuple[Query, Sequence[list[int]]]], calculator: CalculatorTokens | None
) -> TaughtBatch:
    responses = [response for _, (_, response) in examples]
    prompts = [prompt for _, (prompt, _) in examples]
    batch = collate(prompts, responses, is_chosen=chosen_tokens(calculator, responses))
    return TaughtBatch([query for query, _ in examples], batch)
