"""Draws `architecture.png`: from a config to a table, each step with the package that does it.

python docs/images/architecture.py [FILE]
"""

import itertools
import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from rkd.reporting.plot_style import COLOURS, new_figure

DATA, TRAINED, MEASURED = COLOURS[5], COLOURS[4], COLOURS[2]
WIDTH, HEIGHT = 2.0, 0.94

# Each box: column and row, what is made, how, the package that does it, and its kind.
BOXES = {
    "config": (0, 0, "Config", "groups, values", "conf/, rkd/config", DATA),
    "queries": (1, 0, "Queries", "splits, prompts", "rkd/data", DATA),
    "teacher": (2, 0, "Teacher", "samples responses", "rkd/generation", DATA),
    "labels": (3, 0, "Labels", "majority vote or judge", "rkd/stages, rkd/judges", DATA),
    "sft": (4, 0, "SFT student", "learns right responses", "rkd/stages", TRAINED),
    "samples": (4, 1, "Student samples", "right and wrong ones", "rkd/generation", DATA),
    "pairs": (3, 1, "Pairs", "chosen, rejected", "rkd/stages", DATA),
    "reward": (2, 1, "Reward model", "learns to rank pairs", "rkd/stages", TRAINED),
    "rl": (1, 1, "RL student", "PPO or GRPO", "rkd/rl", TRAINED),
    "evaluation": (0, 1, "Evaluation", "accuracy, win rate", "rkd/evaluation", MEASURED),
    "table": (0, 2, "Table", "mean ± deviation, claims", "rkd/reporting", MEASURED),
}
ORDER = ("config", "queries", "teacher", "labels", "sft", "samples", "pairs", "reward", "rl", "evaluation", "table")
NOTE = (
    "Each step goes through rkd/pipeline and is kept by rkd/store: rows with a step in common share it,\n"
    "and a killed job goes on where it was. Trained steps use rkd/training and rkd/models.\n"
    "rkd/jobs runs jobs and sweeps."
)


def place(name: str) -> tuple[float, float]:
    """The middle of a box."""
    column, row, *_ = BOXES[name]
    return column * 2.5, -row * 1.62


def draw_box(axes: Axes, name: str) -> None:
    """A box with its three lines."""
    *_, title, how, package, colour = BOXES[name]
    x, y = place(name)
    corner = (x - WIDTH / 2, y - HEIGHT / 2)
    shape = FancyBboxPatch(
        corner, WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.1", facecolor=f"{colour}33", edgecolor=colour,
        linewidth=1.6,
    )  # fmt: skip
    axes.add_patch(shape)
    axes.text(x, y + 0.24, title, ha="center", va="center", fontsize=12, fontweight="bold")
    axes.text(x, y, how, ha="center", va="center", fontsize=9.5)
    axes.text(x, y - 0.26, package, ha="center", va="center", fontsize=9, family="monospace", color="#333333")


def draw_arrow(axes: Axes, start: str, end: str) -> None:
    """An arrow from the edge of one box to that of another; they are neighbours."""
    (x0, y0), (x1, y1) = place(start), place(end)
    dx, dy = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
    tail = (x0 + dx * WIDTH / 2, y0 + dy * HEIGHT / 2)
    head = (x1 - dx * WIDTH / 2, y1 - dy * HEIGHT / 2)
    axes.annotate("", xy=head, xytext=tail, arrowprops={"arrowstyle": "-|>", "linewidth": 1.6, "color": "#444444"})


def draw(file: Path) -> None:
    """Write the picture."""
    figure = new_figure(11.5, 4.9)
    axes = figure.add_subplot()
    for start, end in itertools.pairwise(ORDER):
        draw_arrow(axes, start, end)
    for name in BOXES:
        draw_box(axes, name)
    x, y = place("table")
    axes.text(x + WIDTH / 2 + 0.35, y + 0.18, NOTE, ha="left", va="center", fontsize=9.5, linespacing=1.5)
    kinds = ((DATA, "data"), (TRAINED, "training"), (MEASURED, "measurement"))
    for number, (colour, words) in enumerate(kinds):
        at = (x + WIDTH / 2 + 0.35 + 1.7 * number, y - 0.5)
        axes.add_patch(
            FancyBboxPatch(at, 0.22, 0.16, boxstyle="square,pad=0", facecolor=f"{colour}33", edgecolor=colour)
        )
        axes.text(at[0] + 0.32, at[1] + 0.08, words, ha="left", va="center", fontsize=9.5)
    axes.set(xlim=(-1.15, 11.15), ylim=(-3.85, 0.6), aspect="equal")
    axes.axis("off")
    figure.savefig(file, metadata={"Software": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".png"))
