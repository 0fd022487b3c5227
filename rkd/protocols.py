"""The protocols of roles with more than one implementation, and the records that they exchange.

Shapes: B responses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from rkd.records import Query, Response


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw responses; lengths are in tokens of the model's tokenizer.

    `temperature` is one number for all samples, or one for each sample of a query; 0 is greedy decoding.
    """

    temperature: float | tuple[float, ...]
    samples_per_query: int
    max_response_tokens: int
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if self.samples_per_query < 1 or self.max_response_tokens < 1:
            raise ValueError(
                f"samples_per_query={self.samples_per_query}, max_response_tokens={self.max_response_tokens}: "
                "both must be at least 1."
            )
        if len(self.temperatures) != self.samples_per_query or min(self.temperatures) < 0:
            raise ValueError(
                f"temperature={self.temperature}: must be 0 (greedy) or above, one number for all samples or one for "
                f"each of samples_per_query={self.samples_per_query}."
            )
        if not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(f"top_p={self.top_p} must be in (0, 1], top_k={self.top_k} at least 0 (0 keeps all).")

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The temperature of each sample of a query."""
        return self.temperature if isinstance(self.temperature, tuple) else (self.temperature,) * self.samples_per_query


@dataclass(frozen=True, slots=True)
class Rewards:
    """The reward of each response, (B,), and the named parts that it is made of, (B,) each; all without gradient."""

    total: Tensor
    components: Mapping[str, Tensor]


class TextGenerator(Protocol):
    """Draws texts from a language model, local or remote."""

    @property
    def name(self) -> str:
        """The name that is recorded with each response."""
        ...

    def generate(self, queries: Sequence[Query], sampling: Sampling, seed: int) -> list[list[Response]]:
        """`sampling.samples_per_query` responses for each query, in the order of the queries."""
        ...


class Judge(Protocol):
    """Says how good a response is."""

    def judge(self, queries: Sequence[Query], responses: Sequence[Response]) -> list[float | None]:
        """One verdict for each (query, response); None where it could not be read."""
        ...


class RewardFunction(Protocol):
    """Scores responses for reinforcement learning."""

    def __call__(self, queries: Sequence[Query], responses: Sequence[Response]) -> Rewards:
        """Rewards of the responses; `queries[i]` is the query of `responses[i]`."""
        ...
