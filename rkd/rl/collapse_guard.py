"""Collapse of a policy (docs/method.md 3): what a training measures enters, and why it should end leaves.

A judge can be gamed: responses become short or repeat themselves, the policy runs away from its reference, and the
reward rises while answers get worse. What was best until then is kept, as always.
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
AT_FIRST = 3  # rollouts whose lengths and rewards the later ones are measured by


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Bounds of what a healthy training measures; None does not look.

    Args:
        max_kl: to the reference policy, in nats a response.
        min_length_share: tokens of a response, of those that the first rollouts had.
        max_repetition: share of a response's words that repeat what stood before, as a mean.
        max_accuracy_loss: validation accuracy below that of the start, while the reward is above that of the start.
        rollouts: so many in a row have to be out of bounds; validations, for the accuracy, two.
    """

    max_kl: float | None = None
    min_length_share: float | None = None
    max_repetition: float | None = None
    max_accuracy_loss: float | None = None
    rollouts: int = 3

    def __post_init__(self) -> None:
        check_ranges("rl.guard", self, RANGES)

    def reason(self, history: Sequence[Mapping[str, float]]) -> str | None:
        """Why the training is to end now.

        Args:
            history: a row for each rollout and each validation, in order.
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
        """Whether the reward has risen while the validation accuracy fell."""
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
        """None: there is never a reason."""
        return None


def _mean(rows: Sequence[Mapping[str, float]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)
