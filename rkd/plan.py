"""What a job is going to do: the parts of a row enter; its stages, their sizes and an estimate of their time leave.

All amounts are upper bounds: which queries keep a label, and which pairs there are, only the stages can find out. Time
is measured, not guessed: each model answers some of the real queries, the student's answers are trained on for one
step, and what a response cost there is multiplied. Models too large to be loaded for an estimate get none.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from rkd.batches import ResponseBatch, encode
from rkd.data import Data
from rkd.evaluation import Evaluation
from rkd.generation import LocalGenerator, LocalModel
from rkd.models import Policy, existing_model, load_causal_lm, load_tokenizer
from rkd.preferences import Pairs
from rkd.prompts import PromptTemplate
from rkd.protocols import Sampling
from rkd.records import Query
from rkd.reward_model import RewardModel
from rkd.rl import RL
from rkd.sft import SFT
from rkd.student_samples import StudentSamples
from rkd.teacher import TeacherSamples

TEACHER, STUDENT = "teacher", "student"
# A backward pass costs about two forward passes, so a forward pass alone is a third of a training step.
FORWARD = 1 / 3
MEASURED_PARAMETERS = 50_000_000  # the largest model that is loaded for an estimate
MEASURED_QUERIES, MEASURED_SAMPLES, MEASURED_TOKENS = 8, 16, 16


class Parts(Protocol):
    """The parts of a row that decide how much there is to do (`rkd.pipeline.Stages`)."""

    dataset: Data
    teacher: LocalModel
    teacher_samples: TeacherSamples
    student: LocalModel
    teaching_set: Any
    sft: Any
    student_samples: StudentSamples
    pairs: Pairs
    reward_model: Any
    rl: Any
    evaluation: Evaluation
    validation_queries: int


@dataclass(frozen=True, slots=True)
class Work:
    """One stage: responses that `model` samples, and responses that it is trained on, at most.

    `trained` counts a response once for each forward and backward pass; a forward pass alone is a third. A stage that
    is not `is_certain` may find little or nothing to do.
    """

    stage: str
    amount: str
    model: str
    max_response_tokens: int
    sampled: int = 0
    trained: float = 0.0
    is_certain: bool = True

    @property
    def tokens(self) -> int:
        """The most response tokens that can be sampled or trained on."""
        return round((self.sampled + self.trained) * self.max_response_tokens)


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of this machine for one response: sampled by each model, and trained on by the student."""

    sampled: Mapping[str, float]
    trained: float

    def seconds(self, work: Work) -> float:
        """How long a stage takes about."""
        return work.sampled * self.sampled[work.model] + work.trained * self.trained


def planned_work(parts: Parts) -> list[Work]:
    """The stages of a whole job, in order; a stage left out is not among them."""
    p = parts
    training, validation = len(p.dataset.training_queries()), len(p.dataset.validation_queries())
    queries = training + validation
    validated = min(validation, p.validation_queries)
    most_texts = min(p.teaching_set.responses_per_query or sys.maxsize, p.teacher_samples.first_pass.samples_per_query)
    limit = p.teacher_samples.max_response_tokens
    work = []
    for name, schedule in (("first", p.teacher_samples.first_pass), ("second", p.teacher_samples.second_pass)):
        if schedule is None:
            continue
        # The greedy samples of a query are one text.
        drawn = sum(schedule.samples_per_temperature if t > 0 else 1 for t in schedule.temperatures)
        is_first = name == "first"
        amount = f"{queries:,} queries{'' if is_first else ' (those without consensus)'} × {drawn} samples"
        work.append(Work(f"teacher, {name} pass", amount, TEACHER, limit, queries * drawn, is_certain=is_first))
    if isinstance(p.sft, SFT):
        amount = f"{training:,} queries × {most_texts} responses, {p.sft.epochs} epochs"
        work.append(
            Work(
                "sft", amount, STUDENT, limit,
                sampled=p.sft.epochs * p.sft.validations_per_epoch * validated,
                trained=p.sft.epochs * training * most_texts,
            )
        )  # fmt: skip
    samples = p.student_samples.samples_per_query
    length = p.student_samples.max_response_tokens
    work.append(Work("student samples", f"{queries:,} queries × {samples} samples", STUDENT, length, queries * samples))
    if isinstance(p.reward_model, RewardModel):
        pairs, held_out = (count * p.pairs.max_pairs_per_query for count in (training, validation))
        passes = p.reward_model.epochs * (pairs + p.reward_model.validations_per_epoch * FORWARD * held_out)
        amount = f"{pairs:,} pairs, {p.reward_model.epochs} epochs"
        work.append(Work("reward model", amount, STUDENT, length, trained=2 * passes))
    if isinstance(p.rl, RL):
        work.append(_reinforcement(p.rl, validated, scored=isinstance(p.reward_model, RewardModel)))
    evaluated = sum(
        len(test) + (place == 0) * p.evaluation.pass_at_k_queries(len(test)) * p.evaluation.pass_at_k_samples
        for place, test in enumerate(p.dataset.test_sets().values())
    )
    length = p.evaluation.max_response_tokens
    work.append(Work("evaluation of the teacher", f"{evaluated:,} responses", TEACHER, length, evaluated))
    work.append(Work("evaluation of students", f"3 × {evaluated:,} responses", STUDENT, length, 3 * evaluated))
    return work


