"""The contents of the notebooks: a folder of tables (`rkd.reporting.table_files`) enters, Markdown and PNGs leave.

The jobs computed every number, and the tables contain these numbers; this module only shows them. Fractions become
percent.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from matplotlib.figure import Figure

from rkd.reporting.job_summary import Summary
from rkd.reporting.learning_curves import EPISODES, PANELS
from rkd.reporting.plot_style import band, bare, new_figure, over_seeds, titled
from rkd.reporting.table_files import MANIFEST, read_table
from rkd.reporting.table_text import markdown
from rkd.reporting.tables import Evaluated, Group, matching

# By training stage: the x-axis, its label, and panels as in `rkd.reporting.learning_curves`.
CURVES = {
    "rl": ("episodes", EPISODES, PANELS),
    "reward_model": (
        "share",
        "share of the training",
        (
            ("pos_neg_accuracy", "Teacher's right over student's wrong", "pairs ranked right (%)", 100),
            ("pos_pos_accuracy", "Teacher's right over student's right", "pairs ranked so (%)", 100),
            ("student_pos_neg_accuracy", "Student's right over its wrong", "pairs ranked right (%)", 100),
            ("auc", "Right and wrong responses apart", "AUC (%)", 100),
        ),
    ),
}


def table(folder: Path, name: str) -> tuple[str, bytes | None]:
    """A table as text, and its figure if it has one and a job has finished; for a missing table, a note."""
    try:
        evaluated, summaries = read_table(folder / f"{name}{MANIFEST}")
    except FileNotFoundError as error:
        return str(error), None
    if evaluated.table.figure is None or not evaluated.finished:
        return markdown(evaluated), None
    with TemporaryDirectory() as place:
        path = Path(place) / "figure.png"
        evaluated.table.figure.draw(evaluated, summaries, path)
        return markdown(evaluated), path.read_bytes()


def curves(folder: Path, name: str, stage: str) -> tuple[str, bytes | None]:
    """The learning curves of a stage in the jobs of a table: the `CURVES` of the rows of its first group."""
    return _drawn(folder, name, lambda evaluated, summaries: _curves(evaluated.table.groups[0], summaries, stage))


def show(*exhibits: tuple[str, bytes | None]) -> None:
    """Display the exhibits in a notebook, one below the other."""
    from IPython.display import Image, Markdown, display

    for text, picture in exhibits:
        display(Markdown(text))
        if picture is not None:
            display(Image(data=picture))


def _drawn(
    folder: Path, name: str, draw: Callable[[Evaluated, Sequence[Summary]], Figure | None]
) -> tuple[str, bytes | None]:
    try:
        evaluated, summaries = read_table(folder / f"{name}{MANIFEST}")
    except FileNotFoundError as error:
        return str(error), None
    figure = draw(evaluated, summaries)
    if figure is None:
        return f"{name} in {folder}: no job with these numbers has finished yet.", None
    png = io.BytesIO()
    figure.savefig(png)
    return f"{evaluated.table.title} – {evaluated.finished} of {evaluated.jobs} jobs", png.getvalue()


def _curves(group: Group, summaries: Sequence[Summary], stage: str) -> Figure | None:
    x, x_label, panels = CURVES[stage]
    jobs = {label: matching(summaries, {**group.jobs, **row.jobs}) for label, row in group.rows.items()}
    histories = {label: [one.histories[stage] for one in own if stage in one.histories] for label, own in jobs.items()}
    histories = {label: own for label, own in histories.items() if own}
    if not histories:
        return None
    figure = new_figure(9.0, 5.8)
    for axes, (key, title, y_label, factor) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for number, (label, own) in enumerate(histories.items()):
            band(axes, number, label, over_seeds(own, x, key, factor=factor))
        titled(axes, title, x=x_label, y=y_label)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        bare(axes, grid="y")
    lines, labels = axes.get_legend_handles_labels()
    seeds = max(map(len, histories.values()))
    title = f"{group.label}: mean over {seeds} seeds, band: ± deviation" if seeds > 1 else group.label
    figure.legend(lines, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return figure
