"""The Weights & Biases tracker (`rkd.training.tracking`): a job's data enters, a W&B run leaves, offline by default."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from rkd.config import NOT_NEGATIVE, check_ranges
from rkd.errors import TrackingError
from rkd.processes import is_writable
from rkd.training.tracking import Output, RunDescription, StageLogger, refuse_second_start, started

if TYPE_CHECKING:
    from wandb import Artifact, Run, Table

log = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled", "shared"]


@dataclass
class WandbTracker:
    """One W&B run of one job.

    Args:
        project: of the run.
        entity: a user or team; None: W&B's default.
        mode: "offline" writes files that `wandb sync` uploads; WANDB_MODE in the environment overrides the setting.
        artifacts: which output files of stages are logged: "all", "small" or "none"; metadata names those left out.
        small_megabytes: the largest file that is small.
    """

    project: str
    entity: str | None = None
    mode: Literal["offline", "online"] = "offline"
    artifacts: Literal["all", "small", "none"] = "small"
    small_megabytes: float = 20.0
    _folder: Path | None = field(default=None, init=False, repr=False)
    _stages: set[str] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        check_ranges("tracking", self, {"small_megabytes": NOT_NEGATIVE})
        self._tables: dict[str, Table] = {}
        self._run: Run | None = None  # no dataclass field: the types of fields are read while a config is checked

    def start(self, config: dict[str, Any], run: RunDescription, folder: Path, *, run_id: str) -> None:
        import wandb  # here, not above: it takes a second, which a job without W&B need not spend

        refuse_second_start(self._run)
        folder.mkdir(parents=True, exist_ok=True)  # W&B would fall back to a temporary folder
        keep_beside(folder)
        mode = wandb_mode(self.mode)
        try:
            self._run = wandb.init(
                project=self.project,
                entity=self.entity,
                name=run.name,
                group=run.group,
                job_type=run.job_type,
                tags=[tag[:64] for tag in run.tags],
                config=config,
                dir=folder,
                # No `resume`: each attempt logs the whole job, and replaces the attempt before.
                id=run_id,
                mode=mode,
                reinit="create_new",  # never the run that an earlier job of this process left open
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            raise TrackingError(
                f"W&B could not start a run of project {self.project!r} ({error}). Log in with `wandb login`, or go on "
                "without network: `tracking=wandb`, which is offline, or `tracking=csv`."
            ) from error
        self._folder, self._stages, self._tables = folder, set(), {}
        log.info("W&B run %s (%s): %s", self._run.id, mode, self.where())

    def logger_for(self, stage: str) -> StageLogger:
        started(self._run)
        return StageLogger(stage, started(self._folder), self._write)

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        import wandb

        table = wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)
        started(self._run).log({key: table})

    def extend_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log the rows as an increment of the table, which costs no new copy of the earlier ones."""
        import wandb

        if key not in self._tables:
            self._tables[key] = wandb.Table(columns=list(columns), log_mode="INCREMENTAL", allow_mixed_types=True)
        for row in rows:
            self._tables[key].add_data(*row)
        started(self._run).log({key: self._tables[key]})

    def log_summary(self, values: Mapping[str, Any]) -> None:
        started(self._run).summary.update(dict(values))

    def log_output(self, output: Output) -> None:
        """Log an artifact of the run; an output of another job is an input of this run, if the server has it."""
        run = started(self._run)
        if run.offline or output.was_made or not self._use(output):
            run.log_artifact(self._artifact(output))

    def log_image(self, key: str, path: Path) -> None:
        import wandb

        started(self._run).log({key: wandb.Image(str(path))})

    def where(self) -> str:
        run = started(self._run)
        if not run.offline:
            return run.url or ""
        place = run.settings.sync_dir
        return f"`wandb leet {place}` shows it, `wandb sync {place}` uploads it"

    def finish(self, failure: str | None = None) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.summary["failure"] = failure  # None as well: a job that failed once is resumed under the same id
            run.finish(exit_code=0 if failure is None else 1)

    def _use(self, output: Output) -> bool:
        """Use another job's output; False if the server lacks it, as it does if that job ran offline."""
        import wandb

        try:
            started(self._run).use_artifact(f"{_artifact_name(output)}:latest")
        except (wandb.errors.CommError, ValueError) as error:
            log.info("%s is not on the W&B server, so this run logs it (%s)", output.name, error)
            return False
        return True

    def _artifact(self, output: Output) -> "Artifact":
        import wandb

        sizes = {name: path.stat().st_size for name, path in output.files.items()}
        sizes |= {name: len(text.encode()) for name, text in output.texts.items()}
        left_out = sorted(name for name, size in sizes.items() if not self._takes(size))
        metadata = {**output.metadata, "files_left_out": left_out}
        artifact = wandb.Artifact(_artifact_name(output), type=output.kind, metadata=metadata)
        for name, path in output.files.items():
            if name not in left_out:
                # Immutable: files of the store never change, so W&B need not copy a whole model to its cache first.
                artifact.add_file(str(path), name=name, policy="immutable")
        for name, text in output.texts.items():
            if name not in left_out:
                with artifact.new_file(name, encoding="utf-8") as file:
                    file.write(text)
        return artifact

    def _takes(self, size: int) -> bool:
        return {"all": True, "none": False, "small": size <= self.small_megabytes * 1e6}[self.artifacts]

    def _write(self, stage: str, metrics: dict[str, float], step: int | None) -> None:
        run = started(self._run)
        if stage not in self._stages:  # here, not in `logger_for`: a stage that is left out has no curve
            run.define_metric(f"{stage}/step", hidden=True)
            run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self._stages.add(stage)
        axis = {} if step is None else {f"{stage}/step": step}
        run.log(metrics | axis)


def wandb_mode(mode: str) -> Mode:
    """WANDB_MODE where it is set, else `mode`; W&B itself refuses a word that is no mode."""
    chosen = os.environ.get("WANDB_MODE") or mode
    return cast(Mode, {"dryrun": "offline", "run": "online"}.get(chosen, chosen))  # older names in W&B


def keep_beside(folder: Path) -> None:
    """Let W&B keep what it has in the home folder beside the job's folder, where the home folder cannot be written.

    W&B stages the files of artifacts there, which an offline run needs until `wandb sync`.
    """
    from wandb import env

    for variable, used in ((env.DATA_DIR, env.get_data_dir()), (env.CACHE_DIR, env.get_cache_dir())):
        if not is_writable(Path(used).expanduser()):
            instead = (folder.parent / "wandb" / variable.split("_")[1].lower()).absolute()
            log.warning("%s cannot be written, so W&B keeps its files in %s.", used, instead)
            os.environ[variable] = str(instead)


def _artifact_name(output: Output) -> str:
    return re.sub(r"[^\w.-]", "-", output.name)
