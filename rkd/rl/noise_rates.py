"""How often labels mislead a reward, without gold: labels with their votes enter, rates leave.

docs/method.md 6.7 has the equations and what they assume.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from rkd.errors import LabelNoiseError
from rkd.records import PseudoLabel

LEAST_MARGIN = 0.1  # of 1 − ρ0 − ρ1: the corrected reward is at most ten times as large as the reward


@dataclass(frozen=True, slots=True)
class NoiseRates:
    """ρ0, the share of wrong responses that labels confirm, and ρ1, that of right ones that they reject.

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


def estimated_noise(labels: Sequence[PseudoLabel]) -> NoiseRates:
    """The rates of these labels by their votes: ρ0 = ρ1 = 1 − mean p*.

    Raises:
        LabelNoiseError: 1 − ρ0 − ρ1 is not clearly positive.
    """
    wrong = 1 - fmean(label.consensus for label in labels)
    return NoiseRates(false_positive=wrong, false_negative=wrong)
