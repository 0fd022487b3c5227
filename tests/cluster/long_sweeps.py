"""Sweeps on a launcher that are long enough to be cut while their job trains."""

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.jobs import started
from tests.support.tiny_world import overrides

LONG = ["sft.epochs=60", "sft.learning_rate=1e-4", "trainer.seconds_between_checkpoints=1"]  # half a minute
GOES_ON = "going on where an earlier job ended"


def swept(world: Path, root: Path, *more: str) -> subprocess.Popen:
    """A sweep of one job, started."""
    root.mkdir()
    return started("-m", *overrides(world, root, "seed=0", "experiments=ours_wo_r", stages=LONG), *more, folder=root)


def while_training(root: Path, find: Callable[[], Any]) -> Any:
    """What `find` finds of the job under a root, once it has a checkpoint."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if any((root / "artifacts" / "sft").glob(".*.progress/*")) and (found := find()):
            return found
        time.sleep(0.2)
    raise AssertionError("no job trains")


def processes_named(text: str) -> list[int]:
    """Processes whose command line has the text."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if text in (folder / "cmdline").read_text(errors="replace"):
                found.append(int(folder.name))
    return found
