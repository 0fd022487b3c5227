"""What one job leaves behind: `result.json`, the only thing that tables and figures are made from.

In: counts and outcomes of the stages. Out: frozen records and their JSON form. Fractions are in [0, 1] here; only
`rkd.report` prints percent. n: questions of a test set.
"""

import dataclasses
import datetime
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from rkd.files import write_whole

RESULT_FILE = "result.json"
CONSENSUS_BINS = 10
RELIABILITY_BINS = 10


@dataclasses.dataclass(frozen=True, slots=True)
class CategoryResult:
    """Accuracy on the n questions of one category."""

    n: int
    accuracy: float


@dataclasses.dataclass(frozen=True, slots=True)
class WinRate:
    """What is told of an open-ended test beside the mean preference; lengths are mean characters of a response.

    `length_controlled` is the rate that responses as long as the reference's would have (`rkd.alpaca_eval`).
    Of an annotator that compares, `first_preferred` is how far it prefers what stands first, 0.5 being not at all, and
    `orders_agree` the share of questions on which its verdict is the same in both orders; of one that grades, `even` is
    the share of questions whose responses have equal grades, or one that could not be read. `unreadable` counts the
    verdicts, two to a question, that could not be read. `rubric`: the mean score by the rubric of a generated world.
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
class TestSetResult:
    """One model on one test set: `outcomes`, `answers` and `question_ids` have n entries, in the same order.

    Of an open-ended test, which alone has a `win_rate`, an outcome is the annotator's preference for the response over
    the reference, in [0, 1], the accuracy their mean, `correct` counts those above 0.5, and an answer is the response.

    `interval_low` and `interval_high` bound the 95 % interval of `accuracy`; `pass_at_8` and `maj_at_8` are None where
    only the greedy response was drawn; an entry of `answers` is None where none could be extracted. `share_truncated`
    counts responses cut at the length limit.
    """

    __test__ = False  # by its name pytest would take it for a test class

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

    def __post_init__(self) -> None:
        lengths = {len(self.outcomes), len(self.answers), len(self.question_ids), self.n}
        right = sum(outcome > 0.5 for outcome in self.outcomes)
        if len(lengths) != 1 or right != self.correct:
            raise ValueError(
                f"{self.test_set}: n={self.n}, correct={self.correct} do not fit {len(self.outcomes)} outcomes "
                f"({right} of them true), {len(self.answers)} answers, {len(self.question_ids)} ids."
            )


@dataclasses.dataclass(frozen=True, slots=True)
class ModelResult:
    """One role of the table (teacher, student few-shot, SFT, Ours, …) on every test set, the main one first."""

    role: str
    test_sets: dict[str, TestSetResult]


@dataclasses.dataclass(frozen=True, slots=True)
class LabelStatistics:
    """Pseudo-labels against the gold answers: of `queries`, `labelled` have one, and `right` of these are right.

    `consensus_histogram` counts the queries by p* in ten bins of width 0.1, 1 being in the last.
    """

    queries: int
    labelled: int
    right: int
    consensus_histogram: list[int]

    @property
    def share_without_label(self) -> float:
        """Table 10."""
        return 1 - self.labelled / self.queries

    @property
    def precision(self) -> float | None:
        """The share of right labels among those given; None where none was."""
        return self.right / self.labelled if self.labelled else None


@dataclasses.dataclass(frozen=True, slots=True)
class VerdictCounts:
    """Responses by what the teacher called them and what they are; `without_verdict`: it called them nothing."""

    right_called_right: int
    wrong_called_right: int
    right_called_wrong: int
    wrong_called_wrong: int
    without_verdict: int

    @property
    def precision_of_right(self) -> float | None:
        """Table 5, class True: the share of right responses among those called right; None where none was."""
        return _share(self.right_called_right, self.right_called_right + self.wrong_called_right)

    @property
    def precision_of_wrong(self) -> float | None:
        """Table 5, class False: the share of wrong responses among those called wrong; None where none was."""
        return _share(self.wrong_called_wrong, self.right_called_wrong + self.wrong_called_wrong)

    @property
    def accuracy(self) -> float | None:
        """The share called what they are, of those with a verdict: how far one agrees with a verifier that knows."""
        return _share(self.right_called_right + self.wrong_called_wrong, _with_verdict(self))

    @property
    def kappa(self) -> float | None:
        """That agreement beyond chance: Cohen's κ; None where chance alone would agree on all."""
        if not (total := _with_verdict(self)):
            return None
        right = self.right_called_right + self.right_called_wrong
        called = self.right_called_right + self.wrong_called_right
        by_chance = (right * called + (total - right) * (total - called)) / total**2
        return (self.accuracy - by_chance) / (1 - by_chance) if by_chance < 1 else None

    @property
    def right_accepted(self) -> float | None:
        """The share called right of the right ones."""
        return _share(self.right_called_right, self.right_called_right + self.right_called_wrong)

    @property
    def wrong_accepted(self) -> float | None:
        """The share called right of the wrong ones."""
        return _share(self.wrong_called_right, self.wrong_called_right + self.wrong_called_wrong)

    @property
    def share_unreadable(self) -> float | None:
        """The share without a verdict; of a judge, those that could not be read."""
        return _share(self.without_verdict, _with_verdict(self) + self.without_verdict)

    @property
    def shares(self) -> dict[str, float] | None:
        """Fig. 9: the shares of the four kinds among the responses with a verdict; None where there is none."""
        counts = {name: value for name, value in dataclasses.asdict(self).items() if name != "without_verdict"}
        total = sum(counts.values())
        return {name: value / total for name, value in counts.items()} if total else None


