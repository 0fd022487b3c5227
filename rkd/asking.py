"""How the models of a row are asked, through the store: queries enter, responses leave.

A step's recipe names everything that decides what it makes, so that rows and seeds share what is equal.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rkd.endpoint import Told
from rkd.endpoint_teacher import EndpointTeacher
from rkd.generation import LocalModel, content_files
from rkd.loading import ModelOptions
from rkd.progress import Progress
from rkd.prompts import PromptTemplate
from rkd.protocols import TextGenerator
from rkd.recipes import digest_of_files
from rkd.records import Checkpoint, Query, Response
from rkd.results import BoundSides
from rkd.shards import InShards
from rkd.stages import Stages
from rkd.stored import StoredTeacher
from rkd.verdict_records import GradeStatistics, JudgeQuality, LabelStatistics, VerdictCounts
from rkd.workshop import Workshop

Source = Checkpoint | StoredTeacher | EndpointTeacher
"""What answers as a model of a row: a checkpoint, recorded responses, or a model behind a server."""

Draw = Callable[[TextGenerator | StoredTeacher, Sequence[Query], int], list[list[Response]]]
"""Samples responses to the queries from a generator, with a seed."""


@dataclass
class Notes:
    """What the steps of a row note for its result (`rkd.results.RunResult` describes the fields)."""

    counts: dict[str, int | float] = field(default_factory=dict)
    labels: LabelStatistics | None = None
    verdicts: VerdictCounts | None = None
    judge: JudgeQuality | None = None
    reward_model: dict[str, float] = field(default_factory=dict)
    histories: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    bound: dict[str, BoundSides] = field(default_factory=dict)
    grades: dict[str, GradeStatistics] = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)


class Asking:
    """What the steps that ask a row's models have in common."""

    def __init__(self, stages: Stages, workshop: Workshop, notes: Notes) -> None:
        self.stages, self.workshop, self.notes = stages, workshop, notes

    def _options(self, model: str) -> ModelOptions:
        """How the teacher, or a model that came of the student, is loaded."""
        own = self.stages.teacher if model == "teacher" else self.stages.student
        return own.options if isinstance(own, LocalModel) else ModelOptions()

    def _responses(
        self,
        name: str,
        recipe: Mapping[str, Any],
        queries: list[Query],
        asked: tuple[str, Source, PromptTemplate | None, Draw],
    ) -> list[list[Response]]:
        """Responses to the queries; `asked` is a role, what stands in it, its prompt, and what draws from it."""
        role, source, prompt, draw = asked

        def sample(progress: Progress) -> list[list[Response]]:
            with self.workshop.progress(f"sampling from the {role}", len(queries)) as advance:
                generator = self._generator(role, role, source, prompt, progress, advance)
                return draw(generator, queries, self.stages.sampling_seed)

        return self.workshop.responses(name, recipe, queries, sample)

    def _generation_recipe(self, source: Source) -> Any:
        """What of the way of sampling decides the responses."""
        engine = self.stages.generation
        if not isinstance(source, Checkpoint):
            return None
        return [engine, self.workshop.responses_per_shard] if engine.batches_decide else engine

    def _generator(
        self,
        name: str,
        model: str,
        source: Source,
        prompt: PromptTemplate | None,
        progress: Progress,
        advance: Told,
    ) -> TextGenerator | StoredTeacher:
        """What answers queries under this name: recorded responses, or a model whose shards `progress` keeps."""
        if isinstance(source, StoredTeacher):
            return source
        if isinstance(source, EndpointTeacher):
            generator = source.open(name, progress, advance)
            return InShards(generator, progress, advance, self.workshop.responses_per_shard)
        own = self.stages.generation.open(source, prompt, name, advance, self._options(model))
        return InShards(own, progress, advance, self.workshop.responses_per_shard, own.tokenizer)


def content_of(source: Source) -> Source:
    """The checkpoint under a digest of what decides its answers: weights, configuration and tokenizer."""
    if not isinstance(source, Checkpoint):
        return source
    return Checkpoint(source.folder, digest_of_files(content_files(source.folder)))
