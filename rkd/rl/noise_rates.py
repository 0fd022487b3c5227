"""How often labels mislead a reward, without gold: labels with votes and the teacher's responses enter, rates leave.

docs/method.md 6.7 has the equations and what they assume.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from rkd.data.answers import count_votes
from rkd.errors import LabelNoiseError
from rkd.records import PseudoLabel, Query, ScoredResponse

LEAST_MARGIN = 0.1  # of 1 − ρ0 − ρ1: the corrected reward is at most ten times as large as the reward


@dataclass(frozen=True, slots=True)
class NoiseRates:
    """ρ0, the share of wrong responses that a label confirms, and ρ1, that of right ones that it rejects.

    Raises:
        LabelNoiseError: the labels say too little about which responses are right.
    """

    false_positive: float  # ρ0
    false_negative: float  # ρ1

    def __post_init__(self) -> None:
        if self.margin < LEAST_MARGIN:
            raise LabelNoiseError(
                f"reward_mix=noise_corrected divides by 1 − ρ0 − ρ1 = {self.margin:.2f}: the votes say that labels "
                f"confirm {self.false_positive:.0%} of the wrong responses and reject {self.false_negative:.0%} of the "
                f"right ones, and below {LEAST_MARGIN:g} the correction would multiply the noise. Raise "
                "labels.threshold, choose a better teacher=, or take the label as it is, reward_mix=label."
            )

    @property
    def margin(self) -> float:
        """1 − ρ0 − ρ1."""
        return 1 - self.false_positive - self.false_negative


def estimated_noise(
    queries: Sequence[Query], labels: Sequence[PseudoLabel], scored: Sequence[Sequence[ScoredResponse]]
) -> NoiseRates:
    """The rates of these labels by their votes: ρ1 = 1 − mean p*, ρ0 = κ ρ1.

    κ is the share of agreement among pairs of the teacher's responses to a query whose answers contradict its label; 1,
    the largest value, without such pairs.

    Args:
        labels: the label of each query.
        scored: the teacher's responses to each query, scored by its label.

    Raises:
        LabelNoiseError: 1 − ρ0 − ρ1 is not clearly positive.
    """
    wrong = 1 - fmean(label.consensus for label in labels)
    agreeing = pairs = 0
    for query, own in zip(queries, scored, strict=True):
        against = [one.answer for one in own if one.answer is not None and one.score == 0]
        agreeing += sum(map(_pairs, count_votes(against, query.dataset).values()))
        pairs += _pairs(len(against))
    return NoiseRates(false_positive=wrong * (agreeing / pairs if pairs else 1.0), false_negative=wrong)


def _pairs(of: int) -> int:
    return of * (of - 1) // 2
