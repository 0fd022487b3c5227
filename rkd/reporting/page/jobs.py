"""A job in the page of a report: its result or its kept summary enters, what the views show of it leaves.

A job's folder holds its result, the texts of its responses to test questions and those of its rollouts. The store, if
it is where the job's config says, adds the curves of all logged metrics. A summary has outcomes and numbers alone.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rkd.evaluation.results import NORMAL_95, RESPONSES_FILE, EvaluationResult, RunResult
from rkd.evaluation.statistics import accuracy_interval, standard_error
from rkd.io import read_rows
from rkd.reporting.job_summary import OWN, EvaluationSummary, Summary, numbers, origin_notes
from rkd.reporting.page.blocks import Blocks
from rkd.rl.stage import SAMPLES_FILE
from rkd.store.artifact_store import ARTIFACTS_FILE
from rkd.training.checkpointing import HISTORY_FILE
from rkd.training.curves import CURVES_FILE

ROLLOUTS_FILE = "samples_rl.jsonl"  # in a job's folder: rollouts, logged as they are sampled
MOST_POINTS = 400  # of a curve; longer ones are thinned
NO_METRICS = ("step", "episodes", "epoch", "share")  # of a row of a history: places on an axis
NO_SETTINGS = ("seed", "artifacts", "output_root", "table_root", "threads", "tracking")  # of a config
NAMES = ("dataset", "student", "teacher")
TEXTS = ("term", "question", "response", "answer", "label")

Curve = tuple[list[float], list[float]]
"""A curve's x and y."""


def job_of_result(folder: Path, result: RunResult, blocks: Blocks) -> dict[str, Any]:
    """A job by its folder, which has a result; one that failed has no models."""
    artifacts, asked = _artifacts(folder, result), _rows(folder / RESPONSES_FILE)
    rollouts, labels = _rollouts(folder, artifacts), result.notes.labels
    detail: dict[str, Any] = {
        "config": result.config,
        "comparisons": [dataclasses.asdict(one) for one in result.comparisons],
        "numbers": numbers(result),
        "consensus": labels and labels.consensus_histogram,
        "notes": origin_notes([result]) + [f"{stage} stopped: {why}" for stage, why in result.notes.stopped.items()],
    }
    models = [
        {
            "role": model.role,
            "tests": {name: _test(model.role, test, asked, blocks) for name, test in model.test_sets.items()},
        }
        for model in result.models
    ]
    return {
        **_common(folder.name, result, detail, _curves(result.notes.histories, artifacts), blocks),
        **{name: str((result.config.get(name) or {}).get("name", "–")) for name in NAMES},
        "folder": str(folder),
        "models": models,
        "rollouts": blocks.add(rollouts) if rollouts else None,
    }


def job_of_summary(summary: Summary, blocks: Blocks) -> dict[str, Any]:
    """A job by the summary that a kept table has of it."""
    detail = {
        "config": summary.choices,
        "comparisons": [],
        "numbers": summary.values,
        "consensus": None,
        "notes": origin_notes([summary]),
    }
    ordered = sorted(summary.models.items(), key=lambda model: model[0] == OWN)  # the row's own model is the last
    models = [
        {
            "role": summary.row if role == OWN else role,
            "tests": {name: _summarized_test(name, test, blocks) for name, test in tests.items()},
        }
        for role, tests in ordered
    ]
    return {
        **_common(summary.job, summary, detail, _curves(summary.histories, {}), blocks),
        **{name: str(summary.choices.get(name, "–")) for name in NAMES},
        "folder": None,
        "models": models,
        "rollouts": None,
    }


def _common(
    name: str, job: RunResult | Summary, detail: Mapping[str, Any], curves: Mapping[str, Any], blocks: Blocks
) -> dict[str, Any]:
    setting = {key: value for key, value in detail["config"].items() if key not in NO_SETTINGS}
    of_stages = re.compile(r"costs\.[^.]+\.(seconds|tokens)")  # newer results have their sums as well
    costs = {name: value for name, value in detail["numbers"].items() if of_stages.fullmatch(name)}
    return {
        "name": name,
        "setting": hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()[:4],
        **{key: getattr(job, key) for key in ("row", "seed", "revision", "created", "failure")},
        "seconds": sum(value for name, value in costs.items() if name.endswith(".seconds")),
        "tokens": sum(value for name, value in costs.items() if name.endswith(".tokens")),
        "detail": blocks.add(detail),
        "curves": blocks.add(curves) if curves["metrics"] else None,
    }


