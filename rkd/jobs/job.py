"""One job: a config enters; result, table, figure and W&B run leave. A failure becomes one message."""

import contextlib
import dataclasses
import errno
import json
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from rich.console import Console

from rkd.config import plain_values, without_environment, without_value
from rkd.data.recorded_model import RecordedTeacher
from rkd.distributed import followers
from rkd.errors import JobError, UserError
from rkd.evaluation.results import (
    RESPONSES_FILE,
    RESULT_FILE,
    RunResult,
    failed_result,
    read_result,
    response_rows,
    write_result,
)
from rkd.generation.endpoint_server import EndpointModel
from rkd.generation.local import LocalModel
from rkd.io import read_rows, write_rows
from rkd.jobs.cost_estimate import CostEstimate
from rkd.jobs.model_checks import check_models
from rkd.jobs.run_log import RunLog, samples_file
from rkd.jobs.time_estimate import measure, plan_lines
from rkd.jobs.work_plan import describe, planned_work
from rkd.judges.base import ModelJudge, asks_model
from rkd.models.cpu_workers import cores, is_small
from rkd.models.loading import count_weights
from rkd.pipeline.experiment import Stages
from rkd.pipeline.pipeline import build_stages, evaluate_student, job_digest, row_of, run_experiment
from rkd.pipeline.sample import Source
from rkd.pipeline.stage_runner import StageRunner
from rkd.records import Checkpoint
from rkd.reporting.learning_curves import learning_curves
from rkd.reporting.report import final_table, final_table_markdown
from rkd.reporting.table_files import update_tables
from rkd.store.provenance import code_revision, package_versions
from rkd.store.shared_disk import check_disk
from rkd.training.checkpointing import HISTORY_FILE
from rkd.training.tracking import NoTracker, RunDescription

# Errors that a user can cause and fix are shown as one message. All others are bugs and keep their traceback.
USER_ERRORS = (UserError, ValueError, TypeError, OSError, ModuleNotFoundError, MisconfigurationException)


