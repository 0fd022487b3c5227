"""The plan of a job: the parts of a row enter, its stages and their sizes leave.

Sizes are expectations: only the stages find out which queries keep a label and which pairs there are. The shares that
one job of the mini world found are used instead (`EXPECTED`). Recorded responses are voted on and counted.
`rkd.jobs.time_estimate` measures the stages' time. `rkd.jobs.cost_estimate` estimates their cost without loading a
model.
"""

import dataclasses
import math
from collections.abc import Sequence

from rkd.data.datasets import Data
from rkd.judges.attacks import ATTACKED_QUERIES, KINDS
from rkd.pipeline.experiment import (
    Line,
    Stages,
    learns_from_pairs,
    needs_labels,
    pretrained_lines,
    samples_student,
    table_lines,
)
from rkd.protocols import Sampling
from rkd.records import Query
from rkd.rl.query_schedule import shares
from rkd.rl.stage import NoRL
from rkd.stages.gkd import GKD
from rkd.stages.judge_training import JUDGED_QUERIES, TrainedJudge
from rkd.stages.labels import Labels, score
from rkd.stages.rejection_sampling import Rounds
from rkd.work import (
    ANNOTATOR,
    EXPECTED,
    FEW_SHOT,
    FORWARD,
    JUDGE,
    STUDENT,
    TEACHER,
    Expected,
    Sizes,
    Work,
    about,
)

CHARACTERS_PER_TOKEN = 4  # of recorded texts, which are not tokenized for a plan; for English text


def planned_work(s: Stages, expected: Expected = EXPECTED, *, evaluate_only: bool = False) -> list[Work]:
    """The stages of a job, in order, without skipped ones."""
    if evaluate_only:
        return _evaluation_work(s, pretrained_lines(s))
    sizes = _sizes(s, expected)
    return [
        *s.teacher_samples.planned_work(sizes),
        *_trained_judge_work(s, sizes),
        *_judged_labels_work(s, sizes),
        *s.arithmetic.planned_work(sizes),
        *s.sft.planned_work(sizes),
        *s.student_samples.planned_work(sizes),
        *s.dpo.planned_work(sizes),
        *s.reward_model.planned_work(sizes),
        *s.rl.planned_work(sizes),
        *_judged_rewards_work(s),
        *_evaluation_work(s, table_lines(s)),
    ]


def _sizes(s: Stages, expected: Expected) -> Sizes:
    """The sizes of the stages, from the sizes of the splits and the expected results of earlier stages."""
    training = s.dataset.training_queries(labelled=s.labels.uses_gold)
    validation = len(s.dataset.validation_queries())
    examples = s.sft.data.expected_examples(len(training), expected)
    example_tokens = s.teacher_samples.max_response_tokens
    if s.teacher.is_recorded and needs_labels(s, "training") and not s.labels.is_graded:
        expected, texts = _recorded_examples(s, s.labels, training, expected)
        examples = len(texts)
        example_tokens = math.ceil(sum(map(len, texts)) / CHARACTERS_PER_TOKEN / max(1, len(texts)))
    splits = {"training": len(training), "validation": validation}
    sampled = len(training) + (0 if s.reward_model.is_left_out else validation)
    balanced = validation * expected.labelled * expected.balanced
    return Sizes(
        expected=expected,
        answered=sum(size for split, size in splits.items() if needs_labels(s, split)),
        validated=min(s.validation_queries, expected.labelled * validation),
        greedy=s.evaluation.greedy,
        examples=examples,
        example_tokens=example_tokens,
        sampled=expected.labelled * sampled if samples_student(s) else 0.0,
        # A file of pairs is read only if a stage trains on it.
        pairs=s.pairs.expected_count(training, s.zero_shot, expected) if learns_from_pairs(s) else 0.0,
        held_out_pairs=balanced * expected.validation_pairs * s.validation_pairs.max_pairs_per_kind,
        pair_tokens=s.student_samples.max_response_tokens,
        is_graded=s.labels.is_graded,
        has_reward_model=not s.reward_model.is_left_out,
        recorded=expected.labelled * sum(map(len, s.judge.recorded(training)))
        if isinstance(s.judge, TrainedJudge)
        else 0.0,
    )


