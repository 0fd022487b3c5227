"""The training of a judge (docs/method.md 3, YoN): recorded responses and labels enter, a single-token judge leaves.

Recorded models have answered the training questions. The row's own label of a question says which of these responses
are right: the vote of its teacher or, with `labels=gold`, the gold answer. The judge learns to say Yes or No to them.
The loss is the negative log-likelihood of the token of the verdict. Responses to one question share its reading.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy
from transformers import PreTrainedTokenizerBase

from rkd.config import check_ranges
from rkd.data.judge_prompts import ComparePrompt, JudgePrompt
from rkd.data.recorded_model import RecordedModel
from rkd.judges.single_token import LocalYesNo, YesNoJudge
from rkd.models.batches import ResponseBatch, collate
from rkd.models.loading import load_causal_lm, load_tokenizer
from rkd.models.policy import Policy
from rkd.records import Checkpoint, PseudoLabel, Query, Response, digest_of
from rkd.stages.labels import score
from rkd.stages.sft import SFTModule
from rkd.training.checkpointing import KeepBest
from rkd.training.stage import TrainingContext
from rkd.training.supervised import SupervisedTraining
from rkd.work import FORWARD, JUDGE, Sizes, Work, about, epochs_said

JUDGED_QUERIES = 100  # validation queries whose student samples test a judge

NO_VERDICT = (
    "a judge learns from right and from wrong responses, and the recorded ones to the labelled training questions have "
    "not both. Name more models, `judge.teachers=[...]`, or take them as they are, `judge.balanced=false`. "
    "`judge.held_out.path` must hold responses to the questions of `dataset`."
)


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """A query with different responses to it; `is_right` says which of them have the answer of its label."""

    query: Query
    texts: Sequence[str]
    is_right: Sequence[bool]


@dataclass(frozen=True, slots=True)
class JudgedSets:
    """The queries that a judge is trained on, and the validation queries that select its weights."""

    training: Sequence[JudgedQuery]
    validation: Sequence[JudgedQuery]


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """The outcome of a fit: optimiser steps, verdicts by use, the share of Yes, and the loss of the kept weights.

    `best_validation` is None without validation responses: the last weights are kept.
    """

    steps: int
    verdicts: int
    dropped_too_long: int
    share_yes: float
    validation_verdicts: int
    best_validation: float | None


Rows = tuple[list[list[int]], list[list[int]]]
"""Of one query: the prompts with its responses, and the token of each verdict."""


@dataclass(frozen=True, kw_only=True)
class TrainedJudge(YesNoJudge, SupervisedTraining):
    """A single-token judge that the job trains first; an example is a query with all its responses.

    `name_or_path` is the model that its training starts from; `trained` gives the judge with the trained one.

    Args:
        held_out: the recorded model whose responses test the judge; it is not trained on them. Its files and its
            prompts are those of `teachers` too.
        teachers: the models of these files that the judge is trained on.
        max_verdicts: at most so many, of a random choice of queries.
        balanced: whether as many responses are right as wrong; those of the larger kind are left out.
    """

    stage = "judge"

    held_out: RecordedModel
    teachers: Sequence[str]
    max_verdicts: int
    balanced: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self.stage, self, {"max_verdicts": (lambda value: value >= 2, "at least 2")})
        if not self.teachers or len(set(self.teachers)) < len(self.teachers):
            raise ValueError(f"judge.teachers={list(self.teachers)}: name at least one model, each once.")
        if self.held_out.model in self.teachers:
            raise ValueError(
                f"judge.held_out.model={self.held_out.model} is one of judge.teachers: the judge would be tested on "
                "responses that it was trained on. Name another model, or leave it out of judge.teachers."
            )

    def source(self) -> Checkpoint:
        """The model's folder; before a training, the recorded responses must be there too.

        Raises:
            FileNotFoundError: they are not.
        """
        with _said_of_judge():
            self.held_out.source()
        return super().source()

    def trained(self, checkpoint: Checkpoint) -> "TrainedJudge":
        """The judge whose model is the trained one."""
        return replace(self, name_or_path=str(checkpoint.folder))

    def settings(self) -> dict[str, Any]:
        """The settings of its training, for the fingerprint; the responses have one of their own."""
        return {one.name: getattr(self, one.name) for one in fields(SupervisedTraining)}

    def recorded(self, queries: Sequence[Query]) -> list[list[Response]]:
        """The responses of all `teachers` to each query.

        Raises:
            FileNotFoundError, ValueError: they, or those of `held_out`, cannot be read.
        """
        sources = [replace(self.held_out, name=model, model=model) for model in self.teachers]
        with _said_of_judge():
            self.held_out.recorded(queries)  # read now, because it is used hours later
            by_model = [source.recorded(queries) for source in sources]
        return [[one for own in of_query for one in own] for of_query in zip(*by_model, strict=True)]

    def judged(
        self, queries: Sequence[Query], labels: Sequence[PseudoLabel], seed: int, *, balanced: bool
    ) -> list[JudgedQuery]:
        """The responses of all `teachers` that are right or wrong by the labels, as many as are wanted.

        Queries are taken in random order until there are enough of each kind.
        """
        scored = score(queries, self.recorded(queries), labels)
        known = [{one.response.text: one.score == 1 for one in own if one.score is not None} for own in scored]
        left = self._wanted(Counter(is_right for own in known for is_right in own.values()), balanced=balanced)
        chosen = []
        for place in np.random.default_rng(seed).permutation(len(queries)):
            kept = {}
            for text, is_right in known[place].items():
                if left[is_right] > 0:
                    left[is_right] -= 1
                    kept[text] = is_right
            if kept:
                chosen.append(JudgedQuery(queries[place], list(kept), list(kept.values())))
        return chosen

    def _wanted(self, given: Counter[bool], *, balanced: bool) -> dict[bool, int]:
        """How many right and wrong responses are wanted."""
        if balanced:
            return dict.fromkeys((True, False), min(given[True], given[False], self.max_verdicts // 2))
        share = min(1.0, self.max_verdicts / max(1, given.total()))
        return {kind: round(share * given[kind]) for kind in (True, False)}

    def fit(self, sets: JudgedSets, context: TrainingContext) -> JudgeReport:
        """Train the model to give the verdicts; write model and tokenizer of the best validation to the folder.

        Raises:
            ValueError: no response is left to train on.
        """
        return fit_verdicts(self, self.prompt, sets, context, NO_VERDICT)

    def planned_work(self, sizes: Sizes) -> list[Work]:
        """The responses, and the validations between them; how many of each kind there are is not known before."""
        verdicts = min(float(self.max_verdicts), sizes.recorded)
        passes = self.epochs * (verdicts + self.validations_per_epoch * FORWARD * sizes.validated * len(self.teachers))
        amount = f"{about(verdicts)} verdicts, {epochs_said(self.epochs)}"
        return [Work("judge", amount, JUDGE, self.max_tokens, trained=passes, group_size=len(self.teachers))]


def fit_verdicts(
    settings: SupervisedTraining,
    prompt: JudgePrompt | ComparePrompt,
    sets: JudgedSets,
    context: TrainingContext,
    advice: str,
) -> JudgeReport:
    """Train a model to say Yes or No; write model and tokenizer of the best validation to the folder.

    Args:
        advice: why there may be no response to train on, and what to do then.

    Raises:
        ValueError: no response is left to train on.
    """
    tokenizer = load_tokenizer(context.start.folder)
    examples = [verdict_rows(prompt, one, tokenizer, settings.max_tokens) for one in sets.training]
    kept, given = [example for example in examples if example[0]], _count(sets.training)
    settings.check_left(kept, given, "response", advice)
    said = [token for _, tokens in kept for (token,) in tokens]
    best = KeepBest("validation/loss", "min", context.partial, settings.patience)

    def build() -> SFTModule:
        lm = context.options.prepare(load_causal_lm(context.start.folder, context.options))
        return SFTModule(
            Policy(lm),
            settings,
            lambda model: verdict_loss(LocalYesNo(model, tokenizer, prompt), sets.validation),
            metric=best.metric,
        ).train()

    steps = settings.train(
        build,
        kept,
        lambda example: max(map(len, example[0])),
        verdict_batch,
        best,
        context,
        has_validation=bool(sets.validation),
        shown_metrics=("train/loss",),
    )
    share_yes = said.count(prompt.verdict_token(prompt.yes_word, tokenizer)) / len(said)
    return JudgeReport(steps, len(said), given - len(said), share_yes, _count(sets.validation), best.best)


def verdict_rows(
    prompt: JudgePrompt | ComparePrompt, one: JudgedQuery, tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> Rows:
    """The prompts with a query's responses that fit into `max_tokens`, with their verdicts."""
    tokens = {
        is_right: prompt.verdict_token(word, tokenizer)
        for is_right, word in ((True, prompt.yes_word), (False, prompt.no_word))
    }
    rows = prompt.encode([one.query] * len(one.texts), one.texts, tokenizer)
    fitting = [(row, [tokens[own]]) for row, own in zip(rows, one.is_right, strict=True) if len(row) < max_tokens]
    return [row for row, _ in fitting], [token for _, token in fitting]


