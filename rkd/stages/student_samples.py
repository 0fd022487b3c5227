"""Stage 4, student samples (paper D, section 3, Eq. 4): queries enter, the warm student's responses leave."""

from collections.abc import Sequence
from dataclasses import dataclass

from rkd.protocols import Sampling, TextGenerator
from rkd.records import Query, Response, ScoredResponse
from rkd.work import STUDENT, Sizes, Work, about


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentSamples:
    """The student's responses S(q) to each query of D_TeachCan.

    Args:
        samples_per_query: 30 in paper D.
        temperature: 0.7 in paper D.
        max_response_tokens: tokens of the student's tokenizer.
    """

    samples_per_query: int = 30
    temperature: float = 0.7
    max_response_tokens: int

    def __post_init__(self) -> None:
        if self.samples_per_query < 2 or self.temperature <= 0:
            raise ValueError(
                f"student_samples.samples_per_query={self.samples_per_query}, temperature={self.temperature}: pairs "
                "need at least 2 samples, and a temperature above 0 to tell them apart."
            )

    @property
    def sampling(self) -> Sampling:
        """The sampling settings of a query."""
        return Sampling(self.temperature, self.samples_per_query, self.max_response_tokens)

    def planned_work(self, sizes: Sizes) -> list[Work]:
        """All queries with a label, if the student is sampled at all."""
        if not sizes.sampled:
            return []
        amount = f"{about(sizes.sampled)} queries × {self.samples_per_query} samples"
        asked = [(sizes.sampled, self.sampling)]
        return [Work("student samples", amount, STUDENT, self.max_response_tokens, asked)]

    def sample(self, generator: TextGenerator, queries: Sequence[Query], seed: int) -> list[list[Response]]:
        """The samples of each query, in the order of the queries."""
        return generator.generate(queries, self.sampling, seed)


def balanced(scored: Sequence[Sequence[ScoredResponse]]) -> list[int]:
    """The positions of the queries of D_R (Eq. 4): those whose samples do not all have the same score.

    For a verifiable task, this drops the queries answered all right or all wrong. Samples without a verdict (`score`
    None) are ignored, so a query without a label is dropped.
    """
    return [index for index, own in enumerate(scored) if len({one.score for one in own if one.score is not None}) > 1]
