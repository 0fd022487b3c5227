"""An append-only file of costly results: rows enter one at a time, and all complete rows can be read again.

`append` gives a row to the operating system before it returns, so a process may be killed at any moment. A crash of the
whole machine can lose the last seconds: rows are not flushed one by one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rkd.io import json_line


class Journal:
    """The rows in a file, each one a line of JSON; the file exists once there is a row.

    Several processes may append to one file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[dict[str, Any]]:
        """All complete rows, in order; a truncated row is left out, and no later row is joined to it."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        if content and not content.endswith(b"\n"):
            self._write(b"\n")
        return [row for row in map(_row, content.splitlines()) if row is not None]

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write(json_line(row).encode())

    def _write(self, line: bytes) -> None:
        with self.path.open("ab", buffering=0) as file:  # one system call, which no other process can split
            file.write(line)


def _row(line: bytes) -> dict[str, Any] | None:
    """The row; None for a truncated one, since the beginning of a JSON object is not valid JSON."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
