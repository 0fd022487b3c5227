"""The result of one job, `result.json`: the only source of tables and figures.

Counts and outcomes of the stages enter, frozen records and their JSON form leave. Fractions are in [0, 1] here; only
`rkd.reporting.report` prints percent. n: questions of a test set.
"""

import dataclasses
import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rkd.decoding import decode
from rkd.evaluation.statistics import accuracy_interval, standard_error
from rkd.evaluation.verdict_counts import GradeStatistics, JudgeQuality, LabelStatistics, VerdictCounts
from rkd.io import write_whole
from rkd.records import Query

RESULT_FILE = "result.json"
RESPONSES_FILE = "responses.jsonl"  # beside it: the texts of the responses to test questions
NORMAL_95 = 1.96  # standard errors to either side


@dataclasses.dataclass(frozen=True, slots=True)
class CategoryResult:
    """Accuracy on the n questions of one category."""

    n: int
    accuracy: float


@dataclasses.dataclass(frozen=True, slots=True)
class WinRate:
    """Details of an open-ended test besides the mean preference; lengths are mean characters of a response.

    `length_controlled` is the predicted win rate of responses as long as the references (`rkd.evaluation.alpaca_eval`).
    For an annotator that compares, `first_preferred` is its preference for the response shown first (0.5: none), and
    `orders_agree` the share of questions with the same verdict in both orders. For an annotator that grades, `even` is
    the share of questions with equal grades or an unreadable one. `unreadable` counts the unreadable verdicts, out of
    two per question. `rubric` is the mean score by the rubric of a generated world.
    """

    length_controlled: float
    characters: float
    reference_characters: float
    unreadable: int
    first_preferred: float | None = None
    orders_agree: float | None = None
    even: float | None = None
    rubric: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class EvaluationResult:
    """One model on one test set: `outcomes`, `answers` and `question_ids` have n entries, in the same order.

    Only an open-ended test has a `win_rate`. There an outcome is the annotator's preference for the response over the
    reference, in [0, 1]. `accuracy` is their mean, `correct` counts those above 0.5, and an answer is the response.

    `interval_low` and `interval_high` bound the 95 % interval of `accuracy`. `pass_at_8` and `maj_at_8` are None if
    only the greedy response was drawn. An entry of `answers` is None if no answer could be extracted. `share_truncated`
    is the share of responses cut at the length limit. `clusters` has the number of each question's cluster, the
    variants of one problem; it is empty if each question stands alone. `responses` are the greedy texts; `result.json`
    leaves them to `response_rows`, and tests stored by earlier versions have none.
    """

    test_set: str
    n: int
    correct: int
    accuracy: float
    interval_low: float
    interval_high: float
    pass_at_8: float | None
    outcomes: list[bool] | list[float]
    answers: list[str | None]
    question_ids: list[str]
    share_without_answer: float
    share_truncated: float
    by_category: dict[str, CategoryResult] = dataclasses.field(default_factory=dict)
    maj_at_8: float | None = None
    win_rate: WinRate | None = None
    clusters: list[int] = dataclasses.field(default_factory=list)
    responses: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        lengths = {len(self.outcomes), len(self.answers), len(self.question_ids), self.n}
        lengths |= {len(optional) or self.n for optional in (self.clusters, self.responses)}
        right = sum(outcome > 0.5 for outcome in self.outcomes)
        if len(lengths) != 1 or right != self.correct:
            raise ValueError(
                f"{self.test_set}: n={self.n}, correct={self.correct} do not fit {len(self.outcomes)} outcomes "
                f"({right} of them true), {len(self.answers)} answers, {len(self.question_ids)} ids."
            )


