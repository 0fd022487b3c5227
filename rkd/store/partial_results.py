"""Partial results of a long stage: files enter, and come back after an interruption, complete or not at all.

A stage saves repeatedly under a name; the next attempt finds what was saved last. A file's name has its checksum, so
that a file left by a crash, a full disk or another program is never taken for a saved one.
"""

import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from rkd.io import checksum, write_whole
from rkd.store.journal import Journal

CLOCK = "clock.json"

log = logging.getLogger(__name__)


class PartialResults:
    """The folder of one unfinished stage; it exists once something is saved.

    Args:
        folder: on the same disk as the finished stage.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started = time.monotonic()
        self.tokens = 0  # of the sampled responses, including earlier attempts up to their last save
        self._before, self.attempts = 0.0, 1
        self._read_clock()

    def save(self, name: str, write: Callable[[Path], object]) -> Path:
        """Keep what `write(path)` writes; it replaces what was saved under this name before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for broken in self.folder.glob(f".{name}.*"):  # left by a process that was killed while it wrote
            broken.unlink()
        beside = self.folder / f".{name}.{os.getpid()}"
        try:
            write(beside)
            _flush(beside)
            kept = self.folder / f"{name}.{checksum(beside)[:16]}"
            os.replace(beside, kept)
        finally:
            beside.unlink(missing_ok=True)  # on a full disk, half a file would take the room of the next attempt
        for older in self._saved(name):
            if older != kept:
                older.unlink()
        self._write_clock()
        return kept

    def find(self, name: str) -> Path | None:
        """The file saved last under this name; None if there is no unaltered one."""
        for path in self._saved(name):
            if checksum(path)[:16] == path.suffix[1:]:
                return path
            log.warning("%s was altered after it had been saved; that part of the stage is made again.", path)
        return None

    def forget(self, name: str) -> None:
        """Remove what was saved under this name, if there is anything."""
        for path in self._saved(name):
            path.unlink()

    def journal(self, name: str) -> Journal:
        """A journal beside the saved files, for results too costly to make twice and too small to save one by one."""
        return Journal(self.folder / f"{name}.journal")

    def keep_clock(self) -> None:
        """Save the time that the stage has taken so far, as `save` does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_clock()

    def seconds(self) -> float:
        """Seconds that the stage has taken, including earlier attempts up to their last save."""
        return self._before + time.monotonic() - self._started

    def remove(self) -> None:
        """Remove everything once the stage is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)  # two processes may do it at once

    def _saved(self, name: str) -> list[Path]:
        """The files under this name, the newest first: a crash may leave an older one beside it."""
        found = self.folder.glob(f"{name}.{'[0-9a-f]' * 16}")
        return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)

    def _read_clock(self) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            clock = json.loads((self.folder / CLOCK).read_text(encoding="utf-8"))
            read = float(clock["seconds"]), int(clock["attempts"]) + 1, int(clock["tokens"])
            self._before, self.attempts, self.tokens = read

    def _write_clock(self) -> None:
        clock = {"seconds": round(self.seconds(), 3), "attempts": self.attempts, "tokens": self.tokens}
        write_whole(self.folder / CLOCK, json.dumps(clock))


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