def _reinforcement(rl: RL, validated: int, *, scored: bool) -> Work:
    rollouts = rl.rollouts
    episodes = rollouts.count * rollouts.responses_per_rollout
    validations = 1 + rollouts.count // min(rl.rollouts_between_validations, rollouts.count)
    # Besides the epochs: the policy and the reference once for their log-probabilities, and the reward model.
    passes = rl.optimisation.epochs_per_rollout + FORWARD * (3 if scored else 2)
    shape = f"{rollouts.count:,} rollouts × {rollouts.queries_per_rollout} queries × {rollouts.responses_per_query}"
    return Work(
        "rl", f"{episodes:,} episodes: {shape}", STUDENT, rollouts.max_response_tokens,
        sampled=episodes + validations * validated, trained=passes * episodes,
    )  # fmt: skip


def measure(parts: Parts, *, largest: int = MEASURED_PARAMETERS) -> Speed | None:
    """What a response costs here; None where a model has more than `largest` parameters."""
    if max(parameters(model.checkpoint().folder) for model in (parts.teacher, parts.student)) > largest:
        return None
    queries = parts.dataset.validation_queries()[:MEASURED_QUERIES]
    teacher, student = parts.teacher, parts.student
    _, _, of_teacher = _sampled(teacher, teacher.prompt, queries, parts.teacher_samples.max_response_tokens)
    prompt, limit = student.prompt.zero_shot(), parts.student_samples.max_response_tokens
    model, batch, of_student = _sampled(student, prompt, queries, limit)
    started = time.perf_counter()
    Policy(model)(batch).logprobs.sum().backward()
    return Speed({TEACHER: of_teacher, STUDENT: of_student}, (time.perf_counter() - started) / len(queries))


def _sampled(
    source: LocalModel, prompt: PromptTemplate, queries: Sequence[Query], limit: int
) -> tuple[PreTrainedModel, ResponseBatch, float]:
    """The model, one response to each query, and the seconds that a response takes in a large batch.

    How long responses are, a few whole ones tell; what a token costs, the first tokens of many: side by side they are
    cheaper.
    """
    folder = source.checkpoint().folder
    generator = LocalGenerator(source.name, load_causal_lm(folder), load_tokenizer(folder), prompt)
    prompts = encode(generator.tokenizer, [prompt.render(query) for query in queries])
    whole = generator.sample(queries, prompts, Sampling(1.0, 1, limit), seed=0)
    started = time.perf_counter()
    first = generator.sample(queries, prompts, Sampling(1.0, MEASURED_SAMPLES, min(limit, MEASURED_TOKENS)), seed=0)
    seconds_per_token = (time.perf_counter() - started) / int(first.response_mask.sum())
    return generator.model, whole, seconds_per_token * float(whole.response_mask.sum(1).float().mean())


def plan_lines(work: Sequence[Work], speed: Speed | None) -> list[str]:
    """The stages with their sizes and, where it could be measured, the time they take."""
    rows = [
        (one.stage, one.amount, _short(one.tokens), _duration(speed.seconds(one)) if speed else "–") for one in work
    ]
    rows.insert(0, ("stage", "size, at most", "tokens", "time"))
    if speed:
        certain = _duration(sum(speed.seconds(one) for one in work if one.is_certain))
        possible = _duration(sum(speed.seconds(one) for one in work))
        span = certain if certain == possible else f"{certain} to {possible}"
        rows.append(("all", "what was made before is reused and takes no time", "", f"about {span}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}" for a, b, c, d in rows]


def describe(parts: Parts, row: str, seed: int) -> list[str]:
    """The row, its data and its models, one line each."""
    tests = ", ".join(f"{name} {len(queries):,}" for name, queries in parts.dataset.test_sets().items())
    models = [
        f"{role} {model.name}, {_short(parameters(model.checkpoint().folder))} parameters"
        for role, model in ((TEACHER, parts.teacher), (STUDENT, parts.student))
    ]
    return [
        f"{row} on {parts.dataset.name}, seed {seed}",
        f"  queries  {len(parts.dataset.training_queries()):,} training, {len(parts.dataset.validation_queries()):,} "
        f"validation; tests: {tests}",
        f"  models   {'; '.join(models)}",
    ]


def parameters(folder: Path) -> int:
    """How many parameters are stored in a model folder, from the headers of its safetensors files.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: one is truncated or altered.
    """
    files = sorted(existing_model(folder).glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no safetensors file: weights in other formats are not loaded.")
    count = 0
    for path in files:
        try:
            with safe_open(path, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118, it is no mapping
                    size = 1
                    for length in weights.get_slice(name).get_shape():
                        size *= length
                    count += size
        except SafetensorError as error:
            raise ValueError(
                f"the weights in {path} are truncated or altered ({error}). Copy the file again; the mini models are "
                "remade with `python -m rkd.pretrain`."
            ) from error
    return count


def _short(number: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
