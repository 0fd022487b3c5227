"""Sweeps on Slurm itself: `tests/cluster/slurm.sh up FOLDER; export SLURM_CONF=FOLDER/slurm.conf`.

    pytest -m "" -n 0 tests/cluster/test_slurm.py

tests/cluster/README.md has the last result.
"""

import os
import subprocess
import time

import pytest

from tests.integration.test_sweeps import sweep_probe
from tests.support.jobs import only_result, started
from tests.support.tiny_world import overrides

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("SLURM_CONF" not in os.environ, reason="no Slurm: tests/cluster/slurm.sh up FOLDER"),
]
SLURM = ["hydra/launcher=submitit_slurm_cpu", "threads=1"]
LONG = ["sft.epochs=60", "sft.learning_rate=1e-4", "trainer.seconds_between_checkpoints=1"]  # half a minute


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def swept(world, root, *more) -> subprocess.Popen:
    """A sweep of one job, started."""
    root.mkdir()
    usual = overrides(world, root, "seed=0", "experiments=ours_wo_r", stages=LONG)
    return started("-m", *usual, *SLURM, *more, folder=root)


def running_in(root) -> str:
    """The Slurm job that trains under a root, once it has a checkpoint."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        states = [line.split() for line in slurm("squeue", "--noheader", "--format=%i %T").splitlines()]
        running = [name for name, state in states if state == "RUNNING"]
        if running and any((root / "artifacts" / "sft").glob(".*.progress/*")):
            return running[0]
        time.sleep(0.2)
    raise AssertionError("no job of Slurm trains")


def logs(root) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in sorted(root.rglob("*_log.*")))


def test_a_sweep_on_slurm_leaves_the_table_of_one_here(world, tmp_path):
    alone, on_slurm = (sweep_probe(world, tmp_path / name, *more) for name, more in (("alone", []), ("slurm", SLURM)))
    assert alone == on_slurm


def test_a_job_that_is_cancelled_is_submitted_again_and_goes_on(world, tmp_path):
    sweep = swept(world, tmp_path / "root")
    slurm("scancel", running_in(tmp_path / "root"))
    _, said = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, said
    assert "CANCELLED" in said
    assert "going on where an earlier job ended" in logs(tmp_path / "root")
    only_result(tmp_path / "root")


def test_a_job_past_its_limit_is_put_back_into_the_queue_and_goes_on(world, tmp_path):
    # Slurm counts in minutes: the job is told to end 45 s before the end of its only one.
    limit = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=45"]
    sweep = swept(world, tmp_path / "root", *limit)
    first = running_in(tmp_path / "root")
    _, said = sweep.communicate(timeout=500)
    assert sweep.returncode == 0, said
    assert "CANCELLED" not in said
    assert f"Restarts={0}" not in slurm("scontrol", "show", "job", first)
    assert "going on where an earlier job ended" in logs(tmp_path / "root")
    only_result(tmp_path / "root")


def test_a_job_that_fails_is_named_with_its_reason(world, tmp_path):
    sweep = swept(world, tmp_path / "root", f"dataset.source={tmp_path / 'nowhere'}")
    _, said = sweep.communicate(timeout=300)
    assert sweep.returncode == 1
    assert "seed=0" in said
    assert "nowhere" in said