def _recorded_examples(
    s: Stages, labels: Labels, queries: Sequence[Query], expected: Expected
) -> tuple[Expected, list[str]]:
    """The texts to train on, and the expectations with the share of labelled queries: no model is asked for them."""
    assert s.teacher.is_recorded
    responses = s.teacher.recorded(queries)
    found = labels.label(queries, responses)
    chosen = s.sft.data.select(score(queries, responses, found))
    labelled = sum(label.answer is not None for label in found) / max(1, len(queries))
    return dataclasses.replace(expected, labelled=labelled), [one.response.text for own in chosen for one in own]


def first_pass_sampling(s: Stages) -> Sampling:
    """The sampling settings of the first pass, for a teacher that is sampled."""
    assert not s.teacher_samples.is_recorded
    return s.teacher_samples.sampling(s.teacher_samples.first_pass)


def _judged_labels_work(s: Stages, sizes: Sizes) -> list[Work]:
    """The grades used instead of labels, or the comparison of a judge with the labels."""
    if s.labels.is_graded:
        return [_grades_work(s, sizes)] if sizes.answered else []
    if not s.judge.asks_model:
        return []
    queries = s.dataset.training_queries()
    attacks = min(ATTACKED_QUERIES, len(queries)) * len(KINDS)
    if s.teacher.is_recorded:
        responses, limit = _recorded_texts(s, queries), _recorded_limit(s)
    else:
        sampling = first_pass_sampling(s)
        responses, limit = len(queries) * sampling.samples_per_query, sampling.max_response_tokens
    amount, group_size = f"{responses:,} responses, {attacks:,} attacks", max(1, round(responses / len(queries)))
    return [Work("judge, labels", amount, JUDGE, limit, judged=responses + attacks, group_size=group_size)]


def _trained_judge_work(s: Stages, sizes: Sizes) -> list[Work]:
    """The training of a judge, and its test on recorded responses and on the student's samples."""
    if not isinstance(s.judge, TrainedJudge):
        return []
    validation, sampling = len(s.dataset.validation_queries()), s.student_samples.sampling
    asked, limit = min(JUDGED_QUERIES, validation), sampling.max_response_tokens
    judged = validation + asked * sampling.samples_per_query
    return [
        *s.judge.planned_work(sizes),
        Work("student samples, judge", f"{asked:,} queries", STUDENT, limit, [(asked, sampling)]),
        Work("judge, tests", f"{judged:,} responses", JUDGE, limit, judged=judged),
    ]


def _grades_work(s: Stages, sizes: Sizes) -> Work:
    """The grades of an open-ended task: for the teacher's responses, the student's samples, and each validation."""
    graded: float
    if s.teacher.is_recorded:
        queries = [*s.dataset.training_queries(), *s.dataset.validation_queries()]
        graded, limit = _recorded_texts(s, queries), _recorded_limit(s)
    else:
        sampling = first_pass_sampling(s)
        graded, limit = sizes.answered * sampling.samples_per_query, sampling.max_response_tokens
    if samples_student(s):
        graded += sizes.expected.labelled * sizes.answered * s.student_samples.samples_per_query
    if not s.sft.is_left_out:
        graded += s.sft.epochs * s.sft.validations_per_epoch * sizes.validated
    if not s.rl.is_left_out:
        graded += s.rl.validations * sizes.validated
    return Work("judge, grades", f"{about(graded)} responses", JUDGE, limit, judged=graded)


def _recorded_texts(s: Stages, queries: Sequence[Query]) -> int:
    """The number of recorded responses that a judge can read."""
    assert s.teacher.is_recorded
    return sum(not one.only_votes for own in s.teacher.recorded(queries) for one in own)


