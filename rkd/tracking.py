"""Where a job's metrics go: W&B, CSV files, TensorBoard or nowhere; `tracking=...` selects a class below.

In: the resolved config once, then metrics of each stage through a Lightning logger, tables, images and files.
Out: one run per job. Its keys are `<stage>/<metric>`, and each stage has its own x-axis, `<stage>/step`, since the
steps of two stages count different things. A tracker keeps its run in a field of its own and `finish` closes it: the
jobs of a multirun share one process, and nothing may reach from one to the next.
"""

import csv
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from matplotlib.image import imread
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

log = logging.getLogger(__name__)

WriteMetrics = Callable[[str, dict[str, float], int | None], None]


class TrackingError(RuntimeError):
    """The backend refused to start; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class RunDescription:
    """What a dashboard calls a run, and what it is filtered and grouped by.

    Args:
        group: the table that the job belongs to.
        job_type: the row.
        tags: at most 64 characters of each are kept, which W&B allows.
    """

    name: str
    group: str
    job_type: str
    tags: Sequence[str] = ()


class Tracker(Protocol):
    """One run of one job: `start`, any number of the others, `finish` in a `finally`."""

    def start(self, config: dict[str, Any], run: RunDescription, folder: Path, *, run_id: str) -> None:
        """Open the run; files lie in `folder`. `run_id` is the job's digest."""
        ...

    def logger_for(self, stage: str) -> Logger | Literal[False]:
        """What this stage's `Trainer(logger=...)` takes."""
        ...

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Keep a table under `key`."""
        ...

    def log_summary(self, values: Mapping[str, Any]) -> None:
        """Set final values of the run."""
        ...

    def log_artifact(self, path: Path, name: str, type: str, metadata: Mapping[str, Any]) -> None:
        """Record a file or folder; `metadata` carries the digests of what it was made from."""
        ...

    def log_image(self, key: str, path: Path) -> None:
        """Keep a PNG under `key`."""
        ...

    def where(self) -> str:
        """Where the run is and what shows it, in one line; empty where nothing is kept."""
        ...

    def finish(self, exit_code: int = 0) -> None:
        """Close the run; does nothing if none is open."""
        ...


class StageLogger(Logger):
    """The Lightning logger of one stage: writes into the job's run, which outlives the stage's trainer."""

    def __init__(self, stage: str, folder: Path, write: WriteMetrics) -> None:
        super().__init__()
        self.stage = stage
        self.folder = folder
        self.write = write

    @property
    def name(self) -> str:
        return self.stage

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        prefix = f"{self.stage}/"
        named = {key if key.startswith(prefix) else prefix + key: value for key, value in metrics.items()}
        self.write(self.stage, named, step)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: the run holds the whole config from its start."""


