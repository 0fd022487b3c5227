"""What the page of a report shows: folders enter, an overview of jobs and tables leaves; the rest goes into blocks.

Jobs are read from their own folders, and from kept tables (NAME.jobs.json with NAME.results.jsonl), whose summaries
have outcomes and numbers but no texts. Fractions are in [0, 1].
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rkd.errors import UsageError
from rkd.evaluation.results import RESULT_FILE, read_result
from rkd.reporting.job_summary import Summary
from rkd.reporting.page.blocks import Blocks
from rkd.reporting.page.jobs import job_of_result, job_of_summary
from rkd.reporting.table_files import MANIFEST, build_table, read_manifest
from rkd.reporting.tables import Column, TableLine, matching


def overview(folders: Sequence[Path], blocks: Blocks) -> dict[str, Any]:
    """What the views show of every job and every table at once; jobs are in the order of rows and seeds.

    Args:
        folders: folders of jobs or of tables, or folders above them.

    Raises:
        UsageError: there is neither a job nor a table.
    """
    results, manifests = (_below(folders, pattern) for pattern in (RESULT_FILE, f"*{MANIFEST}"))
    if not results and not manifests:
        raise UsageError(f"no {RESULT_FILE} and no NAME{MANIFEST} under {', '.join(map(str, folders))}.")
    jobs = [job_of_result(path.parent, read_result(path), blocks) for path in results]
    read, whole = [read_manifest(path) for path in manifests], {job["name"] for job in jobs}
    kept = {one.job: one for _, summaries in read for one in summaries if one.row and one.job not in whole}
    jobs += [job_of_summary(summary, blocks) for summary in kept.values()]
    jobs.sort(key=lambda job: (job["row"], job["dataset"], job["seed"]))
    places = {job["name"]: place for place, job in enumerate(jobs)}
    return {"jobs": jobs, "tables": [_table(described, summaries, places) for described, summaries in read]}


def _below(folders: Sequence[Path], pattern: str) -> list[Path]:
    return sorted({path for folder in folders for path in folder.rglob(pattern)})


def _table(described: Mapping[str, Any], summaries: Sequence[Summary], places: Mapping[str, int]) -> dict[str, Any]:
    """A table of a sweep without its claims, whose tests take long; each cell has the places of its jobs."""
    table = dataclasses.replace(build_table(described), claims=())
    evaluated = table.evaluate(summaries)

    def cell(line: TableLine, place: int, column: Column) -> dict[str, Any]:
        shown, chosen = line.cells[place], matching(summaries, {**column.jobs, **line.group.jobs, **line.row.jobs})
        return {
            "values": list(shown.values.values()),
            "published": shown.published,
            "jobs": [places[one.job] for one in chosen if one.job in places],
        }

    return {
        "name": table.name,
        "title": table.title,
        "columns": [{"label": one.label, "test_set": one.test_set, "unit": one.unit} for one in table.columns],
        "lines": [
            {
                "group": line.group.label,
                "row": line.label,
                "model": line.row.model,
                "cells": [cell(line, place, column) for place, column in enumerate(table.columns)],
            }
            for line in evaluated.lines
        ],
        "notes": [*table.deviations, *evaluated.table.notes],
        "jobs": [places[one.job] for one in summaries if one.job in places],
    }
