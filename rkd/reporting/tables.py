"""Tables of the papers: summaries of jobs enter, cells over seeds with comparisons and claims leave.

A table is described in `sweeps/NAME.yaml` as the paper prints it: columns, and rows in groups, each with the choices of
its jobs and the published values. Which jobs there are says its manifest (`rkd.reporting.table_files`). A cell takes
every job that has the choices of its column, group and row. Fractions are in [0, 1] here; `rkd.reporting.table_text`
prints percent.
"""

import operator
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rkd.evaluation.statistics import bootstrap_over_seeds_and_questions, holm
from rkd.reporting.job_summary import OWN, EvaluationSummary, Summary

SIGNIFICANT = 0.05  # of p-values corrected for all comparisons of the table

Unit = Literal["percent", "number", "seconds"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: what of a job it shows.

    Args:
        label: what the column is called here, a test set's name for instance.
        paper: what the paper calls it.
        jobs: choices of the jobs that it is made from.
        test_set: its accuracy, or win rate, is shown; else `value`.
        shows: another number of that test set, by its dotted name; there is no paired test of it.
        value: a number of `Summary.values`, by its dotted name.
        unit: how `value` is printed; accuracies are percent.
        higher_is_better: whether the best value of each group is marked, and which one that is; None marks none.
        axis: its name along the axis of a figure, where "accuracy (%)", "share (%)" and the like are not right.
    """

    label: str
    paper: str = ""
    jobs: Mapping[str, Any] = field(default_factory=dict)
    test_set: str | None = None
    shows: str = "accuracy"
    value: str | None = None
    unit: Unit = "percent"
    higher_is_better: bool | None = True
    axis: str = ""

    def __post_init__(self) -> None:
        if (self.test_set is None) == (self.value is None):
            raise ValueError(f"table column {self.label}: give either its test_set or its value.")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: `jobs` are its choices, null taking back one of its group; `published` has a value for each column.

    `model` is whose accuracy is shown: the row's "own" model, or the "teacher" of its jobs.
    """

    jobs: Mapping[str, Any] = field(default_factory=dict)
    model: str = OWN
    published: Sequence[float | None] = ()


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that are compared with each other: one teacher and one student, for instance."""

    label: str = ""
    paper: str = ""
    jobs: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, Row]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is said of a table: row `better` lies above each of the rows `worse`, in these columns.

    Args:
        says: the claim in words.
        columns: labels; none names all whose higher value is the better one.
        groups: labels; none names all.
    """

    says: str
    better: str
    worse: Sequence[str]
    columns: Sequence[str] = ()
    groups: Sequence[str] = ()


@dataclass(frozen=True)
class Cell:
    """A value over seeds: `values` by seed, `tests` where they are accuracies, `missing` jobs that are not there."""

    values: Mapping[int, float]
    tests: Mapping[int, EvaluationSummary] = field(default_factory=dict)
    missing: int = 0
    published: float | None = None

    @property
    def mean(self) -> float | None:
        """Over seeds; None where no job has finished."""
        return statistics.mean(self.values.values()) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds; None where there are not two, or the seeds decide nothing."""
        if len(self.values) < 2 or len(set(self.values.values())) == 1:
            return None
        return statistics.stdev(self.values.values())

    @property
    def n(self) -> int | None:
        """Questions of the test set."""
        return next((test.n for test in self.tests.values()), None)


@dataclass(frozen=True)
class Difference:
    """Row `better` minus row `worse` in one column of one group, with its 95 % interval and corrected p-value.

    Interval and p-value are by the bootstrap over seeds and questions, and None where there is no paired outcome.
    `published` is the same difference in the paper.
    """

    group: str
    column: str
    better: str
    worse: str
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    published: float | None

    @property
    def is_significant(self) -> bool:
        """At `SIGNIFICANT`, after Holm's correction."""
        return self.p_value is not None and self.p_value < SIGNIFICANT


@dataclass(frozen=True)
class Judgement:
    """A claim and what the numbers say of it: the differences that it is about, in order."""

    claim: Claim
    differences: Sequence[Difference]


@dataclass(frozen=True)
class TableLine:
    """One line of the evaluated table."""

    group: Group
    label: str
    row: Row
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Evaluated:
    """A table with its numbers."""

    table: "Table"
    lines: Sequence[TableLine]
    judgements: Sequence[Judgement]
    failures: Mapping[str, str]  # reasons, by job
    revisions: Sequence[str]
    jobs: int
    finished: int

    def cell(self, group: str, row: str, column: str) -> Cell:
        """One cell, by labels."""
        place = [one.label for one in self.table.columns].index(column)
        return next(line.cells[place] for line in self.lines if (line.group.label, line.label) == (group, row))

    def best(self, group: Group, place: int) -> float | None:
        """The best mean of a column among the group's rows, the teacher apart; None where none is to be marked."""
        higher = self.table.columns[place].higher_is_better
        lines = [line for line in self.lines if line.group is group and line.row.model == OWN]
        means = [mean for line in lines if (mean := line.cells[place].mean) is not None]
        return None if higher is None or len(means) < 2 else (max if higher else min)(means)

    def teacher_mean(self, group: Group, place: int) -> float | None:
        """The teacher's mean in a column, where the group has a row of it."""
        lines = [line for line in self.lines if line.group is group and line.row.model != OWN]
        return lines[0].cells[place].mean if lines else None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as its paper prints it.

    Args:
        name: of its files.
        title: what it shows.
        gain_over: the row whose mean is taken off the others', beside their values.
        claims: what the paper says of it, or where that is silent, what the method leads one to expect.
        deviations: where setting and method differ from the paper's, numbered under the table.
        figure: what is drawn of it, an object of `rkd.reporting.table_figures`; None draws nothing.
    """

    name: str
    title: str
    columns: Sequence[Column]
    groups: Sequence[Group]
    gain_over: str | None = None
    claims: Sequence[Claim] = ()
    deviations: Sequence[str] = ()
    figure: Any = None

    def __post_init__(self) -> None:
        for group in self.groups:
            for label, row in group.rows.items():
                if row.published and len(row.published) != len(self.columns):
                    raise ValueError(
                        f"table {self.name}, row {label}: {len(row.published)} published values for "
                        f"{len(self.columns)} columns; write null where the paper has none."
                    )
        labels = [column.label for column in self.columns]
        if repeated := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"table {self.name}: two of its columns are called {repeated[0]!r}.")
        known = {label for group in self.groups for label in group.rows}
        named = {name for claim in self.claims for name in (claim.better, *claim.worse)}
        named |= set() if self.gain_over is None else {self.gain_over}
        if unknown := sorted(named - known):
            raise ValueError(f"table {self.name}: its claims name the row {unknown[0]!r}, which it does not have.")
        named = {name for claim in self.claims for name in claim.columns}
        if unknown := sorted(named - {column.label for column in self.columns if column.higher_is_better}):
            raise ValueError(
                f"table {self.name}: its claims name the column {unknown[0]!r}, and it has none of this name whose "
                "higher value is better."
            )

    def evaluate(self, summaries: Sequence[Summary]) -> Evaluated:
        """The table with the numbers of these jobs; unfinished and failed ones leave their cells incomplete."""
        lines = [
            TableLine(group, label, row, self._cells(group, row, summaries))
            for group in self.groups
            for label, row in group.rows.items()
        ]
        finished = [summary for summary in summaries if summary.failure is None]
        return Evaluated(
            table=self,
            lines=lines,
            judgements=self._judgements(lines),
            failures={one.job: one.failure for one in summaries if one.failure is not None},
            revisions=sorted({one.revision for one in finished if one.revision}),
            jobs=len(summaries),
            finished=sum(1 for one in finished if one.models or one.values),
        )

    def _cells(self, group: Group, row: Row, summaries: Sequence[Summary]) -> list[Cell]:
        return [self._cell(column, group, row, summaries, place) for place, column in enumerate(self.columns)]

    def _cell(self, column: Column, group: Group, row: Row, summaries: Sequence[Summary], place: int) -> Cell:
        wanted = {**column.jobs, **group.jobs, **row.jobs}
        chosen = matching(summaries, wanted)
        published = row.published[place] if row.published else None
        values: dict[int, float] = {}
        tests: dict[int, EvaluationSummary] = {}
        for one in chosen:
            if column.test_set is not None:
                test = one.models.get(row.model, {}).get(column.test_set)
                if test is not None and (number := operator.attrgetter(column.shows)(test)) is not None:
                    values[one.seed] = number
                    if column.shows == "accuracy":
                        tests[one.seed] = test
            elif column.value is not None and column.value in one.values:
                values[one.seed] = one.values[column.value]
        return Cell(values, tests, len({one.seed for one in chosen} - set(values)), published)

    def _judgements(self, lines: Sequence[TableLine]) -> list[Judgement]:
        differences = [list(self._differences(claim, lines)) for claim in self.claims]
        # One test for each pair of rows and column, however many claims are about it.
        pairs = {(d.group, d.column, d.better, d.worse): d.p_value for own in differences for d in own}
        tested = {pair: p for pair, p in pairs.items() if p is not None}
        corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
        return [
            Judgement(
                claim,
                [replace(one, p_value=corrected.get((one.group, one.column, one.better, one.worse))) for one in own],
            )
            for claim, own in zip(self.claims, differences, strict=True)
        ]

    def _differences(self, claim: Claim, lines: Sequence[TableLine]) -> Iterator[Difference]:
        by_label = {(line.group.label, line.label): line for line in lines}
        for group in self.groups:
            if claim.groups and group.label not in claim.groups:
                continue
            for worse in claim.worse:
                of_better, of_worse = (by_label.get((group.label, label)) for label in (claim.better, worse))
                if of_better is None or of_worse is None:
                    continue
                for place, column in enumerate(self.columns):
                    if not column.higher_is_better or (claim.columns and column.label not in claim.columns):
                        continue
                    a, b = of_better.cells[place], of_worse.cells[place]
                    if a.mean is not None and b.mean is not None:
                        yield _difference(group.label, column.label, claim.better, worse, a, b, a.mean - b.mean)


def matching(summaries: Sequence[Summary], wanted: Mapping[str, Any]) -> list[Summary]:
    """The jobs that have these choices; one that is null does not matter."""
    set_ones = {key: value for key, value in wanted.items() if value is not None}
    return [one for one in summaries if all(one.choices.get(key) == value for key, value in set_ones.items())]


def _difference(group: str, column: str, better: str, worse: str, a: Cell, b: Cell, of_means: float) -> Difference:
    published = None if a.published is None or b.published is None else a.published - b.published
    low = high = p_value = None
    tests = [*a.tests.values(), *b.tests.values()]
    if a.tests and b.tests and len({test.questions for test in tests}) == 1:
        outcomes = [[test.marks for test in cell.tests.values()] for cell in (a, b)]
        interval = bootstrap_over_seeds_and_questions(*outcomes)
        low, high, p_value = interval.low, interval.high, interval.p_value
    return Difference(group, column, better, worse, of_means, low, high, p_value, published)
