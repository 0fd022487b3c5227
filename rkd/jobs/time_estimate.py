"""How long the stages of a plan take here: measured, not guessed.

Each model answers some of the real queries, once greedily and once with several samples, the student is trained on some
of these answers, and what that cost is multiplied. Models too large to be loaded for an estimate get none.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice

from transformers import PreTrainedTokenizerBase

from rkd.data.recorded_responses import StoredTeacher
from rkd.generation.endpoint_server import EndpointModel
from rkd.generation.local import LocalGenerator, LocalModel, open_generator
from rkd.jobs.work_plan import aligned, first_pass_sampling
from rkd.judges.base import ConfiguredJudge, NoJudge, asks_model
from rkd.models.batches import ResponseBatch, collate, encode_responses, in_parts
from rkd.models.cpu_workers import SMALL, mean_loss, part_count, worker_count
from rkd.models.policy import Policy
from rkd.pipeline.experiment import Stages
from rkd.protocols import Sampling
from rkd.records import Query, Response
from rkd.work import ANNOTATOR, FEW_SHOT, JUDGE, STUDENT, TEACHER, Work, short_number

MEASURED_RESPONSES = 384  # several to a query; 96 of them cost 1.6 to 2.2 times as much each, greedy ones as much
MEASURED_GREEDY, MEASURED_BATCH = 64, 64


@dataclass(frozen=True, slots=True)
class SamplingCost:
    """Seconds for one query, and for each response to it."""

    query: float
    response: float


@dataclass(frozen=True, slots=True)
class Speed:
    """What this machine needs."""

    sampling: Mapping[str, SamplingCost]  # of each model
    training: Mapping[int, float]  # seconds for one response of the student, by the responses that share a prompt
    judging: Mapping[str, float | None] = field(default_factory=dict)  # seconds for a verdict; None: not measured

    def seconds(self, work: Work) -> float | None:
        """How long a stage takes about; None where that was not measured."""
        if work.judged:
            seconds = self.judging.get(work.model)
            return None if seconds is None else work.judged * seconds
        cost = self.sampling[work.model]
        trained = work.trained * self.training[work.group_size] if work.trained else 0.0
        return work.queries * cost.query + work.sampled * cost.response + trained


def measure(s: Stages, work: Sequence[Work], *, largest: int = SMALL) -> Speed | None:
    """What the parts of this work cost here.

    None where a model has more than `largest` parameters, another engine samples than the one that is measured, or the
    teacher is asked over a network: how fast its server is, its progress tells.
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
    teacher: LocalGenerator | StoredTeacher
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
    # SFT teaches the student to answer as its teacher does, and so at the same length.
    tokenizer = generators[STUDENT].tokenizer
    taught, students = (
        _tokens(generator, queries, s.evaluation.greedy, tokenizer) for generator in (teacher, generators[STUDENT])
    )
    student, longer = measured[STUDENT], sum(map(len, taught)) / sum(map(len, students))
    sampling = {**measured, STUDENT: SamplingCost(student.query, student.response * longer)}
    prompts = s.zero_shot.encode(queries, tokenizer)
    policy = Policy(generators[STUDENT].model)
    training = {
        size: _training_seconds(policy, _batch(prompts, taught, size, tokenizer.pad_token_id))
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
    """Of a judge that is here and small, on responses of the student, one to a query."""
    try:
        if not asks_model(judge) or judge.is_remote or judge.weights() > largest:
            return None
    except ValueError:  # it is not here, and nobody says how large it is
        return None
    asked = queries[:MEASURED_BATCH]
    responses = [own for (own,) in student.generate(asked, s.evaluation.greedy, 0)]
    opened = judge.open()
    opened.verdicts(asked[:1], responses[:1])  # the first one warms up
    return _timed(lambda: opened.verdicts(asked[1:], responses[1:])) / max(1, len(asked) - 1)


def _sampling_cost(
    generator: LocalGenerator, queries: Sequence[Query], greedy: Sampling, several: Sampling
) -> SamplingCost:
    """The costs of a model by two measurements: one response to a query, and several.

    Several cost less each than one: they share the reading of the prompt, and what they say alike.
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
    generator: LocalGenerator | StoredTeacher,
    queries: Sequence[Query],
    sampling: Sampling,
    tokenizer: PreTrainedTokenizerBase,
) -> list[list[int]]:
    """The first answers to so many queries as a training step has, in tokens."""
    asked = queries[:MEASURED_BATCH]
    if isinstance(generator, StoredTeacher):
        responses = [own for own in generator.recorded(asked) if own] or [[Response("", "", 0, "–", True)]]
    else:
        responses = generator.generate(asked, sampling, 0)
    texts = [own[0].text for own in responses]
    return encode_responses(tokenizer, texts, [True] * len(texts))


def _batch(prompts: Sequence[list[int]], responses: Sequence[list[int]], group_size: int, pad_id: int) -> ResponseBatch:
    """As many prompts as there are responses for, `group_size` to each: different ones, since equal ones are read once.

    A response need not be its prompt's own: a pass over it takes as long.
    """
    count = max(1, min(MEASURED_BATCH, len(responses)) // group_size)
    return collate(prompts[:count], list(islice(cycle(responses), count * group_size)), pad_id)


def _training_seconds(policy: Policy, batch: ResponseBatch) -> float:
    """Of one forward and backward pass, for each response of the batch; the first pass warms up."""
    parts = in_parts(batch, part_count(policy))

    def train() -> None:
        mean_loss(policy, lambda part: (policy(part).logprobs.sum(), {}), parts)[0].backward()

    train()
    return _timed(train) / len(batch.response_ids)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def plan_lines(work: Sequence[Work], speed: Speed | None) -> list[str]:
    """The stages with their sizes and, where it could be measured, the time they take."""
    rows = [("stage", "size, about", "tokens, at most", "time, about")]
    for one in work:
        seconds = speed.seconds(one) if speed else None
        rows.append((one.stage, one.amount, short_number(one.tokens), "–" if seconds is None else _duration(seconds)))
    if speed:
        total = _duration(sum(speed.seconds(one) or 0.0 for one in work))
        rows.append(("all", "what was made before is reused and takes no time", "", total))
    return aligned(rows, left=2)


def _loaded(s: Stages) -> list[LocalModel | EndpointModel]:
    """The models of the row that are loaded."""
    return [s.student] if s.teacher.is_recorded else [s.teacher, s.student]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
