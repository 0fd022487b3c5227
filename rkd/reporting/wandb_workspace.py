"""A W&B workspace for one table: the table's manifest enters, a saved view of its runs leaves.

    python -m rkd workspace tables/table3.jobs.json --entity NAME              make the view, and print its address
    python -m rkd workspace tables/table3.jobs.json --entity NAME --dry-run    print what would be saved

It shows only the runs of the table's jobs, by row: the columns of the table, curves of all stages, costs, samples.
Needs `pip install -r requirements-workspaces.txt`. Runs are chosen by their ids, the digests of the jobs, because two
tables may share jobs, whose runs are then grouped under the name of one table only.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rkd.errors import UsageError
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


def workspace_of(manifest: Mapping[str, Any], *, entity: str, project: str) -> Any:
    """The workspace of the table that a manifest (`rkd.reporting.table_files`) describes; makes no network request.

    Raises:
        ModuleNotFoundError: wandb-workspaces is not installed.
    """
    workspaces, panels = _wandb_workspaces()
    table = manifest["table"]
    digests = [folder.rpartition("-")[2] for folder in manifest["jobs"]]
    columns = list(dict.fromkeys(_summary_key(Column(**column)) for column in table["columns"]))

    def bars(keys: Sequence[str]) -> list[Any]:
        return [panels.BarPlot(title=key, metrics=[key], orientation="h") for key in keys]

    def lines(stage: str) -> list[Any]:
        keys = [f"{stage}/{name}" for name in CURVES[stage]]
        return [panels.LinePlot(title=key, x=f"{stage}/step", y=[key]) for key in keys]

    section = workspaces.Section
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=table["title"],
        sections=[
            section(name=table["name"], panels=bars(columns), is_open=True),
            *(section(name=stage, panels=lines(stage), is_open=stage == "rl") for stage in CURVES),
            section(name="costs", panels=bars(COSTS)),
            section(name="tables", panels=[panels.WeavePanelSummaryTable(table_name=name) for name in TABLES]),
        ],
        runset_settings=workspaces.RunsetSettings(
            filters=[workspaces.Metric("ID").isin(digests)],
            groupby=[workspaces.Metric("JobType")],
            pinned_columns=[f"summary:{key}" for key in columns],
        ),
    )


def save_workspace(path: Path, *, entity: str, project: str, dry_run: bool) -> str:
    """Save the workspace of the manifest at `path`; return its address, or for a dry run its contents.

    Raises:
        UsageError: there is no manifest at `path`.
        ModuleNotFoundError: wandb-workspaces is not installed.
    """
    if not path.is_file() or not path.name.endswith(MANIFEST):
        raise UsageError(f"{path}: give a file NAME{MANIFEST}, as `python run.py -m sweeps=NAME` writes it.")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    workspace = workspace_of(manifest, entity=entity, project=project)
    if dry_run:
        content = workspace._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
        return json.dumps(content, indent=1, ensure_ascii=False)
    return str(workspace.save().url)


def _summary_key(column: Column) -> str:
    """The key in a run's summary (`rkd.jobs.run_log`) of the number that a column shows."""
    if column.test_set:
        return f"test/{column.test_set}/{column.shows.replace('.', '/')}"
    assert column.value is not None  # a column shows a test set or a value
    return column.value.replace(".", "/")


def _wandb_workspaces() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as workspaces
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a workspace needs wandb-workspaces: `pip install -r requirements-workspaces.txt`."
        ) from error
    return workspaces, panels
