"""An append-only file of what was paid for: rows enter one at a time, and all whole ones come back after any end.

A row is on its way to the disk before `append` returns, so a process may be killed at any moment. A crash of the whole
machine can lose the last seconds: rows are not flushed one by one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """The rows in a file, each one a line of JSON; the file exists once there is a row.

    Several processes may append to one file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows, in their order; one that was cut is left out, and no later row is joined to it."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        if content and not content.endswith(b"\n"):
            self._write(b"\n")
        return [row for row in map(_row, content.splitlines()) if row is not None]

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    def _write(self, line: bytes) -> None:
        with self.path.open("ab", buffering=0) as file:  # one call of the system, which no other process's cuts in two
            file.write(line)


def _row(line: bytes) -> dict[str, Any] | None:
    """A beginning of a JSON object is none, so what was cut cannot be taken for whole."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
