"""How the model of a row answers test queries: a generator and the reward model enter, a generator leaves.

Paper D answers greedily. The row "best of n" trains no policy; it answers with the sample that R ranks first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from rkd.protocols import RewardFunction, Sampling, TextGenerator
from rkd.records import Query, Response


class Inference(Protocol):
    """How a model answers a test query; `needs_reward_model` states whether it uses a reward model."""

    needs_reward_model: ClassVar[bool]

    def drawn(self, sampling: Sampling) -> Sampling:
        """The sampling settings of the model for a test that asks for `sampling`."""
        ...

    def over(self, generator: TextGenerator, build_reward: Callable[[], RewardFunction]) -> TextGenerator:
        """A generator whose responses are chosen from those of `generator`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AsAsked:
    """Answers with the model's own greedy responses, as in paper D."""

    needs_reward_model: ClassVar[bool] = False

    def drawn(self, sampling: Sampling) -> Sampling:
        """See `Inference`."""
        return sampling

    def over(self, generator: TextGenerator, build_reward: Callable[[], RewardFunction]) -> TextGenerator:  # noqa: ARG002
        """See `Inference`."""
        return generator


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfN:
    """Answers with the sample of highest R(q, a) among n, the first one among equals.

    Args:
        samples_per_query: n.
        temperature: temperature of the samples; R was trained on samples at 0.7.
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
        """One response to each query, regardless of the temperature and number in `sampling`."""
        drawn, n = self.generator.generate(queries, self.how.drawn(sampling), seed), self.how.samples_per_query
        flat = [response for own in drawn for response in own]
        rewards = self.reward([query for query in queries for _ in range(n)], flat).total
        best = rewards.view(len(queries), n).max(1).indices if queries else ()
        return [[own[int(place)]] for own, place in zip(drawn, best, strict=True)]
