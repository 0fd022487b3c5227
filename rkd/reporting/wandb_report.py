"""A W&B report of one table: the table's manifest and the results of its jobs enter, a page of text and panels leaves.

    python -m rkd workspace tables/table3.jobs.json --entity NAME --report

The page has the table with its claims, and below it panels of the runs: the columns, the curves of all stages, the
responses that were logged while the policy trained, and costs. Each group of the table has a set of runs, by row. The
text is that of the moment at which the report is saved; the panels follow the runs.
"""

from pathlib import Path
from typing import Any

from rkd.reporting.table_files import read_table
from rkd.reporting.table_text import markdown
from rkd.reporting.tables import Group, matching
from rkd.reporting.wandb_workspace import COSTS, CURVES, TABLES, bars, lines, run_id, summary_keys, wandb_workspaces

LONGEST_TITLE = 128  # characters that W&B takes


def report_of(path: Path, *, entity: str, project: str) -> Any:
    """The report of the table whose manifest lies at `path`; needs no network.

    Raises:
        ModuleNotFoundError: wandb-workspaces is not installed.
    """
    workspaces, reports = wandb_workspaces()
    evaluated, summaries = read_table(path)
    table = evaluated.table

    def runs(group: Group) -> Any:
        """The runs of the jobs of a group, by row; without entity and project they are those of the report."""
        wanted = [{**column.jobs, **group.jobs, **row.jobs} for row in group.rows.values() for column in table.columns]
        jobs = sorted({run_id(one.job) for choices in wanted for one in matching(summaries, choices)})
        chosen = [workspaces.Metric("ID").isin(jobs)]
        return reports.Runset(name=group.label or table.name, filters=chosen, groupby=["JobType"])

    def grid(panels: list[Any]) -> Any:
        return reports.PanelGrid(runsets=[runs(group) for group in table.groups], panels=panels)

    tables = [
        reports.WeavePanelSummaryTable(table_name=name, layout=reports.Layout(x=0, y=12 * place, w=24, h=12))
        for place, name in enumerate(reversed(TABLES))
    ]
    sections = {
        "Table": reports.MarkdownBlock(text=markdown(evaluated)),
        "Columns": grid(bars(reports, summary_keys(table.columns))),
        **{f"Curves of {stage}": grid(lines(reports, stage)) for stage in reversed(CURVES)},
        "Responses, results and labels": grid(tables),
        "Costs": grid(bars(reports, COSTS)),
    }
    return reports.Report(
        entity=entity,
        project=project,
        title=table.title[:LONGEST_TITLE],
        description=f"{evaluated.finished} of {evaluated.jobs} jobs finished when this report was saved.",
        blocks=[
            reports.TableOfContents(),
            *(block for title, content in sections.items() for block in (reports.H1(text=title), content)),
        ],
    )
