"""Figures of tables: an evaluated table enters, a PNG leaves.

Fractions become percent here. A table's description names its figure (`figure: {_target_: …}`).
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rkd.evaluation.statistics import wilson_interval
from rkd.evaluation.verdict_counts import RELIABILITY_BINS
from rkd.reporting.job_summary import OWN, Summary
from rkd.reporting.plot_style import COLOURS, band, bare, new_figure, over_seeds, titled, write
from rkd.reporting.tables import Cell, Column, Evaluated, matching

PAPER_COLOUR = "#666666"
PANELS_BESIDE = 4  # panels side by side; further ones go below
LEGEND_WIDTH = 7.6  # inches, for the three entries below dots
TITLE_LETTERS = 28  # letters in a line above a panel of dots
RELIABILITY_PANELS_BESIDE = 3
HISTORIES_BESIDE = 3
SMALLEST_BIN = 10  # responses; with fewer the share of right ones is too uncertain
SMALLEST_SPAN = 2.0  # of a panel's axis; for a share, in percentage points
SMALLEST_NAMED = 4  # percent: smaller parts of a bar have no room for their number
MIX = ("reward_mix.lambda_", "reward_mix.mu", "reward_mix.rho")
TRIANGLE_HEIGHT = math.sqrt(3) / 2  # for sides of length 1
LABEL_OF_A_POINT = {
    "xytext": (0, -7), "textcoords": "offset points", "ha": "center", "va": "top", "fontsize": 7,
    "bbox": {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.75, "linewidth": 0},
}  # fmt: skip
LEGEND = {
    "own": ("here, mean ± deviation over seeds", {"marker": "o", "color": COLOURS[0]}),
    "teacher": ("here, the teacher", {"marker": "s", "color": COLOURS[1]}),
    "paper": (
        "in the paper, with its own models", {"marker": "D", "color": PAPER_COLOUR, "markerfacecolor": "none"},
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Dots:
    """A panel for each column: one line per row with mean and deviation, each seed, and the paper's value."""

    def draw(self, evaluated: Evaluated, summaries: Sequence[Summary], path: Path) -> None:  # noqa: ARG002
        """Write the PNG."""
        columns, lines = evaluated.table.columns, evaluated.lines
        wide, deep = min(len(columns), PANELS_BESIDE), math.ceil(len(columns) / PANELS_BESIDE)
        height = 0.6 + 0.27 * len(lines) + 0.3 * len(evaluated.table.groups)
        figure = new_figure(max(2.2 + 2.9 * wide, LEGEND_WIDTH), 0.5 + deep * height)
        grid = figure.subplots(deep, wide, sharey=True, squeeze=False)
        panels, heights = grid.flat[: len(columns)], _heights(evaluated)
        for unused in grid.flat[len(columns) :]:
            unused.set_visible(False)
        for place, (axes, column) in enumerate(zip(panels, columns, strict=True)):
            for line, height in zip(lines, heights, strict=True):
                _dot(axes, column, line.cells[place], height, is_teacher=line.row.model != OWN)
            _widened(axes)
            title = textwrap.fill(column.label, TITLE_LETTERS)
            axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
            axes.set_xlabel(_axis_label(column), fontsize=9)
            axes.locator_params(axis="x", nbins=5)
            bare(axes, grid="x")
        for first in grid[:, 0]:
            _name_rows(first, evaluated, heights)
        is_shown = {
            "own": True,
            "teacher": any(line.row.model != OWN for line in lines),
            "paper": any(cell.published is not None for line in lines for cell in line.cells),
        }
        _legend_of_dots(figure, panels[0], [LEGEND[name] for name, shown in is_shown.items() if shown])
        write(figure, path)


