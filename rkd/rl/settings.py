"""Settings of reinforcement learning (docs/method.md 2.7): rollouts, KL penalty and optimisation, with their ranges.

Shapes: Q queries of a rollout, B = Q × G responses of T tokens.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from rkd.config import ABOVE_0, AT_LEAST_1, NOT_NEGATIVE, SHARE, check_ranges
from rkd.losses import (
    KLEstimator,
    kl_estimate,
)
from rkd.protocols import Sampling
from rkd.rl.kl_controller import KLController

Reduction = Literal["tokens", "responses", "constant"]
"""What a loss is the mean over: tokens; the means of the responses; or their sums divided by a constant."""

MOST_LOGGED = 50  # rollouts whose responses are logged; W&B shows the last 100 additions to a table

RANGES = {
    "queries_per_rollout": AT_LEAST_1,
    "responses_per_query": AT_LEAST_1,
    "max_response_tokens": AT_LEAST_1,
    "missing_eos_penalty": NOT_NEGATIVE,
    "temperature": ABOVE_0,
    "dynamic_sampling": NOT_NEGATIVE,
    "importance_cap": ABOVE_0,
}


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """How much is sampled.

    Args:
        episodes: responses in the whole training, rounded up to whole rollouts.
        queries_per_rollout: Q, shared out to the terms of the loss.
        responses_per_query: G.
        max_response_tokens: tokens of the student's tokenizer.
        missing_eos_penalty: subtracted from the reward of a response cut at the limit.
        temperature: divides the policy's logits in sampling and in training, so that the ratio is unbiased. Below 1 the
            samples are nearer to the greedy answers, and so are the mistakes that the policy learns from.
        dynamic_sampling: how often queries whose responses all have the same reward are replaced by others. Such
            queries give group-relative advantages of 0 (DAPO, arXiv:2503.14476). If too few queries remain, the first
            of the replaced ones fill the rollout. Responses that are not used do not count as episodes.
        importance_cap: the policy loss of a token is weighted by how much likelier the trainer finds it than the engine
            that drew it, at most by this (`truncated_importance`). None does not weight.
    """

    episodes: int
    queries_per_rollout: int
    responses_per_query: int
    max_response_tokens: int
    missing_eos_penalty: float = 0.0
    temperature: float = 1.0
    dynamic_sampling: int = 0
    importance_cap: float | None = None

    def fingerprint(self) -> dict[str, Any]:
        """Its fields; a cap that is not set is left out, as in what was stored before there was one."""
        own = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return {name: value for name, value in own.items() if name != "importance_cap" or value is not None}

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
        """The policy's temperature over the whole vocabulary: top-k or top-p sampling would bias the ratio."""
        return Sampling(self.temperature, self.responses_per_query, self.max_response_tokens)


@dataclass(frozen=True, kw_only=True)
class KLPenalty:
    """The KL term: its target policy, its place and its estimator (docs/method.md 5.1).

    The target is the frozen policy that training starts from, the policy that sampled, or the teacher
    (docs/method.md 6.1).
    """

    controller: KLController
    target: Literal["reference", "old", "teacher"] = "reference"
    place: Literal["reward", "loss"] = "reward"
    estimator: KLEstimator = "k1"

    def __post_init__(self) -> None:
        if self.target == "old" and self.place == "reward":
            raise ValueError("rl.kl: a KL to the sampling policy is 0 while sampling; use place=loss with target=old.")
        if self.place == "loss" and self.estimator == "k1":
            raise ValueError("rl.kl: k1 in the loss has a gradient of mean zero; use estimator=k2 or k3 there.")

    def per_token(self, logprobs: Tensor, target_logprobs: Tensor, response_mask: Tensor) -> Tensor:
        """The estimated KL of each response token, (B, T), 0 elsewhere."""
        # Padding is set to 0 on both sides: the exponential in k3 could overflow there.
        return kl_estimate(logprobs * response_mask, target_logprobs * response_mask, estimator=self.estimator)


@dataclass(frozen=True, kw_only=True)
class RewardScaling:
    """Changes of the reward before advantages are estimated; all off by default."""

    clip: float | None = None  # rewards are clipped to ± this
    whiten: bool = False  # divide token rewards by their standard deviation; the mean is kept


@dataclass(frozen=True, kw_only=True)
class ResponseLog:
    """Which responses are logged while the policy trains, for people to read; no number of the training depends on it.

    Args:
        every: rollouts from one that is logged to the next. None: the smallest number by which at most `MOST_LOGGED`
            rollouts are logged.
        rows: responses of such a rollout, shared out to the terms of the loss.
    """

    every: int | None = None
    rows: int = 16

    def __post_init__(self) -> None:
        check_ranges("rl.log_responses", self, {"every": AT_LEAST_1, "rows": AT_LEAST_1})

    def is_due(self, rollout: int, rollouts: int) -> bool:
        """Whether the responses of this rollout are logged, of so many in the training."""
        return rollout % (self.every or math.ceil(rollouts / MOST_LOGGED)) == 0


OPTIMISATION_RANGES = {
    "learning_rate": ABOVE_0,
    "final_learning_rate_fraction": SHARE,
    "warmup_rollouts": NOT_NEGATIVE,
    "epochs_per_rollout": AT_LEAST_1,
    "minibatches_per_epoch": AT_LEAST_1,
    "clip_range": ABOVE_0,
    "clip_range_high": ABOVE_0,
    "value_learning_rate": ABOVE_0,
    "value_clip_range": ABOVE_0,
    "value_coefficient": NOT_NEGATIVE,
    "gradient_clip": ABOVE_0,
    "weight_decay": NOT_NEGATIVE,
}


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How a rollout is trained on.

    Args:
        final_learning_rate_fraction: the learning rate falls linearly to this fraction of its start.
        clip_range: ε of Eq. 12.
        clip_range_high: ε of the upper bound; None takes `clip_range`.
        reduction: what a loss is the mean over. Eq. 12 and DAPO use "tokens"; GRPO as published uses "responses";
            "constant" divides the sum over each response by `rollouts.max_response_tokens` (Dr. GRPO).
        adam_betas: AdamW's β₁ and β₂, each in [0, 1).
        value_learning_rate: of the value heads, which start at zero; it falls as the other. None takes `learning_rate`,
            by which the heads of a large model, whose rates are small, hardly leave zero.
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
    adam_betas: Sequence[float] = (0.9, 0.95)
    value_learning_rate: float | None = None

    def __post_init__(self) -> None:
        check_ranges("rl.optimisation", self, OPTIMISATION_RANGES)
        if len(self.adam_betas) != 2 or not all(0 <= beta < 1 for beta in self.adam_betas):
            raise ValueError(
                f"rl.optimisation.adam_betas={list(self.adam_betas)} must be two numbers in [0, 1), as [0.9, 0.95]."
            )
        if self.reduction not in get_args(Reduction):
            raise ValueError(
                f"rl.optimisation.reduction={self.reduction}: choose one of {', '.join(get_args(Reduction))}."
            )
