"""Tables of the papers: summaries of jobs enter, cells over seeds with comparisons and claims leave.

`sweeps/NAME.yaml` describes a table as the paper prints it: columns, and rows in groups, each with the choices of its
jobs and the published values. The manifest lists the jobs (`rkd.reporting.table_files`). A cell takes every job with
the choices of its column, group and row. Fractions are in [0, 1] here; `rkd.reporting.table_text` prints percent.
"""

import operator
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rkd.evaluation.statistics import bootstrap_over_seeds_and_questions, holm
from rkd.reporting.job_summary import OWN, EvaluationSummary, Summary, origin_notes

SIGNIFICANT = 0.05  # level for p-values, which are corrected for all comparisons of the table

Unit = Literal["percent", "number", "seconds"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: the number of a job that it shows.

    Args:
        label: the column's name here, for instance a test set's name.
        paper: the column's name in the paper.
        jobs: choices of the column's jobs.
        test_set: the test set whose accuracy or win rate is shown; without it, `value` is shown.
        shows: the dotted name of another number of that test set; it has no paired test.
        value: the dotted name of a number in `Summary.values`.
        unit: how `value` is printed; accuracies are in percent.
        higher_is_better: True marks the highest value of each group, False the lowest, None no value.
        axis: the label of the axis in a figure, if "accuracy (%)", "share (%)" and the like do not fit.
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
    """One row: `jobs` are its choices, where null removes a choice of its group; `published` has one value per column.

    `model` is the model whose accuracy is shown: the row's "own" model, or the "teacher" of its jobs.
    """

    jobs: Mapping[str, Any] = field(default_factory=dict)
    model: str = OWN
    published: Sequence[float | None] = ()


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that are compared with each other, for instance all rows of one teacher and one student."""

    label: str = ""
    paper: str = ""
    jobs: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, Row]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim about a table: row `better` lies above each of the rows `worse`, in these columns.

    Args:
        says: the claim in words.
        columns: labels of the columns; if empty, all columns whose higher value is better.
        groups: labels of the groups; if empty, all groups.
    """

    says: str
    better: str
    worse: Sequence[str]
    columns: Sequence[str] = ()
    groups: Sequence[str] = ()


@dataclass(frozen=True)
class Cell:
    """A value over seeds: `values` by seed, `tests` if they are accuracies, `missing` the number of missing jobs."""

    values: Mapping[int, float]
    tests: Mapping[int, EvaluationSummary] = field(default_factory=dict)
    missing: int = 0
    published: float | None = None

    @property
    def mean(self) -> float | None:
        """Mean over seeds; None if no job has finished."""
        return statistics.mean(self.values.values()) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds; None with fewer than two seeds, or if all values are equal."""
        if len(self.values) < 2 or len(set(self.values.values())) == 1:
            return None
        return statistics.stdev(self.values.values())

    @property
    def n(self) -> int | None:
        """Number of questions in the test set."""
        return next((test.n for test in self.tests.values()), None)

    @property
    def clusters(self) -> int | None:
        """Number of clusters of these questions; None if each question stands alone."""
        return next((len(test.cluster_sizes) for test in self.tests.values()), 0) or None


@dataclass(frozen=True)
class Difference:
    """Row `better` minus row `worse` in one column of one group, with its 95 % interval and corrected p-value.

    Interval and p-value come from the bootstrap over seeds and questions; they are None without paired outcomes. If
    `is_bound`, the p-value is at most the given one. `published` is the same difference in the paper.
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
    is_bound: bool = False

    @property
    def is_significant(self) -> bool:
        """Whether the difference is significant at `SIGNIFICANT`, after Holm's correction."""
        return self.p_value is not None and self.p_value < SIGNIFICANT


@dataclass(frozen=True)
class Judgement:
    """A claim with its evidence: the differences that it is about, in order."""

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
    failures: Mapping[str, str]  # the reason of each failure, by job
    revisions: Sequence[str]
    jobs: int
    finished: int

    def cell(self, group: str, row: str, column: str) -> Cell:
        """The cell with these labels."""
        place = [one.label for one in self.table.columns].index(column)
        return next(line.cells[place] for line in self.lines if (line.group.label, line.label) == (group, row))

    def best(self, group: Group, place: int) -> float | None:
        """The best mean of a column among the group's rows without the teacher; None if no value is marked."""
        higher = self.table.columns[place].higher_is_better
        lines = [line for line in self.lines if line.group is group and line.row.model == OWN]
        means = [mean for line in lines if (mean := line.cells[place].mean) is not None]
        return None if higher is None or len(means) < 2 else (max if higher else min)(means)

    def teacher_mean(self, group: Group, place: int) -> float | None:
        """The teacher's mean in a column; None if the group has no teacher row."""
        lines = [line for line in self.lines if line.group is group and line.row.model != OWN]
        return lines[0].cells[place].mean if lines else None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as its paper prints it.

    Args:
        name: the name of its files.
        title: the title above it.
        gain_over: the row over which the gain of the other rows is shown beside their values.
        claims: the paper's claims about it, or else the expectations that follow from the method.
        deviations: differences of setting and method from the paper, numbered under the table.
        notes: sentences under these, from the configs of the jobs (`rkd.reporting.paper_settings`). Sentences on the
            origins of models follow them.
        figure: an object of `rkd.reporting.table_figures` that draws it; None draws nothing.
    """

    name: str
    title: str
    columns: Sequence[Column]
    groups: Sequence[Group]
    gain_over: str | None = None
    claims: Sequence[Claim] = ()
    deviations: Sequence[str] = ()
    notes: Sequence[str] = ()
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
        """The table with the numbers of these jobs; unfinished and failed jobs leave their cells incomplete."""
        lines = [
            TableLine(group, label, row, self._cells(group, row, summaries))
            for group in self.groups
            for label, row in group.rows.items()
        ]
        finished = [summary for summary in summaries if summary.failure is None]
        return Evaluated(
            table=replace(self, notes=[*self.notes, *origin_notes(finished)]),
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
        # One test for each pair of rows and column, even if several claims use it.
        pairs = {_pair(one): one for own in differences for one in own}
        tested = {pair: one.p_value for pair, one in pairs.items() if one.p_value is not None}
        corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
        # All bounds are the same p-value, the smallest of all, and its correction can raise others to itself.
        bound = max((corrected[pair] for pair in tested if pairs[pair].is_bound), default=0.0)
        return [
            Judgement(
                claim,
                [
                    replace(one, p_value=(p := corrected.get(_pair(one))), is_bound=p is not None and p <= bound)
                    for one in own
                ],
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
    """The jobs that have these choices; a choice of null is ignored."""
    set_ones = {key: value for key, value in wanted.items() if value is not None}
    return [one for one in summaries if all(one.choices.get(key) == value for key, value in set_ones.items())]


def _pair(one: Difference) -> tuple[str, str, str, str]:
    return one.group, one.column, one.better, one.worse


def _difference(group: str, column: str, better: str, worse: str, a: Cell, b: Cell, of_means: float) -> Difference:
    published = None if a.published is None or b.published is None else a.published - b.published
    tests = [*a.tests.values(), *b.tests.values()]
    if not a.tests or not b.tests or len({test.questions for test in tests}) > 1:
        return Difference(group, column, better, worse, of_means, None, None, None, published)
    outcomes = [[test.marks for test in cell.tests.values()] for cell in (a, b)]
    found = bootstrap_over_seeds_and_questions(*outcomes, clusters=tests[0].clusters)
    numbers = (found.low, found.high, found.p_value)
    return Difference(group, column, better, worse, of_means, *numbers, published, found.is_bound)