def _recorded_limit(s: Stages) -> int:
    """The token limit that is assumed for recorded responses, whose length is unknown."""
    return s.evaluation.max_response_tokens if s.sft.is_left_out else s.sft.max_tokens


def _judged_rewards_work(s: Stages) -> list[Work]:
    """The verdicts of the mix's judge on its rollouts; with one mixed loss, on the rollouts of all streams."""
    if isinstance(s.rl, GKD | NoRL) or not s.judge.asks_model or "judge" not in s.reward_mix.used:
        return []
    terms, rollouts = list(s.reward_mix.used), s.rl.rollouts
    if isinstance(rollouts, Rounds):
        judged = rollouts.episodes
    else:
        queries = rollouts.queries_per_rollout
        if s.reward_mix.level == "loss":
            queries = shares(rollouts, len(terms))[terms.index("judge")]
        judged = rollouts.count * queries * rollouts.responses_per_query
    return [
        Work(
            "judge, rl", f"{judged:,} episodes", JUDGE, rollouts.max_response_tokens, judged=judged,
            group_size=rollouts.responses_per_query,
        )
    ]  # fmt: skip


def _evaluation_work(s: Stages, table: Sequence[Line]) -> list[Work]:
    tests = [len(queries) for queries in s.dataset.test_sets().values()]
    asked = [(sum(tests), s.evaluation.greedy)]
    if s.evaluation.pass_at_k_samples and s.dataset.is_verifiable:  # only on the first test set
        asked.append((s.evaluation.pass_at_k_queries(tests[0]), s.evaluation.pass_at_k))
    responses = sum(queries * sampling.samples_per_query for queries, sampling in asked)
    asked_models = [line for line in table if line.prompt is not None]
    compared = []
    if not s.dataset.is_verifiable:
        verdicts, limit = 2 * sum(tests) * len(table), s.evaluation.max_response_tokens
        how = "and their references" if not s.evaluation.annotator.is_single_token else "in both orders"
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
    """The work of best of n; the reward model reads every sample."""
    drawn = line.inference.drawn(greedy)
    n = drawn.samples_per_query
    return Work(
        f"evaluation, best of {n}", f"{queries:,} queries × {n} samples", _sampled_as(line), drawn.max_response_tokens,
        [(queries, drawn)], trained=FORWARD * queries * n, group_size=n,
    )  # fmt: skip


def _sampled_as(line: Line) -> str:
    """The measured model whose costs are those of a line of the table."""
    if line.model == "teacher":
        return TEACHER
    return FEW_SHOT if line.prompt is not None and line.prompt.examples else STUDENT


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
    models = [f"{role} {model.name}, {model.size()}" for role, model in ((TEACHER, s.teacher), (STUDENT, s.student))]
    repeated = f" ({s.dataset.repeated_questions} repeated ones dropped)" if s.dataset.repeated_questions else ""
    return [
        f"{s.row} on {s.dataset.name}, seed {s.seed}",
        f"  queries  {len(s.dataset.training_queries()):,} training, {_unlabelled(s.dataset)}"
        f"{len(s.dataset.validation_queries()):,} validation{repeated}; tests: {tests}",
        f"  models   {'; '.join(models)}",
    ]


def _unlabelled(dataset: Data) -> str:
    """The numbers of unlabelled and dropped queries, the reasons, and whether test questions are among them."""
    unlabelled = dataset.unlabelled_queries()
    if not unlabelled:
        return ""
    dropped = ", ".join(f"{count:,} {why}" for why, count in dataset.dropped_unlabelled.items())
    said = [f"dropped: {dropped}"] if dropped else []
    if dataset.transductive:
        said.append("transductive: test questions may be among them")
    return f"{len(unlabelled):,} unlabelled{' (' + '; '.join(said) + ')' if said else ''}, "
