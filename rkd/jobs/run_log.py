"""The log of a job's run: the artifacts of stages and the result enter, curves, tables and numbers go to a tracker.

Curves: `<stage>/<metric>` against `<stage>/step`, replayed if the stage is reused or resumed.
Tables: `samples/<stage>`, some of the responses sampled for training; `labels/statistics` and `labels/consensus`, the
    quality of the pseudo-labels (Tables 5 and 10); `results`, every model on every test set, with its 95 % interval.
    Responses of reinforcement learning are logged as they are sampled; `samples_rl.jsonl` has them whole.
Summary: `test/<test set>/...` of the row's own model, `<model>/<test set>/...` of all models, `labels/...`, `costs/...`
    and every other number of the result.
Outputs: responses, labels, pairs and models, each with its digest and the digests of its inputs.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from rkd.data.datasets import Data
from rkd.evaluation.results import RunResult
from rkd.evaluation.verdict_counts import LabelStatistics
from rkd.io import read_rows, readable, write_rows
from rkd.pipeline.stage_runner import RECORDS_FILE
from rkd.records import Response, read_jsonl, to_json_line
from rkd.reporting.job_summary import numbers
from rkd.rl.stage import SAMPLES_FILE
from rkd.store.artifact_store import DIGEST, Artifact
from rkd.store.fingerprint import fingerprint_digest
from rkd.store.journal import Journal
from rkd.training.checkpointing import HISTORY_FILE
from rkd.training.curves import CURVES_FILE, replay
from rkd.training.tracking import Output, Tracker

SAMPLES_LOGGED = 500  # responses per stage
CHARACTERS_SHOWN = 2000  # of a text in a table; longer ones are cut
MODELS = ("sft", "dpo", "reward_model", "rl", "rejection")  # the stages that train a model
MEASURES = ("accuracy", "interval_low", "interval_high", "n", "pass_at_8", "maj_at_8")
OF_MANIFEST = ("seconds", "tokens", "created", "revision", "files")


class RunLog:
    """The watcher of a job's runner.

    Args:
        tracker: a tracker with an open run.
        dataset: the dataset whose questions are shown with the responses.
        folder: of the job.
    """

    def __init__(self, tracker: Tracker, dataset: Data, console: Console, folder: Path) -> None:
        self.tracker, self.dataset, self.console, self.folder = tracker, dataset, console, folder
        self._columns: dict[str, list[str]] = {}

    def artifact(self, artifact: Artifact, *, was_made: bool) -> None:
        """See `Watcher`."""
        stage, files = artifact.manifest["name"], artifact.manifest["files"]
        if HISTORY_FILE in files and not was_made:
            self._replay(stage, artifact)
        if stage in MODELS or RECORDS_FILE in files:
            self.tracker.log_output(artifact_output(artifact, was_made=was_made))
        if SAMPLES_FILE in files and not was_made:
            self.rows(stage, read_rows(artifact.folder / SAMPLES_FILE))
        if RECORDS_FILE in files and stage.endswith("_training"):
            self._log_samples(stage, self._with_questions(artifact))

    def records(self, name: str, records: Sequence[Any], digest: str, inputs: Mapping[str, str]) -> None:
        """See `Watcher`."""
        self.tracker.log_output(records_output(name, records, digest, inputs))

    def rows(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """See `Watcher`; the first rows of a stage replace those of an earlier attempt of the job."""
        if not rows:
            return
        path, flat = samples_file(self.folder, name), [columns_of(row) for row in rows]
        if name not in self._columns:
            self._columns[name] = list(dict.fromkeys(column for row in flat for column in row))
            write_rows(path, rows)
        else:
            for row in rows:
                Journal(path).append(row)
        columns = self._columns[name]
        self.tracker.extend_table(f"samples/{name}", columns, [[row.get(one) for one in columns] for row in flat])

    def result(self, result: RunResult) -> None:
        """Log the result of a finished job."""
        summary = summary_of(result)
        rows = [
            [model.role, name, *(getattr(test, measure) for measure in MEASURES)]
            for model in result.models
            for name, test in model.test_sets.items()
        ]
        self.tracker.log_table("results", ["model", "test_set", *MEASURES], rows)
        if result.notes.labels is not None:
            of_labels = [
                [name, value] for name, value in summary.items() if name.startswith(("labels/", "verdicts/", "judge/"))
            ]
            self.tracker.log_table("labels/statistics", ["what", "value"], of_labels)
            self.tracker.log_table("labels/consensus", ["from", "to", "queries"], consensus_rows(result.notes.labels))
        self.tracker.log_summary(summary)

    def _replay(self, stage: str, artifact: Artifact) -> None:
        if CURVES_FILE in artifact.manifest["files"]:
            replay(read_rows(artifact.folder / CURVES_FILE), self.tracker.logger_for(stage))
        else:
            self.console.print(f"    {stage} was made before its curves were kept: this run shows none of it")

    def _with_questions(self, artifact: Artifact) -> list[dict[str, Any]]:
        questions = {query.id: query.question for query in self.dataset.training_queries()}
        responses = thinned(read_jsonl(artifact.folder / RECORDS_FILE, Response))
        return [
            {"question": questions[r.query_id], "response": r.text, "sample": r.sample_index, "finished": r.is_finished}
            for r in responses
        ]

    def _log_samples(self, stage: str, samples: Sequence[Mapping[str, Any]]) -> None:
        if samples:
            shown = [columns_of(sample) for sample in thinned(samples)]
            self.tracker.log_table(f"samples/{stage}", list(shown[0]), [list(sample.values()) for sample in shown])


def samples_file(job: Path, stage: str) -> Path:
    """Where a job keeps the rows that a stage logs while it runs."""
    return job / f"samples_{stage}.jsonl"


def columns_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for a table: texts that are safe to show, and a column for each value of an inner mapping."""
    columns: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            columns |= {f"{name}/{inner}": one for inner, one in value.items()}
        else:
            columns[name] = readable(value, CHARACTERS_SHOWN) if isinstance(value, str) else value
    return columns