@dataclass(frozen=True, kw_only=True)
class Stacks:
    """A bar for each row, whose parts are the columns; means over seeds, without deviation.

    Args:
        colours: the columns' colours, as places in `COLOURS`.
    """

    x_label: str
    colours: Sequence[int] = tuple(range(len(COLOURS)))

    def draw(self, evaluated: Evaluated, summaries: Sequence[Summary], path: Path) -> None:  # noqa: ARG002
        """Write the PNG."""
        lines, heights = evaluated.lines, _heights(evaluated)
        figure = new_figure(7.5, 1.3 + 0.34 * len(lines) + 0.3 * len(evaluated.table.groups))
        axes = figure.subplots()
        ends = [0.0] * len(lines)
        for place, column in enumerate(evaluated.table.columns):
            means = [_scaled(column, line.cells[place].mean or 0.0) for line in lines]
            colour = COLOURS[self.colours[place]]
            bars = axes.barh(heights, means, 0.66, ends, color=colour, edgecolor="white", label=column.label)
            shown = [f"{mean:.0f}" if mean >= SMALLEST_NAMED else "" for mean in means]
            axes.bar_label(bars, shown, label_type="center", fontsize=8, color="white")
            ends = [end + mean for end, mean in zip(ends, means, strict=True)]
        _name_rows(axes, evaluated, heights)
        axes.set_xlim(0, 100)
        axes.set_xlabel(self.x_label, fontsize=9)
        bare(axes, grid="x")
        figure.legend(loc="outside lower center", ncols=len(evaluated.table.columns), frameon=False, fontsize=8)
        write(figure, path)


@dataclass(frozen=True, kw_only=True)
class Lines:
    """The rows as points along a numeric axis: a panel for each column, a line for each group, a band of deviations.

    Args:
        x_label: label of the axis.
        x: the position of each row on the axis, by the row's label.
        is_logarithmic: whether the axis is logarithmic.
    """

    x_label: str
    x: Mapping[str, float]
    is_logarithmic: bool = False

    def draw(self, evaluated: Evaluated, summaries: Sequence[Summary], path: Path) -> None:  # noqa: ARG002
        """Write the PNG."""
        columns = evaluated.table.columns
        figure = new_figure(3.6 * len(columns) + 0.4, 3.2)
        panels = figure.subplots(1, len(columns), squeeze=False)[0]
        for place, (axes, column) in enumerate(zip(panels, columns, strict=True)):
            for number, group in enumerate(evaluated.table.groups):
                points = [
                    (self.x[line.label], line.cells[place])
                    for line in evaluated.lines
                    if line.group is group and line.label in self.x and line.cells[place].mean is not None
                ]
                band(
                    axes, number, group.label, [(x, [_scaled(column, v) for v in c.values.values()]) for x, c in points]
                )
            if self.is_logarithmic:
                axes.set_xscale("log")
                axes.set_xticks(list(self.x.values()), list(self.x))
                axes.minorticks_off()
            else:
                axes.set_xticks(list(self.x.values()))
            titled(axes, column.label, x=self.x_label, y=_axis_label(column))
            bare(axes, grid="y")
            if any(group.label for group in evaluated.table.groups):
                axes.legend(frameon=False, fontsize=8)
        write(figure, path)


@dataclass(frozen=True, kw_only=True)
class Ternary:
    """Mixes of three weights as points of a triangle: a panel for each column, coloured by the mean over seeds.

    A row's choices decide its point. The colour is interpolated between the points.

    Args:
        corners: the names of the rewards with the weights λ, μ and ρ; each has weight 1 at its corner.
    """

    corners: tuple[str, str, str]

    def draw(self, evaluated: Evaluated, summaries: Sequence[Summary], path: Path) -> None:  # noqa: ARG002
        """Write the PNG."""
        columns = evaluated.table.columns
        figure = new_figure(4.9 * len(columns), 4.3)
        panels = figure.subplots(1, len(columns), squeeze=False)[0]
        for place, (axes, column) in enumerate(zip(panels, columns, strict=True)):
            lines = [line for line in evaluated.lines if line.cells[place].mean is not None]
            weights = [[float(line.row.jobs[key]) for key in MIX] for line in lines]
            points = [(rho + lambda_ / 2, TRIANGLE_HEIGHT * lambda_) for lambda_, _, rho in weights]
            _triangle(axes, self.corners)
            means = [mean for line in lines if (mean := line.cells[place].mean) is not None]
            _heat(axes, points, [_scaled(column, mean) for mean in means], _axis_label(column))
            for (x, y), line in zip(points, lines, strict=True):
                axes.annotate(_mean_and_spread(column, line.cells[place]), (x, y), **LABEL_OF_A_POINT)
            axes.set_title(column.label, loc="left", fontsize=10, fontweight="bold")
        write(figure, path)


