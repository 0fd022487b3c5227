"""What a job is going to do: the parts of a row enter; its stages, their sizes and an estimate of their time leave.

Sizes are expected ones: which queries keep a label, and which pairs there are, only the stages can find out, so the
shares that one job of the mini world found stand for them (`EXPECTED`). Time is measured, not guessed: each model
answers some of the real queries, the student is trained on its answers for one step, and what a response cost there is
multiplied. Models too large to be loaded for an estimate get none.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open

from rkd.batches import ResponseBatch, collate, encode, encode_responses, in_parts
from rkd.generation import LocalGenerator, LocalModel
from rkd.labels import AllResponses
from rkd.models import Policy, existing_model, load_causal_lm, load_tokenizer
from rkd.prompts import PromptTemplate
from rkd.protocols import Sampling
from rkd.records import Query
from rkd.reward_model import RewardModel
from rkd.rl import RL
from rkd.sft import SFT
from rkd.side_by_side import SMALL, mean_loss, worker_count
from rkd.stages import FEW_SHOT, TEACHER, Line, Stages, table_lines
from rkd.teacher import Schedule

STUDENT = "student"
# A backward pass costs about two forward passes, so a forward pass alone is a third of a training step.
FORWARD = 1 / 3
# Smaller batches cost more for each response: 64 of them gave 1.4 times the time that a stage takes.
MEASURED_RESPONSES, MEASURED_SAMPLES, MEASURED_BATCH = 192, 8, 32

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a stage leaves of what it gets; beside each share, the counts in `result.json` that it is the ratio of."""

    second_pass: float  # training_second_pass_queries / training_queries
    labelled: float  # 1 - training_without_label / training_queries
    first_pass_texts: float  # different texts of a query in the first pass: sft_examples / training_queries, row sft
    voted_texts: float  # different texts with the label of a query that has one: sft_examples / labelled queries
    balanced: float  # training_balanced_queries / labelled queries
    pairs: float  # training_pairs / (training_balanced_queries × pairs.max_pairs_per_query)


# mini_math, mini_large teaches mini_1, seed 0: of 5,000 queries 208 had a second pass and 4,828 a label; 6,682 texts in
# the first pass, 5,809 with the label; 1,895 balanced queries, 3,288 pairs of at most 2 each.
EXPECTED = Expected(second_pass=0.04, labelled=0.97, first_pass_texts=1.3, voted_texts=1.2, balanced=0.39, pairs=0.87)


@dataclass(frozen=True, slots=True)
class Work:
    """One stage: responses that `model` samples, and responses that it is trained on.

    `prompts` are those that `sampled` responses are drawn from: the samples of a query share the reading of its prompt.
    `trained` counts a response once for each forward and backward pass; a forward pass alone is a third.
    """

    stage: str
    amount: str
    model: str
    max_response_tokens: int
    prompts: float = 0.0
    sampled: float = 0.0
    trained: float = 0.0

    @property
    def tokens(self) -> int:
        """The most response tokens that so many responses have."""
        return round((self.sampled + self.trained) * self.max_response_tokens)


@dataclass(frozen=True, slots=True)
class SamplingCost:
    """Seconds for reading one prompt, and for one response to it."""

    prompt: float
    response: float


@dataclass(frozen=True, slots=True)
class Speed:
    """What this machine needs: for sampling from each model, and seconds for training the student on one response."""

    sampling: Mapping[str, SamplingCost]
    trained: float

    def seconds(self, work: Work) -> float:
        """How long a stage takes about."""
        cost = self.sampling[work.model]
        return work.prompts * cost.prompt + work.sampled * cost.response + work.trained * self.trained


def planned_work(s: Stages, expected: Expected = EXPECTED) -> list[Work]:
    """The stages of a whole job, in order; a stage left out is not among them."""
    training, validation = len(s.dataset.training_queries()), len(s.dataset.validation_queries())
    validated = min(s.validation_queries, expected.labelled * validation)
    work = _teacher_work(s, training + validation, expected)
    if isinstance(s.sft, SFT):
        work.append(_sft_work(s, training, validated, expected))
    labelled, samples = expected.labelled * (training + validation), s.student_samples.samples_per_query
    work.append(
        Work(
            "student samples", f"{_about(labelled)} queries × {samples} samples", STUDENT,
            s.student_samples.max_response_tokens, prompts=labelled, sampled=labelled * samples,
        )
    )  # fmt: skip
    if isinstance(s.reward_model, RewardModel):
        work.append(_reward_model_work(s, training, validation, expected))
    if isinstance(s.rl, RL):
        work.append(_rl_work(s.rl, validated, has_reward_model=isinstance(s.reward_model, RewardModel)))
    return work + _evaluation_work(s)


