"""The files of a table: the list of its jobs, their summaries, and the table as text and figure.

tables/NAME.jobs.json       the table's description, and its jobs with their choices; written by the sweep
tables/NAME.results.jsonl   a summary of each job that has ended
tables/NAME.md .csv .tex .json .png     written again from these whenever a job ends

    python -m rkd tables list [FOLDER]                list the tables, and how many of their jobs have finished
    python -m rkd tables render FOLDER [NAME...]      write them again, without running a job
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra.utils import instantiate

from rkd.errors import UsageError
from rkd.evaluation.results import RESULT_FILE, read_result
from rkd.io import write_whole
from rkd.reporting.job_summary import Summary, read_summaries, summarize, write_summaries
from rkd.reporting.paper_settings import notes
from rkd.reporting.table_text import as_json, comma_separated, latex, markdown
from rkd.reporting.tables import Claim, Column, Evaluated, Group, Row, Table

MANIFEST, RESULTS = ".jobs.json", ".results.jsonl"


def build_table(plain: Mapping[str, Any]) -> Table:
    """A table from its description in `sweeps/NAME.yaml`, resolved.

    Raises:
        ValueError: a field is unknown or missing, or the fields contradict each other.
    """
    try:
        fields = dict(plain)
        groups = [
            Group(**{**group, "rows": dict(_labelled_row(*entry) for entry in group["rows"].items())})
            for group in fields.pop("groups")
        ]
        columns = [Column(**column) for column in fields.pop("columns")]
        claims = [Claim(**claim) for claim in fields.pop("claims", [])]
        figure = instantiate(fields.pop("figure", None), _convert_="all")
        return Table(columns=columns, groups=groups, claims=claims, figure=figure, **fields)
    except (TypeError, KeyError) as error:
        raise ValueError(f"table {plain.get('name', 'without name')}: {error}. See sweeps/table3.yaml.") from error


def _labelled_row(label: str, row: Mapping[str, Any] | None) -> tuple[str, Row]:
    """A row with its label: its own `label` or its key. A YAML key cannot be interpolated, so `label` exists."""
    fields = dict(row or {})
    return fields.pop("label", label), Row(**fields)


def write_manifest(root: Path, table: Mapping[str, Any], jobs: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the jobs of a table, by folder with their choices, and make the table from those that have ended.

    Jobs of an earlier sweep of the table that are not among these no longer belong to it.

    Raises:
        ValueError: the description is faulty, or a cell has no job.
    """
    described = build_table(table)  # a faulty description is refused before any job runs
    planned = described.evaluate([_summary(Path(folder), choices, {}) for folder, choices in jobs.items()])
    if not any(cell.values or cell.missing for line in planned.lines for cell in line.cells):
        raise ValueError(
            f"none of the {len(jobs)} jobs belongs to a cell of {described.name}. A table's models and data are its "
            "roles: set them as in `roles.small=mini_large`."
        )
    root.mkdir(parents=True, exist_ok=True)
    path = root / f"{table['name']}{MANIFEST}"
    kept = {folder: _without_places(choices, described) for folder, choices in jobs.items()}
    content = {"table": table, "jobs": kept}
    with _lock(path):
        write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        render(path)
    return markdown_file(path)


