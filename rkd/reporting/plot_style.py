"""Shared parts of all figures: one style, colours for colour-blind readers, bands of deviations over seeds."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

# Okabe and Ito's palette, black last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=130)
    layout = figure.get_layout_engine()
    assert isinstance(layout, ConstrainedLayoutEngine)
    layout.set(w_pad=0.08, h_pad=0.08)
    return figure


def bare(axes: Axes, *, grid: Literal["both", "x", "y"]) -> None:
    """Remove decoration, and keep a faint grid along the axis `grid`."""
    axes.grid(axis=grid, color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def titled(axes: Axes, title: str, *, x: str, y: str) -> None:
    """Set the title and labels of a panel; labels name their units."""
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)


def over_seeds(
    histories: Sequence[Sequence[Mapping[str, float]]], x: str, y: str, *, factor: float = 1.0
) -> list[tuple[float, list[float]]]:
    """The k-th values of `y` in all seeds' histories, times `factor`, at the mean of their `x`.

    Seeds measure at the same shares of their training, which are slightly different steps, so equal `x` are rare.
    """
    measured = [[(row[x], factor * row[y]) for row in history if x in row and y in row] for history in histories]
    points = []
    for place in range(max(map(len, measured), default=0)):
        own = [rows[place] for rows in measured if place < len(rows)]
        points.append((statistics.mean(at for at, _ in own), [value for _, value in own]))
    return points


def band(axes: Axes, number: int, label: str, points: Sequence[tuple[float, Sequence[float]]]) -> None:
    """Draw a line through the means of the values at each point, and a band of their sample standard deviation.

    Args:
        number: the line's number in its panel, which decides colour and marker.
        points: x, and the values of all seeds at x.
    """
    if not points:
        return
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    xs = [x for x, _ in points]
    means = [statistics.mean(values) for _, values in points]
    spreads = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in points]
    every = max(1, len(xs) // 10)  # forty markers would hide the line
    axes.plot(xs, means, color=colour, marker=marker, markersize=4, markevery=every, linewidth=1.6, label=label)
    lows, highs = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
    axes.fill_between(xs, lows, highs, color=colour, alpha=0.15, linewidth=0)


def write(figure: Figure, path: Path) -> None:
    """Write the PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