def _triangle(axes: Axes, corners: tuple[str, str, str]) -> None:
    """Draw an empty triangle with the names of its corners."""
    axes.plot([0, 1, 0.5, 0], [0, 0, TRIANGLE_HEIGHT, 0], color="#999999", linewidth=0.9)
    top, left, right = (f"{name}, {weight} = 1" for name, weight in zip(corners, ("λ", "μ", "ρ"), strict=True))
    axes.annotate(top, (0.5, TRIANGLE_HEIGHT), (0, 16), textcoords="offset points", ha="center", fontsize=9)
    axes.annotate(left, (0, 0), (0, -38), textcoords="offset points", ha="center", fontsize=9)
    axes.annotate(right, (1, 0), (0, -38), textcoords="offset points", ha="center", fontsize=9)
    axes.set_xlim(-0.2, 1.2)
    axes.set_ylim(-0.2, TRIANGLE_HEIGHT + 0.12)
    axes.set_aspect("equal")
    axes.set_axis_off()


def _heat(axes: Axes, points: Sequence[tuple[float, float]], values: Sequence[float], label: str) -> None:
    """Draw the points in the colours of their values, and fill the surface between them if they span one."""
    if not points:
        return
    xs, ys = zip(*points, strict=True)
    middle, half = (max(values) + min(values)) / 2, max(SMALLEST_SPAN, max(values) - min(values)) / 2
    low, high = middle - half, middle + half
    if len(set(xs)) > 2 and len(set(ys)) > 1:
        axes.tripcolor(xs, ys, values, shading="gouraud", alpha=0.85, cmap="cividis", vmin=low, vmax=high)
    drawn = axes.scatter(
        xs, ys, c=values, s=42, edgecolors="white", linewidths=1.0, zorder=3, cmap="cividis", vmin=low, vmax=high
    )
    bar = axes.figure.colorbar(drawn, ax=axes, shrink=0.7, pad=0.02)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)


def _mean_and_spread(column: Column, cell: Cell) -> str:
    assert cell.mean is not None
    mean = f"{_scaled(column, cell.mean):.1f}"
    return mean if cell.deviation is None else f"{mean}\n±{_scaled(column, cell.deviation):.1f}"


