"""Processes: what a started one is given, streams that never end a job, and how an interrupted one ends."""

import io
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1]
"""Where `rkd` and `hydra_plugins` lie."""


def with_import_path(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with this code first on the import path of a Python process that is started in it.

    `python run.py` in a clone needs no installation, since Python puts the script's folder on its own path. A process
    that it starts has another script. Where rkd is installed, the process still gets this copy and no other.
    """
    others = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place and place != str(FOLDER)]
    return {**environment, "PYTHONPATH": os.pathsep.join([str(FOLDER), *others])}


INTERRUPTED, TERMINATED = 130, 143
"""The exit codes of a process that Ctrl-C or SIGTERM has ended, as shells give them."""


class _LastingFile(io.FileIO):
    """A file descriptor for output; what it does not take is dropped: its reader is gone, or its disk is full."""

    def write(self, data: Any, /) -> int:
        try:
            written: int | None = super().write(data)  # None: a full pipe that does not wait
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written


def lasting_streams() -> None:
    """Make standard output and error take any text for as long as the process runs; a second call does nothing.

    A character that the encoding of the terminal lacks is written as its number, as `\\u2713`. What is written to a
    closed pipe (`| head`) or to a full disk is dropped. A closed stream (`>&-`) becomes the null device, so that no
    file gets its number. Streams without a file descriptor, as in a notebook, are left alone.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            _occupy(number)
            setattr(sys, name, _lasting(os.open(os.devnull, os.O_WRONLY), "utf-8", by_line=False))
        elif type(stream) is io.TextIOWrapper and _descriptor(stream) == number:
            stream.flush()
            setattr(sys, name, _lasting(number, stream.encoding, by_line=name == "stderr" or stream.isatty()))


def is_writable(folder: Path) -> bool:
    """Whether a file can be made in the folder, which is made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"1")
    except OSError:
        return False
    return True


def _lasting(number: int, encoding: str, *, by_line: bool) -> io.TextIOWrapper:
    file = io.BufferedWriter(_LastingFile(number, "w", closefd=False))
    return io.TextIOWrapper(file, encoding, "backslashreplace", line_buffering=by_line)


def _descriptor(stream: io.TextIOWrapper) -> int | None:
    """The file descriptor of a stream; None if it has none, or is lasting already."""
    if isinstance(getattr(stream.buffer, "raw", None), _LastingFile):
        return None
    try:
        return stream.fileno()
    except OSError:
        return None


def _occupy(number: int) -> None:
    """Open the null device under a file descriptor that is closed."""
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
