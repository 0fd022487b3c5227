"""Paper D's bound (appendix A): a gain in the proxy reward that is trained on bounds the gain in the true reward.

    J*(RL) − J*(SFT) ≥ J_p(RL) − J_p(SFT) − 2ε/(1 − γ),    ε ≥ |r_p(q, a) − r*(q, a)| for all responses

A response counts as one action, so γ = 0. r* is 1 for a right answer, else 0. r_p is the label's verdict 1[y = y*], or
σ(R) of the reward model. 2ε is estimated by twice the largest sampled error. The sum of both policies' mean errors is
valid too, because |J_p − J*| ≤ E|r_p − r*|. Shapes: n responses of each policy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from rkd.evaluation.results import BoundSides
from rkd.protocols import Sampling, TextGenerator
from rkd.records import Query, Response


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Samples the responses that the bound is measured on, to the validation queries that have a label."""

    is_left_out: ClassVar[Literal[False]] = False

    samples_per_query: int
    temperature: float
    max_response_tokens: int

    def sample(self, generator: TextGenerator, queries: Sequence[Query], seed: int) -> list[list[Response]]:
        """The samples of each query, in the order of the queries."""
        sampling = Sampling(self.temperature, self.samples_per_query, self.max_response_tokens)
        return generator.generate(queries, sampling, seed)


@dataclass(frozen=True)
class NoBound:
    """The bound is not measured."""

    is_left_out: ClassVar[Literal[True]] = True


def sides(true_before: Tensor, proxy_before: Tensor, true_after: Tensor, proxy_after: Tensor) -> BoundSides:
    """Both sides of the bound, from sampled rewards in [0, 1] before and after RL, (n,) each."""
    errors = [(proxy_before - true_before).abs(), (proxy_after - true_after).abs()]
    gain = float(proxy_after.mean() - proxy_before.mean())
    return BoundSides(
        true_gain=float(true_after.mean() - true_before.mean()),
        proxy_gain=gain,
        by_mean_error=gain - sum(float(error.mean()) for error in errors),
        by_largest_error=gain - 2 * max(float(error.max()) for error in errors),
    )
