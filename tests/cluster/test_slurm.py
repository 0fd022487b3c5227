"""Sweeps on Slurm itself: `tests/cluster/slurm.sh up FOLDER; export SLURM_CONF=FOLDER/slurm.conf`.

    pytest -m "" -n 0 tests/cluster/test_slurm.py

tests/cluster/README.md has the last result.
"""

import os
import subprocess

import pytest

from tests.cluster.long_sweeps import GOES_ON, swept, while_training
from tests.integration.test_sweeps import sweep_probe
from tests.support.jobs import only_result

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("SLURM_CONF" not in os.environ, reason="no Slurm: tests/cluster/slurm.sh up FOLDER"),
]
SLURM = ["hydra/launcher=submitit_slurm_cpu", "threads=1"]


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def running() -> str | None:
    """The job that Slurm runs."""
    states = [line.split() for line in slurm("squeue", "--noheader", "--format=%i %T").splitlines()]
    return next((name for name, state in states if state == "RUNNING"), None)


def logs(root) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in sorted(root.rglob("*_log.*")))


def test_a_sweep_on_slurm_leaves_the_table_of_one_here(world, tmp_path):
    alone, on_slurm = (sweep_probe(world, tmp_path / name, *more) for name, more in (("alone", []), ("slurm", SLURM)))
    assert alone == on_slurm


def test_a_job_that_is_cancelled_is_submitted_again_and_goes_on(world, tmp_path):
    root = tmp_path / "root"
    sweep = swept(world, root, *SLURM)
    slurm("scancel", while_training(root, running))
    _, said = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, said
    assert "It is submitted again" in said
    assert GOES_ON in logs(root)
    only_result(root)


def test_a_job_past_its_limit_is_put_back_into_the_queue_and_goes_on(world, tmp_path):
    root = tmp_path / "root"
    # Slurm counts in minutes: the job is told to end 15 s before the end of its only one. It waits two minutes then.
    sweep = swept(world, root, *SLURM, "hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=15")
    first = while_training(root, running)
    _, said = sweep.communicate(timeout=500)
    assert sweep.returncode == 0, said
    assert "It is submitted again" not in said
    assert "Restarts=0" not in slurm("scontrol", "show", "job", first)
    assert GOES_ON in logs(root)
    only_result(root)


def test_a_job_that_fails_is_named_with_its_reason(world, tmp_path):
    sweep = swept(world, tmp_path / "root", *SLURM, f"dataset.source={tmp_path / 'nowhere'}")
    _, said = sweep.communicate(timeout=300)
    assert sweep.returncode == 1
    assert "seed=0" in said
    assert "nowhere" in said