def _teacher_work(s: Stages, queries: int, expected: Expected) -> list[Work]:
    def one(name: str, schedule: Schedule, asked: float) -> Work:
        drawn = len(schedule.drawn_temperatures)
        amount = f"{asked:,.0f} queries × {drawn} samples"
        limit = s.teacher_samples.max_response_tokens
        return Work(f"teacher, {name} pass", amount, TEACHER, limit, prompts=asked, sampled=asked * drawn)

    work = [one("first", s.teacher_samples.first_pass, queries)]
    if s.teacher_samples.second_pass is not None:
        work.append(one("second", s.teacher_samples.second_pass, expected.second_pass * queries))
    return work


def _sft_work(s: Stages, training: int, validated: float, expected: Expected) -> Work:
    of_query = expected.voted_texts * expected.labelled
    if isinstance(s.teaching_set, AllResponses):
        of_query = expected.first_pass_texts
    examples = training * min(of_query, s.teaching_set.responses_per_query or of_query)
    asked = s.sft.epochs * s.sft.validations_per_epoch * validated
    return Work(
        "sft", f"{_about(examples)} responses, {_epochs(s.sft.epochs)}", STUDENT, s.teacher_samples.max_response_tokens,
        prompts=asked, sampled=asked, trained=s.sft.epochs * examples,
    )  # fmt: skip


def _reward_model_work(s: Stages, training: int, validation: int, expected: Expected) -> Work:
    of_query = expected.labelled * expected.balanced * expected.pairs * s.pairs.max_pairs_per_query
    pairs, held_out, epochs = training * of_query, validation * of_query, s.reward_model.epochs
    passes = epochs * (pairs + s.reward_model.validations_per_epoch * FORWARD * held_out)
    amount = f"{_about(pairs)} pairs, {_epochs(epochs)}"
    return Work("reward model", amount, STUDENT, s.student_samples.max_response_tokens, trained=2 * passes)


def _rl_work(rl: RL, validated: float, *, has_reward_model: bool) -> Work:
    rollouts = rl.rollouts
    episodes = rollouts.count * rollouts.responses_per_rollout
    validations = 1 + rollouts.count // min(rl.rollouts_between_validations, rollouts.count)
    # Besides the epochs: the policy and the reference once for their log-probabilities, and the reward model.
    passes = rl.optimisation.epochs_per_rollout + FORWARD * (3 if has_reward_model else 2)
    shape = f"{rollouts.count:,} rollouts × {rollouts.queries_per_rollout} queries × {rollouts.responses_per_query}"
    return Work(
        "rl", f"{episodes:,} episodes: {shape}", STUDENT, rollouts.max_response_tokens,
        prompts=rollouts.count * rollouts.queries_per_rollout + validations * validated,
        sampled=episodes + validations * validated, trained=passes * episodes,
    )  # fmt: skip


def _evaluation_work(s: Stages) -> list[Work]:
    tests = [len(queries) for queries in s.dataset.test_sets().values()]
    sampled_from = s.evaluation.pass_at_k_queries(tests[0])  # pass@8 is for the first test set
    prompts, responses = sum(tests) + sampled_from, sum(tests) + sampled_from * s.evaluation.pass_at_k_samples
    lines = [_sampled_as(line) for line in table_lines(s)]
    limit = s.evaluation.max_response_tokens
    return [
        Work(
            f"evaluation, {model}", f"{lines.count(model)} × {responses:,} responses", model, limit,
            prompts=lines.count(model) * prompts, sampled=lines.count(model) * responses,
        )
        for model in dict.fromkeys(lines)
    ]  # fmt: skip


def _sampled_as(line: Line) -> str:
    """Which of the measured models a line of the table costs as much as."""
    if line.model == "teacher":
        return TEACHER
    return FEW_SHOT if line.prompt.examples else STUDENT


