"""Sampling from the models of a row, through the store: queries enter, responses leave.

A step's fingerprint names everything that decides its result, so that rows and seeds share equal results.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rkd.data.prompts import PromptTemplate
from rkd.data.recorded_model import RecordedTeacher
from rkd.evaluation.results import Notes
from rkd.generation.endpoint_server import Advance
from rkd.generation.endpoint_teacher import EndpointTeacher
from rkd.generation.local import LocalModel, content_files
from rkd.generation.resumable import InShards
from rkd.models.loading import ModelOptions
from rkd.pipeline.experiment import Stages
from rkd.pipeline.stage_runner import StageRunner
from rkd.protocols import TextGenerator
from rkd.records import Checkpoint, Query, Response
from rkd.store.fingerprint import digest_of_files
from rkd.store.partial_results import PartialResults

Source = Checkpoint | RecordedTeacher | EndpointTeacher
"""The source of a row's responses: a checkpoint, recorded responses, or a model behind a server."""

Draw = Callable[[TextGenerator, Sequence[Query], int], list[list[Response]]]
"""Samples responses to the queries from a generator, with a seed."""


class Step:
    """The common part of the steps that sample from a row's models."""

    def __init__(self, stages: Stages, runner: StageRunner, notes: Notes) -> None:
        self.stages, self.runner, self.notes = stages, runner, notes

    def _options(self, model: str) -> ModelOptions:
        """The loading options of the teacher, or of the student and the models trained from it."""
        own = self.stages.teacher if model == "teacher" else self.stages.student
        return own.options if isinstance(own, LocalModel) else ModelOptions()

    def _responses(
        self,
        name: str,
        fingerprint: Mapping[str, Any],
        queries: list[Query],
        asked: tuple[str, Source, PromptTemplate | None, Draw],
    ) -> list[list[Response]]:
        """Responses to the queries; `asked` holds the role, its source, its prompt, and the function that draws."""
        role, source, prompt, draw = asked

        def sample(partial: PartialResults) -> list[list[Response]]:
            with self.runner.progress(f"sampling from the {role}", len(queries)) as advance:
                generator = self._generator(role, role, source, prompt, partial, advance)
                return draw(generator, queries, self.stages.sampling_seed)

        return self.runner.responses(name, fingerprint, queries, sample)

    def _generation_fingerprint(self, source: Source) -> Any:
        """The part of the sampling settings that decides the responses."""
        engine = self.stages.generation
        if not isinstance(source, Checkpoint):
            return None
        return [engine, self.runner.responses_per_shard] if engine.batches_decide else engine

    def _generator(
        self,
        name: str,
        model: str,
        source: Source,
        prompt: PromptTemplate | None,
        partial: PartialResults,
        advance: Advance,
    ) -> TextGenerator:
        """The generator of this name: recorded responses, or a model whose finished shards `partial` keeps."""
        if isinstance(source, RecordedTeacher):
            return source
        if isinstance(source, EndpointTeacher):
            generator = source.open(name, partial, advance)
            return InShards(generator, partial, advance, self.runner.responses_per_shard)
        assert prompt is not None  # only recorded responses have none
        own = self.stages.generation.open(source, prompt, name, advance, self._options(model))
        return InShards(own, partial, advance, self.runner.responses_per_shard, own.tokenizer)


def content_of(source: Source) -> Source:
    """The checkpoint with a digest of the files that decide its responses: weights, configuration and tokenizer."""
    if not isinstance(source, Checkpoint):
        return source
    return Checkpoint(source.folder, digest_of_files(content_files(source.folder)))