def _test(role: str, test: EvaluationResult, asked: Sequence[Mapping[str, Any]], blocks: Blocks) -> dict[str, Any]:
    """Accuracy, and the blocks of questions and answers; those of older jobs hold ids and answers without texts."""
    rows = {row["id"]: row for row in asked if row["test_set"] == test.test_set}
    own = [rows.get(one, {}) for one in test.question_ids]
    texts = [row.get("responses", {}).get(role) for row in own]
    questions = {
        "ids": test.question_ids,
        "questions": [row["question"] for row in own] if all(own) else None,
        "gold_answers": [row["gold_answer"] for row in own] if all(own) else None,
    }
    answers = {
        "outcomes": [float(one) if test.win_rate else int(one) for one in test.outcomes],
        "answers": test.answers,
        "responses": None if None in texts else texts,
    }
    return _shown(test, (test.interval_low, test.interval_high), questions, answers, blocks)


def _summarized_test(name: str, test: EvaluationSummary, blocks: Blocks) -> dict[str, Any]:
    """As `_test`; questions are numbered in their test set, as a summary has no ids but their digest."""
    marks = test.marks
    if test.win_rate:
        margin = NORMAL_95 * standard_error(marks, test.clusters)
        interval = max(0.0, test.accuracy - margin), min(1.0, test.accuracy + margin)
    else:
        interval = accuracy_interval(marks, test.clusters)
    ids = [f"{name} {test.questions[:4]}, question {number}" for number in range(1, test.n + 1)]
    questions = {"ids": ids, "questions": None, "gold_answers": None}
    answers = {"outcomes": marks, "answers": None, "responses": None}
    return _shown(test, interval, questions, answers, blocks)


def _shown(
    test: EvaluationResult | EvaluationSummary,
    interval: tuple[float, float],
    questions: Mapping[str, Any],
    answers: Mapping[str, Any],
    blocks: Blocks,
) -> dict[str, Any]:
    low, high = interval
    return {
        "accuracy": test.accuracy,
        "low": low,
        "high": high,
        "n": test.n,
        "measure": "win rate" if test.win_rate else "accuracy",
        "questions": blocks.add(questions),
        "answers": blocks.add(answers),
    }


def _artifacts(folder: Path, result: RunResult) -> dict[str, Path]:
    """The folders of the artifacts that the job uses, by stage, as far as they are in the store."""
    noted = folder / ARTIFACTS_FILE
    root = Path((result.config.get("artifacts") or {}).get("root", ""))
    labels = json.loads(noted.read_text(encoding="utf-8")) if noted.is_file() else []
    return {label.partition("/")[0]: root / label for label in labels if (root / label).is_dir()}


def _curves(histories: Mapping[str, list[dict[str, float]]], artifacts: Mapping[str, Path]) -> dict[str, Any]:
    """Curves by the key that a tracker logs, as "STAGE/METRIC"; without the store, only those of the histories."""
    metrics: dict[str, Curve] = {}
    for stage, history in histories.items():
        kept = artifacts.get(stage, Path())
        if stage == "rl":
            _add(metrics, stage, ((row["episodes"], row) for row in _rows(kept / HISTORY_FILE) or history))
        else:
            _add(metrics, f"{stage}/validation", ((row["step"], row) for row in history))
            _add(metrics, stage, ((row["step"] + 1, row["metrics"]) for row in _rows(kept / CURVES_FILE)))
    axes = {stage: "episodes" if stage == "rl" else "optimiser steps" for stage in histories}
    return {"axes": axes, "metrics": {name: _thinned(curve) for name, curve in metrics.items()}}


def _add(metrics: dict[str, Curve], prefix: str, rows: Iterable[tuple[float, Mapping[str, float]]]) -> None:
    """Add the points of rows to their curves."""
    for x, row in rows:
        for name, value in row.items():
            if name not in NO_METRICS and not name.startswith("validation/"):  # the histories have these
                xs, ys = metrics.setdefault(f"{prefix}/{name}", ([], []))
                xs.append(x)
                ys.append(float(f"{value:.5g}"))


def _thinned(curve: Curve) -> Curve:
    every = -(-len(curve[0]) // MOST_POINTS)
    xs, ys = (values[::-1][::every][::-1] for values in curve)  # with the last point
    return xs, ys


def _rollouts(folder: Path, artifacts: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Sampled responses of reinforcement learning: texts, and all numbers by name, those of the reward's parts too."""
    in_store = artifacts.get("rl", Path()) / SAMPLES_FILE
    return [_rollout(row) for row in _rows(folder / ROLLOUTS_FILE) or _rows(in_store)]


def _rollout(row: Mapping[str, Any]) -> dict[str, Any]:
    flat = {"reward": row["reward"], **row.get("parts", {}), **row}  # in the order in which they are shown
    values = {
        name: value
        for name, value in flat.items()
        if isinstance(value, int | float | None) and name not in ("episodes", *TEXTS)
    }
    return {**{name: row[name] for name in TEXTS if name in row}, "episodes": row["episodes"], "numbers": values}


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; none if it is not there."""
    return read_rows(path) if path.is_file() else []
