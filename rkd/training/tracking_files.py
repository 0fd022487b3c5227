"""Trackers without a service (`rkd.training.tracking`): a job's data enters, files or TensorBoard events leave."""

import csv
import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.image import imread
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor

from rkd.markdown import markdown_table
from rkd.training.tracking import Output, RunDescription, StageLogger, refuse_second_start, started


@dataclass
class CsvTracker:
    """Plain files under `<job>/tracking/`: one history per stage, `config.json`, `summary.json`, tables, images."""

    _folder: Path | None = field(default=None, init=False, repr=False)
    _loggers: dict[str, CSVLogger] = field(default_factory=dict, init=False, repr=False)
    _tables: set[str] = field(default_factory=set, init=False, repr=False)

    def start(self, config: dict[str, Any], run: RunDescription, folder: Path, *, run_id: str) -> None:
        refuse_second_start(self._folder)
        self._folder, self._loggers, self._tables = folder / "tracking", {}, set()
        _write_json(self._folder / "config.json", {**asdict(run), "id": run_id, "config": config})

    def logger_for(self, stage: str) -> StageLogger:
        return StageLogger(stage, started(self._folder), self._write)

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._tables.discard(key)
        self.extend_table(key, columns, rows)

    def extend_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        path, is_begun = started(self._folder) / "tables" / f"{_file_name(key)}.csv", key in self._tables
        self._tables.add(key)
        path.parent.mkdir(exist_ok=True)
        with path.open("a" if is_begun else "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows if is_begun else [columns, *rows])

    def log_summary(self, values: Mapping[str, Any]) -> None:
        path = started(self._folder) / "summary.json"
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        _write_json(path, earlier | dict(values))

    def log_output(self, output: Output) -> None:
        folder = started(self._folder) / "artifacts"
        record = {"kind": output.kind, "was_made": output.was_made, "metadata": dict(output.metadata)}
        record["files"] = {name: str(path) for name, path in output.files.items()}
        _write_json(folder / f"{_file_name(output.name)}.json", record)
        for name, text in output.texts.items():
            (folder / f"{_file_name(output.name)}-{name}").write_text(text, encoding="utf-8")

    def log_image(self, key: str, path: Path) -> None:
        target = started(self._folder) / "images" / f"{_file_name(key)}.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)

    def where(self) -> str:
        return str(started(self._folder))

    def finish(self, failure: str | None = None) -> None:
        if self._folder is not None:
            for logger in self._loggers.values():
                logger.save()
            self.log_summary({"failure": failure})
        self._folder = None

    def _write(self, stage: str, metrics: dict[str, float], step: int | None) -> None:
        if stage not in self._loggers:
            history = started(self._folder) / "history"
            shutil.rmtree(history / stage, ignore_errors=True)  # a stage that runs again writes its history again
            self._loggers[stage] = CSVLogger(history, name=stage, version="", flush_logs_every_n_steps=1)
        logged: dict[str, Tensor | float] = {**metrics}
        if step is not None:
            logged[f"{stage}/step"] = step
        self._loggers[stage].log_metrics(logged, step)
        self._loggers[stage].save()


@dataclass
class TensorBoardTracker:
    """TensorBoard events under `<job>/tensorboard/`; a stage's step is the x-axis of its own charts."""

    _logger: TensorBoardLogger | None = field(default=None, init=False, repr=False)
    _increments: Counter[str] = field(default_factory=Counter, init=False, repr=False)

    def start(self, config: dict[str, Any], run: RunDescription, folder: Path, *, run_id: str) -> None:
        refuse_second_start(self._logger)
        self._increments = Counter()
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)  # each attempt of a job logs the whole job
        self._logger = TensorBoardLogger(folder, name="", version="tensorboard")
        self._add_json("config", {**asdict(run), "id": run_id, "config": config})

    def logger_for(self, stage: str) -> StageLogger:
        return StageLogger(stage, Path(started(self._logger).log_dir), self._write)

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        text = markdown_table(columns, [[_cell(one) for one in row] for row in rows], text_columns=len(columns))
        started(self._logger).experiment.add_text(key, text, self._increments[key])

    def extend_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log the rows as the next step of the text under `key`: TensorBoard has no tables."""
        self.log_table(key, columns, rows)
        self._increments[key] += 1

    def log_summary(self, values: Mapping[str, Any]) -> None:
        self._add_json("summary", dict(values))

    def log_output(self, output: Output) -> None:
        record = {"kind": output.kind, "was_made": output.was_made, "metadata": dict(output.metadata)}
        self._add_json(f"artifacts/{output.name}", record)

    def log_image(self, key: str, path: Path) -> None:
        started(self._logger).experiment.add_image(key, imread(path)[..., :3], dataformats="HWC")

    def where(self) -> str:
        place = started(self._logger).log_dir
        return f"`tensorboard --logdir {place}` shows it"

    def finish(self, failure: str | None = None) -> None:
        logger, self._logger = self._logger, None
        if logger is not None:
            if failure is not None:
                logger.experiment.add_text("failure", failure)
            logger.finalize("success" if failure is None else "failed")

    def _add_json(self, key: str, value: Any) -> None:
        text = json.dumps(value, indent=2, ensure_ascii=False)
        started(self._logger).experiment.add_text(key, f"```json\n{text}\n```")

    def _write(self, stage: str, metrics: dict[str, float], step: int | None) -> None:  # noqa: ARG002
        started(self._logger).log_metrics(metrics, step)


def _file_name(key: str) -> str:
    return re.sub(r"[^\w.-]", "_", key)


def _cell(value: Any) -> str:
    """A value in a Markdown table, on one line."""
    return str(value).replace("|", "\\|").replace("\n", "<br>")


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
