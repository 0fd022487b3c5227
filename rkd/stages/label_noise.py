"""Labels with deliberate mistakes, to measure the effect of label quality: labels enter, some leave changed.

A wrong label is a plausible one: an answer of another response to the query, or else a number near the right one, or
another of the query's options.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from rkd.config import SHARE, check_ranges
from rkd.data.answers import answer_of, answers_match, count_votes, is_choice
from rkd.records import PseudoLabel, Query, Response
from rkd.stages.labels import Labels

OFFSETS = (1, -1, 2, -2, 10, -10)  # errors of a number: a slip in one of its last two digits
_OPTION = re.compile(r"^\(([A-J])\) ", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisyLabels:
    """Labels of which a share is replaced by other answers, in validation too (docs/method.md 5.7).

    Each query has its own random draw, so a higher noise keeps the wrong labels of a lower one.

    Args:
        labels: the labels to be changed.
        noise: the chance that a label is replaced, in [0, 1].
        seed: seed of the draws.
    """

    labels: Labels
    noise: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges("labels", self, {"noise": SHARE})

    @property
    def uses_gold(self) -> bool:
        """See `Labels`."""
        return self.labels.uses_gold

    @property
    def is_graded(self) -> bool:
        """See `Labels`."""
        return self.labels.is_graded

    @property
    def highest_score(self) -> float:
        """See `Labels`."""
        return self.labels.highest_score

    def label(self, queries: Sequence[Query], responses: Sequence[Sequence[Response]]) -> list[PseudoLabel]:
        """The labels, some of them changed; a query without a label stays without."""
        right = self.labels.label(queries, responses)
        return [self._spoilt(*of_query) for of_query in zip(queries, right, responses, strict=True)]

    def _spoilt(self, query: Query, label: PseudoLabel, responses: Sequence[Response]) -> PseudoLabel:
        generator = np.random.default_rng([self.seed, zlib.crc32(query.id.encode())])
        if label.answer is None or generator.random() >= self.noise:
            return label
        given = count_votes([answer_of(response, query.dataset) for response in responses], query.dataset)
        for answers in (given, _near(label.answer, query)):
            others = [answer for answer in answers if not answers_match(answer, label.answer, query.dataset)]
            if others:
                return replace(label, answer=others[int(generator.integers(len(others)))])
        return label


def _near(answer: str, query: Query) -> list[str]:
    """Plausible other answers; some of them may be right."""
    if is_choice(query.dataset):
        return _OPTION.findall(query.question) or list("ABCD")
    try:
        value = Fraction(answer)
    except ValueError:  # an expression
        return ["1", "2"]
    # A count stays non-negative.
    return [str(value + offset) for offset in OFFSETS if value < 0 or value + offset >= 0]