@dataclasses.dataclass(frozen=True, slots=True)
class GradeStatistics:
    """Responses that a judge graded, `counts` by grade; `unreadable` further ones have no grade.

    Against the rubric of a generated world: the shares of grades that are `exact` and `within_one`, Spearman's
    `rank_correlation`, and what the mean grade should be; None where there is no such rubric.
    """

    responses: int
    unreadable: int
    mean: float | None
    counts: dict[str, int]
    exact: float | None = None
    within_one: float | None = None
    rank_correlation: float | None = None
    mean_by_rubric: float | None = None

    def __str__(self) -> str:
        said = "none" if self.mean is None else f"{self.mean:.2f} on average"
        if self.exact is not None:
            said += (
                f" ({self.mean_by_rubric:.2f} by the rubric, {self.exact:.1%} equal, {self.within_one:.1%} within 1)"
            )
        return said


@dataclasses.dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The responses whose scores lie in one bin: how many, their mean score, and the share of right ones; or None."""

    count: int
    mean_score: float | None
    share_right: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class JudgeQuality:
    """A judge's verdicts, and the share of the next token's probability that Yes and No have together.

    `area_under_curve` of its scores, right responses against wrong ones; None where there are not both.
    `mean_yes_no_mass` is None of a judge without such tokens. `reliability`: the scores in ten bins of width 0.1, by
    number, 1 being in the last. `agreement_with_label`: the share of responses that the judge and the pseudo-label, the
    verifier of a row without gold answers, call alike, of those with both verdicts; None where there is none.
    `attacks_accepted`: the share called right of the attacks on `attacked_queries` that have a verdict, by kind
    (`rkd.judge_attacks`); a kind without any verdict is not in it.
    """

    verdicts: VerdictCounts
    area_under_curve: float | None
    mean_yes_no_mass: float | None
    reliability: dict[str, ReliabilityBin] = dataclasses.field(default_factory=dict)
    agreement_with_label: float | None = None
    attacked_queries: int = 0
    attacks_accepted: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def expected_calibration_error(self) -> float | None:
        """Σ_b n_b/n |mean score − share right| over the bins (arXiv:1706.04599, Eq. 3); None without a score."""
        filled = [one for one in self.reliability.values() if one.count]
        total = sum(one.count for one in filled)
        return sum(one.count * abs(one.mean_score - one.share_right) for one in filled) / total if total else None

    @property
    def mean_attacks_accepted(self) -> float | None:
        """Over the kinds; None where no attack was tried, or none has a verdict."""
        shares = self.attacks_accepted.values()
        return sum(shares) / len(shares) if shares else None


@dataclasses.dataclass(frozen=True, slots=True)
class BoundSides:
    """Both sides of the bound (`rkd.bound`), in fractions: the right one by the mean errors, and by the largest."""

    true_gain: float
    proxy_gain: float
    by_mean_error: float
    by_largest_error: float


def _with_verdict(counts: VerdictCounts) -> int:
    return sum(dataclasses.astuple(counts)) - counts.without_verdict


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """Two roles on the same questions: how many only the first, only the second got right.

    `difference` is the first's accuracy minus the second's, `p_value` that of McNemar's exact test, two-sided.
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
    """Of `questions` test questions: mean and 95th percentile of the nearest overlap, and how many texts are equal."""

    questions: int
    mean: float
    percentile_95: float
    exact_duplicates: int

    def __str__(self) -> str:
        return (
            f"nearest training question shares {self.mean:.1%} of a question's word trigrams on average "
            f"(95th percentile {self.percentile_95:.1%}), {self.exact_duplicates} of {self.questions} questions "
            "are a training question word by word"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class RunResult:
    """One job. `counts`: queries, samples, pairs, dropped, …; `costs`: of each stage `seconds`, `seconds_this_job`
    and `tokens`, those of the responses that it sampled.

    `failure` is the reason why the job ended early, None for a finished one; `created` is an ISO 8601 time;
    `overlaps`: of each test set with the training questions. `labels`, `verdicts`: of the training queries, and of the
    teacher's first-pass responses to them; None where a job makes no labels. `judge`: the judge's verdicts on the same
    responses; None without one.
    `reward_model`: what its kept weights reach on the validation pairs (`rkd.pairs.kinds`); empty without one.
    `histories`: by stage, a row for each validation: of sft, dpo and reward_model with `step` and the `share` of all
    steps, of rl with `episodes`, and there about forty rollouts' `reward`, `kl`, `response_tokens` and `repetition`,
    too. `grades`: of an open-ended task, by what was graded. `bound`: by what stands for the true reward, "label" or
    "learned"; empty where it was not asked for. `stopped`: why a stage was ended before its time, by stage.
    """

    row: str
    seed: int
    config: dict[str, Any]
    revision: str | None
    versions: dict[str, str]
    counts: dict[str, int | float]
    costs: dict[str, dict[str, int | float]]
    models: list[ModelResult]
    comparisons: list[Comparison]
    failure: str | None
    created: str
    overlaps: dict[str, Overlap] = dataclasses.field(default_factory=dict)
    judge: JudgeQuality | None = None
    labels: LabelStatistics | None = None
    verdicts: VerdictCounts | None = None
    reward_model: dict[str, float] = dataclasses.field(default_factory=dict)
    histories: dict[str, list[dict[str, float]]] = dataclasses.field(default_factory=dict)
    bound: dict[str, BoundSides] = dataclasses.field(default_factory=dict)
    grades: dict[str, GradeStatistics] = dataclasses.field(default_factory=dict)
    stopped: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def validation_accuracy(self) -> float | None:
        """What the last training of the student reached in validation, a fraction; None in a row without training."""
        reached = (self.counts.get(f"{stage}/best_validation") for stage in ("rl", "dpo", "sft"))
        return next((accuracy for accuracy in reached if accuracy is not None), None)


def write_result(result: RunResult, folder: Path) -> Path:
    """Write `folder/result.json`, so that a reader never meets half a file.

    Raises:
        ValueError: a number is not finite; name it None or leave it out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULT_FILE
    write_whole(path, json.dumps(dataclasses.asdict(result), ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    return path


def read_result(path: Path) -> RunResult:
    """Read a `result.json`, or the one in the folder given.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it has other fields than these records, or is no JSON.
    """
    file = path / RESULT_FILE if path.is_dir() else path
    if not file.is_file():
        present = sorted(child.name for child in file.parent.glob("*")) if file.parent.is_dir() else []
        raise FileNotFoundError(
            f"{file} is not there (present: {', '.join(present) or 'nothing'}). Give the folder of one job, or the "
            "result.json that `python run.py` wrote at its end."
        )
    try:
        return result_from_json(RunResult, json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{file} is no result file of this version ({error}). Run its job again: finished stages are reused."
        ) from error


_Kind = TypeVar("_Kind")


def result_from_json(kind: type[_Kind], value: Any) -> _Kind:
    """Build `kind` from JSON by its annotations: records, lists and dictionaries of records; anything else stays."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if unknown := sorted(set(value) - set(hints)):
            raise ValueError(f"{kind.__name__} has no field {unknown[0]!r}")
        return kind(**{name: result_from_json(hints[name], item) for name, item in value.items()})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    records = [one for one in arguments if dataclasses.is_dataclass(one)]
    if origin is types.UnionType and records and value is not None:  # a record or None
        return result_from_json(records[0], value)
    if origin is list and not isinstance(arguments[0], types.UnionType):
        return [result_from_json(arguments[0], item) for item in value]
    if origin in (dict, Mapping):
        return {key: result_from_json(arguments[1], item) for key, item in value.items()}
    return value


def failed_result(
    row: str, seed: int, config: dict[str, Any], revision: str | None, versions: dict[str, str], failure: str
) -> RunResult:
    """The result of a job that failed, which a table shows with its reason."""
    return RunResult(
        row=row,
        seed=seed,
        config=config,
        revision=revision,
        versions=versions,
        counts={},
        costs={},
        models=[],
        comparisons=[],
        failure=failure,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
