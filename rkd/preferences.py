"""Stage 5, preference pairs (paper D, section 3, Eq. 5 and 6): scored responses enter, pairs leave."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rkd.pair_files import read_pairs
from rkd.prompts import PromptTemplate
from rkd.recipes import digest_of_files
from rkd.records import PreferencePair, Query, ScoredResponse
from rkd.rows import question_key

_Side = tuple[ScoredResponse, ScoredResponse]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Which responses the reward model is to rank.

        P(q) = T⁺(q) × S⁺(q)  ∪  {(s_i, s_j) ∈ S(q)² : ℓ_i > ℓ_j},    chosen first

    Args:
        max_pairs_per_query: N, at most so many of P(q), drawn with the seed.
        teacher_share: share of T⁺ × S⁺ among them, in [0, 1]; where one kind has too few the other fills up.
        best_score: ℓ*, which makes T⁺ and S⁺: 1 for verifiable tasks, 5 for open-ended ones.
    """

    max_pairs_per_query: int
    teacher_share: float = 0.5
    best_score: float = 1.0

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
    ) -> list[PreferencePair]:
        """The pairs of all queries, by query; a query's pairs do not depend on which other queries there are.

        The lists run in parallel and hold the queries of D_R alone (Eq. 4, `rkd.student_samples.balanced`). Of equal
        texts of one side the first stands for all, and a text is never paired with itself.

        Raises:
            ValueError: a query is not of D_R: all its student samples have one score.
        """
        pairs: list[PreferencePair] = []
        for query, teacher, student in zip(queries, teacher_scored, student_scored, strict=True):
            teacher_pairs, student_pairs = self._all_pairs(_judged(teacher), _judged(student))
            if not student_pairs:
                raise ValueError(
                    f"the student samples of {query.id} all have one score, so Eq. 4 drops it: pass the queries of "
                    "`rkd.student_samples.balanced` alone."
                )
            wanted = round(self.max_pairs_per_query * self.teacher_share)
            of_teacher = min(len(teacher_pairs), max(wanted, self.max_pairs_per_query - len(student_pairs)))
            of_student = min(len(student_pairs), self.max_pairs_per_query - of_teacher)
            generator = np.random.default_rng([seed, zlib.crc32(query.id.encode())])
            drawn = _draw(teacher_pairs, of_teacher, generator) + _draw(student_pairs, of_student, generator)
            pairs += [PreferencePair(query, chosen, rejected) for chosen, rejected in drawn]
        return pairs

    def _all_pairs(
        self, teacher: Sequence[ScoredResponse], student: Sequence[ScoredResponse]
    ) -> tuple[list[_Side], list[_Side]]:
        best_of_teacher = [one for one in teacher if one.score == self.best_score]
        best_of_student = [one for one in student if one.score == self.best_score]
        teacher_pairs = [(t, s) for t in best_of_teacher for s in best_of_student if t.response.text != s.response.text]
        student_pairs = [(a, b) for a in student for b in student if a.score > b.score]
        return teacher_pairs, student_pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPairs:
    """Pairs that were made elsewhere, from a file (`rkd.pair_files`).

    Args:
        path: the file.
    """

    path: str

    def pairs_of(self, queries: Sequence[Query], prompt: PromptTemplate) -> list[PreferencePair]:
        """The pairs that ask one of the queries, by its question or by the prompt as text, in the order of the file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a row is bad.
        """
        by_question = {question_key(text): q for q in queries for text in (q.question, prompt.render(q))}
        pairs = []
        for pair in read_pairs(self._file(), queries[0].dataset if queries else ""):
            if (query := by_question.get(question_key(pair.query.question))) is not None:
                chosen, rejected = (
                    replace(side, response=replace(side.response, query_id=query.id))
                    for side in (pair.chosen, pair.rejected)
                )
                pairs.append(PreferencePair(query, chosen, rejected))
        return pairs

    def recipe(self) -> dict[str, str]:
        """What of it decides a result: the file's content, not its place."""
        return {"digest": digest_of_files([self._file()])}

    def _file(self) -> Path:
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"pairs.path={self.path} is no file. Name a JSONL file of preference pairs.")
        return path


def _judged(scored: Sequence[ScoredResponse]) -> list[ScoredResponse]:
    """The responses that have a verdict, the first of equal texts."""
    first_of: dict[str, ScoredResponse] = {}
    for one in scored:
        if one.score is not None:
            first_of.setdefault(one.response.text, one)
    return list(first_of.values())


def _draw(pairs: Sequence[_Side], count: int, generator: np.random.Generator) -> list[_Side]:
    return [pairs[i] for i in sorted(generator.permutation(len(pairs))[:count])]
