"""Collapse of a policy (docs/method.md 3): the metrics of a training enter, the reason to stop it leaves.

A policy can exploit a judge: responses become short or repetitive, the policy moves far from its reference, and the
reward rises while answers get worse. The best policy up to that point is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rkd.config import ABOVE_0, AT_LEAST_1, SHARE, check_ranges

RANGES = {
    "max_kl": ABOVE_0,
    "min_length_share": SHARE,
    "max_repetition": SHARE,
    "max_accuracy_loss": SHARE,
    "rollouts": AT_LEAST_1,
}
AT_FIRST = 3  # first rollouts: later lengths and rewards are compared with theirs


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Bounds on the metrics of a training; None switches a bound off.

    Args:
        max_kl: largest KL to the reference policy, in nats per response.
        min_length_share: smallest mean response length, as a share of that of the first rollouts.
        max_repetition: largest mean share of a response's words that repeat earlier ones.
        max_accuracy_loss: largest drop of validation accuracy below its start, while the reward is above its start.
        rollouts: number of rollouts in a row that must be out of bounds; for the accuracy, two validations must be.
    """

    max_kl: float | None = None
    min_length_share: float | None = None
    max_repetition: float | None = None
    max_accuracy_loss: float | None = None
    rollouts: int = 3

    def __post_init__(self) -> None:
        check_ranges("rl.guard", self, RANGES)

    def reason(self, history: Sequence[Mapping[str, float]]) -> str | None:
        """Return why the training should end now; None if it should go on.

        Args:
            history: one row for each rollout and each validation, in order.
        """
        rollouts = [row for row in history if "reward" in row]
        if len(rollouts) < AT_FIRST + self.rollouts:
            return None
        return self._out_of_bounds(rollouts) or self._gamed(history, rollouts)

    def _out_of_bounds(self, rollouts: Sequence[Mapping[str, float]]) -> str | None:
        first, last = rollouts[:AT_FIRST], rollouts[-self.rollouts :]
        usual = _mean(first, "response_tokens")
        shortest = None if self.min_length_share is None else self.min_length_share * usual
        in_row = f"in {self.rollouts} rollouts in a row"
        if self.max_kl is not None and all(row["kl"] > self.max_kl for row in last):
            return f"the KL to the reference was above rl.guard.max_kl={self.max_kl:g} nats {in_row}"
        if shortest is not None and all(row["response_tokens"] < shortest for row in last):
            return (
                f"responses had fewer than rl.guard.min_length_share={self.min_length_share:g} of the {usual:.0f} "
                f"tokens that they had at first {in_row}"
            )
        if self.max_repetition is not None and all(row["repetition"] > self.max_repetition for row in last):
            return (
                f"responses repeated more than rl.guard.max_repetition={self.max_repetition:g} of their words {in_row}"
            )
        return None

    def _gamed(self, history: Sequence[Mapping[str, float]], rollouts: Sequence[Mapping[str, float]]) -> str | None:
        """Return the reason if the reward has risen while the validation accuracy fell."""
        accuracies = [row["validation_accuracy"] for row in history if "validation_accuracy" in row]
        if self.max_accuracy_loss is None or len(accuracies) < 3:
            return None
        lowest = accuracies[0] - self.max_accuracy_loss
        rises = _mean(rollouts[-self.rollouts :], "reward") > _mean(rollouts[:AT_FIRST], "reward")
        if rises and max(accuracies[-2:]) < lowest:
            return (
                f"the reward rose while the validation accuracy fell from {accuracies[0]:.1%} to {accuracies[-1]:.1%}, "
                f"by more than rl.guard.max_accuracy_loss={self.max_accuracy_loss:g}"
            )
        return None


@dataclass(frozen=True)
class NoGuard:
    """No guard: a training runs to its end."""

    def reason(self, history: Sequence[Mapping[str, float]]) -> str | None:  # noqa: ARG002
        """Return None: the training is never stopped."""
        return None


def _mean(rows: Sequence[Mapping[str, float]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)
