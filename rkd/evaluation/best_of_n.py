"""How the model of a row answers test queries: a generator and the reward model enter, a generator leaves.

Paper D answers greedily. The row best of n trains no policy: of several samples it takes the one that R ranks first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from rkd.protocols import RewardFunction, Sampling, TextGenerator
from rkd.records import Query, Response


class Inference(Protocol):
    """How a model answers a test query; `needs_reward_model`: whether it asks a reward model."""

    needs_reward_model: ClassVar[bool]

    def drawn(self, sampling: Sampling) -> Sampling:
        """What is drawn from the model where a test asks for `sampling`."""
        ...

    def over(self, generator: TextGenerator, build_reward: Callable[[], RewardFunction]) -> TextGenerator:
        """What answers with the responses of `generator`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AsAsked:
    """The model's own responses: greedy ones, as paper D tests."""

    needs_reward_model: ClassVar[bool] = False

    def drawn(self, sampling: Sampling) -> Sampling:
        """See `Inference`."""
        return sampling

    def over(self, generator: TextGenerator, build_reward: Callable[[], RewardFunction]) -> TextGenerator:  # noqa: ARG002
        """See `Inference`."""
        return generator


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfN:
    """Of n samples of a query the one with the highest R(q, a), of equal ones the first.

    Args:
        samples_per_query: n.
        temperature: of the samples; 0.7 is that of those which R was trained on.
    """

    needs_reward_model: ClassVar[bool] = True

    samples_per_query: int
    temperature: float = 0.7

    def __post_init__(self) -> None:
        if self.samples_per_query < 2 or self.temperature <= 0:
            raise ValueError(
                f"evaluation.inference.samples_per_query={self.samples_per_query}, temperature={self.temperature}: the "
                "best of n needs at least 2 samples, and a temperature above 0 to tell them apart."
            )

    def drawn(self, sampling: Sampling) -> Sampling:
        """See `Inference`."""
        return replace(sampling, temperature=self.temperature, samples_per_query=self.samples_per_query)

    def over(self, generator: TextGenerator, build_reward: Callable[[], RewardFunction]) -> TextGenerator:
        """See `Inference`."""
        return _Chooser(generator, build_reward(), self)


@dataclass(frozen=True)
class _Chooser:
    generator: TextGenerator
    reward: RewardFunction
    how: BestOfN

    @property
    def name(self) -> str:
        return self.generator.name

    def generate(self, queries: Sequence[Query], sampling: Sampling, seed: int) -> list[list[Response]]:
        """One response to each query, whatever `sampling` asks for."""
        drawn, n = self.generator.generate(queries, self.how.drawn(sampling), seed), self.how.samples_per_query
        flat = [response for own in drawn for response in own]
        rewards = self.reward([query for query in queries for _ in range(n)], flat).total
        best = rewards.view(len(queries), n).max(1).indices if queries else ()
        return [[own[int(place)]] for own, place in zip(drawn, best, strict=True)]