def run_job(config: DictConfig) -> float | None:
    """Run the job that the config describes; return the validation accuracy of its last training, for a search.

    It is the accuracy of the kept weights on validation queries with a pseudo-label; test sets are not used.

    Raises:
        JobError: the job failed; the reason is also in its result.json.
    """
    console = Console(highlight=False, soft_wrap=True)
    with _quiet():
        try:
            _check(plain_values(config))
            plain = without_environment(config)  # for files and dashboards
            stages = build_stages(config)
            if config.dry_run:
                _dry_run(stages, instantiate(config.cost_estimate), console, evaluate_only=config.evaluate_only)
                return None
            stages.trainer.check_device()
            place = _place_of(stages, config)
            cores_of_process = _cores(stages, config, place.models)
        except Exception as error:  # Hydra wraps a constructor's error in its own exception
            raise JobError(_reason(error)) from error
        if place.is_finished:
            finished, file = read_result(place.folder), place.folder / RESULT_FILE
            console.print(f"This job is finished already: {file}. Remove the folder to run it again.")
            console.print(final_table(finished))
            return finished.validation_accuracy
        with _explained_write_errors(place.folder), cores_of_process:
            place.folder.mkdir(parents=True, exist_ok=True)
            try:
                return _run(stages, config, plain, place, console)
            finally:
                _update_tables(Path(config.table_root), place.folder, console)


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of a job's result: its folder, the digest in the folder's name, and the sources of its models."""

    folder: Path
    digest: str
    models: Sequence[Source | EndpointModel]

    @property
    def is_finished(self) -> bool:
        """Whether the result exists and is not a failure."""
        return (self.folder / RESULT_FILE).is_file() and read_result(self.folder).failure is None


def place_of(config: DictConfig) -> Place:
    """The place of the job that the config describes, without running it.

    Raises:
        JobError: the job is impossible; the message says why.
    """
    try:
        _check(plain_values(config))
        return _place_of(build_stages(config), config)
    except Exception as error:
        raise JobError(_reason(error)) from error


def _place_of(stages: Stages, config: DictConfig) -> Place:
    stages.generation.check()
    models = [model.source() for model in _models(stages, config)]
    digest = job_digest(stages, evaluate_only=config.evaluate_only, models=models)
    name = f"{row_of(stages, evaluate_only=config.evaluate_only)}-{stages.dataset.name}-seed{stages.seed}-{digest}"
    return Place(Path(config.output_root) / name.replace(" ", "_").replace("/", ""), digest, models)


def follow_job(config: DictConfig) -> None:
    """Join the training stages of a job that another process leads; write no files."""
    plain = plain_values(config)
    with _quiet():
        stages = dataclasses.replace(build_stages(config), tracking=NoTracker())
        models = [model.source() for model in _models(stages, config)]
        with _cores(stages, config, models):
            run_experiment(stages, StageRunner(Path(config.artifacts.root), Console(quiet=True)), plain)


def _run(stages: Stages, config: DictConfig, plain: dict[str, Any], place: Place, console: Console) -> float | None:
    folder, table = place.folder, plain.pop("table") or {}  # the table has no effect on the job
    run_log = RunLog(stages.tracking, stages.dataset, console, folder)
    root, per_shard = Path(config.artifacts.root), config.artifacts.responses_per_shard
    runner = StageRunner(root, console, job=folder, watcher=run_log, responses_per_shard=per_shard)
    failure: str | None = "It was interrupted."
    row = row_of(stages, evaluate_only=config.evaluate_only)
    for model in place.models:
        runner.note_model(model)  # it may be an artifact of another job
    try:
        for warning in [*check_models(stages, evaluate_only=config.evaluate_only), check_disk(root)]:
            if warning is not None:
                runner.warn(warning)
        if not config.evaluate_only:
            _announce(stages, console)
        described = _run_description(stages, row, config.paper, table.get("name"))
        stages.tracking.start(plain, described, folder, run_id=place.digest)
        if config.evaluate_only:
            result = evaluate_student(stages, runner, plain)
        else:
            with followers(stages.trainer.devices, folder, plain):
                result = run_experiment(stages, runner, plain)
        _leave_behind(result, stages, runner, run_log, folder)
        failure = None
    except Exception as error:
        failure = " ".join([_reason(error), *runner.warnings])
        write_result(failed_result(row, stages.seed, plain, code_revision(), package_versions(), failure), folder)
        (folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        if not isinstance(error, USER_ERRORS) and not _is_out_of_memory(error):
            raise
        console.print(f"The job failed; its traceback is in {folder / 'traceback.txt'}.", style="dim")
        raise JobError(failure) from error
    finally:
        stages.tracking.finish(failure)
    return result.validation_accuracy


def _run_description(stages: Stages, row: str, paper: str, table: str | None) -> RunDescription:
    """The groups of the job in a dashboard: its table, or else its dataset, and its row."""
    teacher, student, dataset = stages.teacher.name, stages.student.name, stages.dataset.name
    return RunDescription(
        name=f"{row} {dataset} {teacher} → {student} seed {stages.seed}",
        group=table or dataset,
        job_type=row,
        tags=(f"paper {paper}", row, dataset, teacher, student, f"seed {stages.seed}"),
    )


def _dry_run(stages: Stages, cost_estimate: CostEstimate, console: Console, *, evaluate_only: bool) -> None:
    """Print the stages and the costs of the job; load only the dataset, and the tokenizers that are here."""
    warnings = [f"  {warning}" for warning in check_models(stages, evaluate_only=evaluate_only)]
    costs = cost_estimate.lines(stages, planned_work(stages, evaluate_only=evaluate_only))
    lines = [*describe(stages), *warnings, "", *costs, ""]
    console.print("\n".join(lines), markup=False)


def _announce(stages: Stages, console: Console) -> None:
    """Print the stages of the job and their expected time."""
    console.print("\n".join(describe(stages)), markup=False)
    if stages.shortened:
        switches = ", ".join(f"{name}={value}" for name, value in stages.shortened.items())
        console.print(f"  debug    {switches}: the training stages are cut short\n", markup=False)
        return
    work = planned_work(stages)
    console.print("\n".join(plan_lines(work, measure(stages, work))) + "\n", markup=False)


def _leave_behind(result: RunResult, stages: Stages, runner: StageRunner, run_log: RunLog, folder: Path) -> None:
    """Write result, query ids, responses, table and figure; log them; print the table and the paths of all files."""
    places = {"result": str(folder / RESULT_FILE)}
    (folder / "splits.json").write_text(json.dumps(stages.dataset.ids(), indent=0) + "\n", encoding="utf-8")
    write_rows(folder / RESPONSES_FILE, response_rows(result, stages.dataset.test_sets()))
    table = folder / "table.md"
    table.write_text(final_table_markdown(result), encoding="utf-8")
    if history := _rollouts(runner):
        figure = folder / "learning_curves.png"
        # RL starts from the SFT student, so the validation at episode 0 is the SFT student's accuracy.
        start = [row["validation_accuracy"] for row in history if row["episodes"] == 0]
        learning_curves(history, figure, sft_accuracy=start[0] if start else None)
        stages.tracking.log_image("learning_curves", figure)
        places["figure"] = str(figure)
    if (samples := samples_file(folder, "rl")).is_file():
        places["samples"] = str(samples)
    run_log.result(result)
    places |= {"table": str(table), "tracking": stages.tracking.where()}
    write_result(result, folder)  # last, because it marks the job as finished
    console = runner.console
    console.print()
    console.print(final_table(result))
    for name, place in places.items():
        if place:
            console.print(f"{name:<8} {place}", markup=False)


def _update_tables(root: Path, folder: Path, console: Console) -> None:
    """Write again the tables that the job belongs to; a table that fails does not make the job fail."""
    try:
        for said in update_tables(root, folder):
            console.print(said, markup=False)
    except (ValueError, OSError) as error:
        console.print(f"A table in {root} could not be made: {error}", style="yellow", markup=False)


@contextlib.contextmanager
def _explained_write_errors(folder: Path) -> Iterator[None]:
    """Turn system errors on the job's folder into a message; the store does the same for its own folder."""
    try:
        yield
    except OSError as error:
        is_ours = error.filename is not None and folder.parent.is_relative_to(error.filename)
        is_ours = is_ours or (error.filename is not None and Path(error.filename).is_relative_to(folder.parent))
        if not is_ours and error.errno != errno.ENOSPC:  # the error of a full disk has no file name
            raise JobError(str(error)) from error
        raise JobError(
            f"{folder} cannot be written ({error.strerror}). Free space or give this user write access, or choose "
            "another place with `output_root=FOLDER`. What the stages have made is kept in artifacts.root."
        ) from error


