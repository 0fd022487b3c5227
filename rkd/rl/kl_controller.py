"""The KL coefficient β of the reward penalty −β kl_t: fixed (the default), or steered towards a target.

A controller receives the KL measured on each rollout, and sets the coefficient of the next rollout. Its state is part
of the checkpoint.
"""

from dataclasses import dataclass, field
from typing import Protocol


class KLController(Protocol):
    """Holds the KL coefficient, and updates it after each rollout."""

    @property
    def coefficient(self) -> float:
        """β for the next rollout, in units of reward per nat."""
        ...

    def update(self, measured_kl: float, episodes: int) -> None:
        """Update with one rollout: its mean KL per response, in nats, and its number of responses."""
        ...

    def state_dict(self) -> dict[str, float]:
        """The state that `load_state_dict` restores."""
        ...

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore the state that `state_dict` returned."""
        ...


@dataclass(frozen=True)
class FixedKL:
    """β is constant: 0.2 in paper D (0.1 without data distillation)."""

    coefficient: float

    def __post_init__(self) -> None:
        if self.coefficient < 0:
            raise ValueError(f"coefficient={self.coefficient}: a negative one rewards leaving the reference policy.")

    def update(self, measured_kl: float, episodes: int) -> None:
        """Change nothing."""

    def state_dict(self) -> dict[str, float]:
        """The coefficient, so that a resumed run can check it against its configuration."""
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Check that the checkpoint was trained with this coefficient.

        Raises:
            ValueError: it was trained with a different one.
        """
        if state != self.state_dict():
            raise ValueError(
                f"the checkpoint was trained with KL state {state}, the configuration says "
                f"coefficient={self.coefficient}: resume with the same value, or start anew."
            )


@dataclass
class AdaptiveKL:
    """Proportional controller of Ziegler et al., arXiv:1909.08593, section 2.2.

        e = clip((KL − KL_target) / KL_target, −0.2, 0.2),    β ← β (1 + e n / horizon)

    n is the number of episodes (responses) in the rollout. The paper writes K_β for n / horizon and uses 0.1, with a
    target of a few nats per response.
    """

    coefficient: float  # β: first the initial value, then the current one
    target: float  # nats per response
    horizon: int  # episodes
    initial_coefficient: float = field(init=False)

    def __post_init__(self) -> None:
        if self.coefficient <= 0 or self.target <= 0 or self.horizon <= 0:
            raise ValueError(
                f"coefficient={self.coefficient}, target={self.target}, horizon={self.horizon}: all must be above 0."
            )
        self.initial_coefficient = self.coefficient

    def fingerprint(self) -> dict[str, float]:
        """The initial settings, without the coefficient that a training has reached."""
        return {
            "coefficient": self.initial_coefficient,
            "target": self.target,
            "horizon": self.horizon,
        }

    def update(self, measured_kl: float, episodes: int) -> None:
        """Raise β when the KL is above the target, lower it when below."""
        error = min(max((measured_kl - self.target) / self.target, -0.2), 0.2)
        self.coefficient *= 1 + error * episodes / self.horizon

    def state_dict(self) -> dict[str, float]:
        """The current coefficient."""
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore the saved coefficient."""
        self.coefficient = state["coefficient"]
