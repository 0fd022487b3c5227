"""Runs stages through the store: a recipe enters, what the stage made leaves, and what it cost is remembered.

A stage that was made before, by this job or another, is read back. Everything printed while a job runs is printed here.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rkd.artifacts import Artifact, Store
from rkd.records import Checkpoint, Query, Record, Response, digest_of, read_jsonl, write_jsonl

RECORDS_FILE, REPORT_FILE = "records.jsonl", "report.json"


class Workshop:
    """The store, the console and the bill of one job.

    Where the console is no terminal, progress is a line every `seconds_between_lines`.
    """

    def __init__(self, store: Store, console: Console, *, seconds_between_lines: float = 20.0) -> None:
        self.store, self.console, self.seconds_between_lines = store, console, seconds_between_lines
        self.costs: dict[str, dict[str, float]] = {}
        self.made: dict[str, Artifact] = {}
        self.warnings: list[str] = []

    def records(
        self,
        name: str,
        recipe: Mapping[str, Any],
        record_type: type[Record],
        make: Callable[[], Iterable[Record]],
    ) -> list[Record]:
        """The records of a stage, in the order they were made in."""
        artifact = self._get_or_make(name, recipe, lambda folder: write_jsonl(folder / RECORDS_FILE, make()))
        return read_jsonl(artifact.folder / RECORDS_FILE, record_type)

    def responses(
        self,
        name: str,
        recipe: Mapping[str, Any],
        queries: Sequence[Query],
        make: Callable[[], Sequence[Sequence[Response]]],
    ) -> list[list[Response]]:
        """The responses of a stage, those of each query together, in the order of the queries."""
        recipe = {**recipe, "queries": digest_of(queries)}
        flat = self.records(name, recipe, Response, lambda: (r for group in make() for r in group))
        groups: dict[str, list[Response]] = {query.id: [] for query in queries}
        for response in flat:
            groups[response.query_id].append(response)
        return list(groups.values())

    def checkpoint(self, name: str, recipe: Mapping[str, Any], fit: Callable[[Path], Any]) -> Checkpoint:
        """The model of a stage; what `fit` returns, a report, is kept beside it."""

        def make(folder: Path) -> None:
            report = dataclasses.asdict(fit(folder))
            (folder / REPORT_FILE).write_text(json.dumps(report, indent=1), encoding="utf-8")

        artifact = self._get_or_make(name, recipe, make)
        return Checkpoint(artifact.folder, artifact.digest)

    def value(
        self, name: str, recipe: Mapping[str, Any], make: Callable[[], dict[str, Any]], *, shown: str | None = None
    ) -> dict[str, Any]:
        """A small result in JSON form; `shown` stands for the stage's name in what is printed."""
        artifact = self._get_or_make(
            name, recipe, lambda folder: (folder / REPORT_FILE).write_text(json.dumps(make()), encoding="utf-8"), shown
        )
        return json.loads((artifact.folder / REPORT_FILE).read_text(encoding="utf-8"))

    def report(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """What the fit of a checkpoint reported."""
        return json.loads((checkpoint.folder / REPORT_FILE).read_text(encoding="utf-8"))

    def say(self, text: str) -> None:
        """One line to the user."""
        self.console.print(text, highlight=False)

    def warn(self, text: str) -> None:
        """Something that may spoil a later stage: said now, and again if the job fails."""
        self.warnings.append(text)
        self.console.print(f"    {text}", style="yellow", markup=False)

    @contextlib.contextmanager
    def progress(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """A function that takes note of so many more of `total`: a bar, or now and then a line in a log."""
        if self.console.is_terminal:
            columns = (BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            with Progress(TextColumn("{task.description}"), *columns, console=self.console, transient=True) as bar:
                task = bar.add_task(name, total=total)
                yield lambda count: bar.advance(task, count)
            return
        started = last_line = time.monotonic()
        done = 0

        def advance(count: int) -> None:
            nonlocal done, last_line
            done += count
            if time.monotonic() - last_line >= self.seconds_between_lines:
                last_line = time.monotonic()
                self.say(f"{name}: {done}/{total}, {last_line - started:.0f} s")

        yield advance

    def _get_or_make(
        self, name: str, recipe: Mapping[str, Any], make: Callable[[Path], Any], shown: str | None = None
    ) -> Artifact:
        started, was_made = time.monotonic(), False

        def timed(folder: Path) -> None:
            nonlocal was_made
            was_made = True
            make(folder)

        artifact = self.store.get_or_make(name, recipe, timed)
        seconds = float(artifact.manifest["seconds"])
        cost = self.costs.setdefault(name, {"seconds": 0.0, "seconds_this_job": 0.0})
        cost["seconds"] += seconds
        cost["seconds_this_job"] += time.monotonic() - started if was_made else 0.0
        self.made[name] = artifact
        done = f"made in {seconds:.0f} s" if was_made else f"reused, made before in {seconds:.0f} s"
        self.say(f"  [green]✓[/] {shown or name:<26} {done}   [dim]{artifact.folder}[/]")
        return artifact
