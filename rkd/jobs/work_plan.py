"""What a job is going to do: the parts of a row enter; its stages and their sizes leave.

Sizes are expected ones: which queries keep a label, and which pairs there are, only the stages can find out, so the
shares that one job of the mini world found stand for them (`EXPECTED`). What the stages take, `rkd.jobs.time_estimate`
measures, and what they cost where no model can be loaded, `rkd.jobs.cost_estimate` estimates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rkd.data.datasets import Data
from rkd.data.recorded_responses import StoredTeacher
from rkd.evaluation.annotators import Grading
from rkd.generation.endpoint_teacher import EndpointTeacher
from rkd.generation.local import LocalModel
from rkd.judges.attacks import ATTACKED_QUERIES, KINDS
from rkd.judges.base import NoJudge
from rkd.judges.gold import GoldJudge
from rkd.pipeline.experiment import (
    FEW_SHOT,
    TEACHER,
    Line,
    Stages,
    needs_labels,
    pretrained_lines,
    samples_student,
    table_lines,
)
from rkd.protocols import Sampling
from rkd.rl.query_schedule import shares
from rkd.rl.stage import RL
from rkd.stages.dpo import DPO
from rkd.stages.labels import AllResponses, RubricGrades
from rkd.stages.preferences import StoredPairs
from rkd.stages.reward_model import NoRewardModel, RewardModelTraining
from rkd.stages.sft import SFT
from rkd.stages.teacher import Schedule

STUDENT, JUDGE, ANNOTATOR = "student", "judge", "annotator"
# A backward pass costs about two forward passes, so a forward pass alone is a third of a training step.
FORWARD = 1 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a stage leaves of what it gets; beside each share, the counts in `result.json` that it is the ratio of."""

    second_pass: float  # training_second_pass_queries / training_queries
    labelled: float  # 1 - training_without_label / training_queries
    first_pass_texts: float  # different texts of a query in the first pass: sft_examples / training_queries, row sft
    voted_texts: float  # different texts with the label of a query that has one: sft_examples / labelled queries
    balanced: float  # training_balanced_queries / labelled queries
    pairs: float  # training_pairs / (training_balanced_queries × pairs.max_pairs_per_query)
    validation_pairs: float  # validation_pairs / (balanced validation queries × validation_pairs.max_pairs_per_kind)


