"""Processes of one machine that train one model together: their ranks, and sums over them.

The leader (rank 0) is the process that the user started: it runs the whole job. The others are followers: they take
part in every training stage and wait while the leader works alone. A single process is a leader without followers.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from rkd.errors import FollowerError
from rkd.io import write_whole
from rkd.processes import with_import_path

RANK, COUNT, LEADER = "LOCAL_RANK", "RKD_PROCESSES", "RKD_LEADER"  # environment variables; the first is Lightning's
CONFIG = "config.json"  # in the folder of a job with followers
REAPED = 10.0  # seconds that the system may need to end a process
GRACE = 20.0  # seconds that a process has to notice by itself that another one has died

Item = TypeVar("Item")

_started: dict[Path, subprocess.Popen] = {}  # the followers of this process, by log file


def rank() -> int:
    """The rank of this process among those that train together, from 0."""
    return int(os.environ.get(RANK, "0")) if count() > 1 else 0


def count() -> int:
    """How many processes train together."""
    return int(os.environ.get(COUNT, "1"))


def leader() -> int | None:
    """The process id of the leader; None in the leader itself."""
    return int(os.environ[LEADER]) if LEADER in os.environ else None


def leader_lives() -> bool:
    """Whether the leader that started this process is still there."""
    return leader() is None or os.getppid() == leader()


def own_share(items: Sequence[Item]) -> Sequence[Item]:
    """The items of this process; all processes give the same sequence."""
    return items[rank() :: count()]


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of the processes' tensors, which all have the same shape; a new tensor, without gradient."""
    total = values.detach().clone()
    if distributed.is_initialized():
        distributed.all_reduce(total)
    return total


def mean_over_processes(metrics: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """The mean of each metric over the processes; all processes have the same metrics."""
    if count() == 1:
        return dict(metrics)
    means = sum_over_processes(torch.tensor(list(metrics.values()), dtype=torch.float64, device=device)) / count()
    return dict(zip(metrics, means.tolist(), strict=True))


def share_of_weight(weight: float, device: torch.device) -> float:
    """The factor n w_i / Σ_j w_j of a mean loss of weight w_i: the mean gradient over the n processes is then right.

    A loss is a mean over tokens or pairs, and processes have different numbers of them.
    """
    if count() == 1:
        return 1.0
    own = torch.tensor(float(weight), device=device)
    return float(count() * own / sum_over_processes(own))


@contextlib.contextmanager
def followers(processes: int, folder: Path, config: Mapping[str, Any]) -> Iterator[None]:
    """Run the job of a resolved config in several processes, this one included; the others end with the block.

    Args:
        folder: the job's folder, where each follower finds the config and leaves a log.

    Raises:
        FollowerError: a follower has failed, and this process with it.
    """
    if processes == 1:
        yield
        return
    write_whole(folder / CONFIG, json.dumps(config, ensure_ascii=False))
    place = place_of(0, processes, free_port())
    before = {name: os.environ.get(name) for name in place}
    os.environ |= place
    _started.update({_log(folder, number): _start(number, folder) for number in range(1, processes)})
    try:
        yield
        for process in _started.values():
            with contextlib.suppress(subprocess.TimeoutExpired):  # the job is done already
                process.wait(GRACE)
    except Exception as error:
        # A broken connection is seen before the system has ended the process behind it.
        within = REAPED if isinstance(error, RuntimeError) else 0.0
        if isinstance(error, FollowerError) or (words := _last_words(within)) is None:
            raise
        raise FollowerError(words) from error
    finally:
        for process in _started.values():
            process.kill()
            process.wait()
        _started.clear()
        if distributed.is_initialized():
            distributed.destroy_process_group()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A block that all processes run at the same time; a leader that waits in it for a dead follower ends.

    Raises:
        FollowerError: a follower has failed already.
    """
    if (words := _last_words()) is not None:
        raise FollowerError(words)
    done = threading.Event()
    threading.Thread(target=_end_with_followers, args=(done,), daemon=True).start()
    try:
        yield
    finally:
        done.set()


def place_of(rank: int, processes: int, port: int) -> dict[str, str]:
    """The environment variables that give a process its rank; the processes meet at the port."""
    meeting = {"NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {RANK: str(rank), COUNT: str(processes), **meeting}


def free_port() -> int:
    """A free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _start(number: int, folder: Path) -> subprocess.Popen:
    """Start a follower from the resolved config; the command line would start a whole sweep again."""
    environment = with_import_path({**os.environ, RANK: str(number), LEADER: str(os.getpid())})
    with _log(folder, number).open("w", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "rkd.jobs.follower", str(folder / CONFIG)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _log(folder: Path, number: int) -> Path:
    return folder / f"process{number}.log"


def _last_words(within: float = 0.0) -> str | None:
    """How a failed follower ended; None if none has failed, or fails within so many seconds."""
    deadline = time.monotonic() + within
    while all(process.poll() is None for process in _started.values()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for log, process in _started.items():
        if code := process.poll():
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            errors = [line for line in said if re.match(r"[\w.]+(Error|Exception|Exit|Interrupt)\b", line)]
            how = f"ended by signal {-code}" if code < 0 else [f"exit code {code}", *errors][-1]
            return f"a process that takes part in the training failed: {how} (its log: {log})"
    return None


def _end_with_followers(done: threading.Event) -> None:
    """End this process if it waits for a dead follower; the wait cannot be interrupted otherwise."""
    while not done.wait(1.0):
        if (words := _last_words()) is not None and not done.wait(GRACE):
            print(words, file=sys.stderr, flush=True)
            for process in _started.values():
                process.kill()
            os._exit(1)
