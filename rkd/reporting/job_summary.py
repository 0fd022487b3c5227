"""The summary of a job for tables: its choices and numbers, no texts. A `RunResult` enters, a `Summary` leaves.

A result file holds every answer to every question. A summary is one line of JSON, small enough to be committed with
its table. Fractions are in [0, 1].
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rkd.decoding import decode
from rkd.evaluation.results import EvaluationResult, Overlap, RunResult, WinRate
from rkd.io import write_whole

# Summaries hold no ids, and the first ones no clusters. These are the 700 questions of mini_math_plus in conf/dataset.
CLUSTERS_OF_OLDER = {"50701d31746f8427": [7] * 100}
OWN = "own"
KEPT_ROLES = ("teacher",)  # besides the row's own model; the other roles are the own models of other rows


@dataclasses.dataclass(frozen=True, slots=True)
class EvaluationSummary:
    """One model on one test set: `outcomes` has a "1" for each right answer and a "0" for each wrong one, n in all.

    For an open-ended test it lists the preferences, separated by blanks. `questions` is a digest of the questions' ids
    in their order: only outcomes on the same questions are compared. `cluster_sizes` has the number of questions in
    each cluster, the variants of one problem, which follow each other here; it is empty if each question stands alone.
    `without_near_duplicates` is the accuracy on the questions that are no near duplicate of a training question.
    """

    outcomes: str
    questions: str
    share_without_answer: float
    share_truncated: float
    pass_at_8: float | None = None
    maj_at_8: float | None = None
    by_category: dict[str, float] = dataclasses.field(default_factory=dict)
    win_rate: WinRate | None = None
    cluster_sizes: list[int] = dataclasses.field(default_factory=list)
    without_near_duplicates: float | None = None

    @property
    def clusters(self) -> list[int] | None:
        """The number of each question's cluster; None if each question stands alone."""
        return [number for number, size in enumerate(self.cluster_sizes) for _ in range(size)] or None

    @property
    def marks(self) -> list[float]:
        """The outcomes as numbers."""
        return [float(one) for one in (self.outcomes.split() if self.win_rate else self.outcomes)]

    @property
    def n(self) -> int:
        """Number of questions."""
        return len(self.marks)

    @property
    def accuracy(self) -> float:
        """The share of right answers, or the mean preference."""
        return sum(self.marks) / self.n


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """One finished or failed job.

    Args:
        job: the name of its folder, which ends with its digest.
        choices: its options of groups, and the values that its sweep or the command line set.
        models: the row's own model as "own", and the teacher, by role and test set.
        values: numbers by dotted name, as "labels.precision" or "costs.rl.seconds"; unmeasured ones are absent.
        histories: by training stage, the metrics during training.
        failure: why the job ended early; None for a finished one.
        origins: where the weights of models come from, by name.
    """

    job: str
    row: str
    seed: int
    choices: dict[str, Any]
    revision: str | None
    created: str
    models: dict[str, dict[str, EvaluationSummary]]
    values: dict[str, float]
    histories: dict[str, list[dict[str, float]]]
    failure: str | None = None
    origins: dict[str, str] = dataclasses.field(default_factory=dict)


def summarize(result: RunResult, job: str, choices: Mapping[str, Any]) -> Summary:
    """The summary of a job's result."""
    kept = {model.role: model for model in result.models if model.role in KEPT_ROLES}
    models = {OWN: result.models[-1], **kept} if result.models else {}
    return Summary(
        job=job,
        row=result.row,
        seed=result.seed,
        choices=dict(choices),
        revision=result.revision,
        created=result.created,
        models={
            role: {name: _evaluation_summary(test, result.overlaps.get(name)) for name, test in model.test_sets.items()}
            for role, model in models.items()
        },
        values=numbers(result),
        histories=result.notes.histories,
        failure=result.failure,
        origins=result.origins,
    )


def origin_notes(jobs: Iterable[RunResult | Summary]) -> list[str]:
    """A sentence for each model of the jobs that says where its weights come from."""
    told = dict.fromkeys(item for job in jobs for item in job.origins.items())
    return [f"Model {name}: {origin}." for name, origin in told]


def numbers(result: RunResult) -> dict[str, float]:
    """Every number of the result except test outcomes, by dotted name.

    `voting` is maj@8 of the row's model, and `costs.NAME` the sum of a cost over the stages.
    """
    values: dict[str, float] = {}
    notes = result.notes
    records: dict[str, Any] = {
        "counts": notes.counts, "costs": result.costs, "labels": notes.labels, "verdicts": notes.verdicts,
        "judge": notes.judge, "judge_tests": notes.judge_tests, "grades": notes.grades,
        "reward_model": notes.reward_model, "bound": notes.bound, "overlaps": result.overlaps,
    }  # fmt: skip
    for name, value in records.items():
        _collect(name, value, values)
    for name in ("seconds", "seconds_this_job", "tokens"):
        values[f"costs.{name}"] = sum(cost.get(name, 0) for cost in result.costs.values())
    if result.models:  # a test set may have samples for a majority vote
        own = result.models[-1].test_sets
        values |= {f"voting.{name}": test.maj_at_8 for name, test in own.items() if test.maj_at_8 is not None}
    return values


def write_summaries(path: Path, summaries: Iterable[Summary]) -> None:
    """Write one line of JSON for each summary, in the order of the jobs' names."""
    ordered = sorted(summaries, key=lambda summary: summary.job)
    write_whole(path, "".join(json.dumps(dataclasses.asdict(one), ensure_ascii=False) + "\n" for one in ordered))


def read_summaries(path: Path) -> list[Summary]:
    """Read the summaries that `write_summaries` wrote."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [decode(Summary, _with_clusters(json.loads(line))) for line in lines]


def _with_clusters(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a summary; a test of before there were clusters gets those of its questions."""
    for test in (test for tests in fields["models"].values() for test in tests.values()):
        test.setdefault("cluster_sizes", CLUSTERS_OF_OLDER.get(test["questions"], []))
    return fields


def _evaluation_summary(test: EvaluationResult, overlap: Overlap | None) -> EvaluationSummary:
    order = sorted(range(test.n), key=lambda place: test.clusters[place]) if test.clusters else range(test.n)
    marks = [test.outcomes[place] for place in order]
    return EvaluationSummary(
        outcomes=" ".join(f"{mark:.3f}" for mark in marks) if test.win_rate else "".join(str(int(m)) for m in marks),
        questions=_digest([test.question_ids[place] for place in order]),
        share_without_answer=test.share_without_answer,
        share_truncated=test.share_truncated,
        pass_at_8=test.pass_at_8,
        maj_at_8=test.maj_at_8,
        by_category={name: category.accuracy for name, category in test.by_category.items()},
        win_rate=test.win_rate,
        cluster_sizes=[size for _, size in sorted(Counter(test.clusters).items())],
        without_near_duplicates=None if overlap is None else overlap.accuracy_without_near_duplicates(test),
    )


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _collect(name: str, value: Any, values: dict[str, float]) -> None:
    """Add the numbers of a record to `values`: of its fields and of its properties, which compute shares."""
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        names += [key for key, item in vars(type(value)).items() if isinstance(item, property)]
        value = {key: getattr(value, key) for key in names}
    if isinstance(value, Mapping):
        for key, item in value.items():
            _collect(f"{name}.{key}", item, values)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        values[name] = value
