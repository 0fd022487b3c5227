"""Stage 2, labels (paper D, section 3, Eq. 1 and 2): queries and responses enter, pseudo-labels and scores leave.

Lists are parallel: `responses[i]`, `labels[i]` and `scored[i]` belong to `queries[i]`. Only `GoldLabels` reads gold
answers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from rkd.data.answers import answer_of, answers_match, count_votes, extract_answer, majority
from rkd.records import PseudoLabel, Query, Response, ScoredResponse
from rkd.work import Expected


class Labels(Protocol):
    """Makes the labels y*; `uses_gold` states whether the queries must carry their gold answers."""

    uses_gold: ClassVar[bool]
    is_graded: ClassVar[Literal[False]]
    highest_score: ClassVar[float]

    def label(self, queries: Sequence[Query], responses: Sequence[Sequence[Response]]) -> list[PseudoLabel]:
        """One label for each query."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MajorityVote:
    """The label is the most frequent answer of the responses: Eq. 1.

        y* = argmax_y Σ_i 1[y_i = y],    p* = Σ_i 1[y_i = y*] / n,    no label where p* < threshold

    n counts all responses of the pass. A response without an answer has no vote, but counts in n.

    Args:
        threshold: sh, a share of votes in (0, 1].
    """

    uses_gold: ClassVar[bool] = False
    is_graded: ClassVar[Literal[False]] = False
    highest_score: ClassVar[float] = 1.0

    threshold: float = 0.7

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"labels.threshold={self.threshold}: a share of votes, above 0 and at most 1.")

    def label(self, queries: Sequence[Query], responses: Sequence[Sequence[Response]]) -> list[PseudoLabel]:
        """y* and p* of each query; of several forms of one answer, `answer` is the first one sampled."""
        _check_responses(queries, responses)
        return [self._vote(query, own) for query, own in zip(queries, responses, strict=True)]

    def _vote(self, query: Query, responses: Sequence[Response]) -> PseudoLabel:
        answers = [answer_of(one, query.dataset) if one.withheld is None else None for one in responses]
        winner = majority(answers, query.dataset)
        if winner is None:
            return PseudoLabel(query.id, None, 0.0)
        consensus = count_votes(answers, query.dataset)[winner] / len(responses)
        return PseudoLabel(query.id, winner if consensus >= self.threshold else None, consensus)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldLabels:
    """The label is the gold answer, for rows that the papers train with labels."""

    uses_gold: ClassVar[bool] = True
    is_graded: ClassVar[Literal[False]] = False
    highest_score: ClassVar[float] = 1.0

    def label(self, queries: Sequence[Query], responses: Sequence[Sequence[Response]]) -> list[PseudoLabel]:
        """The gold answer of each query, with consensus 1; the responses are ignored.

        Raises:
            ValueError: a query has no gold answer.
        """
        _check_responses(queries, responses)
        _check_gold(queries, "labels=gold", "Use `labels=vote`, or take the queries with `labelled=True`.")
        return [PseudoLabel(query.id, query.gold_answer, 1.0) for query in queries]


@dataclass(frozen=True, slots=True, kw_only=True)
class RubricGrades:
    """Grades instead of labels, for open-ended tasks: a judge gives each response ℓ from 0 to ℓ* (docs/method.md 2.2).

    Args:
        highest: ℓ*.
    """

    uses_gold: ClassVar[bool] = False
    is_graded: ClassVar[Literal[True]] = True

    highest: int = 5

    def __post_init__(self) -> None:
        if self.highest < 1:
            raise ValueError(f"labels.highest={self.highest}: the highest score must be at least 1.")

    @property
    def highest_score(self) -> float:
        """ℓ*."""
        return float(self.highest)

    def scored(
        self, responses: Sequence[Sequence[Response]], verdicts: Sequence[float | None]
    ) -> list[list[ScoredResponse]]:
        """The responses to each query with ℓ, rounded to a whole number; None if the verdict is unreadable.

        Args:
            verdicts: the verdict of each response, in [0, 1], in one list over all queries.
        """
        in_turn = iter(verdicts)
        return [[ScoredResponse(response, None, self._score(next(in_turn))) for response in own] for own in responses]

    def _score(self, verdict: float | None) -> float | None:
        return None if verdict is None else float(round(self.highest * verdict))


def two_pass(
    labels: Labels,
    queries: Sequence[Query],
    first: Sequence[Sequence[Response]],
    second_pass: Callable[[list[Query]], list[list[Response]]],
) -> tuple[list[PseudoLabel], list[list[Response]]]:
    """Label each query by its first pass or, without consensus there, by its second pass alone.

    Args:
        first: the first-pass responses to each query.
        second_pass: draws the second-pass responses to the given queries; called only if there are any.

    Returns:
        The labels, and the responses of both passes to each query, in order of sampling.
    """
    final = labels.label(queries, first)
    responses = [list(own) for own in first]
    undecided = [index for index, label in enumerate(final) if label.answer is None]
    if not undecided:
        return final, responses
    asked_again = [queries[index] for index in undecided]
    second = second_pass(asked_again)
    for index, label, own in zip(undecided, labels.label(asked_again, second), second, strict=True):
        if own:  # without a second pass the result of the first one is kept
            final[index] = label
            responses[index].extend(own)
    return final, responses


