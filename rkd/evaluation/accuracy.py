"""Stage 8, evaluation (paper D, section 4.1: temperature 0): a model and labelled test queries enter, results leave.

Accuracy is the share of greedy responses whose answer matches the label. pass@k is the chance that at least one of k
samples is right. maj@k is the accuracy of the majority of k samples. n: questions of a test set.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rkd.data.answers import answer_of, answers_match, extract_answer, is_choice, last_letter, majority
from rkd.evaluation.alpaca_eval import read_difficulty
from rkd.evaluation.best_of_n import AsAsked, Inference
from rkd.evaluation.results import CategoryResult, Comparison, EvaluationResult, ModelResult
from rkd.evaluation.reward_bound import Bound, NoBound
from rkd.evaluation.statistics import (
    paired_comparison,
    pass_at_k,
    wilson_interval,
)
from rkd.judges.base import ConfiguredJudge, NoJudge
from rkd.protocols import Judge, Sampling, TextGenerator
from rkd.records import PseudoLabel, Query, Response

SAMPLES = 8  # the k of pass@k and maj@k that results and tables name
PARTS = ("annotator", "inference", "bound")  # fields of `Evaluation` that only some tests depend on


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How a model is tested.

    Args:
        max_response_tokens: tokens of the model's tokenizer.
        pass_at_k_samples: samples per query for pass@8 and maj@8, at least 8 (maj@8 uses 8 of them); 0: neither.
        pass_at_k_temperature: temperature of these samples. The papers give none; 0.7 is paper D's for the student.
        max_pass_at_k_queries: largest number of queries for pass@8, the same for every model and seed; None takes all.
        unstated: the answer of a response that states none to a question with options: "none", or the "last_letter" in
            it, as in MMLU-Pro's published evaluation. Labels and rewards never guess.
        difficulty: for an open-ended test, the file of its instructions' difficulties, for the length-controlled win
            rate (`rkd.evaluation.alpaca_eval`); None leaves that term out.
        annotator: compares responses with references in an open-ended task.
        inference: how the row's model answers test queries; the other models of its table answer greedily.
        bound: whether both sides of paper D's bound are measured, and on which samples.
    """

    max_response_tokens: int
    pass_at_k_samples: int = SAMPLES
    pass_at_k_temperature: float = 0.7
    max_pass_at_k_queries: int | None = None
    unstated: Literal["none", "last_letter"] = "none"
    difficulty: str | None = None
    annotator: ConfiguredJudge | NoJudge = field(default_factory=NoJudge)
    inference: Inference = field(default_factory=AsAsked)
    bound: Bound | NoBound = field(default_factory=NoBound)

    def __post_init__(self) -> None:
        if self.pass_at_k_samples != 0 and self.pass_at_k_samples < SAMPLES:
            raise ValueError(
                f"evaluation.pass_at_k_samples={self.pass_at_k_samples}: pass@{SAMPLES} needs at least {SAMPLES} "
                "samples; 0 leaves it out."
            )
        if self.pass_at_k_temperature <= 0 or (
            self.max_pass_at_k_queries is not None and self.max_pass_at_k_queries < 1
        ):
            raise ValueError(
                f"evaluation.pass_at_k_temperature={self.pass_at_k_temperature} must be above 0, "
                f"max_pass_at_k_queries={self.max_pass_at_k_queries} at least 1, or null for all."
            )

    def fingerprint(self) -> dict[str, Any]:
        """What decides the result of a test, without the three parts.

        A test's fingerprint names the annotator and the inference only if the test uses them. Rows can then share the
        tests of their teacher and student.
        """
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in PARTS}

    @property
    def greedy(self) -> Sampling:
        """The sampling settings for accuracy."""
        return Sampling(0.0, 1, self.max_response_tokens)

    @property
    def pass_at_k(self) -> Sampling:
        """The sampling settings for pass@8 and maj@8; valid only if `pass_at_k_samples` is not 0."""
        return Sampling(self.pass_at_k_temperature, self.pass_at_k_samples, self.max_response_tokens)

    def difficulties(self) -> dict[int, float] | None:
        """The difficulties in the file `difficulty`, by the index of the instruction.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no difficulties; the message names the place.
        """
        return None if self.difficulty is None else read_difficulty(Path(self.difficulty).expanduser())

    def evaluate(
        self, generator: TextGenerator, queries: Sequence[Query], seed: int, *, test_set: str
    ) -> EvaluationResult:
        """The result on one test set; only the samples of pass@8 and maj@8 depend on `seed`.

        Raises:
            ValueError: there is no query, or a query has no gold answer.
        """
        without = [query.id for query in queries if query.gold_answer is None]
        if without or not queries:
            raise ValueError(
                f"test set {test_set}: {len(without)} of {len(queries)} queries have no gold answer "
                f"(first: {without[0] if without else 'no query at all'}). Evaluate on `Data.test_sets()`."
            )
        responses = [own[0] for own in generator.generate(queries, self.greedy, seed)]
        answers = [self._answer(query, response) for query, response in zip(queries, responses, strict=True)]
        outcomes = [_is_right(query, answer) for query, answer in zip(queries, answers, strict=True)]
        n, correct = len(outcomes), sum(outcomes)
        low, high = wilson_interval(correct, n)
        pass_at_8, maj_at_8 = self._sampled(generator, queries, seed)
        return EvaluationResult(
            test_set=test_set,
            n=n,
            correct=correct,
            accuracy=correct / n,
            interval_low=low,
            interval_high=high,
            pass_at_8=pass_at_8,
            maj_at_8=maj_at_8,
            outcomes=outcomes,
            answers=answers,
            question_ids=[query.id for query in queries],
            share_without_answer=answers.count(None) / n,
            share_truncated=sum(not response.is_finished for response in responses) / n,
            by_category=by_category(queries, outcomes),
            responses=[response.text for response in responses],
        )

    def without_pass_at_k(self) -> "Evaluation":
        """The same evaluation with greedy responses only."""
        return replace(self, pass_at_k_samples=0)

    def pass_at_k_queries(self, queries: int) -> int:
        """The number of queries, out of `queries`, that are sampled for pass@8 and maj@8."""
        if self.pass_at_k_samples == 0:
            return 0
        return queries if self.max_pass_at_k_queries is None else min(queries, self.max_pass_at_k_queries)

    def _sampled(
        self, generator: TextGenerator, queries: Sequence[Query], seed: int
    ) -> tuple[float | None, float | None]:
        """pass@8 and maj@8 over the queries that are sampled."""
        if self.pass_at_k_samples == 0:
            return None, None
        # The seed is fixed, so that two rows are compared on the same questions.
        order = np.random.default_rng(0).permutation(len(queries))
        asked = [queries[i] for i in sorted(order[: self.max_pass_at_k_queries])]
        passed, voted = [], []
        for query, own in zip(asked, generator.generate(asked, self.pass_at_k, seed), strict=True):
            answers = [self._answer(query, response) for response in own]
            passed.append(pass_at_k(len(own), sum(_is_right(query, answer) for answer in answers), SAMPLES))
            voted.append(_is_right(query, majority(answers[:SAMPLES], query.dataset)))
        return sum(passed) / len(asked), sum(voted) / len(asked)

    def _answer(self, query: Query, response: Response) -> str | None:
        answer = answer_of(response, query.dataset)
        if answer is None and self.unstated == "last_letter" and is_choice(query.dataset):
            return last_letter(response.text)
        return answer


