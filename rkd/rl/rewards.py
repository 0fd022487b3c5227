"""Rewards for reinforcement learning: queries and responses enter, one number per response and its parts leave.

A `RewardFunction` is any callable of this shape (`rkd.protocols`). A `RolloutReward` depends on more than the texts and
is bound to each rollout first. The reward mix (`rkd.rl.reward_mix`) chooses the rewards of a row. Shapes: B responses.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rkd.data.answers import answers_match, extract_answer
from rkd.data.prompts import PromptTemplate
from rkd.models.batches import ResponseBatch, collate
from rkd.models.cpu_workers import map_over_copies
from rkd.models.loading import ModelOptions, load_tokenizer
from rkd.models.policy import Policy
from rkd.models.reward_model import RewardModel, load_reward_model
from rkd.protocols import Judge, RewardFunction, Rewards
from rkd.records import Query, Response


@dataclass(frozen=True)
class Sampled:
    """The responses of a rollout as the policy sampled them.

    Args:
        batch: the tokens of the responses, in their order.
        prompts_per_pass: number of prompts whose responses the policy reads at once.
        seed: the seed of the rollout, which no other rollout of the training has.
    """

    responses: Sequence[Response]
    policy: Policy
    batch: ResponseBatch
    prompts_per_pass: int
    seed: int


@runtime_checkable
class RolloutReward(RewardFunction, Protocol):
    """A reward that depends on the policy or on the rollout, besides the texts."""

    def in_rollout(self, sampled: Sampled) -> RewardFunction:
        """The reward of this rollout's responses."""
        ...


def in_rollout(reward: RewardFunction, sampled: Sampled) -> RewardFunction:
    """The reward of a rollout's responses: bound to the rollout if it depends on that."""
    return reward.in_rollout(sampled) if isinstance(reward, RolloutReward) else reward


@dataclass(frozen=True)
class VerifiableReward:
    """Compares the extracted answer with a known one: a pseudo-label or the gold answer (paper J's VR).

    Args:
        labels: the answer to each query, by query id.
        right, wrong, unanswered: the rewards of a right answer, a wrong answer and no answer. Paper J's line of work
            gives 1, 0.1 and 0.
    """

    labels: Mapping[str, str | None]
    right: float = 1.0
    wrong: float = 0.1
    unanswered: float = 0.0

    def __call__(self, queries: Sequence[Query], responses: Sequence[Response]) -> Rewards:
        """See `RewardFunction`."""
        has_answer, agrees = _answers(queries, responses, self.labels)
        reward = torch.where(agrees, self.right, torch.where(has_answer, self.wrong, self.unanswered))
        return Rewards(reward, {"verifiable": reward})


@dataclass(frozen=True)
class LearnedReward:
    """The scalar R(q, a) of a reward model (docs/method.md 2.6)."""

    reward_model: RewardModel
    tokenizer: PreTrainedTokenizerBase
    prompt: PromptTemplate
    batch_responses: int = 128

    def __call__(self, queries: Sequence[Query], responses: Sequence[Response]) -> Rewards:
        """See `RewardFunction`; consecutive responses to one query share one encoding of its prompt."""

        @torch.no_grad()
        def score(reward_model: RewardModel, batch: ResponseBatch) -> Tensor:
            rewards: Tensor = reward_model(batch.to(reward_model.model.device))
            return rewards.cpu()

        prompts = self.prompt.encode(queries, self.tokenizer)
        texts, finished = [response.text for response in responses], [response.is_finished for response in responses]
        tokens = self.prompt.encode_responses(texts, finished, self.tokenizer)
        parts = [slice(start, start + self.batch_responses) for start in range(0, len(tokens), self.batch_responses)]
        batches = [collate(prompts[part], tokens[part]) for part in parts]
        scores = torch.cat([torch.zeros(0), *map_over_copies(score, self.reward_model, batches)])
        return Rewards(scores, {"learned": scores})


def learned_reward(
    folder: Path, prompt: PromptTemplate, options: ModelOptions, *, is_trained: bool = False
) -> LearnedReward:
    """The reward of the reward model in `folder`, for queries in the student's prompt.

    Args:
        is_trained: whether the reward model will be trained further: its weights are then loaded for that.
    """
    reward_model = load_reward_model(folder, options, placed=not is_trained).eval()
    options.place(reward_model.model)
    return LearnedReward(reward_model, load_tokenizer(folder), prompt)


