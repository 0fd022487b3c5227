"""Reads the files of an offline W&B run back, by W&B's own `wandb leet inspect`."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class OfflineRun:
    """What is in the files of one run.

    Args:
        described: id, name, group, job type and tags.
        history: the rows of metrics, without W&B's own fields; tables and images are not among them.
        axes: the step metric of each pattern of metrics.
        tables: by key, the file of each time that a table was logged.
        artifacts: by name, their kind, files and metadata.
    """

    folder: Path
    described: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    tables: dict[str, list[str]] = field(default_factory=dict)
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    exit_code: int | None = None

    def curve(self, stage: str) -> list[dict[str, float]]:
        """The rows of one stage."""
        return [row for row in self.history if f"{stage}/step" in row]

    def table(self, key: str) -> list[dict[str, Any]]:
        """The rows of a table: those of all increments, or those that were logged last."""
        is_incremental = self.summary[f"{key}._type"] == "incremental-table-file"
        contents = [
            json.loads((self.folder / "files" / file).read_text(encoding="utf-8"))
            for file in self.tables[key][0 if is_incremental else -1 :]
        ]
        return [dict(zip(own["columns"], row, strict=True)) for own in contents for row in own["data"]]


def offline_folders(folder: Path) -> list[Path]:
    """The offline runs anywhere under a folder, the oldest first."""
    return sorted(folder.rglob("wandb/offline-run-*"), key=lambda path: path.stat().st_mtime_ns)


def read_run(folder: Path) -> OfflineRun:
    """The run whose files lie in a folder."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    run = OfflineRun(folder)
    for record in map(json.loads, printed.splitlines()):
        _add(run, record["type"], record.get(record["type"], {}))
    return run


def _add(run: OfflineRun, kind: str, content: dict[str, Any]) -> None:
    match kind:
        case "run":
            run.config = content.pop("config")["update"]
            run.config.pop("_wandb")
            run.described = content
        case "metric" if "glob_name" in content:
            run.axes[content["glob_name"]] = content["step_metric"]
        case "history":
            row = {name: value for name, value in content["item"].items() if not name.startswith("_")}
            for name, value in row.items():
                if name.endswith(".path") and str(value).endswith(".table.json"):
                    run.tables.setdefault(name.removesuffix(".path"), []).append(value)
            if all(isinstance(value, int | float) for value in row.values()):
                run.history.append(row)
        case "summary":
            run.summary |= content["update"]
        case "artifact" if content["type"] not in ("run_table", "wandb-run-incremental-table"):
            run.artifacts[content["name"]] = {
                "kind": content["type"],
                "files": [file["path"] for file in content["manifest"].get("contents", [])],
                "metadata": json.loads(content["metadata"]),
            }
        case "exit":
            run.exit_code = content.get("exit_code", 0)
