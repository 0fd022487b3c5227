"""Advantages Â of Eq. 12, paper D: rewards per token enter, advantages and returns per token leave.

Shapes: B responses, T tokens, G responses per query. A `response_mask` is boolean, (B, T), True where the policy
sampled the token. Rewards and values elsewhere are ignored, and both results are 0 there. PPO, GRPO, RLOO and
REINFORCE++ differ in this part, and in whether it needs a value head (`needs_values`).
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from rkd.distributed import sum_over_processes
from rkd.losses import center_and_scale, check_same_shape


class AdvantageEstimator(Protocol):
    """Turns the rewards of a rollout into the advantages of the policy loss and the returns of the value loss."""

    needs_values: ClassVar[bool]

    def __call__(self, token_rewards: Tensor, values: Tensor | None, response_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages and returns, (B, T) each, without gradient, 0 outside the mask.

        Args:
            token_rewards: r_t, (B, T); a reward for the whole response is placed on its last selected token.
            values: V_t of the rollout, (B, T); may be None unless `needs_values`.
            response_mask: True where the policy sampled the token, (B, T).
        """
        ...


@dataclass(frozen=True)
class GAE:
    """Generalised advantage estimation: arXiv:1506.02438, Eq. 16.

        δ_t = r_t + γ V_{t+1} − V_t,    A_t = δ_t + γλ A_{t+1},    R_t = A_t + V_t

    The response ends the episode: V and A are 0 after its last selected token, also where the length limit cut it.
    `whiten` gives the advantages mean 0 and variance 1 over all tokens of the batch, across processes. The returns are
    never whitened.
    """

    discount: float = 1.0  # γ
    gae_lambda: float = 0.95  # λ
    whiten: bool = True
    needs_values: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (0 <= self.discount <= 1 and 0 <= self.gae_lambda <= 1):
            raise ValueError(f"discount={self.discount} and gae_lambda={self.gae_lambda} must both be in [0, 1].")

    @torch.no_grad()
    def __call__(self, token_rewards: Tensor, values: Tensor | None, response_mask: Tensor) -> tuple[Tensor, Tensor]:
        """See `AdvantageEstimator`.

        Raises:
            ValueError: `values` is None, the shapes differ, or there is no selected token to whiten.
        """
        if values is None:
            raise ValueError("GAE needs values: give the policy a value head, or use advantages: GroupRelative.")
        check_same_shape(token_rewards=token_rewards, values=values, response_mask=response_mask)
        advantages = torch.zeros_like(token_rewards)
        next_advantage = next_value = token_rewards.new_zeros(len(token_rewards))
        for t in reversed(range(values.shape[1])):
            selected = response_mask[:, t]
            error = token_rewards[:, t] + self.discount * next_value - values[:, t]
            # Unselected tokens are skipped: γ and λ count selected tokens only.
            next_advantage = torch.where(
                selected, error + self.discount * self.gae_lambda * next_advantage, next_advantage
            )
            next_value = torch.where(selected, values[:, t], next_value)
            advantages[:, t] = next_advantage
        advantages = advantages.masked_fill(~response_mask, 0)
        returns = (advantages + values).masked_fill(~response_mask, 0)
        advantages = (
            center_and_scale(advantages, response_mask, total=sum_over_processes) if self.whiten else advantages
        )
        return advantages, returns