def _check(plain: dict[str, Any]) -> None:
    """Check the values that belong to no part of the method; `build_stages` checks the others."""
    artifacts = plain["artifacts"] if isinstance(plain["artifacts"], dict) else {}
    roots = {name: plain[name] for name in ("output_root", "table_root")} | {"artifacts.root": artifacts.get("root")}
    for name, root in roots.items():
        if not isinstance(root, str) or not root.strip():
            raise ValueError(f"{name}={root}: give the path of a folder.")
        if root.startswith("~"):
            raise ValueError(f"{name}={root}: write the home folder in full, {name}={Path(root).expanduser()}.")
    if not isinstance(plain["table"], dict | None):
        raise ValueError(f"table={plain['table']}: a sweep's file sets the table; leave it to `-m sweeps=NAME`.")
    threads, per_shard = plain["threads"], artifacts.get("responses_per_shard")
    if threads is not None and not _is_count(threads):
        raise ValueError(f"threads={threads!r}: give the number of cores to use, at least 1, or null for all.")
    if not _is_count(per_shard):
        raise ValueError(f"artifacts.responses_per_shard={per_shard!r}: must be a whole number, at least 1.")
    for name in ("evaluate_only", "dry_run"):
        if not isinstance(plain[name], bool):
            raise ValueError(f"{name}={plain[name]!r}: must be true or false.")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _cores(
    stages: Stages, config: DictConfig, models: Sequence[Source | EndpointModel]
) -> contextlib.AbstractContextManager[None]:
    """The number of the job's cores for this process."""
    are_small = all(is_small(count_weights(model.folder)) for model in models if isinstance(model, Checkpoint))
    processes = 1 if config.evaluate_only else stages.trainer.devices
    return cores(config.threads, processes=processes, small_models=are_small)


def _models(stages: Stages, config: DictConfig) -> list[LocalModel | RecordedTeacher | EndpointModel | ModelJudge]:
    judges = [] if config.evaluate_only else [stages.judge]
    asked = [one for one in (*judges, stages.evaluation.annotator) if asks_model(one)]
    return [stages.student, *([] if config.evaluate_only else [stages.teacher]), *asked]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the libraries, and restore them afterwards: the jobs of a multirun share one process."""
    transformers.utils.logging.disable_progress_bar()
    verbosity = transformers.utils.logging.get_verbosity()
    # Its load report warns of each head that the reward model adds to its student.
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
        transformers.utils.logging.enable_progress_bar()


def _rollouts(runner: StageRunner) -> list[dict[str, Any]]:
    """The history of the job's reinforcement learning; empty without this stage."""
    path = runner.made["rl"].folder / HISTORY_FILE if "rl" in runner.made else None
    history = read_rows(path) if path is not None and path.is_file() else []
    return history if any("reward" in row for row in history) else []


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether a processor or a GPU had too little memory; torch raises a plain RuntimeError for the former."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _reason(error: BaseException) -> str:
    """The message of the innermost cause, without Hydra's own message around it."""
    while error.__cause__ is not None and type(error).__module__.startswith(("hydra", "omegaconf")):
        error = error.__cause__
    if _is_out_of_memory(error):
        said = (str(error) or type(error).__name__).splitlines()[0]
        return (
            f"the memory does not suffice ({said}). In training, take `student.options.gradient_checkpointing=true` "
            "or a smaller batch_size; in sampling, a smaller generation.batch_responses or shorter responses (the keys "
            "max_response_tokens). docs/scaling.md says what a model takes."
        )
    if missing := re.search(r"Missing mandatory value: (\S+)", str(error)):
        return without_value(missing[1])
    if absent := re.search(r"Interpolation key '(\S+)' not found\s+full_key: (\S+)", str(error)):
        return (
            f"{absent[2]} is that of {absent[1]}, which this job does not have: a teacher behind a server, or from a "
            "file, has no model here. Choose another option: `judge=endpoint judge.model=NAME` asks a server for one "
            "token, `judge=endpoint_written judge.model=NAME` for a written score. judge=likelihood needs a model "
            "here, `judge.name_or_path=FOLDER`: servers do not list the probabilities of what they read in one way."
        )
    return str(error) or type(error).__name__
