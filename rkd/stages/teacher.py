"""Stage 1, teacher generation (paper D, section 3, appendix): queries enter, the teacher's responses leave.

Paper D draws five samples at each of the temperatures 0, 0.1, 0.2, 0.3. A query without consensus gets a second pass,
with five samples at each of 0.1, 0.2, …, 1.0. The vote selects these queries (`rkd.stages.labels.two_pass`). A stored
teacher has recorded responses instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from rkd.data.recorded_model import RecordedTeacher
from rkd.protocols import Sampling, TextGenerator
from rkd.records import Query, Response
from rkd.work import TEACHER, Sizes, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """One pass over the queries: a number of samples at each temperature, in this order; temperature 0 is greedy."""

    temperatures: Sequence[float]
    samples_per_temperature: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperatures", tuple(map(float, self.temperatures)))
        if not self.temperatures or len(set(self.temperatures)) < len(self.temperatures) or min(self.temperatures) < 0:
            raise ValueError(f"temperatures={self.temperatures}: give at least one, each once, none below 0.")
        if self.samples_per_temperature < 1:
            raise ValueError(f"samples_per_temperature={self.samples_per_temperature}: must be at least 1.")

    @property
    def samples_per_query(self) -> int:
        """Number of responses to each query in this pass."""
        return len(self.temperatures) * self.samples_per_temperature

    @property
    def drawn_temperatures(self) -> tuple[float, ...]:
        """The temperature of each drawn text; greedy samples share one text, which has all their votes."""
        count = self.samples_per_temperature
        return tuple(t for t in self.temperatures for _ in range(count if t > 0 else 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSamples:
    """How the large model answers the training queries.

    Args:
        first_pass: the samples of every query.
        second_pass: further samples of a query without consensus; None leaves this pass out.
        max_response_tokens: tokens of the teacher's tokenizer.
    """

    is_recorded: ClassVar[Literal[False]] = False

    first_pass: Schedule
    second_pass: Schedule | None
    max_response_tokens: int

    def first(self, generator: TextGenerator, queries: Sequence[Query], seed: int) -> list[list[Response]]:
        """The first-pass responses to each query; `sample_index` counts them from 0 in order of sampling."""
        return self._run(self.first_pass, 0, generator, queries, seed)

    def second(self, generator: TextGenerator, queries: Sequence[Query], seed: int) -> list[list[Response]]:
        """The second-pass responses, with `sample_index` continued from the first pass; [] without a second pass."""
        if self.second_pass is None:
            return [[] for _ in queries]
        return self._run(self.second_pass, self.first_pass.samples_per_query, generator, queries, seed)

    def sampling(self, schedule: Schedule) -> Sampling:
        """The sampling settings of a query in a pass: one text for each drawn temperature."""
        drawn = schedule.drawn_temperatures
        return Sampling(drawn, len(drawn), self.max_response_tokens)

    def planned_work(self, sizes: Sizes) -> list[Work]:
        """The passes, if the teacher is used at all. Grades have no consensus, so they need no second pass."""

        def one(name: str, schedule: Schedule, asked: float) -> Work:
            sampling = self.sampling(schedule)
            amount = f"{asked:,.0f} queries × {sampling.samples_per_query} samples"
            return Work(f"teacher, {name} pass", amount, TEACHER, sampling.max_response_tokens, [(asked, sampling)])

        if not sizes.answered:
            return []
        work = [one("first", self.first_pass, sizes.answered)]
        if self.second_pass is not None and not sizes.is_graded:
            work.append(one("second", self.second_pass, sizes.expected.second_pass * sizes.answered))
        return work

    def _run(
        self, schedule: Schedule, first_index: int, generator: TextGenerator, queries: Sequence[Query], seed: int
    ) -> list[list[Response]]:
        sampling = self.sampling(schedule)
        votes = [1 if temperature > 0 else schedule.samples_per_temperature for temperature in sampling.temperatures]
        responses = []
        for own in generator.generate(queries, sampling, _seed_of(seed, first_index)):
            voting = [response for response, count in zip(own, votes, strict=True) for _ in range(count)]
            responses.append([replace(one, sample_index=index) for index, one in enumerate(voting, start=first_index)])
        return responses


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSamples:
    """The responses of a stored teacher: every recorded one, in one pass."""

    is_recorded: ClassVar[Literal[True]] = True

    first_pass: None = None  # the sampling settings are not known
    second_pass: None = None
    max_response_tokens: None = None

    def planned_work(self, sizes: Sizes) -> list[Work]:  # noqa: ARG002
        """Return no work: the responses exist already."""
        return []

    def first(self, generator: TextGenerator, queries: Sequence[Query], seed: int) -> list[list[Response]]:  # noqa: ARG002
        """All responses to each query.

        Raises:
            ValueError: the teacher is not a stored one, or has no response to any query.
        """
        if not isinstance(generator, RecordedTeacher):
            raise ValueError(
                "teacher_samples=recorded takes the responses of files: choose teacher=stored or teacher=recorded."
            )
        responses = generator.recorded(queries)
        if not any(responses):
            raise ValueError(
                f"{generator.path} has no response to any of the {len(queries)} queries (first: {queries[0].id!r}). "
                f"{generator.matching}"
            )
        return responses

    def second(self, generator: TextGenerator, queries: Sequence[Query], seed: int) -> list[list[Response]]:  # noqa: ARG002
        """Return no further responses."""
        return [[] for _ in queries]


def _seed_of(seed: int, sample_index: int) -> int:
    """A seed for the samples from this index on; with one seed, both passes would draw the same texts."""
    return int(np.random.SeedSequence([seed, sample_index]).generate_state(1)[0])
