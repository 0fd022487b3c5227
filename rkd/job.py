"""One job: a config enters, its result, table, figure and W&B run are left behind, and failures become one message."""

import dataclasses
import json
import traceback
from pathlib import Path
from typing import Any

import torch
import transformers
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from rkd.artifacts import ArtifactError, Store, code_revision, package_versions
from rkd.callbacks import TrainingDivergedError
from rkd.pipeline import Stages, build_stages, evaluate_student, job_digest, run_experiment
from rkd.report import final_table, final_table_markdown, learning_curves
from rkd.results import RESULT_FILE, RunResult, failed_result, read_result, write_result
from rkd.tracking import TrackingError
from rkd.workshop import Workshop

# What a user can cause and mend: told in one message. Anything else is a fault of ours and keeps its traceback.
USER_ERRORS = (ValueError, TypeError, FileNotFoundError, ArtifactError, TrainingDivergedError, TrackingError)


class JobError(RuntimeError):
    """The job failed for a reason that its message tells in full."""


def run_job(config: DictConfig) -> float | None:
    """Run the job that the config describes; returns the accuracy of the row's model, for a search over configs.

    Raises:
        JobError: it failed; the reason is also in its result.json.
    """
    console = Console(highlight=False, soft_wrap=True)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    transformers.utils.logging.disable_progress_bar()
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)
    try:
        stages = build_stages(config)
        digest = job_digest(stages)
    except Exception as error:  # Hydra wraps what a constructor refused in an exception of its own
        raise JobError(_reason(error)) from error
    folder = Path(config.output_root) / f"{stages.row}-{stages.dataset.name}-seed{stages.seed}-{digest}".replace(
        " ", "_"
    )
    if (folder / RESULT_FILE).is_file() and (finished := read_result(folder)).failure is None:
        console.print(f"This job is finished already: {folder / RESULT_FILE}. Remove the folder to run it again.")
        console.print(final_table(finished))
        return _main_accuracy(finished)
    folder.mkdir(parents=True, exist_ok=True)
    workshop = Workshop(Store(Path(config.artifacts.root)), console)
    exit_code = 1
    try:
        stages.tracker.start(plain, stages.row, stages.dataset.name, [stages.row], folder, run_id=digest)
        result = (
            evaluate_student(stages, workshop, plain)
            if config.evaluate_only
            else run_experiment(stages, workshop, plain)
        )
        _leave_behind(result, stages, workshop, folder, console)
        exit_code = 0
    except USER_ERRORS as error:
        write_result(
            failed_result(stages.row, stages.seed, plain, code_revision(), package_versions(), _reason(error)), folder
        )
        (folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        raise JobError(_reason(error)) from error
    finally:
        stages.tracker.finish(exit_code)
    return _main_accuracy(result)


def _leave_behind(result: RunResult, stages: Stages, workshop: Workshop, folder: Path, console: Console) -> None:
    """Write result, table and figure; log them; print the table and where everything is."""
    path = write_result(result, folder)
    (folder / "table.md").write_text(final_table_markdown(result), encoding="utf-8")
    console.print()
    console.print(final_table(result))
    console.print(f"result   {path}")
    history = workshop.made["rl"].folder / "history.jsonl" if "rl" in workshop.made else None
    if history is not None and history.is_file():
        rows = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
        sft = [model for model in result.models if model.role == "SFT"]
        learning_curves(rows, folder / "learning_curves.png")
        console.print(f"figure   {folder / 'learning_curves.png'}")
        stages.tracker.log_image("learning_curves", folder / "learning_curves.png")
        samples = [
            json.loads(line) for line in (history.parent / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        if samples:
            stages.tracker.log_table(
                "rl/samples", list(samples[0]), [list(sample.values()) for sample in samples[-64:]]
            )
        del sft
    stages.tracker.log_summary(
        {
            f"{model.role}/{name}/accuracy": test.accuracy
            for model in result.models
            for name, test in model.test_sets.items()
        }
    )
    console.print(f"tracking {type(stages.tracker).__name__} in {folder}")


def _main_accuracy(result: RunResult) -> float | None:
    tests = list(result.models[-1].test_sets.values()) if result.models else []
    return tests[0].accuracy if tests else None


def _reason(error: BaseException) -> str:
    """The message of the innermost cause: Hydra puts its own around it."""
    while error.__cause__ is not None and type(error).__module__.startswith(("hydra", "omegaconf")):
        error = error.__cause__
    return str(error)


def as_plain(value: Any) -> dict[str, Any]:
    """A record as a dictionary."""
    return dataclasses.asdict(value)
