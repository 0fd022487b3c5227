"""The KL coefficient β of the reward penalty −β kl_t: fixed (the default), or steered towards a target.

A controller is told the KL measured on each rollout, and says which coefficient the next rollout takes. Its state
belongs in the checkpoint.
"""

from dataclasses import dataclass, field
from typing import Protocol


class KLController(Protocol):
    """Holds the KL coefficient, and changes it as it sees fit."""

    @property
    def coefficient(self) -> float:
        """β for the next rollout, in units of reward per nat."""
        ...

    def update(self, measured_kl: float, episodes: int) -> None:
        """Take note of one rollout: its mean KL per response, in nats, and its number of responses."""
        ...

    def state_dict(self) -> dict[str, float]:
        """What `load_state_dict` needs to go on from here."""
        ...

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from where `state_dict` was taken."""
        ...


@dataclass(frozen=True)
class FixedKL:
    """β stays what it is: 0.2 in paper D (0.1 without data distillation)."""

    coefficient: float

    def __post_init__(self) -> None:
        if self.coefficient < 0:
            raise ValueError(f"coefficient={self.coefficient}: a negative one rewards leaving the reference policy.")

    def update(self, measured_kl: float, episodes: int) -> None:
        """Change nothing."""

    def state_dict(self) -> dict[str, float]:
        """The coefficient, so that a resumed run can be checked against its configuration."""
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Check that the checkpoint was trained with this coefficient.

        Raises:
            ValueError: it was trained with another one.
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

    n is the number of episodes (responses) in the rollout. The paper writes K_β for n / horizon and takes 0.1, with a
    target of some nats per response.
    """

    coefficient: float  # β at the start, and then what it has become
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
        """What decides its course: how it starts, not the coefficient that a training has arrived at."""
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
        """Go on with the saved coefficient."""
        self.coefficient = state["coefficient"]