# mini_math, mini_large teaches mini_1, seed 0: of 5,000 queries 274 had a second pass and 4,778 a label; 6,697 texts in
# the first pass, 5,510 with the label; 1,634 balanced queries, 2,761 pairs of at most 2 each.
EXPECTED = Expected(
    second_pass=0.055, labelled=0.956, first_pass_texts=1.34, voted_texts=1.15, balanced=0.34, pairs=0.84,
    validation_pairs=1.9,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Work:
    """One stage: what is asked of `model`, and responses that it is trained on or judges.

    `asked` are numbers of queries, each with how they are answered. `trained` counts a response once for each forward
    and backward pass; a forward pass alone is a third. `judged` counts verdicts, at most: equal responses to a query
    share one. `group_size` responses share the reading of their prompt.
    """

    stage: str
    amount: str
    model: str
    max_response_tokens: int
    asked: Sequence[tuple[float, Sampling]] = ()
    trained: float = 0.0
    judged: float = 0.0
    group_size: int = 1

    @property
    def queries(self) -> float:
        """Queries that are asked, once for each way of asking."""
        return sum(queries for queries, _ in self.asked)

    @property
    def sampled(self) -> float:
        """Responses that are drawn."""
        return sum(queries * sampling.samples_per_query for queries, sampling in self.asked)

    @property
    def tokens(self) -> int:
        """The most response tokens that so many responses have."""
        return round((self.sampled + self.trained + self.judged) * self.max_response_tokens)


def planned_work(s: Stages, expected: Expected = EXPECTED, *, evaluate_only: bool = False) -> list[Work]:
    """The stages of a job, in order; a stage left out is not among them."""
    if evaluate_only:
        return _evaluation_work(s, pretrained_lines(s))
    training, validation = len(s.dataset.training_queries()), len(s.dataset.validation_queries())
    validated = min(s.validation_queries, expected.labelled * validation)
    sizes = {"training": training, "validation": validation}
    answered = sum(size for split, size in sizes.items() if needs_labels(s, split))
    work = _teacher_work(s, answered, expected) if answered else []
    if isinstance(s.labels, RubricGrades) and answered:
        work.append(_grades_work(s, answered, validated, expected))
    elif _asks_judge(s):
        work.append(_judged_labels_work(s, training))
    if isinstance(s.sft, SFT):
        work.append(_sft_work(s, training, validated, expected))
    if samples_student(s):
        asked = training if isinstance(s.reward_model, NoRewardModel) else training + validation
        labelled, sampling = expected.labelled * asked, s.student_samples.sampling
        amount = f"{_about(labelled)} queries × {sampling.samples_per_query} samples"
        work.append(Work("student samples", amount, STUDENT, sampling.max_response_tokens, [(labelled, sampling)]))
    if isinstance(s.dpo, DPO):
        work.append(_dpo_work(s, _pairs(s, training, expected), validated))
    if isinstance(s.reward_model, RewardModelTraining):
        work.append(_reward_model_work(s, _pairs(s, training, expected), validation, expected))
    if isinstance(s.rl, RL):
        work.append(_rl_work(s, s.rl, validated))
        if _asks_judge(s) and "judge" in s.reward_mix.used:
            work.append(_judged_rewards_work(s, s.rl))
    return work + _evaluation_work(s, table_lines(s))


def _teacher_work(s: Stages, queries: int, expected: Expected) -> list[Work]:
    if isinstance(s.teacher, StoredTeacher):
        return []

    def one(name: str, schedule: Schedule, asked: float) -> Work:
        sampling = s.teacher_samples.sampling(schedule)
        amount = f"{asked:,.0f} queries × {sampling.samples_per_query} samples"
        return Work(f"teacher, {name} pass", amount, TEACHER, sampling.max_response_tokens, [(asked, sampling)])

    work = [one("first", s.teacher_samples.first_pass, queries)]
    if s.teacher_samples.second_pass is not None and not isinstance(s.labels, RubricGrades):
        work.append(one("second", s.teacher_samples.second_pass, expected.second_pass * queries))
    return work


def _asks_judge(s: Stages) -> bool:
    """Whether the row has a judge that costs something."""
    return not isinstance(s.judge, NoJudge | GoldJudge)


def _judged_labels_work(s: Stages, training: int) -> Work:
    """The comparison of judge and labels: the responses of the teacher's first pass, and attacks."""
    attacks = min(ATTACKED_QUERIES, training) * len(KINDS)
    if isinstance(s.teacher, StoredTeacher):
        responses, limit = sum(map(len, s.teacher.recorded(s.dataset.training_queries()))), _recorded_tokens(s)
    else:
        sampling = s.teacher_samples.sampling(s.teacher_samples.first_pass)
        responses, limit = training * sampling.samples_per_query, sampling.max_response_tokens
    amount, group_size = f"{responses:,} responses, {attacks:,} attacks", max(1, round(responses / training))
    return Work("judge, labels", amount, JUDGE, limit, judged=responses + attacks, group_size=group_size)


def _grades_work(s: Stages, answered: int, validated: float, expected: Expected) -> Work:
    """The grades of an open-ended task: of the teacher's responses, the student's samples, and each validation's."""
    sampling = s.teacher_samples.sampling(s.teacher_samples.first_pass)
    graded = answered * sampling.samples_per_query
    if samples_student(s):
        graded += expected.labelled * answered * s.student_samples.samples_per_query
    if isinstance(s.sft, SFT):
        graded += s.sft.epochs * s.sft.validations_per_epoch * validated
    if isinstance(s.rl, RL):
        graded += _rl_validations(s.rl) * validated
    return Work("judge, grades", f"{_about(graded)} responses", JUDGE, sampling.max_response_tokens, judged=graded)


def _rl_validations(rl: RL) -> int:
    return 1 + rl.rollouts.count // min(rl.rollouts_between_validations, rl.rollouts.count)


def _recorded_tokens(s: Stages) -> int:
    """How long recorded responses are taken to be: they are not read before they are taught."""
    return s.sft.max_tokens if isinstance(s.sft, SFT) else s.evaluation.max_response_tokens


def _sft_work(s: Stages, training: int, validated: float, expected: Expected) -> Work:
    of_query = expected.voted_texts * expected.labelled
    if isinstance(s.sft.data, AllResponses):
        of_query = expected.first_pass_texts
    examples = training * min(of_query, s.sft.data.responses_per_query or of_query)
    asked = s.sft.epochs * s.sft.validations_per_epoch * validated
    is_recorded = isinstance(s.teacher, StoredTeacher)
    limit = _recorded_tokens(s) if is_recorded else s.teacher_samples.max_response_tokens
    return Work(
        "sft", f"{_about(examples)} responses, {_epochs(s.sft.epochs)}", STUDENT, limit,
        [(asked, s.evaluation.greedy)], trained=s.sft.epochs * examples,
    )  # fmt: skip


def _pairs(s: Stages, training: int, expected: Expected) -> float:
    """The pairs that there are to train on."""
    if isinstance(s.pairs, StoredPairs):
        return len(s.pairs.pairs_of(s.dataset.training_queries(), s.zero_shot))
    # OneSourcePairs of a teacher can be fewer: which of its queries have right and wrong responses is not known.
    return training * expected.labelled * expected.balanced * expected.pairs * s.pairs.max_pairs_per_query


def _dpo_work(s: Stages, pairs: float, validated: float) -> Work:
    dpo, limit = s.dpo, s.student_samples.max_response_tokens
    # The reference policy reads all pairs once. The start is validated, too.
    passes = pairs * (dpo.epochs + FORWARD)
    asked = [((1 + dpo.epochs * dpo.validations_per_epoch) * validated, s.evaluation.greedy)]
    amount = f"{_about(pairs)} pairs, {_epochs(dpo.epochs)}"
    return Work("dpo", amount, STUDENT, limit, asked, trained=2 * passes, group_size=2)


def _reward_model_work(s: Stages, pairs: float, validation: int, expected: Expected) -> Work:
    balanced = validation * expected.labelled * expected.balanced
    held_out = balanced * expected.validation_pairs * s.validation_pairs.max_pairs_per_kind
    epochs = s.reward_model.epochs
    passes = epochs * (pairs + s.reward_model.validations_per_epoch * FORWARD * held_out)
    amount, limit = f"{_about(pairs)} pairs, {_epochs(epochs)}", s.student_samples.max_response_tokens
    return Work("reward model", amount, STUDENT, limit, trained=2 * passes, group_size=2)


def _rl_work(s: Stages, rl: RL, validated: float) -> Work:
    rollouts = rl.rollouts
    episodes = rollouts.count * rollouts.responses_per_rollout
    # Besides the epochs: the policy and the reference once for their log-probabilities, and the reward model.
    passes = rl.optimisation.epochs_per_rollout + FORWARD * (
        3 if isinstance(s.reward_model, RewardModelTraining) else 2
    )
    shape = f"{rollouts.count:,} rollouts × {rollouts.queries_per_rollout} queries × {rollouts.responses_per_query}"
    asked = [
        (rollouts.count * rollouts.queries_per_rollout, rollouts.sampling),
        (_rl_validations(rl) * validated, s.evaluation.greedy),
    ]
    return Work(
        "rl", f"{episodes:,} episodes: {shape}", STUDENT, rollouts.max_response_tokens, asked,
        trained=passes * episodes, group_size=rollouts.responses_per_query,
    )  # fmt: skip


def _judged_rewards_work(s: Stages, rl: RL) -> Work:
    """The verdicts on the rollouts of the mix's judge; in one mixed loss, on all, whatever stream they are of."""
    terms, rollouts = list(s.reward_mix.used), rl.rollouts
    queries = rollouts.queries_per_rollout
    if s.reward_mix.level == "loss":
        queries = shares(rollouts, len(terms))[terms.index("judge")]
    judged = rollouts.count * queries * rollouts.responses_per_query
    return Work(
        "judge, rl", f"{judged:,} episodes", JUDGE, rollouts.max_response_tokens, judged=judged,
        group_size=rollouts.responses_per_query,
    )  # fmt: skip


def _evaluation_work(s: Stages, table: Sequence[Line]) -> list[Work]:
    tests = [len(queries) for queries in s.dataset.test_sets().values()]
    asked = [(sum(tests), s.evaluation.greedy)]
    if s.evaluation.pass_at_k_samples and s.dataset.is_verifiable:  # for the first test set
        asked.append((s.evaluation.pass_at_k_queries(tests[0]), s.evaluation.pass_at_k))
    responses = sum(queries * sampling.samples_per_query for queries, sampling in asked)
    asked_models = [line for line in table if line.prompt is not None]
    compared = []
    if not s.dataset.is_verifiable:
        verdicts, limit = 2 * sum(tests) * len(table), s.evaluation.max_response_tokens
        how = "and their references" if isinstance(s.evaluation.annotator, Grading) else "in both orders"
        amount = f"{len(table)} × {sum(tests):,} responses {how}"
        compared = [Work("annotator, win rates", amount, ANNOTATOR, limit, judged=verdicts)]
    lines = [_sampled_as(line) for line in asked_models if not line.inference.needs_reward_model]
    return [
        Work(
            f"evaluation, {model}", f"{lines.count(model)} × {responses:,} responses", model,
            s.evaluation.max_response_tokens, [(lines.count(model) * queries, sampling) for queries, sampling in asked],
        )
        for model in dict.fromkeys(lines)
    ] + [
        _best_of_n_work(line, sum(tests), s.evaluation.greedy)
        for line in asked_models if line.inference.needs_reward_model
    ] + compared  # fmt: skip


def _best_of_n_work(line: Line, queries: int, greedy: Sampling) -> Work:
    """The reward model reads all that is drawn."""
    drawn = line.inference.drawn(greedy)
    n = drawn.samples_per_query
    return Work(
        f"evaluation, best of {n}", f"{queries:,} queries × {n} samples", _sampled_as(line), drawn.max_response_tokens,
        [(queries, drawn)], trained=FORWARD * queries * n, group_size=n,
    )  # fmt: skip


def _sampled_as(line: Line) -> str:
    """Which of the measured models a line of the table costs as much as."""
    if line.model == "teacher":
        return TEACHER
    return FEW_SHOT if line.prompt.examples else STUDENT


def aligned(rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Rows as lines with columns of equal width, the first `left` of them aligned on the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        lines.append("  ".join(f"{cell:<{w}}" if at < left else f"{cell:>{w}}" for at, (cell, w) in enumerate(cells)))
    return [f"  {line}" for line in lines]


def describe(s: Stages) -> list[str]:
    """The row, its data and its models, one line each."""
    tests = ", ".join(f"{name} {len(queries):,}" for name, queries in s.dataset.test_sets().items())
    models = [f"{role} {model.name}, {_size(model)}" for role, model in ((TEACHER, s.teacher), (STUDENT, s.student))]
    repeated = f" ({s.dataset.repeated_questions} repeated ones dropped)" if s.dataset.repeated_questions else ""
    return [
        f"{s.row} on {s.dataset.name}, seed {s.seed}",
        f"  queries  {len(s.dataset.training_queries()):,} training, {_unlabelled(s.dataset)}"
        f"{len(s.dataset.validation_queries()):,} validation{repeated}; tests: {tests}",
        f"  models   {'; '.join(models)}",
    ]


def _unlabelled(dataset: Data) -> str:
    """How many queries have no label, how many more were dropped and why, and whether test questions are among them."""
    unlabelled = dataset.unlabelled_queries()
    if not unlabelled:
        return ""
    dropped = ", ".join(f"{count:,} {why}" for why, count in dataset.dropped_unlabelled.items())
    said = [f"dropped: {dropped}"] if dropped else []
    if dataset.transductive:
        said.append("transductive: test questions may be among them")
    return f"{len(unlabelled):,} unlabelled{' (' + '; '.join(said) + ')' if said else ''}, "


def _size(model: LocalModel | StoredTeacher | EndpointTeacher) -> str:
    if isinstance(model, EndpointTeacher):
        return f"behind {model.server.base_url}"
    if isinstance(model, StoredTeacher):
        return f"{model.source().count:,} recorded responses"
    return f"{short_number(model.weights())} parameters"


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"


def _about(number: float) -> str:
    """Two digits: more would look counted."""
    digits = max(0, len(str(round(number))) - 2)
    return f"{round(number, -digits):,.0f}"


def short_number(number: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