def measure(s: Stages, *, largest: int = SMALL) -> Speed | None:
    """What a response costs here; None where a model has more than `largest` parameters."""
    if max(parameters(model.checkpoint().folder) for model in (s.teacher, s.student)) > largest:
        return None
    queries, limit = s.dataset.validation_queries()[:MEASURED_RESPONSES], s.evaluation.max_response_tokens
    teacher, taught = _sampling_cost(s.teacher, s.teacher.prompt, queries, s.teacher_samples.max_response_tokens)
    few_shot, _ = _sampling_cost(s.student, s.student.prompt, queries, limit)
    student, own = _sampling_cost(s.student, s.zero_shot, queries, limit)
    tokenizer = load_tokenizer(s.student.checkpoint().folder)
    taught, own = (encode_responses(tokenizer, texts, [True] * len(texts)) for texts in (taught, own))
    # SFT teaches the student to answer as its teacher does, and so at the same length.
    longer = sum(map(len, taught)) / sum(map(len, own))
    prompts = encode(tokenizer, [s.zero_shot.render(query) for query in queries])
    batch = collate(prompts[:MEASURED_BATCH], taught[:MEASURED_BATCH], tokenizer.pad_token_id)
    sampling = {TEACHER: teacher, FEW_SHOT: few_shot, STUDENT: SamplingCost(student.prompt, student.response * longer)}
    return Speed(sampling, _training_seconds(s.student, batch))


def _sampling_cost(
    source: LocalModel, prompt: PromptTemplate, queries: Sequence[Query], limit: int
) -> tuple[SamplingCost, list[str]]:
    """The costs of a model, and its greedy responses to the queries.

    Two batches tell prompt and response apart: in one each response has a prompt of its own, in the other eight share
    one. Of the two times the rest follows.
    """
    folder = source.checkpoint().folder
    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    generator = LocalGenerator(source.name, model, tokenizer, prompt, batch_responses=MEASURED_RESPONSES // 2)
    few = queries[: max(1, len(queries) // MEASURED_SAMPLES)]
    responses, alone = _timed(lambda: generator.generate(queries, Sampling(0.0, 1, limit), 0))
    _, shared = _timed(lambda: generator.generate(few, Sampling(1.0, MEASURED_SAMPLES, limit), 0))
    alone, shared = alone / len(queries), shared / (len(few) * MEASURED_SAMPLES)
    of_prompt = max(0.0, alone - shared) / (1 - 1 / MEASURED_SAMPLES)
    return SamplingCost(of_prompt, alone - of_prompt), [own.text for (own,) in responses]


def _training_seconds(student: LocalModel, batch: ResponseBatch) -> float:
    """Of one forward and backward pass, for each response of the batch; the first pass warms up."""
    policy = Policy(load_causal_lm(student.checkpoint().folder))
    parts = in_parts(batch, worker_count(policy))
    for _ in range(2):
        _, seconds = _timed(
            lambda: mean_loss(policy, lambda part: (policy(part).logprobs.sum(), {}), parts)[0].backward()
        )
    return seconds / len(batch.response_ids)


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def plan_lines(work: Sequence[Work], speed: Speed | None) -> list[str]:
    """The stages with their sizes and, where it could be measured, the time they take."""
    rows = [
        (one.stage, one.amount, _short(one.tokens), _duration(speed.seconds(one)) if speed else "–") for one in work
    ]
    rows.insert(0, ("stage", "size, about", "tokens, at most", "time, about"))
    if speed:
        total = _duration(sum(speed.seconds(one) for one in work))
        rows.append(("all", "what was made before is reused and takes no time", "", total))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}" for a, b, c, d in rows]


def describe(s: Stages) -> list[str]:
    """The row, its data and its models, one line each."""
    tests = ", ".join(f"{name} {len(queries):,}" for name, queries in s.dataset.test_sets().items())
    models = [
        f"{role} {model.name}, {_short(parameters(model.checkpoint().folder))} parameters"
        for role, model in ((TEACHER, s.teacher), (STUDENT, s.student))
    ]
    return [
        f"{s.row} on {s.dataset.name}, seed {s.seed}",
        f"  queries  {len(s.dataset.training_queries()):,} training, {len(s.dataset.validation_queries()):,} "
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


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"


def _about(number: float) -> str:
    """Two digits: more would look counted."""
    digits = max(0, len(str(round(number))) - 2)
    return f"{round(number, -digits):,.0f}"


def _short(number: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
