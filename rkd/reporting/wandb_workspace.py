"""A W&B workspace for one table: the table's manifest enters, a saved view of its runs leaves.

    python -m rkd workspace tables/table3.jobs.json --entity NAME              make the view, and print its address
    python -m rkd workspace tables/table3.jobs.json --entity NAME --report     a report (`rkd.reporting.wandb_report`)
    python -m rkd workspace tables/table3.jobs.json --entity NAME --dry-run    print what would be saved

It shows only the runs of the table's jobs, by row: the columns of the table, curves of all stages, costs, samples.
Needs `pip install -r requirements-workspaces.txt`. Runs are chosen by their ids, the digests of the jobs, because two
tables may share jobs, whose runs are then grouped under the name of one table only.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rkd.errors import TrackingError, UsageError
from rkd.reporting.table_files import MANIFEST
from rkd.reporting.tables import Column

# The most informative curves of each stage.
CURVES = {
    "sft": ("train/loss", "validation/accuracy"),
    "dpo": ("train/loss", "validation/accuracy"),
    "reward_model": ("train/loss", "validation/right_over_wrong_accuracy", "validation/loss"),
    "rl": ("reward", "validation_accuracy", "kl", "response_tokens", "entropy", "share_without_answer"),
}
COSTS = ("costs/seconds", "costs/tokens")
TABLES = ("results", "labels/statistics", "samples/teacher_first_training", "samples/rl")


def workspace_of(path: Path, *, entity: str, project: str) -> Any:
    """The workspace of the table whose manifest (`rkd.reporting.table_files`) lies at `path`; needs no network.

    Raises:
        ModuleNotFoundError: wandb-workspaces is not installed.
    """
    workspaces, panels = wandb_workspaces()
    manifest = json.loads(path.read_text(encoding="utf-8"))
    table, section = manifest["table"], workspaces.Section
    columns = summary_keys([Column(**column) for column in table["columns"]])
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=table["title"],
        sections=[
            section(name=table["name"], panels=bars(panels, columns), is_open=True),
            *(section(name=stage, panels=lines(panels, stage), is_open=stage == "rl") for stage in CURVES),
            section(name="costs", panels=bars(panels, COSTS)),
            section(name="tables", panels=[panels.WeavePanelSummaryTable(table_name=name) for name in TABLES]),
        ],
        runset_settings=workspaces.RunsetSettings(
            filters=[workspaces.Metric("ID").isin([run_id(Path(folder).name) for folder in manifest["jobs"]])],
            groupby=[workspaces.Metric("JobType")],
            pinned_columns=[f"summary:{key}" for key in columns],
        ),
    )


def save_view(view_of: Callable[..., Any], path: Path, *, entity: str, project: str, dry_run: bool) -> str:
    """Save what `view_of` makes of the manifest at `path`; return its address, or for a dry run its contents.

    Raises:
        UsageError: there is no manifest at `path`.
        ModuleNotFoundError: wandb-workspaces is not installed.
        TrackingError: W&B cannot be reached, or refuses.
    """
    if not path.is_file() or not path.name.endswith(MANIFEST):
        raise UsageError(f"{path}: give a file NAME{MANIFEST}, as `python run.py -m sweeps=NAME` writes it.")
    view = view_of(path, entity=entity, project=project)
    if dry_run:
        content = view._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
        return json.dumps(content, indent=1, ensure_ascii=False)
    try:
        return str(view.save().url)
    except Exception as error:  # of W&B, of its client and of the network
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise TrackingError(
            f"W&B did not save it ({said}). Log in with `wandb login`, check the network and --entity {entity}, or "
            "look at the contents with --dry-run."
        ) from error


def run_id(job: str) -> str:
    """The id of a job's run: the digest that ends the name of its folder."""
    return job.rpartition("-")[2]


def bars(panels: Any, keys: Sequence[str]) -> list[Any]:
    """A bar chart for each key of the summary."""
    return [panels.BarPlot(title=key, metrics=[key], orientation="h") for key in keys]


def lines(panels: Any, stage: str) -> list[Any]:
    """A chart of each of a stage's most informative curves."""
    keys = [f"{stage}/{name}" for name in CURVES[stage]]
    return [panels.LinePlot(title=key, x=f"{stage}/step", y=[key]) for key in keys]


def summary_keys(columns: Sequence[Column]) -> list[str]:
    """The keys in a run's summary (`rkd.jobs.run_log`) of the numbers that the columns show, each once."""
    return list(dict.fromkeys(map(_summary_key, columns)))


def _summary_key(column: Column) -> str:
    if column.test_set:
        return f"test/{column.test_set}/{column.shows.replace('.', '/')}"
    assert column.value is not None  # a column shows a test set or a value
    return column.value.replace(".", "/")


def wandb_workspaces() -> tuple[Any, Any]:
    """The modules of workspaces and of reports, which has the panels.

    Raises:
        ModuleNotFoundError: they are not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as workspaces
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a workspace needs wandb-workspaces: `pip install -r requirements-workspaces.txt`."
        ) from error
    return workspaces, panels
