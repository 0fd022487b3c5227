"""Stage 5, preference pairs (paper D, section 3, Eq. 5 and 6): scored responses enter, pairs leave."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from rkd.config import AT_LEAST_1, check_ranges
from rkd.data.jsonl import question_key
from rkd.data.preference_files import read_pairs
from rkd.data.prompts import PromptTemplate
from rkd.records import PreferencePair, Query, ScoredResponse
from rkd.store.fingerprint import digest_of_files
from rkd.work import Expected

_Side = tuple[ScoredResponse, ScoredResponse]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnPairs:
    """Pairs that are drawn from the scored responses to each query.

    Args:
        max_pairs_per_query: N, the largest number of pairs per query, drawn with the seed.
        best_score: ℓ*, the score of a right response: 1 for verifiable tasks, 5 for open-ended ones.
    """

    max_pairs_per_query: int
    best_score: float = 1.0

    def expected_count(self, queries: Sequence[Query], prompt: PromptTemplate, expected: Expected) -> float:  # noqa: ARG002
        """The approximate number of pairs from these training queries.

        The teacher can give fewer: the number of queries with both right and wrong responses is not known.
        """
        return len(queries) * expected.labelled * expected.balanced * expected.pairs * self.max_pairs_per_query


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs(DrawnPairs):
    """The pairs that train the reward model of paper D.

        P(q) = T⁺(q) × S⁺(q)  ∪  {(s_i, s_j) ∈ S(q)² : ℓ_i > ℓ_j},    chosen first

    T⁺ has whole texts alone. A right sample of the student that was cut may be chosen over a wrong one: it is encoded
    without an end. A blank or withheld text is never chosen.

    Args:
        teacher_share: share of T⁺ × S⁺ among them, in [0, 1]; if one kind has too few pairs, the other fills up.
        exact_share: True uses only queries with at least N pairs of each kind, so that the share is exact (Fig. 7).
    """

    teacher_share: float = 0.5
    exact_share: bool = False

    def __post_init__(self) -> None:
        if self.max_pairs_per_query < 1 or not 0 <= self.teacher_share <= 1:
            raise ValueError(
                f"pairs.max_pairs_per_query={self.max_pairs_per_query} must be at least 1, "
                f"teacher_share={self.teacher_share} in [0, 1]."
            )

    def pair(
        self,
        queries: Sequence[Query],
        teacher_scored: Sequence[Sequence[ScoredResponse]],
        student_scored: Sequence[Sequence[ScoredResponse]],
        seed: int,
        prompt: PromptTemplate | None = None,  # noqa: ARG002
    ) -> list[PreferencePair]:
        """The pairs of all queries, by query; their number does not depend on `teacher_share`.

        The lists are parallel. A query whose student samples all have the same score is dropped (Eq. 4). The first of
        several equal texts of one side is kept, and a text is never paired with itself.
        """
        pairs: list[PreferencePair] = []
        for query, teacher, student in zip(queries, teacher_scored, student_scored, strict=True):
            teacher_pairs, student_pairs = self._all_pairs(_judged(teacher), _judged(student))
            enough = self.max_pairs_per_query if self.exact_share else 0
            if not student_pairs or min(len(teacher_pairs), len(student_pairs)) < enough:
                continue
            generator, rounding = _generator(seed, query), _generator(seed, query, 1)
            # N times the share is rounded up at random with the chance of its fraction: the share holds on average.
            wanted = math.floor(self.max_pairs_per_query * self.teacher_share + rounding.random())
            of_teacher = min(len(teacher_pairs), max(wanted, self.max_pairs_per_query - len(student_pairs)))
            of_student = min(len(student_pairs), self.max_pairs_per_query - of_teacher)
            drawn = _draw(teacher_pairs, of_teacher, generator) + _draw(student_pairs, of_student, generator)
            pairs += [PreferencePair(query, chosen, rejected) for chosen, rejected in drawn]
        return pairs

    def _all_pairs(
        self, teacher: Sequence[ScoredResponse], student: Sequence[ScoredResponse]
    ) -> tuple[list[_Side], list[_Side]]:
        best_of_teacher, best_of_student = (_right_and_wrong(own, self.best_score)[0] for own in (teacher, student))
        teacher_pairs = _product(_whole(best_of_teacher), best_of_student)
        student_pairs = [(a, b) for a, b in _product(student, student) if _score_of(a) > _score_of(b)]
        return teacher_pairs, student_pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSourcePairs(DrawnPairs):
    """Right over wrong responses of teacher or student, for the outcome reward models ORM-T and ORM-S (Table 6).

    Args:
        source: the model that gave the responses.
    """

    source: Literal["teacher", "student"]

    def __post_init__(self) -> None:
        check_ranges("pairs", self, {"max_pairs_per_query": AT_LEAST_1})

    def pair(
        self,
        queries: Sequence[Query],
        teacher_scored: Sequence[Sequence[ScoredResponse]],
        student_scored: Sequence[Sequence[ScoredResponse]],
        seed: int,
        prompt: PromptTemplate | None = None,  # noqa: ARG002
    ) -> list[PreferencePair]:
        """The pairs of the queries with both right and wrong responses of the source.

        Raises:
            ValueError: there is no such query.
        """
        pairs: list[PreferencePair] = []
        scored = {"teacher": teacher_scored, "student": student_scored}[self.source]
        for query, own in zip(queries, scored, strict=True):
            right, wrong = _right_and_wrong(_judged(own), self.best_score)
            right = _whole(right) if self.source == "teacher" else right
            drawn = _draw(_product(right, wrong), self.max_pairs_per_query, _generator(seed, query))
            pairs += [PreferencePair(query, chosen, rejected) for chosen, rejected in drawn]
        if not pairs:
            raise ValueError(
                f"pairs.source={self.source}: none of {len(queries)} labelled queries has right and wrong responses of "
                f"the {self.source}. Draw more of them, with {self.source}_samples, or take more queries: "
                "`python run.py dataset.max_training_queries=null`."
            )
        return pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedPairs:
    """Pairs of one kind, no more of them than there are of another: two reward models then see equal numbers.

    Args:
        drawn: the pairs to train on.
        as_many_as: the pairs whose total number is the limit.
    """

    drawn: Pairs | OneSourcePairs
    as_many_as: Pairs | OneSourcePairs

    @property
    def best_score(self) -> float:
        """ℓ* of `drawn`."""
        return self.drawn.best_score

    def pair(
        self,
        queries: Sequence[Query],
        teacher_scored: Sequence[Sequence[ScoredResponse]],
        student_scored: Sequence[Sequence[ScoredResponse]],
        seed: int,
        prompt: PromptTemplate | None = None,
    ) -> list[PreferencePair]:
        """A random subset of the pairs of `drawn`, in their order; all of them if `as_many_as` has no fewer.

        Raises:
            ValueError: one of the two kinds has no pairs.
        """
        own, other = (
            pairs.pair(queries, teacher_scored, student_scored, seed, prompt) for pairs in (self.drawn, self.as_many_as)
        )
        kept = np.random.default_rng([seed, len(own)]).permutation(len(own))[: len(other)]
        return [own[i] for i in sorted(kept)]

    def expected_count(self, queries: Sequence[Query], prompt: PromptTemplate, expected: Expected) -> float:
        """The smaller of the two approximate numbers."""
        return min(pairs.expected_count(queries, prompt, expected) for pairs in (self.drawn, self.as_many_as))


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationPairs:
    """The validation pairs of all reward models, regardless of their training pairs (Table 9, docs/method.md 5.14).

        T⁺(q) × S⁻(q),  S⁺(q) × S⁻(q),  T⁺(q) × S⁺(q),    chosen first

    Args:
        max_pairs_per_kind: largest number of pairs of each kind for each query, drawn with the seed.
        best_score: ℓ*, the score in T⁺ and S⁺; S⁻ are the other student responses with a verdict.
    """

    max_pairs_per_kind: int
    best_score: float = 1.0

    def __post_init__(self) -> None:
        check_ranges("validation_pairs", self, {"max_pairs_per_kind": AT_LEAST_1})

    def pair(
        self,
        queries: Sequence[Query],
        teacher_scored: Sequence[Sequence[ScoredResponse]],
        student_scored: Sequence[Sequence[ScoredResponse]],
        seed: int,
        prompt: PromptTemplate | None = None,  # noqa: ARG002
    ) -> list[PreferencePair]:
        """The pairs of all queries of D_R, here built from validation queries."""
        pairs: list[PreferencePair] = []
        for query, teacher, student in zip(queries, teacher_scored, student_scored, strict=True):
            right, wrong = _right_and_wrong(_judged(student), self.best_score)
            if not right or not wrong:
                continue
            of_teacher = _whole(_right_and_wrong(_judged(teacher), self.best_score)[0])
            generator = _generator(seed, query)
            for better, worse in ((of_teacher, wrong), (right, wrong), (of_teacher, right)):
                drawn = _draw(_product(better, worse), self.max_pairs_per_kind, generator)
                pairs += [PreferencePair(query, chosen, rejected) for chosen, rejected in drawn]
        return pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPairs:
    """Pairs from a file (`rkd.data.preference_files`).

    Args:
        path: the file.
        best_score: ℓ*, the score of a chosen response; a rejected one has 0.
    """

    path: str
    best_score: float = 1.0

    def pair(
        self,
        queries: Sequence[Query],
        teacher_scored: Sequence[Sequence[ScoredResponse]],  # noqa: ARG002
        student_scored: Sequence[Sequence[ScoredResponse]],  # noqa: ARG002
        seed: int,  # noqa: ARG002
        prompt: PromptTemplate,
    ) -> list[PreferencePair]:
        """The pairs for the queries, matched by question or by prompt text, in the order of the file.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: a row is bad.
        """
        by_question = {question_key(text): q for q in queries for text in (q.question, prompt.render(q))}
        pairs = []
        for pair in read_pairs(self._file(), queries[0].dataset if queries else ""):
            if (query := by_question.get(question_key(pair.query.question))) is not None:
                chosen, rejected = (self._of_query(side, query) for side in (pair.chosen, pair.rejected))
                pairs.append(PreferencePair(query, chosen, rejected))
        return pairs

    def expected_count(self, queries: Sequence[Query], prompt: PromptTemplate, expected: Expected) -> float:  # noqa: ARG002
        """Number of pairs in the file for these training queries."""
        return len(self.pair(queries, (), (), 0, prompt))

    def fingerprint(self) -> dict[str, str | float]:
        """What decides a result: the file's content, not its path."""
        return {"digest": digest_of_files([self._file()]), "best_score": self.best_score}

    def _of_query(self, side: ScoredResponse, query: Query) -> ScoredResponse:
        response = replace(side.response, query_id=query.id)
        return replace(side, response=response, score=self.best_score * _score_of(side))

    def _file(self) -> Path:
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"pairs.path={self.path} is no file. Name a JSONL file of preference pairs.")
        return path