OpenReward = Callable[[Path, PromptTemplate, ModelOptions], RewardFunction]
"""Opens the learned reward whose model lies in a folder, for queries in the student's prompt."""

LEAST_SHARE = 1e-6  # of Yes and of No, so that log-odds are finite: ±13.8 nats at most


@dataclass(frozen=True)
class VerifierReward:
    """The log-odds of a generative verifier's Yes, log P(Yes) − log P(No) in nats (docs/method.md 6.9).

    As R of a classifier they are above 0 where a right response is the likelier one, and σ of them is P(Yes) / (P(Yes)
    + P(No)).
    """

    verifier: Judge

    def __call__(self, queries: Sequence[Query], responses: Sequence[Response]) -> Rewards:
        """See `RewardFunction`."""
        shares = torch.tensor(self.verifier.judge(queries, responses), dtype=torch.float64)
        scores = torch.logit(shares, eps=LEAST_SHARE).float()
        return Rewards(scores, {"learned": scores})


@dataclass(frozen=True)
class JudgedReward:
    """A judge's verdict p, from `wrong` at p = 0 to `right` at p = 1 (paper J's YoN).

    Args:
        unanswered: the reward of a response without an answer, which is then not judged; None: it is judged.
    """

    judge: Judge
    right: float = 1.0
    wrong: float = 0.0
    unanswered: float | None = None

    def __call__(self, queries: Sequence[Query], responses: Sequence[Response]) -> Rewards:
        """See `RewardFunction`; the component `unreadable` is 1 where the verdict could not be read.

        Raises:
            ValueError: no verdict could be read.
        """
        asked = [
            place
            for place, (query, response) in enumerate(zip(queries, responses, strict=True))
            if self.unanswered is None or extract_answer(response.text, query.dataset) is not None
        ]
        verdicts = self.judge.judge([queries[place] for place in asked], [responses[place] for place in asked])
        if asked and all(verdict is None for verdict in verdicts):
            raise ValueError(
                f"None of the judge's {len(asked)} verdicts on a rollout could be read: it does not say what its "
                "prompt asks for. `python run.py experiments=judge_quality judge=...` shows what it can do."
            )
        filled = _with_neutral_verdicts([queries[place].id for place in asked], verdicts)
        reward, unreadable = torch.full((len(responses),), self.unanswered or 0.0), torch.zeros(len(responses))
        reward[asked] = self.wrong + (self.right - self.wrong) * torch.tensor(filled)
        unreadable[asked] = torch.tensor([float(verdict is None) for verdict in verdicts])
        return Rewards(reward, {"judge": reward, "unreadable": unreadable})


def _with_neutral_verdicts(query_ids: Sequence[str], verdicts: Sequence[float | None]) -> list[float]:
    """Replaces an unreadable verdict by the mean of the readable ones on its query, or of all if it has none.

    An unreadable verdict says nothing of the response: counted as No, it would punish the response for it.
    """
    read: dict[str, list[float]] = {}
    for query_id, verdict in zip(query_ids, verdicts, strict=True):
        if verdict is not None:
            read.setdefault(query_id, []).append(verdict)
    everything = [verdict for own in read.values() for verdict in own]
    return [
        statistics.mean(read.get(query_id, everything)) if verdict is None else verdict
        for query_id, verdict in zip(query_ids, verdicts, strict=True)
    ]


def cap_at_zero(rewards: Tensor) -> Tensor:
    """Return min(r, 0): the consistency penalty of Eq. 10."""
    return rewards.clamp(max=0)


def minus_one(rewards: Tensor) -> Tensor:
    """Return r − 1: the variant "Minus" of paper D's appendix E.5."""
    return rewards - 1


def unchanged(rewards: Tensor) -> Tensor:
    """Return r: no consistency check, the variant "None"."""
    return rewards


