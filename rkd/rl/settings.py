"""Settings of reinforcement learning (docs/method.md 2.7): rollouts, KL penalty and optimisation, with their ranges.

Shapes: Q queries of a rollout, B = Q × G responses of T tokens.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from rkd.config import ABOVE_0, AT_LEAST_1, NOT_NEGATIVE, SHARE, check_ranges
from rkd.losses import (
    KLEstimator,
    kl_estimate,
)
from rkd.protocols import Sampling
from rkd.rl.kl_controller import KLController

Reduction = Literal["tokens", "responses", "constant"]
"""What a loss is the mean over: tokens; responses, the mean of each; responses, the sum of each by a constant."""

RANGES = {
    "queries_per_rollout": AT_LEAST_1,
    "responses_per_query": AT_LEAST_1,
    "max_response_tokens": AT_LEAST_1,
    "missing_eos_penalty": NOT_NEGATIVE,
    "temperature": ABOVE_0,
    "dynamic_sampling": NOT_NEGATIVE,
}


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """How much is sampled.

    Args:
        episodes: responses in the whole training, rounded up to whole rollouts.
        queries_per_rollout: Q, shared out to the terms of the loss.
        responses_per_query: G.
        max_response_tokens: tokens of the student's tokenizer.
        missing_eos_penalty: taken off the reward of a response cut at the limit.
        temperature: of the policy, which divides its logits in sampling and training alike, so that the ratio has no
            bias. Below 1 the policy is nearer to its greedy answers, and so are the mistakes it learns from.
        dynamic_sampling: how often other queries are drawn in place of those whose responses all have one reward, from
        which
            group-relative advantages learn nothing (DAPO, arXiv:2503.14476); where that still leaves too few, the first
            of the others make up the number. What is put aside is not counted as episodes.
    """

    episodes: int
    queries_per_rollout: int
    responses_per_query: int
    max_response_tokens: int
    missing_eos_penalty: float = 0.0
    temperature: float = 1.0
    dynamic_sampling: int = 0

    def __post_init__(self) -> None:
        check_ranges("rl.rollouts", self, RANGES)
        if self.episodes < self.responses_per_rollout:
            raise ValueError(
                f"rl.rollouts: {self.episodes} episodes are fewer than one rollout of {self.queries_per_rollout} × "
                f"{self.responses_per_query}. Raise episodes, or make the rollout smaller."
            )

    @property
    def responses_per_rollout(self) -> int:
        """B."""
        return self.queries_per_rollout * self.responses_per_query

    @property
    def count(self) -> int:
        """Rollouts in the whole training."""
        return math.ceil(self.episodes / self.responses_per_rollout)

    @property
    def sampling(self) -> Sampling:
        """The policy's temperature and the whole vocabulary: anything else would bias the ratio."""
        return Sampling(self.temperature, self.responses_per_query, self.max_response_tokens)


@dataclass(frozen=True, kw_only=True)
class KLPenalty:
    """What holds the policy near another one: target, place and estimator of the KL term (docs/method.md 5.1)."""

    controller: KLController
    target: Literal["reference", "old"] = "reference"
    place: Literal["reward", "loss"] = "reward"
    estimator: KLEstimator = "k1"

    def __post_init__(self) -> None:
        if self.target == "old" and self.place == "reward":
            raise ValueError("rl.kl: a KL to the sampling policy is 0 while sampling; use place=loss with target=old.")
        if self.place == "loss" and self.estimator == "k1":
            raise ValueError("rl.kl: k1 in the loss has a gradient of mean zero; use estimator=k2 or k3 there.")

    def per_token(self, logprobs: Tensor, target_logprobs: Tensor, response_mask: Tensor) -> Tensor:
        """The estimated KL of each response token, (B, T), 0 elsewhere."""
        # Padding is set to 0 on both sides: k3's exponential of what stands there could overflow.
        return kl_estimate(logprobs * response_mask, target_logprobs * response_mask, estimator=self.estimator)


@dataclass(frozen=True, kw_only=True)
class RewardScaling:
    """What is done to the reward before advantages are estimated; all off by default."""

    clip: float | None = None  # rewards beyond ± this are cut
    whiten: bool = False  # divide token rewards by their deviation, the mean kept


OPTIMISATION_RANGES = {
    "learning_rate": ABOVE_0,
    "final_learning_rate_fraction": SHARE,
    "warmup_rollouts": NOT_NEGATIVE,
    "epochs_per_rollout": AT_LEAST_1,
    "minibatches_per_epoch": AT_LEAST_1,
    "clip_range": ABOVE_0,
    "clip_range_high": ABOVE_0,
    "value_clip_range": ABOVE_0,
    "value_coefficient": NOT_NEGATIVE,
    "gradient_clip": ABOVE_0,
    "weight_decay": NOT_NEGATIVE,
}


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How a rollout is trained on.

    Args:
        final_learning_rate_fraction: the rate falls linearly to this share of itself.
        clip_range: ε of Eq. 12.
        clip_range_high: ε of the upper bound where it is to be another one.
        reduction: what a loss is the mean over. "tokens" is Eq. 12's, and DAPO's; "responses" is GRPO as published;
            "constant" divides the sum over each response by `rollouts.max_response_tokens` (Dr. GRPO).
    """

    learning_rate: float
    final_learning_rate_fraction: float = 1.0
    warmup_rollouts: int = 0
    epochs_per_rollout: int = 4
    minibatches_per_epoch: int = 4
    clip_range: float = 0.2
    clip_range_high: float | None = None
    reduction: Reduction = "tokens"
    value_clip_range: float | None = 0.2
    value_coefficient: float = 0.1
    gradient_clip: float | None = 1.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_ranges("rl.optimisation", self, OPTIMISATION_RANGES)
        if self.reduction not in get_args(Reduction):
            raise ValueError(
                f"rl.optimisation.reduction={self.reduction}: choose one of {', '.join(get_args(Reduction))}."
            )
