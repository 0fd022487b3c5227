"""Folders of finished jobs with numbers and texts that nobody measured, for the page of a report."""

import dataclasses
import random
from pathlib import Path

from rkd.evaluation.results import (
    RESPONSES_FILE,
    EvaluationResult,
    ModelResult,
    Notes,
    RunResult,
    response_rows,
    write_result,
)
from rkd.evaluation.verdict_counts import LabelStatistics
from rkd.io import write_rows
from rkd.records import Query
from rkd.reporting.page.jobs import ROLLOUTS_FILE

WORDS = ("boxes", "apples", "each", "then", "adds", "gives", "shares", "dollars", "friends", "half")


def queries(n: int) -> list[Query]:
    """Questions of a made-up test set; the answer to question k is k."""
    return [Query(f"sums-{k}", "sums", f"How much is {k} + 0?", gold_answer=str(k)) for k in range(n)]


def answered(answers: list[str | None], responses: list[str]) -> EvaluationResult:
    """The test of a model that gave these answers to `queries(n)`."""
    outcomes = [answer == str(k) for k, answer in enumerate(answers)]
    n, correct = len(outcomes), sum(outcomes)
    return EvaluationResult(
        test_set="sums",
        n=n,
        correct=correct,
        accuracy=correct / n,
        interval_low=max(0.0, correct / n - 0.1),
        interval_high=min(1.0, correct / n + 0.1),
        pass_at_8=None,
        outcomes=outcomes,
        answers=answers,
        question_ids=[f"sums-{k}" for k in range(n)],
        share_without_answer=answers.count(None) / n,
        share_truncated=0.0,
        responses=responses,
    )


def result(row: str, seed: int, test: EvaluationResult) -> RunResult:
    """A finished job whose own model has this test."""
    history = [{"episodes": 64.0 * k, "reward": 0.1 * k + 0.01 * seed, "kl": 0.02 * k} for k in range(5)]
    names = {"dataset": "sums", "student": "small", "teacher": "large"}
    return RunResult(
        row=row,
        seed=seed,
        config={part: {"name": name} for part, name in names.items()},
        revision="0123456789abcdef",
        versions={},
        costs={"rl": {"seconds": 60.0 + seed, "seconds_this_job": 60.0, "tokens": 1000}},
        models=[ModelResult(row, {"sums": test})],
        comparisons=[],
        failure=None,
        created="2030-01-01T00:00:00+00:00",
        notes=Notes(
            labels=LabelStatistics(queries=10, labelled=8, right=6, consensus_histogram=[0, 0, 0, 0, 1, 1, 2, 2, 2, 2]),
            histories={"rl": history},
        ),
    )


def rollout(question: str, response: str, **more: object) -> dict[str, object]:
    """A row of the rollouts that a job logs."""
    row = {"episodes": 0, "rollout": 0, "term": "learned", "question": question, "response": response, "answer": "1"}
    parts = {"learned": 0.5, "check": -0.25}
    return {**row, "label": "1", "reward": 0.25, "parts": parts, "advantage": -1.5, "tokens": 12, **more}


def write_job(root: Path, made: RunResult, rollouts: list[dict[str, object]], asked: list[Query] | None = None) -> Path:
    """Write the folder of a job below `root`; returns the path of its result."""
    folder = root / f"{made.row}-sums-seed{made.seed}".replace("/", "")
    path = write_result(made, folder)
    if made.models:
        tests = made.models[-1].test_sets["sums"]
        write_rows(folder / RESPONSES_FILE, response_rows(made, {"sums": asked or queries(tests.n)}))
    if rollouts:
        write_rows(folder / ROLLOUTS_FILE, rollouts)
    return path


def write_many(root: Path, jobs: int, responses: int) -> None:
    """Write jobs of four rows, each with so many responses to test questions and rollouts, half of each."""
    draw, asked = random.Random(0), queries(responses // 2)
    for number in range(jobs):
        texts = [_text(draw) for _ in range(responses)]
        answers: list[str | None] = [str(k) if draw.random() < 0.5 else "0" for k in range(len(asked))]
        made = result(f"row {number % 4}", number // 4, answered(answers, texts[: len(asked)]))
        rolled = [rollout(f"How much is {k} + 1?", text, episodes=k) for k, text in enumerate(texts[len(asked) :])]
        history = [{"episodes": 64.0 * k, "reward": draw.random(), "kl": draw.random()} for k in range(200)]
        notes = dataclasses.replace(made.notes, histories={"rl": history})
        write_job(root, dataclasses.replace(made, notes=notes), rolled, asked)


def _text(draw: random.Random) -> str:
    """A response of about 200 characters."""
    steps = [f"Step {k}: {' '.join(draw.choices(WORDS, k=6))} {draw.randrange(1000)}." for k in range(1, 5)]
    return "\n".join([*steps, f"The answer is {draw.randrange(1000)}."])
