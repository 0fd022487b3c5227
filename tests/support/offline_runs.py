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
        artifacts: by name, their kind, files and metadata.
    """

    folder: Path
    described: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    exit_code: int | None = None

    def curve(self, stage: str) -> list[dict[str, float]]:
        """The rows of one stage."""
        return [row for row in self.history if f"{stage}/step" in row]

    def table(self, key: str) -> list[dict[str, Any]]:
        """The rows of a table."""
        file = self.folder / "files" / self.summary[f"{key}.path"]
        content = json.loads(file.read_text(encoding="utf-8"))
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


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
            if all(isinstance(value, int | float) for value in row.values()):
                run.history.append(row)
        case "summary":
            run.summary |= content["update"]
        case "artifact" if content["type"] != "run_table":
            run.artifacts[content["name"]] = {
                "kind": content["type"],
                "files": [file["path"] for file in content["manifest"].get("contents", [])],
                "metadata": json.loads(content["metadata"]),
            }
        case "exit":
            run.exit_code = content.get("exit_code", 0)
