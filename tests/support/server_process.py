"""A server in a process of its own, on this machine, for as long as a test asks it."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

SECONDS_TO_START = 120


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def running(
    command: Sequence[str], port: int, ready: str, log: Path, *, seconds: float = SECONDS_TO_START, **variables: str
) -> Iterator[str]:
    """The base address of the server that the command starts; `ready` is a path that it answers once it is there."""
    with log.open("wb") as said:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        process = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            deadline = time.monotonic() + seconds
            while not _is_ready(f"http://127.0.0.1:{port}{ready}"):
                assert process.poll() is None, log.read_text(errors="replace")
                assert time.monotonic() < deadline, log.read_text(errors="replace")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            with suppress(ProcessLookupError):  # all that it has started, at once: as if the machine had gone
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False
