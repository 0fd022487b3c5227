"""The time of a plan's stages on this machine, from short measurements.

Each model answers some of the real queries, once greedily and once with several samples. The student is trained on some
of these responses. The measured times are scaled up. Models too large to load for an estimate get none.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice

import torch
from transformers import PreTrainedTokenizerBase

from rkd.data.prompts import PromptTemplate
from rkd.data.recorded_model import RecordedTeacher
from rkd.generation.endpoint_server import EndpointModel
from rkd.generation.local import LocalGenerator, LocalModel, open_generator
from rkd.jobs.work_plan import aligned, first_pass_sampling
from rkd.judges.base import ConfiguredJudge, NoJudge, asks_model
from rkd.models.batches import ResponseBatch, collate, in_parts
from rkd.models.cpu_workers import SMALL, mean_loss, part_count, worker_count
from rkd.models.policy import Policy
from rkd.pipeline.experiment import Stages
from rkd.protocols import Sampling
from rkd.records import Query, Response
from rkd.work import ANNOTATOR, FEW_SHOT, JUDGE, STUDENT, TEACHER, Work, short_number

MEASURED_RESPONSES = 384  # several per query; with 96 each costs 1.6 to 2.2 times as much, a greedy one the same
MEASURED_GREEDY, MEASURED_BATCH = 64, 64


@dataclass(frozen=True, slots=True)
class SamplingCost:
    """Seconds per query, and per response to it."""

    query: float
    response: float


@dataclass(frozen=True, slots=True)
class Speed:
    """The speed of this machine."""

    sampling: Mapping[str, SamplingCost]  # by model
    training: Mapping[int, float]  # seconds per response of the student, by the number of responses that share a prompt
    judging: Mapping[str, float | None] = field(default_factory=dict)  # seconds per verdict; None: not measured

    def seconds(self, work: Work) -> float | None:
        """The approximate seconds of a stage; None if its parts were not measured."""
        if work.judged:
            seconds = self.judging.get(work.model)
            return None if seconds is None else work.judged * seconds
        trained = work.trained * self.training[work.group_size] if work.trained else 0.0
        if not work.asked:
            return trained
        cost = self.sampling[work.model]
        return work.queries * cost.query + work.sampled * cost.response + trained


def measure(s: Stages, work: Sequence[Work], *, largest: int = SMALL) -> Speed | None:
    """The costs of the parts of this work on this machine.

    None if a model has more than `largest` parameters, if another engine samples than the measured one, or if the
    teacher is behind a server, whose speed shows only in its progress.
    """
    if s.teacher.is_remote:
        return None
    if not s.generation.is_measured or max(model.weights() for model in _loaded(s)) > largest:
        return None
    queries = s.dataset.validation_queries()[:MEASURED_RESPONSES]
    generators = {
        FEW_SHOT: open_generator(s.student.source(), s.student.prompt, FEW_SHOT, options=s.student.options),
        STUDENT: open_generator(s.student.source(), s.zero_shot, STUDENT, options=s.student.options),
    }
    several = {FEW_SHOT: s.student_samples.sampling, STUDENT: s.student_samples.sampling}
    teacher: LocalGenerator | RecordedTeacher
    if s.teacher.is_recorded:
        teacher = s.teacher.source()
    else:
        own = s.teacher
        teacher = generators[TEACHER] = open_generator(own.source(), own.prompt, TEACHER, options=own.options)
        several[TEACHER] = first_pass_sampling(s)
    measured = {
        model: _sampling_cost(generator, queries, s.evaluation.greedy, several[model])
        for model, generator in generators.items()
    }
    # SFT trains the student to answer like its teacher, and so at the same length.
    tokenizer = generators[STUDENT].tokenizer
    taught, students = (
        _tokens(generator, queries, s.evaluation.greedy, s.zero_shot, tokenizer)
        for generator in (teacher, generators[STUDENT])
    )
    student, longer = measured[STUDENT], sum(map(len, taught)) / sum(map(len, students))
    sampling = {**measured, STUDENT: SamplingCost(student.query, student.response * longer)}
    prompts = s.zero_shot.encode(queries, tokenizer)
    policy = Policy(generators[STUDENT].model)
    training = {
        size: _training_seconds(policy, _batch(prompts, taught, size))
        for size in {one.group_size for one in work if one.trained}
    }
    asked_judges = {one.model for one in work if one.judged}
    judging = {
        role: _verdict_seconds(judge, asked, s, generators[STUDENT], largest)
        for role, judge, asked in ((JUDGE, s.judge, queries), (ANNOTATOR, s.evaluation.annotator, _first_test(s)))
        if role in asked_judges
    }
    return Speed(sampling, training, judging)


def _first_test(s: Stages) -> list[Query]:
    return next(iter(s.dataset.test_sets().values()))


def _verdict_seconds(
    judge: ConfiguredJudge | NoJudge, queries: Sequence[Query], s: Stages, student: LocalGenerator, largest: int
) -> float | None:
    """Seconds per verdict of a small local judge, on one response of the student per query; else None."""
    try:
        if not asks_model(judge) or judge.is_remote or judge.weights() > largest:
            return None
    except ValueError:  # the model is missing, so its size is unknown
        return None
    asked = queries[:MEASURED_BATCH]
    responses = [own for (own,) in student.generate(asked, s.evaluation.greedy, 0)]
    opened = judge.open()
    opened.verdicts(asked[:1], responses[:1])  # a warm-up
    return _timed(lambda: opened.verdicts(asked[1:], responses[1:])) / max(1, len(asked) - 1)


def _sampling_cost(
    generator: LocalGenerator, queries: Sequence[Query], greedy: Sampling, several: Sampling
) -> SamplingCost:
    """The costs of a model from two measurements: one response per query, and several.

    A response costs less if there are several: they share the reading of the prompt and of equal beginnings.
    """
    cores, samples = worker_count(generator.model), several.samples_per_query

    def seconds(responses: int, sampling: Sampling) -> float:
        asked = queries[: max(1, responses // sampling.samples_per_query)]
        for_each_core = replace(generator, batch_responses=math.ceil(responses / cores))
        return _timed(lambda: for_each_core.generate(asked, sampling, 0)) / len(asked)

    one, of_several = seconds(MEASURED_GREEDY, greedy), seconds(MEASURED_RESPONSES, several)
    of_query = max(0.0, samples * one - of_several) / max(1, samples - 1)
    return SamplingCost(of_query, max(0.0, of_several - of_query) / samples)


def _tokens(
    generator: LocalGenerator | RecordedTeacher,
    queries: Sequence[Query],
    sampling: Sampling,
    prompt: PromptTemplate,
    tokenizer: PreTrainedTokenizerBase,
) -> list[list[int]]:
    """The tokens of the first responses to as many queries as a training step has."""
    asked = queries[:MEASURED_BATCH]
    if isinstance(generator, RecordedTeacher):
        responses = [own for own in map(_texts, generator.recorded(asked)) if own] or [[Response("", "", 0, "–", True)]]
    else:
        responses = generator.generate(asked, sampling, 0)
    texts = [own[0].text for own in responses]
    return prompt.encode_responses(texts, [True] * len(texts), tokenizer)


def _texts(responses: Sequence[Response]) -> list[Response]:
    """The responses that have a text."""
    return [one for one in responses if not one.only_votes]


def _batch(prompts: Sequence[list[int]], responses: Sequence[list[int]], group_size: int) -> ResponseBatch:
    """A batch of different prompts with `group_size` responses each; equal prompts would be read only once.

    A response may belong to another prompt: a pass over it takes the same time.
    """
    count = max(1, min(MEASURED_BATCH, len(responses)) // group_size)
    return collate(prompts[:count], list(islice(cycle(responses), count * group_size)))


def _training_seconds(policy: Policy, batch: ResponseBatch) -> float:
    """Seconds of a forward and backward pass per response of the batch, after a warm-up pass."""
    parts = in_parts(batch, part_count(policy, batch.tokens))

    def train() -> None:
        mean_loss(policy, lambda part: (policy(part).logprobs.sum(), {}), parts)[0].backward()

    train()
    return _timed(train) / len(batch.response_ids)


def _timed(work: Callable[[], object]) -> float:
    started = _seconds()
    work()
    return _seconds() - started


def _seconds() -> float:
    """The time, once a GPU has done all that it was given: its work goes on after the calls have returned."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def plan_lines(work: Sequence[Work], speed: Speed | None) -> list[str]:
    """Lines with the stages, their sizes and, if measured, their times."""
    rows = [("stage", "size, about", "tokens, at most", "time, about")]
    for one in work:
        seconds = speed.seconds(one) if speed else None
        rows.append((one.stage, one.amount, short_number(one.tokens), "–" if seconds is None else _duration(seconds)))
    if speed:
        total = _duration(sum(speed.seconds(one) or 0.0 for one in work))
        rows.append(("all", "what was made before is reused and takes no time", "", total))
    return aligned(rows, left=2)


def _loaded(s: Stages) -> list[LocalModel | EndpointModel]:
    """The models of the row that would be loaded."""
    return [s.student] if s.teacher.is_recorded else [s.teacher, s.student]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