def with_clusters(test: EvaluationResult, names: Sequence[str]) -> EvaluationResult:
    """The result with the cluster of each question, by name, and an interval for which clusters are independent.

    If no two questions share a cluster, the result stays as it is.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    if len(numbers) == len(names):
        return test
    if test.win_rate is None:
        low, high = accuracy_interval(test.outcomes, names)
    else:
        margin = NORMAL_95 * standard_error(test.outcomes, names)
        low, high = max(0.0, test.accuracy - margin), min(1.0, test.accuracy + margin)
    clusters = [numbers[name] for name in names]
    return dataclasses.replace(test, clusters=clusters, interval_low=low, interval_high=high)


@dataclasses.dataclass(frozen=True, slots=True)
class ModelResult:
    """One role of the table (teacher, student few-shot, SFT, Ours, …) on every test set, the main test set first."""

    role: str
    test_sets: dict[str, EvaluationResult]


@dataclasses.dataclass(frozen=True, slots=True)
class BoundSides:
    """Both sides of the bound (`rkd.evaluation.reward_bound`), in fractions; the right side by the mean errors and by
    the largest error."""

    true_gain: float
    proxy_gain: float
    by_mean_error: float
    by_largest_error: float


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """Two roles on the same questions: how many only the first, and only the second, got right.

    `difference` is the first's accuracy minus the second's; `p_value` is two-sided and exact: McNemar's, or for
    questions in clusters that of `rkd.evaluation.statistics.sign_flip_exact`.
    """

    first: str
    second: str
    test_set: str
    only_first: int
    only_second: int
    difference: float
    p_value: float


@dataclasses.dataclass(frozen=True, slots=True)
class Overlap:
    """Nearest overlap of `questions` test questions: mean, 95th percentile, and the number of identical texts.

    `near_duplicate_places` are the places of the near duplicates in the test set (`rkd.evaluation.contamination`). It
    is None in results of before they were counted.
    """

    questions: int
    mean: float
    percentile_95: float
    exact_duplicates: int
    near_duplicate_places: list[int] | None = None

    @property
    def near_duplicates(self) -> int | None:
        """The number of near duplicates."""
        return None if self.near_duplicate_places is None else len(self.near_duplicate_places)

    def accuracy_without_near_duplicates(self, test: EvaluationResult) -> float | None:
        """The mean outcome on the other questions of this test set; None if there are none, or nothing was counted."""
        if self.near_duplicate_places is None:
            return None
        near = set(self.near_duplicate_places)
        others = [outcome for place, outcome in enumerate(test.outcomes) if place not in near]
        return sum(others) / len(others) if others else None

    def __str__(self) -> str:
        near = f", and {self.near_duplicates} tell the story of one" if self.near_duplicates is not None else ""
        return (
            f"nearest training question shares {self.mean:.1%} of a question's word trigrams on average "
            f"(95th percentile {self.percentile_95:.1%}), {self.exact_duplicates} of {self.questions} questions "
            f"are a training question word by word{near}"
        )


@dataclasses.dataclass(slots=True)
class Notes:
    """Notes for the result of a row, which its steps fill in one after another.

    Args:
        counts: queries, samples, pairs, dropped, …; the numbers that a training reported, as "sft/steps".
        labels, verdicts: statistics of the labels of the training queries, and of the verdicts on the teacher's
            first-pass responses; None if the job makes no labels.
        judge: the judge's verdicts on the same responses; None without a judge.
        judge_tests: for a judge that the job trained, its verdicts on responses to validation queries, by whose they
            are: "held_out" (a recorded model that it was not trained on) or "student".
        reward_model: metrics of its kept weights on the validation pairs (`rkd.stages.preference_batches.kinds`).
        histories: by stage, one row per validation. Rows of rl have `episodes`, the others `step` and the `share` of
            all steps. The rl history also has the `reward`, `kl`, `response_tokens` and `repetition` of about forty
            rollouts.
        bound: by the proxy reward, "label" or "learned"; empty if the bound is not measured.
        grades: for an open-ended task, by what was graded.
        stopped: the reason why a stage ended early, by stage.
        precision: in which the stages were trained, by its name in Lightning; None if no stage trains.
    """

    counts: dict[str, int | float] = dataclasses.field(default_factory=dict)
    labels: LabelStatistics | None = None
    verdicts: VerdictCounts | None = None
    judge: JudgeQuality | None = None
    judge_tests: dict[str, JudgeQuality] = dataclasses.field(default_factory=dict)
    reward_model: dict[str, float] = dataclasses.field(default_factory=dict)
    histories: dict[str, list[dict[str, float]]] = dataclasses.field(default_factory=dict)
    bound: dict[str, BoundSides] = dataclasses.field(default_factory=dict)
    grades: dict[str, GradeStatistics] = dataclasses.field(default_factory=dict)
    stopped: dict[str, str] = dataclasses.field(default_factory=dict)
    precision: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class RunResult:
    """The result of one job.

    `costs` holds for each stage `seconds`, `seconds_this_job` and the `tokens` of the responses that it sampled.
    `failure` is the reason why the job ended early, None for a finished one. `created` is an ISO 8601 time. `overlaps`
    holds the overlap of each test set with the training questions. `origins` says where the weights and the recorded
    answers of models come from, by name; a model whose folder does not say is left out.
    """

    row: str
    seed: int
    config: dict[str, Any]
    revision: str | None
    versions: dict[str, str]
    costs: dict[str, dict[str, int | float]]
    models: list[ModelResult]
    comparisons: list[Comparison]
    failure: str | None
    created: str
    overlaps: dict[str, Overlap] = dataclasses.field(default_factory=dict)
    notes: Notes = dataclasses.field(default_factory=Notes)
    origins: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def validation_accuracy(self) -> float | None:
        """Validation accuracy after the last training of the student, a fraction; None in a row without training."""
        reached = (self.notes.counts.get(f"{stage}/best_validation") for stage in ("rl", "rejection", "dpo", "sft"))
        return next((accuracy for accuracy in reached if accuracy is not None), None)


def response_rows(result: RunResult, test_sets: Mapping[str, Sequence[Query]]) -> Iterator[dict[str, Any]]:
    """A row for each test question: its texts, and the greedy response of each model by role.

    A model has no entry where its test was stored before responses were kept.
    """
    for name, queries in test_sets.items():
        tests = {model.role: model.test_sets[name] for model in result.models if name in model.test_sets}
        for place, query in enumerate(queries):
            texts = {role: test.responses[place] for role, test in tests.items() if test.responses}
            asked = {"test_set": name, "id": query.id, "question": query.question, "gold_answer": query.gold_answer}
            yield {**asked, "responses": texts}


def write_result(result: RunResult, folder: Path) -> Path:
    """Write `folder/result.json`, without the texts of responses; atomically, so a reader never sees a partial file.

    Raises:
        ValueError: a number is not finite; use None or leave it out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, fields = folder / RESULT_FILE, dataclasses.asdict(result)
    for test in (test for model in fields["models"] for test in model["test_sets"].values()):
        del test["responses"]
    write_whole(path, json.dumps(fields, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    return path


def read_result(path: Path) -> RunResult:
    """Read a `result.json`; `path` is the file or its folder.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: its fields are not those of these records, or it is not JSON.
    """
    file = path / RESULT_FILE if path.is_dir() else path
    if not file.is_file():
        present = sorted(child.name for child in file.parent.glob("*")) if file.parent.is_dir() else []
        raise FileNotFoundError(
            f"{file} is not there (present: {', '.join(present) or 'nothing'}). Give the folder of one job, or the "
            "result.json that `python run.py` wrote at its end."
        )
    try:
        result = decode(RunResult, _with_notes(json.loads(file.read_text(encoding="utf-8"))))
    except ValueError as error:
        raise ValueError(
            f"{file} is no result file of this version ({error}). Run its job again: finished stages are reused."
        ) from error
    for model in result.models:
        model.test_sets.update({name: _with_known_clusters(test) for name, test in model.test_sets.items()})
    return result


def _with_known_clusters(test: EvaluationResult) -> EvaluationResult:
    """The result of a file older than `clusters`: the ids mini_math_plus-SEED-PROBLEM-WAY name the problems."""
    if test.clusters or not all(one.startswith("mini_math_plus-") for one in test.question_ids):
        return test
    return with_clusters(test, [one.rpartition("-")[0] for one in test.question_ids])


def _with_notes(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a result. A file older than `notes` holds the fields of the notes at the top level."""
    names = {field.name for field in dataclasses.fields(Notes)} & fields.keys()
    if "notes" in fields or not names:
        return fields
    others = {name: value for name, value in fields.items() if name not in names}
    return {**others, "notes": {name: fields[name] for name in names}}


def failed_result(
    row: str, seed: int, config: dict[str, Any], revision: str | None, versions: dict[str, str], failure: str
) -> RunResult:
    """The result of a failed job, which a table shows with the reason."""
    return RunResult(
        row=row,
        seed=seed,
        config=config,
        revision=revision,
        versions=versions,
        costs={},
        models=[],
        comparisons=[],
        failure=failure,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
