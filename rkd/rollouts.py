"""What rollouts are made of (METHOD 2.7): the settings, the terms of the loss, and the order of the queries.

Shapes: Q queries of a rollout, B = Q × G responses of T tokens.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from rkd.kl_control import KLController
from rkd.losses import KLEstimator, kl_estimate
from rkd.protocols import RewardFunction, Sampling
from rkd.records import Query
from rkd.settings import ABOVE_0, AT_LEAST_1, NOT_NEGATIVE, check_ranges

Reduction = Literal["tokens", "responses", "constant"]
"""What a loss is the mean over: tokens; responses, the mean of each; responses, the sum of each by a constant."""

RANGES = {
    "queries_per_rollout": AT_LEAST_1,
    "responses_per_query": AT_LEAST_1,
    "max_response_tokens": AT_LEAST_1,
    "missing_end_penalty": NOT_NEGATIVE,
    "temperature": ABOVE_0,
    "redraws": NOT_NEGATIVE,
}


@dataclass(frozen=True, kw_only=True)
class Term:
    """A term of the loss: its weight, the queries that it trains on, and the reward of responses to them."""

    name: str
    weight: float
    queries: Sequence[Query]
    reward: RewardFunction

    def __post_init__(self) -> None:
        if not self.queries:
            raise ValueError(f"the term {self.name!r} of the loss has no queries to train on.")


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """How much is sampled.

    Args:
        episodes: responses in the whole training, rounded up to whole rollouts.
        queries_per_rollout: Q, shared out to the terms of the loss.
        responses_per_query: G.
        max_response_tokens: tokens of the student's tokenizer.
        missing_end_penalty: taken off the reward of a response cut at the limit.
        temperature: of the policy, which divides its logits in sampling and training alike, so that the ratio has no
            bias. Below 1 the policy is nearer to its greedy answers, and so are the mistakes it learns from.
        redraws: how often other queries are drawn in place of those whose responses all have one reward, from which
            group-relative advantages learn nothing (DAPO, arXiv:2503.14476); where that still leaves too few, the first
            of the others make up the number. What is put aside is not counted as episodes.
    """

    episodes: int
    queries_per_rollout: int
    responses_per_query: int
    max_response_tokens: int
    missing_end_penalty: float = 0.0
    temperature: float = 1.0
    redraws: int = 0

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
    """What holds the policy near another one: target, place and estimator of the KL term (METHOD 5.1)."""

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


def queries_of_rollouts(
    terms: Sequence[Term], rollouts: Rollouts, seed: int, processes: int = 1
) -> list[list[list[Query]]]:
    """The queries of each rollout, those of each term: all of its queries in a new order, pass after pass.

    A rollout's queries are shared out to the terms alike, to each a multiple of the processes.
    """
    of_rollouts = []
    for place, (term, size) in enumerate(zip(terms, shares(rollouts, len(terms), processes), strict=True)):
        rng = random.Random(f"rl {seed} {place}" if place else f"rl {seed}")
        size *= 1 + rollouts.redraws
        needed = rollouts.count * size
        order: list[Query] = []
        while len(order) < needed:
            order += rng.sample(list(term.queries), len(term.queries))
        of_rollouts.append([order[at : at + size] for at in range(0, needed, size)])
    return [list(of_terms) for of_terms in zip(*of_rollouts, strict=True)]


def shares(rollouts: Rollouts, terms: int, processes: int = 1) -> list[int]:
    """How many of a rollout's queries each term has: alike, the first ones having what is left over."""
    units = rollouts.queries_per_rollout // processes
    return [processes * (units // terms + (place < units % terms)) for place in range(terms)]