@dataclass
class WandbTracker:
    """Weights & Biases: online for a user who is logged in, offline otherwise; WANDB_MODE in the environment wins."""

    project: str
    entity: str | None = None
    _run: Any = field(default=None, init=False, repr=False)
    _folder: Path | None = field(default=None, init=False, repr=False)
    _stages: set[str] = field(default_factory=set, init=False, repr=False)

    def start(self, config: dict[str, Any], run: RunDescription, folder: Path, *, run_id: str) -> None:
        import wandb  # here, not above: it takes a second that CSV files need not pay

        _refuse_second_start(self._run)
        folder.mkdir(parents=True, exist_ok=True)  # W&B would fall back to a temporary folder
        try:
            mode = wandb_mode()
            self._run = wandb.init(
                project=self.project,
                entity=self.entity,
                name=run.name,
                group=run.group,
                job_type=run.job_type,
                tags=[tag[:64] for tag in run.tags],
                config=config,
                dir=folder,
                id=run_id,
                mode=mode,
                resume="allow" if mode == "online" else None,  # offline W&B warns and starts a second folder of this id
                reinit="create_new",  # never the run that an earlier job of this process left open
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            raise TrackingError(
                f"W&B could not start a run of project {self.project!r} ({error}). Log in with `wandb login`, or go on "
                "without network: `WANDB_MODE=offline`, or `tracking=csv`."
            ) from error
        self._folder, self._stages = folder, set()
        upload = f"upload with `wandb sync {self._run.settings.sync_dir}`"
        log.info("W&B run %s (%s): %s", self._run.id, mode, self._run.url if mode == "online" else upload)

    def logger_for(self, stage: str) -> StageLogger:
        run = _started(self._run)
        if stage not in self._stages:
            run.define_metric(f"{stage}/step", hidden=True)
            run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self._stages.add(stage)
        return StageLogger(stage, self._folder, self._write)

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        import wandb

        table = wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)
        _started(self._run).log({key: table})

    def log_summary(self, values: Mapping[str, Any]) -> None:
        _started(self._run).summary.update(dict(values))

    def log_artifact(self, path: Path, name: str, type: str, metadata: Mapping[str, Any]) -> None:
        import wandb

        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", name), type=type, metadata=dict(metadata))
        # Immutable: files of the store never change, so W&B need not copy a whole model to its cache first.
        # File by file: `add_dir` talks about it on the terminal, `silent` or not.
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                name_within = file.relative_to(path if path.is_dir() else path.parent).as_posix()
                artifact.add_file(str(file), name=name_within, policy="immutable")
        _started(self._run).log_artifact(artifact)

    def log_image(self, key: str, path: Path) -> None:
        import wandb

        _started(self._run).log({key: wandb.Image(str(path))})

    def where(self) -> str:
        run = _started(self._run)
        if not run.offline:
            return run.url
        place = run.settings.sync_dir
        return f"`wandb leet {place}` shows it, `wandb sync {place}` uploads it"

    def finish(self, exit_code: int = 0) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.finish(exit_code=exit_code)

    def _write(self, stage: str, metrics: dict[str, float], step: int | None) -> None:
        axis = {} if step is None else {f"{stage}/step": step}
        _started(self._run).log(metrics | axis)


