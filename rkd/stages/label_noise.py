"""Labels with mistakes on purpose, for what a row owes to good ones: labels enter, some leave with another answer.

A wrong label is one that could have won: an answer that another response to the query gave, or else a number near the
right one, or another of the query's options.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from rkd.config import SHARE, check_ranges
from rkd.data.answers import answers_match, count_votes, extract_answer, is_choice
from rkd.records import PseudoLabel, Query, Response
from rkd.stages.labels import Labels

OFFSETS = (1, -1, 2, -2, 10, -10)  # what a number is off by: a slip in one of its last two digits
_OPTION = re.compile(r"^\(([A-J])\) ", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisyLabels:
    """Other labels, of which a share has another answer; validation has them too (docs/method.md 5.7).

    Each query draws by itself, so the wrong labels of a lower share are among those of a higher one.

    Args:
        labels: the ones to be spoilt.
        noise: the chance of each label, in [0, 1].
        seed: of the draws.
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
        """The labels; a query without one gets none."""
        right = self.labels.label(queries, responses)
        return [self._spoilt(*of_query) for of_query in zip(queries, right, responses, strict=True)]

    def _spoilt(self, query: Query, label: PseudoLabel, responses: Sequence[Response]) -> PseudoLabel:
        generator = np.random.default_rng([self.seed, zlib.crc32(query.id.encode())])
        if label.answer is None or generator.random() >= self.noise:
            return label
        given = count_votes([extract_answer(response.text, query.dataset) for response in responses], query.dataset)
        for answers in (given, _near(label.answer, query)):
            others = [answer for answer in answers if not answers_match(answer, label.answer, query.dataset)]
            if others:
                return replace(label, answer=others[int(generator.integers(len(others)))])
        return label


def _near(answer: str, query: Query) -> list[str]:
    """Answers that somebody might give instead of this one; not all need be wrong."""
    if is_choice(query.dataset):
        return _OPTION.findall(query.question) or list("ABCD")
    try:
        value = Fraction(answer)
    except ValueError:  # an expression
        return ["1", "2"]
    # A count stays a count.
    return [str(value + offset) for offset in OFFSETS if value < 0 or value + offset >= 0]
