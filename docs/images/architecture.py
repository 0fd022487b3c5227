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
KINDS = ((DATA, "text and labels"), (TRAINED, "training"), (MEASURED, "measurement"))
LINE, FAINT = "#444444", "#666666"
WIDTH, HEIGHT = 2.12, 1.0  # of a box
ACROSS, DOWN = 2.5, 1.75  # from a box to its neighbours

# Each box: column and row, what is made, how, the package that does it, and its kind.
BOXES = {
    "config": (0, 0, "Config", "groups, values", "conf/, rkd/config", DATA),
    "queries": (1, 0, "Queries", "splits, prompts", "rkd/data", DATA),
    "teacher": (2, 0, "Teacher", "samples responses", "rkd/generation", DATA),
    "labels": (3, 0, "Labels", "by vote or by judge", "rkd/stages, judges", DATA),
    "sft": (4, 0, "SFT student", "learns the responses", "rkd/stages", TRAINED),
    "samples": (4, 1, "Student samples", "right and wrong ones", "rkd/generation", DATA),
    "pairs": (3, 1, "Pairs", "chosen, rejected", "rkd/stages", DATA),
    "reward": (2, 1, "Reward model", "learns to rank pairs", "rkd/stages", TRAINED),
    "rl": (1, 1, "RL student", "PPO or GRPO", "rkd/rl", TRAINED),
    "evaluation": (0, 1, "Evaluation", "accuracy, win rate", "rkd/evaluation", MEASURED),
    "table": (0, 2, "Table", "mean ± deviation", "rkd/reporting", MEASURED),
}
ORDER = ("config", "queries", "teacher", "labels", "sft", "samples", "pairs", "reward", "rl", "evaluation", "table")
NOTES = (
    ("rkd/pipeline", "states the order of the steps"),
    ("rkd/store", "keeps what each step made: rows share it, and a killed job goes on where it was"),
    ("rkd/training", "trains every orange step; the networks are in rkd/models"),
    ("rkd/jobs", "runs jobs, sweeps and searches"),
)


def place(name: str) -> tuple[float, float]:
    """The middle of a box."""
    column, row, *_ = BOXES[name]
    return column * ACROSS, -row * DOWN


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
    axes.text(x, y + 0.25, title, ha="center", va="center", fontsize=12, fontweight="bold")
    axes.text(x, y - 0.03, how, ha="center", va="center", fontsize=10)
    axes.text(x, y - 0.31, package, ha="center", va="center", fontsize=9.5, family="monospace", color="#333333")


def arrow(axes: Axes, tail: tuple[float, float], head: tuple[float, float], *, dashed: bool = False) -> None:
    """An arrow between two points."""
    style = {"arrowstyle": "-|>", "linewidth": 1.6, "color": LINE, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 13}
    axes.annotate("", xy=head, xytext=tail, arrowprops={**style, "linestyle": "--" if dashed else "-"})


def draw_step(axes: Axes, start: str, end: str) -> None:
    """An arrow from the edge of one box to that of another; they are neighbours."""
    (x0, y0), (x1, y1) = place(start), place(end)
    dx, dy = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
    gap = 0.03
    tail = (x0 + dx * (WIDTH / 2 + gap), y0 + dy * (HEIGHT / 2 + gap))
    head = (x1 - dx * (WIDTH / 2 + gap), y1 - dy * (HEIGHT / 2 + gap))
    arrow(axes, tail, head)


def draw_start_of_rl(axes: Axes) -> None:
    """The way between the rows, from the SFT student to reinforcement learning."""
    (x0, y0), (x1, y1) = place("sft"), place("rl")
    x0 -= WIDTH / 4
    middle = (y0 + y1) / 2
    axes.plot([x0, x0, x1], [y0 - HEIGHT / 2 - 0.03, middle, middle], color=LINE, linewidth=1.6, linestyle="--")
    arrow(axes, (x1, middle), (x1, y1 + HEIGHT / 2 + 0.03))
    words = "RL starts from the SFT student, and its reward checks answers against the labels"
    axes.text((x0 + x1) / 2 - 0.1, middle + 0.07, words, ha="center", va="bottom", fontsize=9.5, color=FAINT)


def draw_notes(axes: Axes) -> None:
    """What the other packages do, and the meaning of the colours."""
    left, top = place("table")[0] + WIDTH / 2 + 0.38, place("table")[1] + 0.36
    for number, (package, does) in enumerate(NOTES):
        y = top - 0.27 * number
        axes.text(left, y, package, ha="left", va="center", fontsize=9.5, family="monospace", color="#333333")
        axes.text(left + 1.55, y, does, ha="left", va="center", fontsize=10)
    for number, (colour, words) in enumerate(KINDS):
        x, y = left + 1.9 * number, top + 0.42
        axes.add_patch(
            FancyBboxPatch((x, y - 0.1), 0.24, 0.17, boxstyle="square,pad=0", facecolor=f"{colour}33", edgecolor=colour)
        )
        axes.text(x + 0.34, y - 0.02, words, ha="left", va="center", fontsize=10)


def draw(file: Path) -> None:
    """Write the picture."""
    left, right = -WIDTH / 2 - 0.06, 4 * ACROSS + WIDTH / 2 + 0.06
    top, bottom = HEIGHT / 2 + 0.06, -2 * DOWN - HEIGHT / 2 - 0.06
    figure = new_figure(10.5, 10.5 * (top - bottom) / (right - left))
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    for start, end in itertools.pairwise(ORDER):
        draw_step(axes, start, end)
    for name in BOXES:
        draw_box(axes, name)
    draw_start_of_rl(axes)
    draw_notes(axes)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.axis("off")
    figure.savefig(file, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".png"))
