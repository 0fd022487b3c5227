"""A reward model that follows the policy (docs/method.md 6.6): rollouts enter, a reward whose model they train leaves.

The reward model of the method is trained once, on samples of the SFT student. Here it is trained further during
reinforcement learning, on the newest samples of the policy. Shapes: B pairs, 2 B responses.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from rkd.config import ABOVE_0, AT_LEAST_1, NOT_NEGATIVE, check_ranges
from rkd.data.answers import answers_match, extract_answer
from rkd.losses import reward_model_loss
from rkd.models.batches import ResponseBatch, collate
from rkd.protocols import RewardFunction, Rewards
from rkd.records import Query, Response
from rkd.rl.rewards import LearnedReward
from rkd.training.trainer import adamw

Pair = tuple[Query, Response, Response]
"""A query with a right and a wrong response."""


@dataclass(frozen=True, kw_only=True)
class Refresh:
    """How the reward model is trained during reinforcement learning.

    Args:
        every_rollouts: k: after each k-th rollout it is trained once on the pairs of that rollout.
        learning_rate: of AdamW, constant.
        batch_size: pairs of a step.
        classification_weight, preference_weight: of the two losses of Eq. 9.
    """

    every_rollouts: int
    learning_rate: float
    batch_size: int = 32
    classification_weight: float = 0.5
    preference_weight: float = 1.0
    gradient_clip: float | None = 1.0

    def __post_init__(self) -> None:
        ranges = {
            "every_rollouts": AT_LEAST_1,
            "learning_rate": ABOVE_0,
            "batch_size": AT_LEAST_1,
            "classification_weight": NOT_NEGATIVE,
            "preference_weight": NOT_NEGATIVE,
            "gradient_clip": ABOVE_0,
        }
        check_ranges("reward_mix.learned.refresh", self, ranges)


@dataclass
class RefreshedReward:
    """A reward over a reward model that is trained on rollouts.

    Args:
        reward: the reward, with its checks; it reads the model of `learned`.
        learned: R, its weights in a precision that can be trained.
        labels: y* by query id.
        settings: how it is trained.
    """

    reward: RewardFunction
    learned: LearnedReward
    labels: Mapping[str, str] = field(repr=False)
    settings: Refresh
    _optimizer: torch.optim.Optimizer | None = field(default=None, repr=False)

    def __call__(self, queries: Sequence[Query], responses: Sequence[Response]) -> Rewards:
        """See `RewardFunction`."""
        return self.reward(queries, responses)

    def after_rollout(
        self, rollouts_done: int, queries: Sequence[Query], responses: Sequence[Response]
    ) -> dict[str, float]:
        """Train on the pairs of a rollout if it is a k-th one; return what was measured before each step, on average.

        Args:
            rollouts_done: how many rollouts there are, this one included.
            queries: the query of each response; responses to one query stand together.
        """
        if rollouts_done % self.settings.every_rollouts:
            return {}
        pairs, size = list(self._pairs(queries, responses)), self.settings.batch_size
        batches = [pairs[start : start + size] for start in range(0, len(pairs), size)]
        measured = [{name: len(own) * value for name, value in self._step(own).items()} for own in batches]
        names = measured[0] if measured else ()
        means = {f"refresh/{name}": sum(one[name] for one in measured) / len(pairs) for name in names}
        return {"refresh/pairs": float(len(pairs)), **means}

    def _pairs(self, queries: Sequence[Query], responses: Sequence[Response]) -> Iterator[Pair]:
        """Pairs of a right and a wrong response to one query, each response in at most one pair."""
        groups: dict[str, tuple[Query, list[Response], list[Response]]] = {}
        for query, response in zip(queries, responses, strict=True):
            answer = extract_answer(response.text, query.dataset)
            is_right = answers_match(answer, self.labels[query.id], query.dataset)
            _, right, wrong = groups.setdefault(query.id, (query, [], []))
            if response.text:  # R reads the tokens of a response
                (right if is_right else wrong).append(response)
        for query, right, wrong in groups.values():
            yield from ((query, *pair) for pair in zip(right, wrong, strict=False))

    def _step(self, pairs: Sequence[Pair]) -> dict[str, float]:
        """One step of AdamW; the loss and the share of pairs ranked right before it."""
        model, settings, optimizer = self.learned.reward_model, self.settings, self.optimizer
        with torch.enable_grad():
            rewards = model(self._batch(pairs))  # (2 B,)
            losses = reward_model_loss(
                rewards,
                torch.tensor([True, False], device=rewards.device).repeat(len(pairs)),
                classification_weight=settings.classification_weight,
                preference_weight=settings.preference_weight,
            )
            optimizer.zero_grad()
            losses.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip or float("inf"))
        optimizer.step()
        ranked = (rewards[0::2] > rewards[1::2]).float().mean()
        return {"loss": float(losses.loss.detach()), "pair_accuracy": float(ranked)}

    def _batch(self, pairs: Sequence[Pair]) -> ResponseBatch:
        own, responses = self.learned, [one for _, *pair in pairs for one in pair]
        texts, finished = [one.text for one in responses], [one.is_finished for one in responses]
        tokens = own.prompt.encode_responses(texts, finished, own.tokenizer)
        prompts = own.prompt.encode([query for query, *_ in pairs], own.tokenizer)
        return collate(prompts, tokens).to(own.reward_model.model.device)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW over the reward model, made once."""
        if self._optimizer is None:
            parameters = list(self.learned.reward_model.parameters())
            self._optimizer = adamw([{"params": parameters}], lr=self.settings.learning_rate, weight_decay=0.0)
        return self._optimizer

    def state_dict(self) -> dict[str, Any]:
        """The weights of the reward model, and the state of their optimiser."""
        return {"model": self.learned.reward_model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.learned.reward_model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
