"""Rollouts (METHOD 2.7): queries enter; the policy's responses leave, scored, with all that is trained on and told.

Shapes: Q queries of a rollout, B = Q × G responses of T tokens.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from rkd.advantages import AdvantageEstimator
from rkd.answers import extract_answer
from rkd.batches import ResponseBatch
from rkd.generation import LocalGenerator, sample_indices
from rkd.kl_control import KLController
from rkd.losses import KLEstimator, explained_variance, kl_estimate, masked_mean, scale
from rkd.models import Policy, PolicyOutput
from rkd.parallel import sum_over_processes
from rkd.protocols import RewardFunction, Rewards, Sampling
from rkd.records import Query, Response
from rkd.settings import ABOVE_0, AT_LEAST_1, NOT_NEGATIVE, check_ranges
from rkd.side_by_side import map_over_copies

RANGES = {
    "queries_per_rollout": AT_LEAST_1,
    "responses_per_query": AT_LEAST_1,
    "max_response_tokens": AT_LEAST_1,
    "missing_end_penalty": NOT_NEGATIVE,
    "temperature": ABOVE_0,
}


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """How much is sampled.

    Args:
        episodes: responses in the whole training, rounded up to whole rollouts.
        queries_per_rollout: Q.
        responses_per_query: G.
        max_response_tokens: tokens of the student's tokenizer.
        missing_end_penalty: taken off the reward of a response cut at the limit.
        temperature: of the policy, which divides its logits in sampling and training alike, so that the ratio has no
            bias. Below 1 the policy is nearer to its greedy answers, and so are the mistakes it learns from.
    """

    episodes: int
    queries_per_rollout: int
    responses_per_query: int
    max_response_tokens: int
    missing_end_penalty: float = 0.0
    temperature: float = 1.0

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


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One batch of sampled responses, scored, and what is trained on; (B, T) unless said otherwise."""

    queries: list[Query]  # B: that of each response
    responses: list[Response]  # B
    rewards: Rewards  # (B,)
    adjustments: Mapping[str, Tensor]  # (B,) each: what training adds to the reward of a response
    kl_estimates: Tensor  # (B,): the KL to the reference as its penalty estimates it, summed over the tokens
    batch: ResponseBatch
    old_logprobs: Tensor
    reference_logprobs: Tensor
    entropy: Tensor
    values: Tensor | None
    advantages: Tensor
    returns: Tensor

    @property
    def prompt_count(self) -> int:
        """Q."""
        return self.batch.prompt_count

    @property
    def weight(self) -> int:
        """Response tokens, which a loss is the mean over."""
        return self.batch.weight

    def select_prompts(self, indices: Tensor) -> "Rollout":
        """The part that belongs to the prompts at `indices`, padded no longer than it needs."""
        batch, rows = self.batch.select_prompts(indices), self.batch.rows_of(indices)
        width = batch.response_ids.shape[1]
        return Rollout(
            queries=[self.queries[row] for row in rows.tolist()],
            responses=[self.responses[row] for row in rows.tolist()],
            rewards=Rewards(
                self.rewards.total[rows], {name: part[rows] for name, part in self.rewards.components.items()}
            ),
            adjustments={name: part[rows] for name, part in self.adjustments.items()},
            kl_estimates=self.kl_estimates[rows],
            batch=batch,
            old_logprobs=self.old_logprobs[rows, :width],
            reference_logprobs=self.reference_logprobs[rows, :width],
            entropy=self.entropy[rows, :width],
            values=None if self.values is None else self.values[rows, :width],
            advantages=self.advantages[rows, :width],
            returns=self.returns[rows, :width],
        )

    def metrics(self) -> dict[str, float]:
        """Means over the responses; of the entropy over their tokens. `kl` is that to the reference, in nats.

        `reward_trained_on` is the reward with all that is added to it, before whitening. `kl_trained_on` is the KL by
        the estimator of the penalty; a KL in the loss is measured there, per token.
        """
        mask, count = self.batch.response_mask, len(self.responses)
        asked = zip(self.queries, self.responses, strict=True)
        answers = [extract_answer(response.text, query.dataset) for query, response in asked]
        metrics = {f"reward/{name}": float(part.mean()) for name, part in self.rewards.components.items()}
        metrics |= {f"reward/{name}": float(part.mean()) for name, part in self.adjustments.items()}
        metrics |= {
            "reward": float(self.rewards.total.mean()),
            "reward_trained_on": float(sum(self.adjustments.values(), self.rewards.total).mean()),
            "reward_deviation": float(self.rewards.total.std(correction=0)),
            "kl": float(((self.old_logprobs - self.reference_logprobs) * mask).sum(1).mean()),
            "kl_trained_on": float(self.kl_estimates.mean()),
            "entropy": float(masked_mean(self.entropy, mask)),
            "response_tokens": float(mask.sum(1).float().mean()),
            "share_without_answer": answers.count(None) / count,
            "share_truncated": 1 - sum(response.is_finished for response in self.responses) / count,
        }
        if self.values is not None:
            metrics["explained_variance"] = float(explained_variance(self.values, self.returns, mask))
        return metrics

    def samples(self, count: int) -> list[dict[str, Any]]:
        """About so many of the responses with their rewards, to be read by a person."""
        return [
            {
                "question": self.queries[row].question,
                "response": self.responses[row].text,
                "reward": round(float(self.rewards.total[row]), 4),
                **{name: round(float(part[row]), 4) for name, part in self.rewards.components.items()},
            }
            for row in range(0, len(self.responses), max(1, len(self.responses) // count))
        ]


@dataclass(frozen=True, kw_only=True)
class Collector:
    """Makes rollouts: the policy answers, the reward scores, and the estimator says what to train on.

    Args:
        policy: the one being trained, with a value head if `estimate_advantages` needs values.
        reference: the frozen one of the KL term.
        generator: samples from the policy.
        prompts_per_pass: prompts whose responses are evaluated at once, as many as a minibatch has.
    """

    policy: Policy
    reference: Policy
    generator: LocalGenerator
    reward: RewardFunction
    estimate_advantages: AdvantageEstimator
    rollouts: Rollouts
    kl: KLPenalty
    scaling: RewardScaling
    prompts_per_pass: int

    @torch.no_grad()
    def collect(self, queries: Sequence[Query], seed: int) -> Rollout:
        """Sample responses to the queries, score them and estimate their advantages."""
        batch = self.generator.sample(queries, self.rollouts.sampling, seed)
        asked = [query for query in queries for _ in range(self.rollouts.responses_per_query)]
        responses = self._responses(asked, batch)
        rewards = self.reward(asked, responses)
        self.policy.eval()
        # Made by the pass that is trained, not by the sampler: at the first minibatch only the order of sums differs.
        old = in_minibatches(self.policy, batch, self.prompts_per_pass, with_entropy=True)
        reference = in_minibatches(self.reference.to(batch.response_ids.device), batch, self.prompts_per_pass)
        penalty = self.kl.per_token(old.logprobs, reference.logprobs, batch.response_mask)
        adjustments = self._adjustments(rewards, responses)
        token_rewards = self._token_rewards(rewards, adjustments, batch.response_mask, penalty)
        if self.kl.place == "reward":
            adjustments["kl_penalty"] = -self.kl.controller.coefficient * penalty.sum(1).cpu()
        advantages, returns = self.estimate_advantages(token_rewards, old.values, batch.response_mask)
        return Rollout(
            queries=asked,
            responses=responses,
            rewards=rewards,
            adjustments=adjustments,
            kl_estimates=penalty.sum(1).cpu(),
            batch=batch,
            old_logprobs=old.logprobs,
            reference_logprobs=reference.logprobs,
            entropy=old.entropy,
            values=old.values,
            advantages=advantages,
            returns=returns,
        )

    def _responses(self, asked: Sequence[Query], batch: ResponseBatch) -> list[Response]:
        ids = [query.id for query in asked]
        fields = (ids, sample_indices(ids), self.generator.texts(batch), self.generator.is_finished(batch))
        return [
            Response(query_id, self.generator.name, index, text, is_finished)
            for query_id, index, text, is_finished in zip(*fields, strict=True)
        ]

    def _adjustments(self, rewards: Rewards, responses: Sequence[Response]) -> dict[str, Tensor]:
        """What clipping and a missing end add to the reward of each response, (B,); only what is switched on."""
        adjustments = {}
        if self.scaling.clip is not None:
            clipped = rewards.total.clamp(-self.scaling.clip, self.scaling.clip)
            adjustments["clipping"] = clipped - rewards.total
        if self.rollouts.missing_end_penalty:
            is_cut = torch.tensor([not response.is_finished for response in responses])
            adjustments["missing_end"] = -self.rollouts.missing_end_penalty * is_cut
        return adjustments

    def _token_rewards(
        self, rewards: Rewards, adjustments: Mapping[str, Tensor], mask: Tensor, penalty: Tensor
    ) -> Tensor:
        """r_t, (B, T): the reward on the last response token, and the KL penalty on every token."""
        scores = sum(adjustments.values(), rewards.total).to(mask.device)
        token_rewards = torch.zeros_like(penalty)
        token_rewards[torch.arange(len(scores)), mask.sum(1) - 1] = scores.to(penalty.dtype)
        if self.kl.place == "reward":
            token_rewards = token_rewards - self.kl.controller.coefficient * penalty
        return scale(token_rewards, mask, total=sum_over_processes) if self.scaling.whiten else token_rewards


def in_minibatches(
    policy: Policy, batch: ResponseBatch, prompts_per_pass: int, *, with_entropy: bool = False
) -> PolicyOutput:
    """The policy's output on a rollout, without gradient, a few prompts at a time; padded with zeros to (B, T)."""
    width = batch.response_ids.shape[1]

    @torch.no_grad()
    def evaluate(one: Policy, indices: Tensor) -> list[Tensor | None]:
        output = one(batch.select_prompts(indices), with_entropy=with_entropy)
        fields = (output.logprobs, output.values, output.entropy)
        return [None if f is None else torch.nn.functional.pad(f, (0, width - f.shape[1])) for f in fields]

    parts = map_over_copies(evaluate, policy, torch.arange(len(batch.prompt_ids)).split(prompts_per_pass))
    joined = [None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)]
    return PolicyOutput(*joined)


def queries_of_rollouts(queries: Sequence[Query], rollouts: Rollouts, seed: int) -> list[list[Query]]:
    """The queries of each rollout: all of them in a new order, pass after pass."""
    rng = random.Random(f"rl {seed}")
    needed = rollouts.count * rollouts.queries_per_rollout
    order: list[Query] = []
    while len(order) < needed:
        order += rng.sample(list(queries), len(queries))
    return [order[at : at + rollouts.queries_per_rollout] for at in range(0, needed, rollouts.queries_per_rollout)]
