"""Reward distillation, docs/method.md 2.6: the SFT student and preference pairs enter, a reward model's folder leaves.

R is the student's backbone with one linear head on the response's tokens, trained by Eq. 7 to 9. Its quality is the
share of validation pairs that it ranks right, by kind of pair (Table 9). Shapes: B pairs, 2 B responses in the order
chosen, rejected, chosen, ….
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, get_args

import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from rkd.config import ABOVE_0, check_ranges
from rkd.data.preference_files import write_pairs
from rkd.data.prompts import PromptTemplate
from rkd.distributed import share_of_weight
from rkd.losses import reward_model_loss
from rkd.models.batches import in_parts
from rkd.models.cpu_workers import map_over_copies, mean_loss, part_count
from rkd.models.loading import ModelOptions, load_tokenizer
from rkd.models.reward_model import Pooling, RewardModel, new_reward_model
from rkd.protocols import RewardFunction
from rkd.records import PreferencePair
from rkd.rl.rewards import learned_reward
from rkd.stages.preference_batches import (
    NO_PAIR,
    PairBatch,
    TokenizedPair,
    collate_pairs,
    kinds,
    ranking_metrics,
    tokenize_pairs,
)
from rkd.training.checkpointing import KeepBest
from rkd.training.fsdp import ShardableModule
from rkd.training.stage import TrainingContext
from rkd.training.supervised import SupervisedTraining
from rkd.work import FORWARD, STUDENT, Sizes, Work, about, epochs_said

# Metrics that can choose the best validation, with the direction that is better.
CRITERIA: dict[str, Literal["max", "min"]] = {
    "student_pos_neg_accuracy": "max",
    "right_over_wrong_accuracy": "max",
    "pair_accuracy": "max",
    "auc": "max",
    "loss": "min",
}

PAIRS_FILE = "pairs.jsonl"


@dataclass(frozen=True, slots=True)
class RewardModelReport:
    """The outcome of a fit: optimiser steps, pairs by use, and the metrics of the kept weights on validation pairs.

    `validation_pairs_of` holds the number of pairs behind each ranking accuracy.
    """

    steps: int
    pairs: int
    dropped_too_long: int
    validation_pairs: int
    validation_dropped_too_long: int
    validation: Mapping[str, float] = field(default_factory=dict)
    validation_pairs_of: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PairSets:
    """The training pairs of R, the validation pairs, which are of other queries, and ℓ*.

    `highest_score` is 1 for verifiable answers, 5 for a judge that grades by the rubric.
    """

    training: Sequence[PreferencePair]
    validation: Sequence[PreferencePair]
    highest_score: float = 1.0


class RewardModelModule(ShardableModule):
    """R under Eq. 9; a validation is one call of `validate`, which returns named metrics."""

    part, saved = "reward_model", "reward_model.model"

    def __init__(
        self,
        reward_model: RewardModel,
        settings: "RewardModelTraining",
        validate: Callable[[RewardModel], Mapping[str, float]] | None,
    ) -> None:
        super().__init__()
        self.reward_model = reward_model
        self.settings = settings
        self.validate = validate

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:  # noqa: ARG002
        loss, measured = mean_loss(
            self.reward_model, self._loss, in_parts(batch, part_count(self.reward_model, batch.tokens))
        )
        share = share_of_weight(batch.weight, self.device)
        self.log_dict({f"train/{name}": share * value for name, value in measured.items()}, sync_dist=True)
        return share * loss

    def _loss(self, part: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        rewards = self.reward_model(part.responses)  # (2 B,)
        losses = self.settings.losses(rewards, part.is_correct)
        measured = {name: value.detach() for name, value in losses.items()}
        measured["pair_accuracy"] = (rewards[0::2] > rewards[1::2]).float().mean()
        measured["reward_mean"] = rewards.detach().mean()
        return losses["loss"], measured

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:  # noqa: ARG002
        assert self.validate is not None  # without it there is no validation
        metrics = self.validate(self.whole_part(RewardModel))
        self.log_dict({f"validation/{name}": value for name, value in metrics.items()}, batch_size=1, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        rate = self.settings.head_learning_rate
        return self.settings.adamw(self, None if rate is None else {self.reward_model.head.weight: rate})


@dataclass(frozen=True, kw_only=True)
class RewardModelTraining(SupervisedTraining):
    """Training of the reward model; an example is a pair, whose length is that of its prompt and longer response.

    Args:
        classification_weight: λ_cls of Eq. 9.
        preference_weight: weight of L_pref: 1 in Eq. 9, 0 for the rows ORM-T and ORM-S (L_cls alone).
        pooling: the hidden state that R reads: of the response's "last" token, or the "mean" over all its tokens.
        criterion: the validation metric that decides which weights are kept, one of `CRITERIA`.
        head_learning_rate: peak rate of the head, which starts at zero; None takes `learning_rate`. The gradient of the
            backbone is proportional to the head, so both stand still where the head grows slowly.
    """

    stage = "reward_model"

    classification_weight: float = 0.5
    preference_weight: float = 1.0
    pooling: Pooling = "last"
    criterion: str = "right_over_wrong_accuracy"
    head_learning_rate: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self.stage, self, {"head_learning_rate": ABOVE_0})
        weights = (self.preference_weight, self.classification_weight)
        if min(weights) < 0 or not any(weights):
            raise ValueError(
                f"reward_model.preference_weight={weights[0]}, reward_model.classification_weight={weights[1]}: "
                "neither may be negative, and one must be above 0."
            )
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"reward_model.pooling={self.pooling}: choose one of {', '.join(get_args(Pooling))}.")
        if self.criterion not in CRITERIA:
            raise ValueError(f"reward_model.criterion={self.criterion}: choose one of {', '.join(CRITERIA)}.")

    def fit(self, pairs: PairSets, context: TrainingContext) -> RewardModelReport:
        """Train R on the pairs; write pairs, model and tokenizer of the best validation to the folder.

        R starts from the student `context.start`, with its head at zero. Without validation pairs the last weights are
        kept.

        Raises:
            ValueError: no pair is left to train on, or no validation pair that `criterion` needs.
        """
        tokenizer = load_tokenizer(context.start.folder)
        (kept, dropped), (held_out, held_out_dropped) = (
            tokenize_pairs(tokenizer, context.prompt, own, self.max_tokens, pairs.highest_score)
            for own in (pairs.training, pairs.validation)
        )
        self.check_left(kept, len(pairs.training), "pair", NO_PAIR)
        self._check_criterion(held_out)
        context.folder.mkdir(parents=True, exist_ok=True)
        write_pairs(context.folder / PAIRS_FILE, pairs.training, context.prompt)
        best = KeepBest(f"validation/{self.criterion}", CRITERIA[self.criterion], context.partial, self.patience)
        # By the padding token, transformers finds the last token of each row of a batch: it must not end a response.
        ends = (tokenizer.eos_token_id, context.prompt.end_id(tokenizer))
        pad_id = None if tokenizer.pad_token_id in ends else tokenizer.pad_token_id

        def build() -> RewardModelModule:
            own = new_reward_model(context.start.folder, self.pooling, context.options)
            context.options.prepare(own.model, trained_whole=["score"])
            own.model.config.pad_token_id = pad_id
            return RewardModelModule(own, self, lambda model: self.evaluate(model, held_out)).train()

        steps = self.train(
            build,
            kept,
            lambda pair: pair.longest_part,
            collate_pairs,
            best,
            context,
            has_validation=bool(held_out),
            shown_metrics=("train/loss", "train/pair_accuracy"),
        )
        of_kinds = {name: sum(is_of_kind) for name, is_of_kind in kinds(held_out).items()}
        return RewardModelReport(steps, len(kept), dropped, len(held_out), held_out_dropped, best.metrics, of_kinds)

    def losses(self, rewards: Tensor, is_correct: Tensor) -> dict[str, Tensor]:
        """`reward_model_loss` with these weights, by logged name."""
        losses = reward_model_loss(
            rewards,
            is_correct,
            classification_weight=self.classification_weight,
            preference_weight=self.preference_weight,
        )
        return losses._asdict()

    def evaluate(self, reward_model: RewardModel, pairs: Sequence[TokenizedPair]) -> dict[str, float]:
        """Losses on the pairs, and the metrics of `ranking_metrics`."""
        rewards = score_pairs(reward_model, pairs, self.batch_size)
        is_correct = torch.tensor([pair.is_correct for pair in pairs])
        losses = self.losses(rewards.flatten(), is_correct.flatten())
        return {name: float(value) for name, value in losses.items()} | ranking_metrics(pairs, rewards)

    def open_reward(self, folder: Path, prompt: PromptTemplate, options: ModelOptions) -> RewardFunction:
        """The reward of the trained model in `folder`."""
        return learned_reward(folder, prompt, options)

    def planned_work(self, sizes: Sizes) -> list[Work]:
        """The training pairs, and the validation pairs once per validation."""
        passes = self.epochs * (sizes.pairs + self.validations_per_epoch * FORWARD * sizes.held_out_pairs)
        amount = f"{about(sizes.pairs)} pairs, {epochs_said(self.epochs)}"
        return [Work("reward model", amount, STUDENT, sizes.pair_tokens, trained=2 * passes, group_size=2)]

    def _check_criterion(self, held_out: Sequence[TokenizedPair]) -> None:
        if held_out and self.criterion not in {"loss", *ranking_metrics(held_out, torch.zeros(len(held_out), 2))}:
            raise ValueError(
                f"reward_model.criterion={self.criterion} cannot be measured: none of the {len(held_out)} validation "
                "pairs has a right and a wrong response. Take `python run.py reward_model.criterion=loss`, or more "
                "validation queries, `python run.py dataset.max_validation_queries=null`."
            )


@dataclass(frozen=True, kw_only=True)
class NoRewardModel:
    """No learned reward, for rows whose reinforcement learning, if any, needs none."""

    is_left_out: ClassVar[Literal[True]] = True

    def planned_work(self, sizes: Sizes) -> list[Work]:  # noqa: ARG002
        """Return no work."""
        return []

    def fit(self, pairs: PairSets, context: TrainingContext) -> RewardModelReport:  # noqa: ARG002
        """Leave the folder empty."""
        context.folder.mkdir(parents=True, exist_ok=True)
        return RewardModelReport(0, 0, 0, 0, 0)


def score_pairs(reward_model: RewardModel, pairs: Sequence[TokenizedPair], batch_size: int) -> Tensor:
    """R of chosen and rejected responses, (B, 2) on the CPU, in the order of the pairs."""
    order = sorted(range(len(pairs)), key=lambda index: pairs[index].longest_part)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

    @torch.no_grad()
    def score(own: RewardModel, rows: list[int]) -> Tensor:
        batch = collate_pairs([pairs[index] for index in rows]).to(own.model.device)
        scores: Tensor = own(batch.responses)
        return scores.view(-1, 2).cpu()

    rewards = torch.empty(len(pairs), 2)
    for rows, scores in zip(batches, map_over_copies(score, reward_model, batches), strict=True):
        rewards[rows] = scores
    return rewards
