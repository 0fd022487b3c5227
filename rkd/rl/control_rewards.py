"""Rewards of the controls (docs/method.md 6): simpler than the method's, or without any information.

Each is a reward with its settings, and stands in the place of the verifiable reward of the mix. Shapes: B responses.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from rkd.data.answers import answers_match, extract_answer, majority
from rkd.models.cpu_workers import map_over_copies
from rkd.models.policy import Policy
from rkd.protocols import RewardFunction, Rewards
from rkd.records import Query, Response
from rkd.rl.noise_rates import NoiseRates
from rkd.rl.reward_mix import WITH_LABELS, RewardInputs, Stream, check_stream
from rkd.rl.rewards import Sampled, VerifiableReward


@dataclass(frozen=True, kw_only=True)
class StudentVote:
    """The student's own vote in place of a label: TTRL, arXiv:2504.16084 (`vote_reward`)."""

    compares_answers: ClassVar[bool] = True

    queries: Stream = "all"

    def __post_init__(self) -> None:
        check_stream("verifiable", self.queries)

    def build(self, inputs: RewardInputs) -> RewardFunction:  # noqa: ARG002
        """See `Source`."""
        return vote_reward


def vote_reward(queries: Sequence[Query], responses: Sequence[Response]) -> Rewards:
    """1 for the answer that most of the rollout's responses to the query state, else 0; see `RewardFunction`.

    A response without an answer has no vote and the reward 0. The answer that was sampled first wins a tie.
    """
    answers = [extract_answer(response.text, query.dataset) for query, response in zip(queries, responses, strict=True)]
    votes: dict[str, list[str | None]] = {}
    for query, answer in zip(queries, answers, strict=True):
        votes.setdefault(query.id, []).append(answer)
    winners = {query.id: majority(votes[query.id], query.dataset) for query in queries}
    agrees = [answers_match(a, winners[q.id], q.dataset) for q, a in zip(queries, answers, strict=True)]
    reward = torch.tensor(agrees, dtype=torch.float32)
    return Rewards(reward, {"vote": reward})


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """The policy's confidence in its own response: Intuitor, arXiv:2505.19590 (`ConfidenceReward`)."""

    compares_answers: ClassVar[bool] = False

    queries: Stream = "all"

    def __post_init__(self) -> None:
        check_stream("verifiable", self.queries)

    def build(self, inputs: RewardInputs) -> RewardFunction:  # noqa: ARG002
        """See `Source`."""
        return ConfidenceReward()


@dataclass(frozen=True)
class ConfidenceReward:
    """Mean over a response's tokens of KL(U ‖ π), in nats: the self-certainty of arXiv:2505.19590; a `RolloutReward`.

        r(q, a) = (1 / T) Σ_t KL(U ‖ π(· | q, a_{<t})) = −(1 / (T V)) Σ_t Σ_v log(V π(v | q, a_{<t}))

    π is the policy that sampled the rollout, at the temperature of the rollout.

    Args:
        measured: the reward by query and sample index, once the reward is bound to a rollout.
    """

    measured: Mapping[tuple[str, int], float] = field(default_factory=dict)

    def in_rollout(self, sampled: Sampled) -> "ConfidenceReward":
        """See `RolloutReward`."""

        def measure(policy: Policy, indices: Tensor) -> list[float]:
            own: list[float] = policy.confidence(sampled.batch.select_prompts(indices)).tolist()
            return own

        parts = torch.arange(sampled.batch.prompt_count).split(sampled.prompts_per_pass)
        values = [value for part in map_over_copies(measure, sampled.policy, parts) for value in part]
        keys = [(response.query_id, response.sample_index) for response in sampled.responses]
        return ConfidenceReward(dict(zip(keys, values, strict=True)))

    def __call__(self, queries: Sequence[Query], responses: Sequence[Response]) -> Rewards:  # noqa: ARG002
        """See `RewardFunction`; each response must be one of the rollout."""
        reward = torch.tensor([self.measured[response.query_id, response.sample_index] for response in responses])
        return Rewards(reward, {"confidence": reward})


@dataclass(frozen=True, kw_only=True)
class Coin:
    """A reward without information: 1 with a probability, whatever the response says (arXiv:2506.10947).

    Args:
        probability: of the reward 1; else it is 0.
    """

    compares_answers: ClassVar[bool] = False

    queries: Stream = "balanced"
    probability: float = 0.5

    def __post_init__(self) -> None:
        check_stream("verifiable", self.queries)
        if not 0 < self.probability < 1:
            raise ValueError(
                f"reward_mix.verifiable.probability={self.probability}: must be above 0 and below 1, so that rewards "
                "differ."
            )

    def build(self, inputs: RewardInputs) -> RewardFunction:  # noqa: ARG002
        """See `Source`."""
        return CoinReward(self.probability)


@dataclass(frozen=True)
class CoinReward:
    """A coin for each response, keyed by the rollout's seed, its query and its sample index; a `RolloutReward`.

    No generator has a state: a training that goes on after an interruption tosses the same coins, on any number of
    processes.
    """

    probability: float
    seed: int = 0  # of the rollout

    def in_rollout(self, sampled: Sampled) -> "CoinReward":
        """See `RolloutReward`."""
        return replace(self, seed=sampled.seed)

    def __call__(self, queries: Sequence[Query], responses: Sequence[Response]) -> Rewards:  # noqa: ARG002
        """See `RewardFunction`."""
        tosses = [random.Random(f"coin {self.seed} {one.query_id} {one.sample_index}").random() for one in responses]
        reward = torch.tensor([float(toss < self.probability) for toss in tosses])
        return Rewards(reward, {"coin": reward})


@dataclass(frozen=True, kw_only=True)
class NoiseCorrected:
    """The label's verdict, 1 or 0, corrected for labels that are wrong: arXiv:2510.00915 (`CorrectedReward`)."""

    compares_answers: ClassVar[bool] = True

    queries: Stream = "balanced"

    def __post_init__(self) -> None:
        check_stream("verifiable", self.queries, WITH_LABELS)

    def build(self, inputs: RewardInputs) -> RewardFunction:
        """See `Source`."""
        assert inputs.labels is not None  # a row whose mix compares answers has labels
        assert inputs.noise is not None  # estimated for each row that corrects noise
        return CorrectedReward(VerifiableReward(inputs.labels, 1.0, 0.0, 0.0), inputs.noise)


@dataclass(frozen=True)
class CorrectedReward:
    """The backward correction of a noisy verdict r in {0, 1}: arXiv:2510.00915.

    r̂ = (r − ρ0) / (1 − ρ0 − ρ1),    E[r̂ | response] = 1 if it is right, 0 if it is wrong
    """

    reward: RewardFunction
    noise: NoiseRates

    def __call__(self, queries: Sequence[Query], responses: Sequence[Response]) -> Rewards:
        """See `RewardFunction`."""
        inner = self.reward(queries, responses)
        corrected = (inner.total - self.noise.false_positive) / self.noise.margin
        return Rewards(corrected, {**inner.components, "corrected": corrected})
