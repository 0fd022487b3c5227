"""Runs stages through the store: a fingerprint enters, the stage's result leaves, and its cost is recorded.

A stage that exists already, made by this job or another, is read back. All output of a running job is printed here.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from rkd import distributed as parallel
from rkd.errors import ArtifactError
from rkd.generation.resumable import RESPONSES_PER_SHARD
from rkd.io import read_rows, write_whole
from rkd.records import Checkpoint, Query, Record, Response, digest_of, read_jsonl, write_jsonl
from rkd.store.artifact_store import ARTIFACTS_FILE, Artifact, Make, Store, label_of
from rkd.store.partial_results import PartialResults
from rkd.training.checkpointing import HISTORY_FILE

RECORDS_FILE, REPORT_FILE = "records.jsonl", "report.json"


class Watcher(Protocol):
    """Is notified of everything that a job makes or reuses."""

    def artifact(self, artifact: Artifact, *, was_made: bool) -> None:
        """Receive a stage's artifact; `was_made` is True if this job has just made it."""
        ...

    def records(self, name: str, records: Sequence[Any], digest: str, inputs: Mapping[str, str]) -> None:
        """Receive records that no artifact holds; `inputs` are the digests of their inputs, by name."""
        ...

    def rows(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Receive rows of a stage that is being made; the first call holds those of its earlier attempts, if any."""
        ...


class StageRunner:
    """The store, the console and the costs of one job.

    Args:
        root: the store's folder.
        job: the job's folder, which records the artifacts used; None records nothing.
        watcher: is notified of everything that is made; None notifies no watcher.
        responses_per_shard: number of responses after which they are saved, for a resumed stage.
        seconds_between_lines: interval between lines of progress on a console that is not a terminal.
        makes: False refuses to make what the store does not have.
    """

    def __init__(
        self,
        root: Path,
        console: Console,
        *,
        job: Path | None = None,
        watcher: Watcher | None = None,
        responses_per_shard: int = RESPONSES_PER_SHARD,
        seconds_between_lines: float = 20.0,
        makes: bool = True,
    ) -> None:
        self.store, self.console, self.job, self.watcher = Store(root, self.say), console, job, watcher
        self.responses_per_shard, self.seconds_between_lines = responses_per_shard, seconds_between_lines
        self.makes = makes
        self.costs: dict[str, dict[str, float]] = {}
        self.made: dict[str, Artifact] = {}
        self._digests: dict[str, str] = {}  # of artifacts, and of records that no artifact holds, by name
        self.warnings: list[str] = []
        self._used = _noted(job)

    def records(
        self,
        name: str,
        fingerprint: Mapping[str, Any],
        record_type: type[Record],
        make: Callable[[PartialResults], Iterable[Record]],
    ) -> list[Record]:
        """The records of a stage, in the order in which they were made."""
        artifact = self._get_or_make(
            name, fingerprint, lambda folder, partial: write_jsonl(folder / RECORDS_FILE, make(partial))
        )
        return read_jsonl(artifact.folder / RECORDS_FILE, record_type)

    def responses(
        self,
        name: str,
        fingerprint: Mapping[str, Any],
        queries: Sequence[Query],
        make: Callable[[PartialResults], Sequence[Sequence[Response]]],
    ) -> list[list[Response]]:
        """The responses of a stage, grouped by query, in the order of the queries."""
        fingerprint = {**fingerprint, "queries": digest_of(queries)}
        flat = self.records(name, fingerprint, Response, lambda partial: (r for group in make(partial) for r in group))
        groups: dict[str, list[Response]] = {query.id: [] for query in queries}
        for response in flat:
            groups[response.query_id].append(response)
        return list(groups.values())

    def checkpoint(
        self,
        name: str,
        fingerprint: Mapping[str, Any],
        fit: Callable[[Path, PartialResults], Any],
        *,
        is_said: bool = True,
    ) -> Checkpoint:
        """The model of a stage, stored with the report that `fit` returns. A skipped stage is not printed."""

        def make(folder: Path, partial: PartialResults) -> None:
            report = dataclasses.asdict(fit(folder, partial))
            (folder / REPORT_FILE).write_text(json.dumps(report, indent=1), encoding="utf-8")

        artifact = self._get_or_make(name, fingerprint, make, together=True, is_said=is_said)
        return Checkpoint(artifact.folder, artifact.digest)

    def value(
        self,
        name: str,
        fingerprint: Mapping[str, Any],
        make: Callable[[PartialResults], dict[str, Any]],
        *,
        shown: str | None = None,
    ) -> dict[str, Any]:
        """A small result in JSON form; `shown` replaces the stage's name in the output."""

        def write(folder: Path, partial: PartialResults) -> None:
            (folder / REPORT_FILE).write_text(json.dumps(make(partial)), encoding="utf-8")

        artifact = self._get_or_make(name, fingerprint, write, shown)
        return _report_in(artifact.folder)

    def report(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The report of a checkpoint's fit."""
        return _report_in(checkpoint.folder)

    def history(self, checkpoint: Checkpoint) -> list[dict[str, float]]:
        """The training history of a checkpoint; empty if its stage did not train."""
        path = checkpoint.folder / HISTORY_FILE
        return read_rows(path) if path.is_file() else []

    def note(self, name: str, records: Sequence[Any], digest: str, *, made_from: Sequence[str]) -> None:
        """Notify the watcher of records that no artifact holds, and of those of their inputs that have a digest."""
        inputs = {one: self._digests[one] for one in made_from if one in self._digests}
        self._digests[name] = digest
        if self.watcher is not None:
            self.watcher.records(name, records, digest, inputs)

    def note_rows(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Notify the watcher of rows that a stage logs while it is made."""
        if self.watcher is not None:
            self.watcher.rows(name, rows)

    def note_use(self, label: str) -> None:
        """Record in the job's folder, before the use, that it uses this artifact: unused ones may be removed."""
        if self.job is None or label in self._used:
            return
        self._used.add(label)
        write_whole(self.job / ARTIFACTS_FILE, json.dumps(sorted(self._used), indent=0) + "\n")

    def note_model(self, model: object) -> None:
        """Record the use of a model in the job's folder, if the model lies in the store."""
        if isinstance(model, Checkpoint) and model.folder.resolve().parent.parent == self.store.root.resolve():
            self.note_use(label_of(model.folder))

    def say(self, text: str) -> None:
        """Print one line to the user."""
        self.console.print(text, highlight=False)

    def warn(self, text: str) -> None:
        """Print a warning about a problem for later stages; it is printed again if the job fails."""
        self.warnings.append(text)
        self.console.print(f"    {text}", style="yellow", markup=False)

    @contextlib.contextmanager
    def progress(self, name: str, total: int) -> Iterator[Callable[..., None]]:
        """A function that advances the progress towards `total`, shown as a bar or as lines in a log.

        Its second argument, a short status text, is shown beside it; the last one is printed at the end.
        """
        started = last_line = time.monotonic()
        done, last_note = 0, ""

        def line() -> str:
            note = f", {last_note}" if last_note else ""
            return f"{name}: {done}/{total}, {time.monotonic() - started:.0f} s{note}"

        def advance(count: int, note: str = "") -> None:
            nonlocal done, last_line, last_note
            done, last_note = done + count, note or last_note
            if bar is not None:
                bar.update(bar.task_ids[0], advance=count, description=f"{name}  {last_note}".rstrip())
            elif time.monotonic() - last_line >= self.seconds_between_lines:
                last_line = time.monotonic()
                self.say(line())

        try:
            with self._bar(name, total) as bar:
                yield advance
        finally:
            if last_note:
                self.say(f"    {line()}")

    def _bar(self, name: str, total: int) -> contextlib.AbstractContextManager[Bars | None]:
        """A bar with one task if the console is a terminal, else None."""
        if not self.console.is_terminal:
            return contextlib.nullcontext()
        columns = (BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        bar = Bars(TextColumn("{task.description}"), *columns, console=self.console, transient=True)
        bar.add_task(name, total=total)
        return bar

    def _get_or_make(
        self,
        name: str,
        fingerprint: Mapping[str, Any],
        make: Make,
        shown: str | None = None,
        *,
        together: bool = False,
        is_said: bool = True,
    ) -> Artifact:
        """The artifact; with `together`, all processes of a training take part in making it."""
        if parallel.leader() is not None:
            return self.store.follow(name, fingerprint, make if together else None)
        started, was_made = time.monotonic(), False

        def timed(folder: Path, partial: PartialResults) -> None:
            nonlocal was_made
            was_made = True
            with parallel.together() if together else contextlib.nullcontext():
                make(folder, partial)

        label = label_of(self.store.folder_of(name, fingerprint))
        if not self.makes and not (self.store.root / label).exists():
            raise ArtifactError(
                f"{label} is not in {self.store.root}: it was removed, or the job ran with other data, models or code "
                "than those that are here now. Run the job again, which makes what is missing."
            )
        self.note_use(label)
        artifact = self.store.get_or_make(name, fingerprint, timed)
        seconds = float(artifact.manifest["seconds"])
        cost = self.costs.setdefault(name, {"seconds": 0.0, "seconds_this_job": 0.0})
        cost["seconds"] += seconds
        if "tokens" in artifact.manifest:  # older artifacts lack this count
            cost["tokens"] = cost.get("tokens", 0) + artifact.manifest["tokens"]
        cost["seconds_this_job"] += time.monotonic() - started if was_made else 0.0
        self.made[name], self._digests[name] = artifact, artifact.digest
        done = f"made in {seconds:.0f} s" if was_made else f"reused, made before in {seconds:.0f} s"
        if is_said:
            self.say(f"  [green]✓[/] {shown or name:<26} {done}   [dim]{artifact.folder}[/]")
        if self.watcher is not None:
            self.watcher.artifact(artifact, was_made=was_made)
        return artifact


def _noted(job: Path | None) -> set[str]:
    """The artifact labels that an earlier attempt of the job recorded; this attempt uses the same artifacts."""
    if job is None:
        return set()
    with contextlib.suppress(OSError, ValueError):
        return set(json.loads((job / ARTIFACTS_FILE).read_text(encoding="utf-8")))
    return set()


def _report_in(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    return report