def accuracy(
    generator: TextGenerator, queries: Sequence[Query], labels: Sequence[PseudoLabel], *, max_response_tokens: int
) -> float:
    """The share of greedy responses whose answer matches y*, over the queries that have a label; for validation.

    Raises:
        ValueError: no query has a label.
    """
    labelled = [pair for pair in zip(queries, labels, strict=True) if pair[1].answer is not None]
    if not labelled:
        raise ValueError(
            f"none of {len(queries)} validation queries has a label: lower `labels.threshold`, or raise "
            "`dataset.max_validation_queries`."
        )
    asked = [query for query, _ in labelled]
    responses = generator.generate(asked, Sampling(0.0, 1, max_response_tokens), seed=0)
    right = sum(
        answers_match(extract_answer(own[0].text, query.dataset), label.answer, query.dataset)
        for (query, label), own in zip(labelled, responses, strict=True)
    )
    return right / len(labelled)


def mean_verdict(
    generator: TextGenerator, queries: Sequence[Query], judge: Judge, *, max_response_tokens: int
) -> float:
    """The judge's mean verdict on greedy responses, in [0, 1], without unreadable verdicts; for validation.

    Raises:
        ValueError: no verdict could be read.
    """
    responses = [own[0] for own in generator.generate(queries, Sampling(0.0, 1, max_response_tokens), seed=0)]
    verdicts = [verdict for verdict in judge.judge(queries, responses) if verdict is not None]
    if not verdicts:
        raise ValueError(
            f"none of the judge's verdicts on {len(queries)} validation responses could be read: it does not write "
            "what its prompt asks for. Raise `judge.max_reply_tokens`, or take another judge."
        )
    return sum(verdicts) / len(verdicts)


def compare(first: ModelResult, second: ModelResult, test_set: str) -> Comparison:
    """Compare two roles on the questions of one test set, by an exact test (`statistics.paired_comparison`).

    Raises:
        KeyError: a role has no result on that test set.
        ValueError: the two were tested on different questions, or in a different order.
    """
    a, b = first.test_sets[test_set], second.test_sets[test_set]
    if a.question_ids != b.question_ids:
        raise ValueError(
            f"{first.role} and {second.role} were not tested on the same questions of {test_set}: "
            "compare results with equal `dataset` and `evaluation` settings."
        )
    paired = paired_comparison(a.outcomes, b.outcomes, a.clusters or None)
    return Comparison(
        first=first.role,
        second=second.role,
        test_set=test_set,
        only_first=paired.only_a,
        only_second=paired.only_b,
        difference=paired.difference,
        p_value=paired.p_value,
    )


def _is_right(query: Query, answer: str | None) -> bool:
    return answers_match(answer, query.gold_answer, query.dataset)


def by_category(queries: Sequence[Query], outcomes: Sequence[float]) -> dict[str, CategoryResult]:
    """The mean outcome within each category, by its name; queries without a category are left out."""
    outcomes_of: dict[str, list[float]] = defaultdict(list)
    for query, outcome in zip(queries, outcomes, strict=True):
        if query.category is not None:
            outcomes_of[query.category].append(outcome)
    return {name: CategoryResult(len(own), sum(own) / len(own)) for name, own in sorted(outcomes_of.items())}