def add_notes(manifest: Path) -> None:
    """Add the notes on the configs of its jobs to a manifest that was written without them."""
    with _lock(manifest):
        content = json.loads(manifest.read_text(encoding="utf-8"))
        if "notes" not in content["table"]:
            content["table"]["notes"] = notes(name_of(manifest), list(content["jobs"].values()))
            write_whole(manifest, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _without_places(choices: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """The choices with absolute paths reduced to their last name, since a table is shared with others.

    Choices that select the jobs of cells stay unchanged.
    """
    parts: list[Column | Group | Row] = [
        *table.columns,
        *table.groups,
        *(row for group in table.groups for row in group.rows.values()),
    ]
    telling = {key for part in parts for key in part.jobs}

    def shown(key: str, value: Any) -> Any:
        is_place = isinstance(value, str) and Path(value).is_absolute() and key not in telling
        return Path(value).name if is_place else value

    return {key: shown(key, value) for key, value in choices.items()}


def update_tables(root: Path, folder: Path) -> list[str]:
    """Write again the tables of a job that has just ended; return a line with the path and progress of each."""
    made = []
    for path in sorted(root.glob(f"*{MANIFEST}")) if root.is_dir() else []:
        if str(folder) in json.loads(path.read_text(encoding="utf-8"))["jobs"]:
            with _lock(path):
                evaluated = render(path)
            made.append(f"{markdown_file(path)}: {evaluated.finished} of {evaluated.jobs} jobs finished")
    return made


def manifests_of(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """The manifests of the tables in a folder, in order of their names.

    Args:
        names: names of the wanted tables; without names, all.

    Raises:
        UsageError: the folder holds no table, or no table with one of the names.
    """
    there = {name_of(path): path for path in sorted(folder.glob(f"*{MANIFEST}"))}
    if not there:
        raise UsageError(
            f"{folder} holds no table (NAME{MANIFEST}); `python run.py -m sweeps=NAME` writes one to the config's "
            "table_root."
        )
    if unknown := [name for name in names if name not in there]:
        raise UsageError(f"{folder} holds no table {unknown[0]}; there are {', '.join(there)}.")
    return [there[name] for name in names or there]


def name_of(manifest: Path) -> str:
    """The name of a manifest's table."""
    return manifest.name.removesuffix(MANIFEST)


def markdown_file(manifest: Path) -> Path:
    """The path of a manifest's table in Markdown."""
    return manifest.with_name(f"{name_of(manifest)}.md")


def render(manifest: Path) -> Evaluated:
    """Write a table's files from its manifest and the results of its jobs.

    If a job's folder is missing, its summary beside the manifest is used.
    """
    evaluated, summaries = read_table(manifest)
    table, stem = evaluated.table, name_of(manifest)
    write_summaries(manifest.with_name(stem + RESULTS), [one for one in summaries if _has_ended(one)])
    texts = {"md": markdown(evaluated), "csv": comma_separated(evaluated), "tex": latex(evaluated)}
    texts["json"] = as_json(evaluated)
    if table.figure is not None and evaluated.finished:
        table.figure.draw(evaluated, summaries, manifest.with_name(f"{stem}.png"))
        texts["md"] += f"\n![{table.title}]({stem}.png)\n"
    for ending, text in texts.items():
        write_whole(manifest.with_name(f"{stem}.{ending}"), text)
    return evaluated


def read_table(manifest: Path) -> tuple[Evaluated, list[Summary]]:
    """A table with the numbers of its jobs, and the summaries of the jobs; writes nothing.

    Raises:
        FileNotFoundError: the table does not exist.
    """
    if not manifest.is_file():
        name = name_of(manifest)
        raise FileNotFoundError(f"{name} is not in {manifest.parent}: `python run.py -m sweeps={name}` makes it.")
    table, summaries = read_manifest(manifest)
    return build_table(table).evaluate(summaries), summaries


def progress(manifest: Path) -> tuple[str, int, int]:
    """A table's title, its number of finished jobs and its number of jobs, without computing cells."""
    table, summaries = read_manifest(manifest)
    return table["title"], sum(map(_has_finished, summaries)), len(summaries)


def read_manifest(manifest: Path) -> tuple[dict[str, Any], list[Summary]]:
    """A table's description (`build_table` takes it), and the summaries of its jobs; computes no cells."""
    content = json.loads(manifest.read_text(encoding="utf-8"))
    results = manifest.with_name(name_of(manifest) + RESULTS)
    kept = {one.job: one for one in read_summaries(results)} if results.is_file() else {}
    return content["table"], [_summary(Path(folder), choices, kept) for folder, choices in content["jobs"].items()]


def _summary(folder: Path, choices: Mapping[str, Any], kept: Mapping[str, Summary]) -> Summary:
    """The summary of the job's result, or else the kept summary, or else an empty one."""
    if (folder / RESULT_FILE).is_file():
        return summarize(read_result(folder), folder.name, choices)
    return kept.get(folder.name) or Summary(
        folder.name, "", choices.get("seed", 0), dict(choices), None, "", {}, {}, {}
    )


def _has_finished(summary: Summary) -> bool:
    return summary.failure is None and bool(summary.models or summary.values)


def _has_ended(summary: Summary) -> bool:
    return bool(summary.models or summary.values or summary.failure)


def _lock(manifest: Path) -> FileLock:
    return FileLock(manifest.with_name(f".{manifest.name}.lock"))