def score(
    queries: Sequence[Query], responses: Sequence[Sequence[Response]], labels: Sequence[PseudoLabel]
) -> list[list[ScoredResponse]]:
    """ℓ = 1[y = y*] of each response: 0.0 if it states no answer, None if the query has no label.

    A text is scored by the answer that it states, whatever was recorded beside it, since it will be taught. Responses
    that only vote are left out.

    Raises:
        ValueError: the three lists do not belong to the same queries.
    """
    _check_responses(queries, responses)
    _check_ids(queries, [label.query_id for label in labels])
    return [
        [_score(query, response, label) for response in own if not response.only_votes]
        for query, own, label in zip(queries, responses, labels, strict=True)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectResponses:
    """The SFT data of `Ours` and `Ours w/o R`: D_TeachCan, the responses with ℓ = ℓ* (Eq. 2).

    Args:
        best_score: ℓ*, 1 for verifiable tasks, 5 for open-ended ones.
        responses_per_query: largest number of distinct texts, the first in order of sampling; None takes all.
    """

    best_score: float = 1.0
    responses_per_query: int | None = None

    def __post_init__(self) -> None:
        _check_limit(self.responses_per_query)

    def select(self, scored: Sequence[Sequence[ScoredResponse]]) -> list[list[ScoredResponse]]:
        """The responses to train on, for each query; equal texts of a query are trained on once."""
        return [
            _distinct([one for one in own if one.score == self.best_score], self.responses_per_query) for own in scored
        ]

    def expected_examples(self, queries: int, expected: Expected) -> float:
        """The approximate number of responses selected for `queries` queries."""
        return _expected(queries, expected.voted_texts * expected.labelled, self.responses_per_query)


class Pass(Protocol):
    """A pass of the teacher over the queries."""

    samples_per_query: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AllResponses:
    """The SFT data of `SFT`: all first-pass responses of the teacher, without any filter.

    Args:
        first_pass: the teacher's first pass; later samples are left out. None takes all.
        responses_per_query: largest number of distinct texts, the first in order of sampling; None takes all.
    """

    best_score: ClassVar[None] = None  # responses of any score are used

    first_pass: Pass | None = None
    responses_per_query: int | None = None

    def __post_init__(self) -> None:
        _check_limit(self.responses_per_query)

    def select(self, scored: Sequence[Sequence[ScoredResponse]]) -> list[list[ScoredResponse]]:
        """The responses to train on, for each query; equal texts of a query are trained on once."""
        limit = self.first_pass.samples_per_query if self.first_pass else None
        return [
            _distinct(
                [one for one in own if limit is None or one.response.sample_index < limit], self.responses_per_query
            )
            for own in scored
        ]

    def expected_examples(self, queries: int, expected: Expected) -> float:
        """The approximate number of responses selected for `queries` queries."""
        return _expected(queries, expected.first_pass_texts, self.responses_per_query)


def _expected(queries: int, of_query: float, limit: int | None) -> float:
    return queries * min(of_query, limit or of_query)


def _score(query: Query, response: Response, label: PseudoLabel) -> ScoredResponse:
    # What a server withheld states no answer.
    answer = extract_answer(response.text, query.dataset) if response.withheld is None else None
    verdict = None if label.answer is None else float(answers_match(answer, label.answer, query.dataset))
    return ScoredResponse(response, answer, verdict)


def _distinct(scored: Sequence[ScoredResponse], limit: int | None) -> list[ScoredResponse]:
    """The distinct whole responses: an empty one teaches nothing, and a cut one would be taught with an end."""
    first_of: dict[str, ScoredResponse] = {}
    for one in scored:
        if one.response.defect is None:
            first_of.setdefault(one.response.text, one)
    return list(first_of.values())[:limit]


def _check_limit(responses_per_query: int | None) -> None:
    if responses_per_query is not None and responses_per_query < 1:
        raise ValueError(f"responses_per_query={responses_per_query}: must be at least 1, or null for all.")


def _check_gold(queries: Sequence[Query], who: str, what_to_do: str) -> None:
    without = [query.id for query in queries if query.gold_answer is None]
    if without:
        raise ValueError(
            f"{who} needs gold answers: {len(without)} of {len(queries)} queries have none (first: {without[0]}). "
            + what_to_do
        )


def _check_responses(queries: Sequence[Query], responses: Sequence[Sequence[Response]]) -> None:
    # A query without responses has no first response that names its query; its own id is used.
    _check_ids(queries, [own[0].query_id if own else query.id for query, own in zip(queries, responses, strict=True)])


def _check_ids(queries: Sequence[Query], ids: Sequence[str]) -> None:
    expected = [query.id for query in queries]
    if list(ids) != expected:
        place = next((i for i, (a, b) in enumerate(zip(expected, ids, strict=False)) if a != b), "the end")
        raise ValueError(
            f"{len(ids)} labels or response lists do not belong to the {len(expected)} queries: they differ at "
            f"{place}. Pass them in the order of the queries."
        )