@dataclass(frozen=True)
class ConsistencyCheck:
    """A reward with answer-existence and consistency checks: Eq. 10 of paper D.

        −5 when no answer can be extracted;  penalty(r) when ŷ ≠ y*;  r otherwise

    Args:
        reward: the reward r that is checked.
        labels: y* of each query, by query id.
        penalty: maps r to the reward of a response whose answer contradicts y*.
        unanswered: the reward of a response without an answer.
    """

    reward: RewardFunction
    labels: Mapping[str, str] = field(repr=False)
    penalty: Callable[[Tensor], Tensor] = cap_at_zero
    unanswered: float = -5.0

    def __call__(self, queries: Sequence[Query], responses: Sequence[Response]) -> Rewards:
        """See `RewardFunction`."""
        inner = self.reward(queries, responses)
        has_answer, agrees = _answers(queries, responses, self.labels)
        checked = torch.where(agrees, inner.total, self.penalty(inner.total))
        total = torch.where(has_answer, checked, torch.full_like(checked, self.unanswered))
        parts = {"answered": has_answer.float(), "consistent": agrees.float(), "check": total - inner.total}
        return Rewards(total, {**inner.components, **parts})


@dataclass(frozen=True)
class ExistenceCheck:
    """A reward with the check of an open-ended task: Eq. 11 of paper D.

        −5 where there is no valid answer, r otherwise

    An answer is valid if it is neither empty nor cut at the length limit (docs/method.md 5.17).

    Args:
        reward: the reward r that is checked.
        unanswered: the reward of a response that is not a valid answer.
    """

    reward: RewardFunction
    unanswered: float = -5.0

    def __call__(self, queries: Sequence[Query], responses: Sequence[Response]) -> Rewards:
        """See `RewardFunction`."""
        inner = self.reward(queries, responses)
        is_valid = torch.tensor([bool(response.text.strip()) and response.is_finished for response in responses])
        total = torch.where(is_valid, inner.total, torch.full_like(inner.total, self.unanswered))
        return Rewards(total, {**inner.components, "answered": is_valid.float(), "check": total - inner.total})


@dataclass(frozen=True)
class ProbabilityReward:
    """σ(r): the probability of a right response, by a reward model trained as a classifier (paper J)."""

    reward: RewardFunction

    def __call__(self, queries: Sequence[Query], responses: Sequence[Response]) -> Rewards:
        """See `RewardFunction`."""
        inner = self.reward(queries, responses)
        probability = torch.sigmoid(inner.total)
        return Rewards(probability, {**inner.components, "probability": probability})


@dataclass(frozen=True)
class WeightedReward:
    """Σ_k w_k r_k(q, a) over the rewards k whose queries include q; the others count as 0.

    Args:
        parts: by name, the weight, the reward and the ids of its queries.
    """

    parts: Mapping[str, tuple[float, RewardFunction, frozenset[str]]]

    def in_rollout(self, sampled: Sampled) -> "WeightedReward":
        """See `RolloutReward`."""
        bound = {name: (weight, in_rollout(own, sampled), ids) for name, (weight, own, ids) in self.parts.items()}
        return replace(self, parts=bound)

    def __call__(self, queries: Sequence[Query], responses: Sequence[Response]) -> Rewards:
        """See `RewardFunction`; the components are the r_k, 0 for queries that are not theirs."""
        components = {name: torch.zeros(len(responses)) for name in self.parts}
        for name, (_, reward, ids) in self.parts.items():
            rows = [row for row, query in enumerate(queries) if query.id in ids]
            if rows:
                own = reward([queries[row] for row in rows], [responses[row] for row in rows])
                components[name][rows] = own.total.float()
        total = torch.zeros(len(responses))
        for name, (weight, *_) in self.parts.items():
            total = total + weight * components[name]
        return Rewards(total, components)


def _answers(
    queries: Sequence[Query], responses: Sequence[Response], labels: Mapping[str, str | None]
) -> tuple[Tensor, Tensor]:
    """Whether each response has an answer, and whether the answer matches the label; (B,) booleans."""
    answers = [extract_answer(response.text, query.dataset) for query, response in zip(queries, responses, strict=True)]
    agrees = [answers_match(a, labels[q.id], q.dataset) for a, q in zip(answers, queries, strict=True)]
    return torch.tensor([answer is not None for answer in answers]), torch.tensor(agrees)