@dataclass(frozen=True)
class PerToken:
    """The reward of a token is its advantage, A_t = r_t: no later token counts, and there is no baseline.

    On-policy distillation (docs/method.md 6.1) has r_t = −(log π(y_t) − log π_T(y_t)). The returns are r_t, which no
    loss uses.
    """

    needs_values: ClassVar[bool] = False

    def __call__(self, token_rewards: Tensor, values: Tensor | None, response_mask: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """See `AdvantageEstimator`; `values` is ignored.

        Raises:
            ValueError: the shapes differ.
        """
        check_same_shape(token_rewards=token_rewards, response_mask=response_mask)
        rewards = token_rewards.detach().masked_fill(~response_mask, 0)
        return rewards, rewards


@dataclass(frozen=True)
class _OfGroups:
    """One advantage for all selected tokens of a response, from the rewards R_i = Σ_t r_{i,t} of its group."""

    group_size: int  # G
    needs_values: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_group_size(self.group_size)

    @torch.no_grad()
    def __call__(self, token_rewards: Tensor, values: Tensor | None, response_mask: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """See `AdvantageEstimator`; `values` is ignored.

        Raises:
            ValueError: the shapes differ, or B is not a multiple of the group size.
        """
        groups = _groups(token_rewards, response_mask, self.group_size)
        return self._relative(groups).view(-1, 1) * response_mask, groups.view(-1, 1) * response_mask

    def _relative(self, groups: Tensor) -> Tensor:
        """The advantages of the responses of each query, (Q, G)."""
        raise NotImplementedError


@dataclass(frozen=True)
class GroupRelative(_OfGroups):
    """Group-relative advantages of GRPO: arXiv:2402.03300, section 4.1.2.

        A_i = (R_i − mean_j R_j) / (std_j R_j + 1e-4),    R_i = Σ_t r_{i,t},    j over the G responses to the same query

    Every selected token of response i gets A_i. Each G consecutive rows belong to one query. The standard deviation
    divides by G − 1. The returns are R_i on every selected token; no loss uses them.
    """

    scale_by_std: bool = True  # False: A_i = R_i − mean_j R_j, arXiv:2503.20783

    def _relative(self, groups: Tensor) -> Tensor:
        advantages = groups - groups.mean(dim=1, keepdim=True)
        if self.scale_by_std:
            # 1e-4, not 1e-8: with G equal rewards the advantage must be 0, not noise blown up by rounding.
            advantages = advantages / (groups.std(dim=1, keepdim=True) + 1e-4)
        return advantages


@dataclass(frozen=True)
class RLOO(_OfGroups):
    """REINFORCE with a leave-one-out baseline: arXiv:2402.14740.

        A_i = R_i − 1 / (G − 1) Σ_{j ≠ i} R_j,    R_i = Σ_t r_{i,t},    j over the G responses to the same query

    Every selected token of response i gets A_i, in units of reward. The baseline does not contain R_i, so the gradient
    is unbiased. Each G consecutive rows belong to one query. The returns are R_i on every selected token; no loss uses
    them.
    """

    def _relative(self, groups: Tensor) -> Tensor:
        return groups - (groups.sum(dim=1, keepdim=True) - groups) / (self.group_size - 1)


@dataclass(frozen=True)
class ReinforcePlusPlus:
    """Rewards to go without a baseline of the query, whitened over the rollout: REINFORCE++, arXiv:2501.03262.

        R_t = Σ_{s ≥ t} r_s,    A_t = (R_t − mean R) / √(var R + 1e-8),    mean, var over all tokens of the rollout

    Mean and variance are taken across processes. With a KL penalty inside the reward, r_s holds the penalty of token
    s. The returns are R_t; no loss uses them.
    """

    needs_values: ClassVar[bool] = False

    @torch.no_grad()
    def __call__(self, token_rewards: Tensor, values: Tensor | None, response_mask: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """See `AdvantageEstimator`; `values` is ignored.

        Raises:
            ValueError: the shapes differ, or no token is selected.
        """
        check_same_shape(token_rewards=token_rewards, response_mask=response_mask)
        rewards = token_rewards.masked_fill(~response_mask, 0)
        returns = rewards.flip(1).cumsum(1).flip(1).masked_fill(~response_mask, 0)
        return center_and_scale(returns, response_mask, total=sum_over_processes), returns


def _groups(token_rewards: Tensor, response_mask: Tensor, group_size: int) -> Tensor:
    """R_i, the rewards of whole responses, by query: (B, T) -> (B / G, G)."""
    check_same_shape(token_rewards=token_rewards, response_mask=response_mask)
    if token_rewards.shape[0] % group_size:
        raise ValueError(
            f"{token_rewards.shape[0]} responses do not divide into groups of group_size={group_size}; "
            "each query must bring that many responses, in consecutive rows."
        )
    return token_rewards.masked_fill(~response_mask, 0).sum(dim=1).view(-1, group_size)


def _check_group_size(group_size: int) -> None:
    if group_size < 2:
        raise ValueError(f"group_size={group_size}: a group of one has no baseline, take 2 or more.")