@dataclass
class CsvTracker:
    """Plain files under `<job>/tracking/`: one history per stage, `config.json`, `summary.json`, tables, images."""

    _folder: Path | None = field(default=None, init=False, repr=False)
    _loggers: dict[str, CSVLogger] = field(default_factory=dict, init=False, repr=False)

    def start(self, config: dict[str, Any], run: RunDescription, folder: Path, *, run_id: str) -> None:
        _refuse_second_start(self._folder)
        self._folder, self._loggers = folder / "tracking", {}
        _write_json(self._folder / "config.json", {**asdict(run), "id": run_id, "config": config})

    def logger_for(self, stage: str) -> StageLogger:
        return StageLogger(stage, _started(self._folder), self._write)

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        path = _started(self._folder) / "tables" / f"{_file_name(key)}.csv"
        path.parent.mkdir(exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([columns, *rows])

    def log_summary(self, values: Mapping[str, Any]) -> None:
        path = _started(self._folder) / "summary.json"
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        _write_json(path, earlier | dict(values))

    def log_artifact(self, path: Path, name: str, type: str, metadata: Mapping[str, Any]) -> None:
        record = {"path": str(path), "type": type, "metadata": dict(metadata)}
        _write_json(_started(self._folder) / "artifacts" / f"{_file_name(name)}.json", record)

    def log_image(self, key: str, path: Path) -> None:
        target = _started(self._folder) / "images" / f"{_file_name(key)}.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)

    def where(self) -> str:
        return str(_started(self._folder))

    def finish(self, exit_code: int = 0) -> None:
        if self._folder is not None:
            for logger in self._loggers.values():
                logger.save()
            self.log_summary({"exit_code": exit_code})
        self._folder = None

    def _write(self, stage: str, metrics: dict[str, float], step: int | None) -> None:
        if stage not in self._loggers:
            history = _started(self._folder) / "history"
            shutil.rmtree(history / stage, ignore_errors=True)  # a stage that runs again writes its history again
            self._loggers[stage] = CSVLogger(history, name=stage, version="", flush_logs_every_n_steps=1)
        axis = {} if step is None else {f"{stage}/step": step}
        self._loggers[stage].log_metrics(metrics | axis, step)
        self._loggers[stage].save()


@dataclass
class TensorBoardTracker:
    """TensorBoard events under `<job>/tensorboard/`; a stage's step is the x-axis of its own charts."""

    _logger: TensorBoardLogger | None = field(default=None, init=False, repr=False)

    def start(self, config: dict[str, Any], run: RunDescription, folder: Path, *, run_id: str) -> None:
        _refuse_second_start(self._logger)
        self._logger = TensorBoardLogger(folder, name="", version="tensorboard")
        self._add_json("config", {**asdict(run), "id": run_id, "config": config})

    def logger_for(self, stage: str) -> StageLogger:
        return StageLogger(stage, Path(_started(self._logger).log_dir), self._write)

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        lines = [columns, ["---"] * len(columns), *rows]
        text = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
        _started(self._logger).experiment.add_text(key, text)

    def log_summary(self, values: Mapping[str, Any]) -> None:
        self._add_json("summary", dict(values))

    def log_artifact(self, path: Path, name: str, type: str, metadata: Mapping[str, Any]) -> None:
        self._add_json(f"artifacts/{name}", {"path": str(path), "type": type, "metadata": dict(metadata)})

    def log_image(self, key: str, path: Path) -> None:
        _started(self._logger).experiment.add_image(key, imread(path)[..., :3], dataformats="HWC")

    def where(self) -> str:
        place = _started(self._logger).log_dir
        return f"`tensorboard --logdir {place}` shows it"

    def finish(self, exit_code: int = 0) -> None:
        logger, self._logger = self._logger, None
        if logger is not None:
            logger.finalize("success" if exit_code == 0 else "failed")

    def _add_json(self, key: str, value: Any) -> None:
        text = json.dumps(value, indent=2, ensure_ascii=False)
        _started(self._logger).experiment.add_text(key, f"```json\n{text}\n```")

    def _write(self, stage: str, metrics: dict[str, float], step: int | None) -> None:  # noqa: ARG002
        _started(self._logger).log_metrics(metrics, step)


@dataclass
class NoTracker:
    """Keeps nothing; result files are written all the same."""

    def start(self, *_: Any, **__: Any) -> None: ...

    def logger_for(self, stage: str) -> Literal[False]:  # noqa: ARG002
        return False

    def log_table(self, *_: Any, **__: Any) -> None: ...

    def log_summary(self, *_: Any, **__: Any) -> None: ...

    def log_artifact(self, *_: Any, **__: Any) -> None: ...

    def log_image(self, *_: Any, **__: Any) -> None: ...

    def where(self) -> str:
        return ""

    def finish(self, *_: Any, **__: Any) -> None: ...


def wandb_mode() -> str:
    """WANDB_MODE where it is set; else `online` if there are credentials for the W&B server, `offline` if not."""
    import wandb
    from wandb.sdk.lib.wbauth import read_netrc_auth

    if mode := os.environ.get("WANDB_MODE"):
        return {"dryrun": "offline", "run": "online"}.get(mode, mode)
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return "online"
    # W&B's own reader, not `netrc`: it also finds logins that earlier versions stored under the server's former name.
    server = os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url
    return "online" if read_netrc_auth(host=server) else "offline"


def _started(run: Any) -> Any:
    if run is None:
        raise RuntimeError("This tracker has no open run: call `start(...)` first, `finish()` last.")
    return run


def _refuse_second_start(run: Any) -> None:
    if run is not None:
        raise RuntimeError("This tracker's run is still open: call `finish()` in a `finally` before the next `start`.")


def _file_name(key: str) -> str:
    return re.sub(r"[^\w.-]", "_", key)


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
