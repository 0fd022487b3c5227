"""What the page of a report shows: folders of jobs enter, named blocks and an overview leave.

A job's folder holds its result, the texts of its responses to test questions and those of its rollouts. The store, if
it is where the job's config says, adds the curves of all logged metrics. Fractions are in [0, 1].
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rkd.evaluation.results import RESPONSES_FILE, EvaluationResult, RunResult, read_result
from rkd.io import read_rows
from rkd.reporting.job_summary import numbers, origin_notes
from rkd.reporting.page.blocks import Blocks
from rkd.rl.stage import SAMPLES_FILE
from rkd.store.artifact_store import ARTIFACTS_FILE
from rkd.training.checkpointing import HISTORY_FILE
from rkd.training.curves import CURVES_FILE

ROLLOUTS_FILE = "samples_rl.jsonl"  # in a job's folder: rollouts, logged as they are sampled
MOST_POINTS = 400  # of a curve; longer ones are thinned
AXES = {"rl": "episodes"}  # the x axis of a stage's curves
STEPS = "optimiser steps"
TEXTS = ("question", "response", "answer", "label")

Curve = tuple[list[float], list[float]]
"""A curve's x and y."""


def overview(results: Iterable[Path], blocks: Blocks) -> list[dict[str, Any]]:
    """What the views show of every job at once, in the order of rows and seeds; the rest goes into blocks.

    Args:
        results: the result files of jobs.
    """
    read = [(path.parent, read_result(path)) for path in results]
    return [_job(folder, result, blocks) for folder, result in sorted(read, key=lambda one: (one[1].row, one[1].seed))]


def _job(folder: Path, result: RunResult, blocks: Blocks) -> dict[str, Any]:
    artifacts, asked = _artifacts(folder, result), _rows(folder / RESPONSES_FILE)
    curves, rollouts = _curves(result, artifacts), _rollouts(folder, artifacts)
    notes = [["Note", note] for note in origin_notes([result])]
    notes += [[f"{stage} stopped early", reason] for stage, reason in result.notes.stopped.items()]
    labels = result.notes.labels
    detail: dict[str, Any] = {
        "config": result.config,
        "comparisons": [dataclasses.asdict(one) for one in result.comparisons],
        "numbers": numbers(result),
        "consensus": labels and labels.consensus_histogram,
        "notes": notes,
    }
    return {
        "folder": str(folder),
        **{name: getattr(result, name) for name in ("row", "seed", "revision", "created", "failure")},
        **{name: str((result.config.get(name) or {}).get("name", "–")) for name in ("dataset", "student", "teacher")},
        "seconds": sum(cost["seconds"] for cost in result.costs.values()),
        "tokens": sum(cost.get("tokens", 0) for cost in result.costs.values()),
        "models": [
            {
                "role": model.role,
                "tests": {name: _test(model.role, test, asked, blocks) for name, test in model.test_sets.items()},
            }
            for model in result.models
        ],
        "detail": blocks.add(detail),
        "curves": blocks.add(curves) if curves["metrics"] else None,
        "rollouts": blocks.add(rollouts) if rollouts else None,
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
    return {
        "accuracy": test.accuracy,
        "low": test.interval_low,
        "high": test.interval_high,
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


def _curves(result: RunResult, artifacts: Mapping[str, Path]) -> dict[str, Any]:
    """Every logged metric of every training stage, as "STAGE/METRIC"; without the store, those of the result alone."""
    metrics: dict[str, Curve] = {}
    for stage, history in result.notes.histories.items():
        axis = "episodes" if stage in AXES else "step"
        kept = artifacts.get(stage, Path())
        rows = (_rows(kept / HISTORY_FILE) if stage in AXES else []) or history
        _add(metrics, stage, [(row[axis], row) for row in rows if axis in row])
        if stage not in AXES:
            _add(metrics, stage, [(row["step"], row["metrics"]) for row in _rows(kept / CURVES_FILE)])
    axes = {stage: AXES.get(stage, STEPS) for stage in result.notes.histories}
    return {"axes": axes, "metrics": {name: _thinned(curve) for name, curve in metrics.items()}}


def _add(metrics: dict[str, Curve], stage: str, rows: Iterable[tuple[float, Mapping[str, float]]]) -> None:
    for x, row in rows:
        for name, value in row.items():
            if name not in ("step", "episodes", "epoch", "share"):
                xs, ys = metrics.setdefault(f"{stage}/{name}", ([], []))
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
    flat = {**row, **row.get("parts", {})}
    values = {
        name: value for name, value in flat.items() if isinstance(value, int | float) and name not in ("episodes",)
    }
    return {**{name: row[name] for name in TEXTS if name in row}, "episodes": row["episodes"], "numbers": values}


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; none if it is not there."""
    return read_rows(path) if path.is_file() else []
