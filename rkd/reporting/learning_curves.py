"""Figures of one job: the history that a stage logged enters, a PNG leaves. Fractions become percent here."""

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from rkd.reporting.plot_style import COLOURS, bare, new_figure, titled, write

EPISODES = "episodes (responses trained on)"
# Panels of `learning_curves`: key of the history, title, label with unit, factor from the logged unit to this unit.
PANELS = (
    ("reward", "Reward", "reward per response", 1),
    ("validation_accuracy", "Validation accuracy", "accuracy (%)", 100),
    ("kl", "KL to the reference policy", "KL (nats per response)", 1),
    ("response_tokens", "Response length", "length (tokens)", 1),
)


def learning_curves(
    history: Path | Sequence[Mapping[str, Any]], path: Path, *, sft_accuracy: float | None = None
) -> None:
    """Draw the RL stage's history into the PNG `path`: the four `PANELS` against episodes.

    Args:
        history: rows, or the CSV file that holds them, with the keys `episodes` (responses trained on so far),
            `reward`, `validation_accuracy` (fraction), `kl` (summed over a response's tokens, nats), `response_tokens`;
            each may have the stage's prefix (`rl/reward`). A row may lack a value, as validation is less frequent.
        path: the figure's file.
        sft_accuracy: the SFT student's validation accuracy (fraction), drawn as a dashed line.

    Raises:
        ValueError: the history lacks `episodes`, or all values of a panel.
    """
    rows = _read_history(history)
    figure = new_figure(8.4, 5.4)
    grid = figure.subplots(2, 2, sharex=True)
    for axes, (key, title, label, factor) in zip(grid.flat, PANELS, strict=True):
        points = sorted((row["episodes"], factor * row[key]) for row in rows if "episodes" in row and key in row)
        if not points:
            present = ", ".join(sorted({name for row in rows for name in row})) or "nothing"
            raise ValueError(f"The history has no row with both 'episodes' and {key!r} (it has {present}).")
        _draw_panel(axes, points, title=title, label=label)
        if key == "validation_accuracy" and sft_accuracy is not None:
            level = 100 * sft_accuracy
            axes.axhline(level, color=COLOURS[1], linestyle="--", linewidth=1.4, label=f"SFT: {level:.1f}")
            axes.legend(frameon=False, fontsize=9, loc="best")
    for axes in grid[-1]:
        axes.set_xlabel(EPISODES, fontsize=9)
    write(figure, path)


def _read_history(history: Path | Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    if isinstance(history, Path):
        with history.open(encoding="utf-8", newline="") as file:
            history = list(csv.DictReader(file))
    wanted = {"episodes", *(key for key, *_ in PANELS)}
    rows = []
    for row in history:
        short = {key.rpartition("/")[2]: value for key, value in row.items()}
        rows.append({key: float(value) for key, value in short.items() if key in wanted and value not in (None, "")})
    return rows


def _draw_panel(axes: Axes, points: Sequence[tuple[float, float]], *, title: str, label: str) -> None:
    episodes, values = zip(*points, strict=True)
    window = len(values) // 20
    if window > 1:  # with many noisy updates, the main line is their running mean
        means = [statistics.mean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]
        axes.plot(episodes, values, color=COLOURS[0], alpha=0.25, linewidth=0.8)
        axes.plot(episodes, means, color=COLOURS[0], linewidth=1.8, label=f"mean of {window} updates")
        axes.legend(frameon=False, fontsize=9, loc="best")
    else:
        axes.plot(episodes, values, color=COLOURS[0], linewidth=1.8, marker="o", markersize=3)
    titled(axes, title, x="", y=label)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.locator_params(axis="x", nbins=5)
    bare(axes, grid="y")