def _score_of(one: ScoredResponse) -> float:
    """ℓ of a response that has a verdict."""
    assert one.score is not None
    return one.score


def _judged(scored: Sequence[ScoredResponse]) -> list[ScoredResponse]:
    """The responses with a verdict; the first of several equal texts is kept."""
    first_of: dict[str, ScoredResponse] = {}
    for one in scored:
        if one.score is not None:
            first_of.setdefault(one.response.text, one)
    return list(first_of.values())


def _right_and_wrong(
    judged: Sequence[ScoredResponse], best_score: float
) -> tuple[list[ScoredResponse], list[ScoredResponse]]:
    """The responses with ℓ = ℓ*, and the others."""
    right = [one for one in judged if one.score == best_score]
    return right, [one for one in judged if one.score != best_score]


def _whole(scored: Sequence[ScoredResponse]) -> list[ScoredResponse]:
    """The responses that could be taught."""
    return [one for one in scored if one.response.defect is None]


def _product(better: Sequence[ScoredResponse], worse: Sequence[ScoredResponse]) -> list[_Side]:
    """The pairs of different texts, those with a blank or withheld one as the better left out."""
    stated = [one for one in better if one.response.defect in (None, "length")]
    return [(a, b) for a in stated for b in worse if a.response.text != b.response.text]


def _generator(seed: int, query: Query, *purpose: int) -> np.random.Generator:
    """A random generator for each query, so that its pairs do not depend on the other queries."""
    return np.random.default_rng([seed, zlib.crc32(query.id.encode()), *purpose])


def _draw(pairs: Sequence[_Side], count: int, generator: np.random.Generator) -> list[_Side]:
    return [pairs[i] for i in sorted(generator.permutation(len(pairs))[:count])]
