"""vLLM in a process of its own: a Python with vLLM and options enter, an engine that can be asked leaves.

The process has its own environment, so vLLM's torch is not the one that trains, and its memory is free when it ends.
It ends with this one, even if this one is killed (`rkd.generation.vllm_worker`).
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rkd.errors import EngineError
from rkd.models.cpu_workers import core_count

WORKER = Path(__file__).with_name("vllm_worker.py")
LAST_WORDS = 12  # lines of its log that a message shows
# What a launcher tells this process of its place among others would be taken for the engine's own.
OF_LAUNCHERS = {
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT",
}  # fmt: skip


class VLLMProcess:
    """A process with a model in vLLM.

    Args:
        python: the interpreter of an environment with vLLM.
        gpu: the GPU that it uses, by its number here; None: it chooses.
        left_behind: folders that it removes if this process is killed.
    """

    def __init__(self, python: str, *, gpu: int | None = None, left_behind: Sequence[Path] = ()) -> None:
        ours, theirs = socket.socketpair()
        with tempfile.NamedTemporaryFile(prefix="rkd-vllm-", suffix=".log", delete=False) as log, theirs:
            self.log = Path(log.name)
            process = subprocess.Popen(
                [python, str(WORKER), str(theirs.fileno()), *map(str, (log.name, *left_behind))],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(gpu),
                start_new_session=True,  # a group of its own, which it kills when the socket ends
            )
        self.pid = process.pid
        self._lines = ours.makefile("rw", encoding="utf-8")
        ours.close()
        self.close = weakref.finalize(self, _end, process, self._lines, self.log, os.getpid())

    def ask(self, do: str, **arguments: Any) -> Any:
        """The result of a method of `vllm_worker.Engine`.

        Raises:
            EngineError: vLLM refused, or its process has ended; with its own words.
        """
        try:
            self._lines.write(json.dumps({"do": do, **arguments}) + "\n")
            self._lines.flush()
            line = self._lines.readline()
        except OSError:
            line = ""
        if not line.endswith("\n"):
            raise self._failure("the process of vLLM has ended.")
        reply: Mapping[str, Any] = json.loads(line)
        if "error" in reply:
            raise self._failure(f"vLLM refused: {reply['error']}")
        return reply["result"]

    def _failure(self, what: str) -> EngineError:
        """The error with the last words of its log; the process ends, and with it what it holds of a GPU."""
        said = self._last_words()
        self.close()
        return EngineError(f"{what}\nThe last lines of its log:\n{said}")

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"    {line[:200]}" for line in lines[-LAST_WORDS:])


def has_vllm(python: str) -> bool:
    """Whether an interpreter finds vLLM; it is not imported.

    Raises:
        EngineError: the interpreter cannot be started.
    """
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        return subprocess.run([python, "-c", code], check=False, env=_environment(None)).returncode == 0
    except OSError as error:
        raise EngineError(
            f"generation.python={python}: it cannot be started ({error.strerror}). Name the interpreter of an "
            "environment with vLLM, such as `generation.python=vllm_env/bin/python`."
        ) from error


def _environment(gpu: int | None) -> dict[str, str]:
    """The variables of the process: it is no member of a distributed job, and has as many threads as this one."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_LAUNCHERS}
    environment |= {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": str(core_count())}
    if gpu is not None:
        visible = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
        environment["CUDA_VISIBLE_DEVICES"] = visible[gpu] if visible else str(gpu)
    return environment


def _end(process: "subprocess.Popen[bytes]", lines: TextIO, log: Path, owner: int) -> None:
    if os.getpid() != owner:  # a fork, which leaves it to its owner
        return
    with contextlib.suppress(OSError):
        lines.close()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    log.unlink(missing_ok=True)