def thinned(items: Sequence[Any]) -> Sequence[Any]:
    """At most `SAMPLES_LOGGED` of the items, in their order, drawn from all with a fixed seed."""
    # Random, because every k-th item would always be the first sample if each query has k samples.
    chosen = random.Random(0).sample(range(len(items)), min(SAMPLES_LOGGED, len(items)))
    return [items[place] for place in sorted(chosen)]


def artifact_output(artifact: Artifact, *, was_made: bool) -> Output:
    """The model or the responses of a stage; a skipped stage has no files, since its student's stay in their place."""
    manifest, is_model = artifact.manifest, artifact.manifest["name"] in MODELS
    is_left_out = is_model and HISTORY_FILE not in manifest["files"]
    metadata = {"digest": artifact.digest, "inputs": input_digests(manifest["fingerprint"]), "is_left_out": is_left_out}
    return Output(
        name=f"{manifest['name']}-{artifact.digest}",
        kind="model" if is_model else "responses",
        metadata=metadata | {name: manifest[name] for name in OF_MANIFEST if name in manifest},
        files={} if is_left_out else {name: artifact.folder / name for name in manifest["files"]},
        was_made=was_made,
    )


def records_output(name: str, records: Sequence[Any], digest: str, inputs: Mapping[str, str]) -> Output:
    """Labels or pairs, with the digest that the fingerprints of later stages contain."""
    lines = "".join(to_json_line(record) + "\n" for record in records)
    metadata = {"digest": digest, "inputs": dict(inputs), "count": len(records)}
    return Output(name=f"{name}-{digest}", kind=name, metadata=metadata, texts={f"{name}.jsonl": lines})


def input_digests(fingerprint: Mapping[str, Any]) -> dict[str, str]:
    """The digests in a fingerprint, those of the stage's inputs, by their keys."""
    found: dict[str, str] = {}
    for key, value in fingerprint.items():
        if key == "labels" and isinstance(value, Mapping):  # the fingerprint of reinforcement learning holds all labels
            found[key] = fingerprint_digest("labels", value)
        elif isinstance(value, str) and re.fullmatch(DIGEST, value):
            found[key] = value
        elif isinstance(value, Mapping):
            found |= {
                f"{key}/{inner}".removesuffix("/digest"): digest for inner, digest in input_digests(value).items()
            }
    return found


def consensus_rows(labels: LabelStatistics) -> list[tuple[float, float, int]]:
    """Bins of the consensus p*: lower end, upper end (excluded, but 1 is in the last bin), number of queries."""
    counts = labels.consensus_histogram
    return [(place / len(counts), (place + 1) / len(counts), count) for place, count in enumerate(counts)]


def summary_of(result: RunResult) -> dict[str, float]:
    """Final accuracies or win rates and other numbers of the result, as "labels/precision"; fractions in [0, 1]."""
    tested = [(model.role, model.test_sets) for model in result.models]
    tested += [("test", result.models[-1].test_sets)]
    accuracies = {
        f"{role}/{name}/{measure}": getattr(test, measure)
        for role, tests in tested
        for name, test in tests.items()
        for measure in MEASURES
    }
    without_near = {
        f"{role}/{name}/without_near_duplicates": result.overlaps[name].accuracy_without_near_duplicates(test)
        for role, tests in tested
        for name, test in tests.items()
        if name in result.overlaps
    }
    compared = {
        f"{role}/{name}/win_rate/{measure}": value
        for role, tests in tested
        for name, test in tests.items()
        if test.win_rate is not None
        for measure, value in asdict(test.win_rate).items()
    }
    others: dict[str, float | None] = {name.replace(".", "/"): value for name, value in numbers(result).items()}
    others["validation_accuracy"] = result.validation_accuracy
    return {key: value for key, value in (accuracies | without_near | compared | others).items() if value is not None}