def verdict_batch(examples: Sequence[Rows]) -> ResponseBatch:
    """The prompts of several queries, each with its verdict as the response."""
    return collate([row for rows, _ in examples for row in rows], [token for _, own in examples for token in own])


def verdict_loss(judge: LocalYesNo, judged: Sequence[JudgedQuery]) -> float:
    """The mean negative logarithm of the share that the judge gives to the right one of Yes and No, in nats."""
    asked = [(one.query, Response(one.query.id, "", 0, text, True)) for one in judged for text in one.texts]
    scores = judge.judge(*zip(*asked, strict=True))
    is_right = torch.tensor([float(is_right) for one in judged for is_right in one.is_right])
    return float(binary_cross_entropy(torch.tensor(scores), is_right))


def digest_of_verdicts(judged: Sequence[JudgedQuery]) -> str:
    """A digest of the responses and their verdicts, without the queries' gold answers."""
    return digest_of(
        [
            Response(one.query.id, one.query.question, int(is_right), text, True)
            for one in judged
            for text, is_right in zip(one.texts, one.is_right, strict=True)
        ]
    )


def _count(judged: Sequence[JudgedQuery]) -> int:
    return sum(len(one.texts) for one in judged)


@contextlib.contextmanager
def _said_of_judge() -> Iterator[None]:
    """Say of an error in the block that it concerns the judge: recorded models are mostly teachers."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"judge.held_out and judge.teachers, which are read as a teacher is: {error}") from error
