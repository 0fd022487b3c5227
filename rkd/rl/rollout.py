"""Makes rollouts (docs/method.md 2.7): queries enter, the policy's responses with all inputs of a loss leave.

Shapes: Q queries of a rollout, B = Q × G responses of T tokens.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rkd.data.answers import extract_answer
from rkd.distributed import sum_over_processes
from rkd.errors import EngineError
from rkd.generation.local import LocalGenerator, sample_indices
from rkd.judges.attacks import KINDS, kind_of, repetition
from rkd.losses import explained_variance, masked_mean, scale, truncated_importance
from rkd.models.batches import ResponseBatch, join
from rkd.models.cpu_workers import map_over_copies
from rkd.models.policy import Policy, PolicyOutput
from rkd.protocols import RewardFunction, Rewards
from rkd.records import Query, Response
from rkd.rl.advantages import AdvantageEstimator
from rkd.rl.rewards import Sampled, in_rollout
from rkd.rl.settings import KLPenalty, Reduction, RewardScaling, Rollouts

MOST_DIFFERENCE = 0.2  # nats a token between the policy and the engine that samples; some 0.01 are seen in bfloat16


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One batch of sampled responses with rewards, advantages and returns; (B, T) unless stated otherwise.

    `value_head` is the index of the policy's value head that gave `values`. `sampled` is the number of responses drawn
    for the rollout.
    """

    value_head: int
    reduction: Reduction
    sampled: int
    queries: list[Query]  # B: the query of each response
    responses: list[Response]  # B
    rewards: Rewards  # (B,)
    adjustments: Mapping[str, Tensor]  # (B,) each: terms that training adds to the reward of a response
    kl_estimates: Tensor  # (B,): the penalty's estimate of the KL to the reference, summed over the tokens
    batch: ResponseBatch
    old_logprobs: Tensor
    reference_logprobs: Tensor
    entropy: Tensor
    values: Tensor | None
    advantages: Tensor
    returns: Tensor
    importance: Tensor | None = None  # weights of the policy loss

    @property
    def prompt_count(self) -> int:
        """Q."""
        return self.batch.prompt_count

    @property
    def weight(self) -> int:
        """Number of items that a loss is the mean over: response tokens, or responses."""
        return self.batch.weight if self.reduction == "tokens" else len(self.responses)

    @property
    def tokens(self) -> int:
        """Number of tokens of prompts and responses."""
        return self.batch.tokens

    def select_prompts(self, indices: Tensor) -> "Rollout":
        """The part of the prompts at `indices`, padded to its own longest response."""
        batch, rows = self.batch.select_prompts(indices), self.batch.rows_of(indices)
        width = batch.response_ids.shape[1]
        return Rollout(
            value_head=self.value_head,
            reduction=self.reduction,
            sampled=self.sampled,
            queries=[self.queries[row] for row in rows.tolist()],
            responses=[self.responses[row] for row in rows.tolist()],
            rewards=_rows_of(self.rewards, rows),
            adjustments={name: part[rows] for name, part in self.adjustments.items()},
            kl_estimates=self.kl_estimates[rows],
            batch=batch,
            old_logprobs=self.old_logprobs[rows, :width],
            reference_logprobs=self.reference_logprobs[rows, :width],
            entropy=self.entropy[rows, :width],
            values=None if self.values is None else self.values[rows, :width],
            advantages=self.advantages[rows, :width],
            returns=self.returns[rows, :width],
            importance=None if self.importance is None else self.importance[rows, :width],
        )

    def metrics(self) -> dict[str, float]:
        """Means over the responses; the entropy is a mean over tokens. `kl` is the KL to the reference, in nats.

        `reward_trained_on` is the reward with all adjustments, before whitening. `kl_trained_on` is the KL by the
        penalty's estimator. A KL in the loss is measured there, per token.
        """
        mask, count = self.batch.chosen_mask, len(self.responses)
        metrics = {f"reward/{name}": float(part.mean()) for name, part in self.rewards.components.items()}
        metrics |= {f"reward/{name}": float(part.mean()) for name, part in self.adjustments.items()}
        metrics |= {
            "reward": float(self.rewards.total.mean()),
            "reward_trained_on": float(sum(self.adjustments.values(), self.rewards.total).mean()),
            "reward_deviation": float(self.rewards.total.std(correction=0)),
            "share_with_signal": float(_has_signal(self.rewards, self.prompt_count).float().mean()),
            "kl": float(((self.old_logprobs - self.reference_logprobs) * mask).sum(1).mean()),
            "kl_trained_on": float(self.kl_estimates.mean()),
            "entropy": float(masked_mean(self.entropy, mask)),
            "response_tokens": float(self.batch.response_mask.sum(1).float().mean()),
            "responses_sampled": float(self.sampled),
            "share_without_answer": self._share_without_answer(),
            "repetition": sum(repetition(response.text) for response in self.responses) / count,
            **self._attacks(),
            "share_truncated": 1 - sum(response.is_finished for response in self.responses) / count,
        }
        if self.values is not None:
            metrics["explained_variance"] = float(explained_variance(self.values, self.returns, mask))
        if self.batch.sampler_logprobs is not None:
            metrics |= self._sampler_metrics(self.batch.sampler_logprobs)
        return metrics

    def _sampler_metrics(self, sampler_logprobs: Tensor) -> dict[str, float]:
        """How far the trainer's log-probabilities of the tokens are from the sampler's, in nats."""
        mask = self.batch.chosen_mask
        difference = (self.old_logprobs - sampler_logprobs) * mask
        metrics = {
            "sampler_difference": float(masked_mean(difference.abs(), mask)),
            "sampler_largest_difference": float(difference.abs().max()),
            "sampler_kl": float(-difference.sum(1).mean()),
        }
        if self.importance is not None:
            is_capped = self.importance < torch.exp(difference)
            metrics["importance"] = float(masked_mean(self.importance, mask))
            metrics["importance_capped"] = float(masked_mean(is_capped.float(), mask))
        return metrics

    def _share_without_answer(self) -> float:
        """The share of responses without answer: as the reward counts it, or by extracting the answers."""
        if (answered := self.rewards.components.get("answered")) is not None:
            return 1 - float(answered.mean())
        asked = zip(self.queries, self.responses, strict=True)
        answers = [extract_answer(response.text, query.dataset) for query, response in asked]
        return answers.count(None) / len(answers)

    def _attacks(self) -> dict[str, float]:
        """The share of responses that look like each kind of attack on a judge, and the reward that they bring."""
        pairs = zip(self.queries, self.responses, strict=True)
        kinds = [kind_of(query, response.text) for query, response in pairs]
        is_attack = torch.tensor([kind is not None for kind in kinds])
        rewards = self.rewards.total.cpu()
        return {
            **{f"attacks/{kind}": kinds.count(kind) / len(kinds) for kind in KINDS},
            "reward_from_attacks": float(torch.where(is_attack, rewards, torch.zeros_like(rewards)).mean()),
        }

    def samples(self, count: int, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """About `count` responses, evenly spaced, for people to read; docs/tracking.md defines the fields.

        Args:
            labels: y* by query id; the label of another query is None.
        """
        step = max(1, len(self.responses) // count)
        mask, parts = self.batch.chosen_mask, {**self.rewards.components, **self.adjustments}
        advantages = (self.advantages * mask).sum(1) / mask.sum(1).clamp(min=1)
        return [
            {
                "query_id": query.id,
                "question": query.question,
                "response": response.text,
                "is_finished": response.is_finished,
                "tokens": int(self.batch.response_mask[row].sum()),
                "answer": extract_answer(response.text, query.dataset),
                "label": labels.get(query.id),
                "reward": _shown(self.rewards.total[row]),
                "parts": {name: _shown(part[row]) for name, part in parts.items()},
                "advantage": _shown(advantages[row]),
            }
            for row, (query, response) in enumerate(zip(self.queries, self.responses, strict=True))
            if row % step == 0
        ]


@dataclass(frozen=True)
class Drawn:
    """B responses with their rewards and tokens; `asked` holds the query of each."""

    asked: list[Query]
    responses: list[Response]
    rewards: Rewards
    batch: ResponseBatch

    def select(self, indices: Tensor) -> "Drawn":
        """The part of the prompts at `indices`."""
        rows = self.batch.rows_of(indices)
        asked, responses = ([column[row] for row in rows.tolist()] for column in (self.asked, self.responses))
        return Drawn(asked, responses, _rows_of(self.rewards, rows), self.batch.select_prompts(indices))

    def join(self, others: "Sequence[Drawn]") -> "Drawn":
        """This batch and the others as one batch."""
        parts = [self, *others]
        components = {
            name: torch.cat([one.rewards.components[name] for one in parts]) for name in self.rewards.components
        }
        return Drawn(
            [query for one in parts for query in one.asked],
            [response for one in parts for response in one.responses],
            Rewards(torch.cat([one.rewards.total for one in parts]), components),
            join([one.batch for one in parts]),
        )


@dataclass(frozen=True, kw_only=True)
class Collector:
    """Makes rollouts for one term of the loss: the policy responds, the reward scores, and the estimator gives the
    advantages.

    Args:
        policy: the policy being trained, with value heads if `estimate_advantages` needs values.
        reference: the frozen policy of the KL term.
        generator: samples from the policy.
        prompts_per_pass: number of prompts whose responses are evaluated at once, as many as a minibatch has.
        value_head: the index of this term's value head.
        reduction: what the losses on the rollout are the mean over.
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
    value_head: int = 0
    reduction: Reduction = "tokens"

    @torch.no_grad()
    def collect(self, queries: Sequence[Query], seed: int) -> Rollout:
        """Sample responses to the queries, score them and estimate their advantages.

        `queries` holds 1 + `dynamic_sampling` times as many queries as the rollout; they are used in their order.
        """
        drawn, sampled = self._draw(queries, seed)
        batch = drawn.batch
        self.policy.eval()
        # Log-probabilities come from the training pass, not the sampler: in the first minibatch they differ from the
        # trained ones by the order of sums only.
        own = {"value_head": self.value_head, "with_entropy": True}
        old = in_minibatches(self.policy, batch, self.prompts_per_pass, **own)
        reference = in_minibatches(self.reference.to(batch.response_ids.device), batch, self.prompts_per_pass)
        penalty = self.kl.per_token(old.logprobs, reference.logprobs, batch.chosen_mask)
        adjustments = self._adjustments(drawn.rewards, drawn.responses)
        token_rewards = self._token_rewards(drawn.rewards, adjustments, batch.chosen_mask, penalty)
        if self.kl.place == "reward":
            adjustments["kl_penalty"] = -self.kl.controller.coefficient * penalty.sum(1).cpu()
        assert old.entropy is not None
        advantages, returns = self.estimate_advantages(token_rewards, old.values, batch.chosen_mask)
        importance, cap = None, self.rollouts.importance_cap
        if batch.sampler_logprobs is not None:
            _check_sampler(old.logprobs, batch.sampler_logprobs, batch.chosen_mask)
            if cap is not None:
                importance = truncated_importance(old.logprobs, batch.sampler_logprobs, batch.chosen_mask, cap)
        return Rollout(
            value_head=self.value_head,
            reduction=self.reduction,
            sampled=sampled,
            queries=drawn.asked,
            responses=drawn.responses,
            rewards=drawn.rewards,
            adjustments=adjustments,
            kl_estimates=penalty.sum(1).cpu(),
            batch=batch,
            old_logprobs=old.logprobs,
            reference_logprobs=reference.logprobs,
            entropy=old.entropy,
            values=old.values,
            advantages=advantages,
            returns=returns,
            importance=importance,
        )

    def _draw(self, queries: Sequence[Query], seed: int) -> tuple[Drawn, int]:
        """Responses to the rollout's number of queries, and the number of responses drawn for them."""
        wanted = len(queries) // (1 + self.rollouts.dynamic_sampling)
        if not self.rollouts.dynamic_sampling:
            drawn = self._sample(queries, seed)
            return drawn, len(drawn.responses)
        kept: list[Drawn] = []
        dull: list[Drawn] = []
        left, sampled, missing = list(queries), 0, wanted
        while missing and left:
            block, left = left[:missing], left[missing:]
            drawn = self._sample(block, seed)
            sampled += len(drawn.responses)
            has_signal = _has_signal(drawn.rewards, len(block))
            for group, indices in ((kept, has_signal.nonzero()[:, 0]), (dull, (~has_signal).nonzero()[:, 0])):
                if len(indices):
                    group.append(drawn.select(indices))
            missing -= int(has_signal.sum())
        first, *others = [*kept, *dull] if missing else kept
        return first.join(others).select(torch.arange(wanted)), sampled

    def _sample(self, queries: Sequence[Query], seed: int) -> Drawn:
        batch = self.generator.sample(queries, self.rollouts.sampling, seed)
        asked = [query for query in queries for _ in range(self.rollouts.responses_per_query)]
        responses = self._responses(asked, batch)
        reward = in_rollout(self.reward, Sampled(responses, self.policy, batch, self.prompts_per_pass, seed))
        return Drawn(asked, responses, reward(asked, responses), batch)

    def _responses(self, asked: Sequence[Query], batch: ResponseBatch) -> list[Response]:
        ids = [query.id for query in asked]
        fields = (ids, sample_indices(ids), self.generator.texts(batch), self.generator.is_finished(batch))
        return [
            Response(query_id, self.generator.name, index, text, is_finished)
            for query_id, index, text, is_finished in zip(*fields, strict=True)
        ]

    def _adjustments(self, rewards: Rewards, responses: Sequence[Response]) -> dict[str, Tensor]:
        """The adjustments of each reward by clipping and by a missing end, (B,) each; only those switched on."""
        adjustments = {}
        if self.scaling.clip is not None:
            clipped = rewards.total.clamp(-self.scaling.clip, self.scaling.clip)
            adjustments["clipping"] = clipped - rewards.total
        if self.rollouts.missing_eos_penalty:
            is_cut = torch.tensor([not response.is_finished for response in responses])
            adjustments["missing_end"] = -self.rollouts.missing_eos_penalty * is_cut
        return adjustments

    def _token_rewards(
        self, rewards: Rewards, adjustments: Mapping[str, Tensor], mask: Tensor, penalty: Tensor
    ) -> Tensor:
        """r_t, (B, T): the reward on the last chosen token, and the KL penalty, if any, on every one."""
        scores = sum(adjustments.values(), rewards.total).to(mask.device)
        token_rewards = torch.zeros_like(penalty)
        last = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
        token_rewards[torch.arange(len(scores)), last] = scores.to(penalty.dtype)
        if self.kl.place == "reward":
            token_rewards = token_rewards - self.kl.controller.coefficient * penalty
        return scale(token_rewards, mask, total=sum_over_processes) if self.scaling.whiten else token_rewards


def in_minibatches(policy: Policy, batch: ResponseBatch, prompts_per_pass: int, **options: Any) -> PolicyOutput:
    """The policy's output on a rollout, computed a few prompts at a time and padded with zeros to (B, T)."""
    width = batch.response_ids.shape[1]

    @torch.no_grad()
    def evaluate(one: Policy, indices: Tensor) -> list[Tensor | None]:
        output = one(batch.select_prompts(indices), **options)
        fields = (output.logprobs, output.values, output.entropy)
        return [None if f is None else torch.nn.functional.pad(f, (0, width - f.shape[1])) for f in fields]

    parts = map_over_copies(evaluate, policy, torch.arange(len(batch.prompt_ids)).split(prompts_per_pass))
    logprobs, values, entropy = (
        None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)
    )
    assert logprobs is not None
    return PolicyOutput(logprobs, values, entropy)


def _check_sampler(logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor) -> None:
    """Check that the engine which drew the tokens has the policy's weights.

    Raises:
        EngineError: its log-probabilities are too far from the policy's.
    """
    difference = float(masked_mean((logprobs - sampler_logprobs).masked_fill(~mask, 0).abs(), mask))
    if not difference <= MOST_DIFFERENCE:
        raise EngineError(
            f"the log-probabilities of the engine that samples are {difference:.2g} nats a token from those of the "
            f"policy, on average; formats of numbers explain {MOST_DIFFERENCE} at most. It has other weights, or "
            "computes this model otherwise. generation.samples_policy=false lets the policy sample itself."
        )


def _has_signal(rewards: Rewards, prompts: int) -> Tensor:
    """Whether the responses to each prompt differ in their rewards, (Q,)."""
    groups = rewards.total.view(prompts, -1)
    return groups.amax(1) > groups.amin(1)


def _shown(number: Tensor) -> float | None:
    """A number for people to read; None if it is not finite, for which JSON has no form."""
    value = float(number)
    return round(value, 4) if math.isfinite(value) else None


def _rows_of(rewards: Rewards, rows: Tensor) -> Rewards:
    rows = rows.to(rewards.total.device)
    return Rewards(rewards.total[rows], {name: part[rows] for name, part in rewards.components.items()})