@dataclass(frozen=True, kw_only=True)
class Histories:
    """Learning curves of a stage: a line for each row, means over seeds with a band of deviations.

    Args:
        stage: the stage whose history is drawn.
        x: the history's field along the x-axis; `x_label` is its label.
        y: the history's fields along the y-axis, each with its label; a label that ends with "(%)" marks a fraction.
    """

    stage: str
    x: str
    x_label: str
    y: Mapping[str, str]

    def draw(self, evaluated: Evaluated, summaries: Sequence[Summary], path: Path) -> None:
        """Write the PNG: a panel for each group and field."""
        shown = [(group, name, label) for group in evaluated.table.groups for name, label in self.y.items()]
        wide = min(len(shown), HISTORIES_BESIDE)
        deep = math.ceil(len(shown) / wide)
        figure = new_figure(4.4 * wide + 0.4, 0.3 + 3.1 * deep)
        grid = figure.subplots(deep, wide, squeeze=False, sharey=len(self.y) == 1)
        for unused in grid.flat[len(shown) :]:
            unused.set_visible(False)
        for axes, (group, name, label) in zip(grid.flat, shown, strict=False):
            for number, (row_label, row) in enumerate(group.rows.items()):
                jobs = matching(summaries, {**group.jobs, **row.jobs})
                histories = [one.histories.get(self.stage, []) for one in jobs]
                factor = 100 if label.endswith("(%)") else 1
                band(axes, number, row_label, over_seeds(histories, self.x, name, factor=factor))
            titled(axes, group.label, x=self.x_label, y=label)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
            bare(axes, grid="y")
        handles, labels = max((axes.get_legend_handles_labels() for axes in grid.flat), key=lambda found: len(found[0]))
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
        write(figure, path)


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Reliability diagrams of judges: a panel for each row, the share of right responses over the score in ten bins.

    A judge whose scores are calibrated probabilities lies on the diagonal. Grey bars are the shares of all responses in
    the bins. A bin with few responses is too uncertain and has no point. The jobs of a row are counted together.
    """

    def draw(self, evaluated: Evaluated, summaries: Sequence[Summary], path: Path) -> None:
        """Write the PNG."""
        lines = evaluated.lines
        wide = min(len(lines), RELIABILITY_PANELS_BESIDE)
        deep = math.ceil(len(lines) / wide)
        figure = new_figure(0.6 + 2.9 * wide, 0.7 + (2.9 if len(evaluated.table.groups) == 1 else 3.1) * deep)
        grid = figure.subplots(deep, wide, sharex=True, sharey=True, squeeze=False)
        for unused in grid.flat[len(lines) :]:
            unused.set_visible(False)
        for line, axes in zip(lines, grid.flat, strict=False):
            jobs = matching(summaries, {**line.group.jobs, **line.row.jobs})
            _reliability(axes, [one.values for one in jobs])
            title = line.label if len(evaluated.table.groups) == 1 else f"{line.label}\n{line.group.label}"
            axes.set_title(title, loc="left", fontsize=10, fontweight="bold", pad=17)
        for axes in grid[:, 0]:
            axes.set_ylabel("right responses (%)", fontsize=9)
        for place, axes in enumerate(grid.flat[: len(lines)]):
            if place + wide >= len(lines):  # no panel below
                axes.set_xlabel("score (%)", fontsize=9)
                axes.tick_params(labelbottom=True)
        handles, labels = max((axes.get_legend_handles_labels() for axes in grid.flat), key=lambda found: len(found[0]))
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        write(figure, path)


def _reliability(axes: Axes, values: Sequence[Mapping[str, float]]) -> None:
    """Draw one panel from the numbers of its jobs: bars of counts, the diagonal, and a line through the filled bins."""
    bins: list[tuple[int, float, float]] = []
    for place in range(RELIABILITY_BINS):
        name = f"judge.reliability.{place}"
        filled = [(own[f"{name}.count"], own) for own in values if own.get(f"{name}.count")]
        count = sum(n for n, _ in filled)
        score, right = (
            sum(n * own[f"{name}.{of}"] for n, own in filled) / max(1, count) for of in ("mean_score", "share_right")
        )
        bins.append((round(count), score, right))
    total = max(1, sum(count for count, *_ in bins))
    width = 100 / RELIABILITY_BINS
    starts = [width * place for place in range(RELIABILITY_BINS)]
    shares = [100 * count / total for count, *_ in bins]
    axes.bar(starts, shares, width, align="edge", color="#dddddd", edgecolor="white", label="responses in the bin (%)")
    axes.plot([0, 100], [0, 100], "--", color=PAPER_COLOUR, linewidth=0.9, label="scores that are probabilities")
    points = [(100 * score, right, count) for count, score, right in bins if count >= SMALLEST_BIN]
    if points:
        scores, means = [score for score, *_ in points], [100 * right for _, right, _ in points]
        ends = [wilson_interval(round(right * count), count) for _, right, count in points]
        errors = [
            [mean - 100 * low for mean, (low, _) in zip(means, ends, strict=True)],
            [100 * high - mean for mean, (_, high) in zip(means, ends, strict=True)],
        ]
        axes.errorbar(scores, means, errors, fmt="none", ecolor=COLOURS[0], elinewidth=0.9, alpha=0.6)
        label = f"this judge, of bins with {SMALLEST_BIN} responses or more, with 95 % intervals"
        axes.plot(scores, means, "-o", color=COLOURS[0], markersize=4.5, linewidth=1.4, label=label, clip_on=False)
    said = [("calibration error", "judge.expected_calibration_error"), ("area", "judge.area_under_curve")]
    known = [(label, [own[key] for own in values if key in own]) for label, key in said]
    text = ", ".join(f"{label} {100 * sum(own) / len(own):.1f}" for label, own in known if own)
    text = text or ("no verdict could be read" if values else "no job has finished")
    axes.annotate(text, (0, 1), (0, 4), "axes fraction", "offset points", fontsize=8, color="#333333")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 102)
    bare(axes, grid="both")


def _widened(axes: Axes) -> None:
    """Show at least `SMALLEST_SPAN` of the axis, so that a tiny difference does not fill a panel."""
    low, high = axes.get_xlim()
    missing = max(0.0, SMALLEST_SPAN - (high - low))
    axes.set_xlim(low - missing / 2, high + missing / 2)


def _heights(evaluated: Evaluated) -> list[float]:
    """The vertical position of each row, downwards; a group starts lower, to leave room for its name."""
    heights, height, group = [], 0.0, None
    for line in evaluated.lines:
        if line.group is not group:
            height += 1.6 if line.group.label else 0.5
            group = line.group
        else:
            height += 1
        heights.append(height)
    return heights


def _name_rows(axes: Axes, evaluated: Evaluated, heights: Sequence[float]) -> None:
    """Write the rows' names beside the axes, and the groups' above their rows."""
    lines = evaluated.lines
    for group in evaluated.table.groups:
        if group.label:
            top = min(h for line, h in zip(lines, heights, strict=True) if line.group is group)
            axes.annotate(
                f" {group.label}", (0, top - 0.8), xycoords=("axes fraction", "data"), fontsize=9, color="#333333",
                ha="left", va="center", annotation_clip=False,
            )  # fmt: skip
    axes.set_yticks(heights, [line.label for line in lines], fontsize=9)
    axes.set_ylim(max(heights) + 0.7, min(heights) - (1.3 if lines[0].group.label else 0.7))


def _dot(axes: Axes, column: Column, cell: Cell, height: float, *, is_teacher: bool) -> None:
    colour, marker = (COLOURS[1], "s") if is_teacher else (COLOURS[0], "o")
    if cell.mean is not None:
        spread = _scaled(column, cell.deviation or 0.0)
        axes.errorbar(
            _scaled(column, cell.mean),
            height,
            xerr=spread or None,
            color=colour,
            marker=marker,
            markersize=6,
            capsize=3,
        )
        if cell.deviation is not None:
            values = [_scaled(column, value) for value in cell.values.values()]
            axes.plot(values, [height] * len(values), "|", color=colour, alpha=0.6, markersize=8)
    if cell.published is not None:
        axes.plot(cell.published, height, "D", color=PAPER_COLOUR, markerfacecolor="none", markersize=5)


def _legend_of_dots(figure: Figure, axes: Axes, entries: Sequence[tuple[str, Mapping[str, str]]]) -> None:
    handles = [
        axes.plot(
            [], [], linestyle="", marker=look["marker"], color=look["color"],
            markerfacecolor=look.get("markerfacecolor", look["color"]),
        )[0]
        for _, look in entries
    ]  # fmt: skip
    labels = [label for label, _ in entries]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)


def _axis_label(column: Column) -> str:
    if column.axis:
        return column.axis
    if column.test_set is not None and column.unit == "percent":
        return "accuracy (%)"
    return {"percent": "share (%)", "seconds": "time (s)", "number": "value"}[column.unit]


def _scaled(column: Column, value: float) -> float:
    return 100 * value if column.unit == "percent" else value
