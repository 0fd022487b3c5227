"""A generative verifier in place of R (docs/method.md 6.9): the SFT student and pairs enter, a model's folder leaves.

The student's backbone learns to say Yes or No to the responses of the pairs, as a judge does (arXiv:2408.15240). Its
log-odds of Yes are the learned reward: no head is added.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from rkd.data.judge_prompts import JudgePrompt
from rkd.data.preference_files import write_pairs
from rkd.data.prompts import PromptTemplate
from rkd.judges.single_token import LocalYesNo
from rkd.models.loading import ModelOptions, load_causal_lm, load_tokenizer
from rkd.protocols import RewardFunction
from rkd.records import PreferencePair
from rkd.rl.rewards import VerifierReward
from rkd.stages.judge_training import JudgedQuery, JudgedSets, fit_verdicts
from rkd.stages.preference_batches import NO_PAIR, kinds, ranking_metrics, tokenize_pairs
from rkd.stages.reward_model import PAIRS_FILE, PairSets
from rkd.training.stage import TrainingContext
from rkd.training.supervised import SupervisedTraining
from rkd.work import FORWARD, STUDENT, Sizes, Work, about, epochs_said


@dataclass(frozen=True, slots=True)
class VerifierReport:
    """The outcome of a fit: optimiser steps, verdicts by use, the share of Yes, and the metrics of the kept weights.

    `validation_pairs_of` holds the number of pairs behind each ranking accuracy.
    """

    steps: int
    verdicts: int
    dropped_too_long: int
    share_yes: float
    validation_pairs: int
    validation: Mapping[str, float] = field(default_factory=dict)
    validation_pairs_of: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GenerativeVerifier(SupervisedTraining):
    """Training of the verifier; an example is a query with all responses of its pairs.

    The weights of the least loss on the validation pairs' responses are kept.

    Args:
        prompt: how the verifier is asked.
    """

    stage = "reward_model"

    prompt: JudgePrompt = field(default_factory=JudgePrompt)

    def fit(self, pairs: PairSets, context: TrainingContext) -> VerifierReport:
        """Train the verifier on the pairs' responses; write pairs, model and tokenizer to the folder.

        Raises:
            ValueError: no response is left to train on.
        """
        sets = JudgedSets(*(judged(own, pairs.highest_score) for own in (pairs.training, pairs.validation)))
        report = fit_verdicts(self, self.prompt, sets, context, NO_PAIR)
        write_pairs(context.folder / PAIRS_FILE, pairs.training, context.prompt)
        metrics, of_kinds = self.measure(pairs, context)
        loss = {} if report.best_validation is None else {"loss": report.best_validation}
        return VerifierReport(
            report.steps,
            report.verdicts,
            report.dropped_too_long,
            report.share_yes,
            len(pairs.validation),
            loss | metrics,
            of_kinds,
        )

    def measure(self, pairs: PairSets, context: TrainingContext) -> tuple[dict[str, float], dict[str, int]]:
        """The ranking metrics of the trained verifier on the validation pairs, and the pairs behind each."""
        if not pairs.validation:
            return {}, {}
        tokenizer = load_tokenizer(context.folder)
        held_out, _ = tokenize_pairs(tokenizer, context.prompt, pairs.validation, self.max_tokens, pairs.highest_score)
        reward = self.open_reward(context.folder, context.prompt, context.options)
        sides = [(one.pair.query, side.response) for one in held_out for side in (one.pair.chosen, one.pair.rejected)]
        rewards = reward(*zip(*sides, strict=True)).total if sides else torch.zeros(0)
        return ranking_metrics(held_out, rewards.view(-1, 2)), {
            name: sum(is_of_kind) for name, is_of_kind in kinds(held_out).items()
        }

    def open_reward(self, folder: Path, prompt: PromptTemplate, options: ModelOptions) -> RewardFunction:  # noqa: ARG002
        """The reward of the verifier in `folder`; it is asked with its own prompt."""
        model = load_causal_lm(folder, options, placed=True)
        return VerifierReward(LocalYesNo(model, load_tokenizer(folder), self.prompt))

    def planned_work(self, sizes: Sizes) -> list[Work]:
        """The responses of the training pairs, and those of the validation pairs once per validation."""
        passes = self.epochs * (sizes.pairs + self.validations_per_epoch * FORWARD * sizes.held_out_pairs)
        amount = f"{about(sizes.pairs)} pairs, {epochs_said(self.epochs)}"
        return [Work("reward model", amount, STUDENT, sizes.pair_tokens, trained=2 * passes, group_size=2)]


def judged(pairs: Sequence[PreferencePair], highest_score: float) -> list[JudgedQuery]:
    """The distinct responses of the pairs by query, each right if it has the highest score."""
    of_query: dict[str, dict[str, bool]] = {}
    queries = {pair.query.id: pair.query for pair in pairs}
    for pair in pairs:
        for side in (pair.chosen, pair.rejected):
            of_query.setdefault(pair.query.id, {})[side.response.text] = side.score == highest_score
    return [JudgedQuery(queries[name], list(own), list(own.values())) for name, own in of_query.items()]
