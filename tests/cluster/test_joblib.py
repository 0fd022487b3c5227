"""Sweeps whose jobs run beside one another on this machine: one of them is killed, or fails.

pytest -m "" -n 0 tests/cluster/test_joblib.py
"""

import os
import signal

import pytest

from tests.cluster.long_sweeps import GOES_ON, processes_named, swept, while_training
from tests.support.jobs import command, only_result

pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="optional: pip install -r requirements-joblib.txt")
pytestmark = pytest.mark.slow
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def test_a_job_whose_process_is_killed_ends_the_sweep_plainly_and_the_next_one_goes_on(world, tmp_path):
    root = tmp_path / "root"
    sweep = swept(world, root, *JOBLIB)
    os.kill(
        while_training(root, lambda: processes_named("joblib.externals.loky.backend.popen_loky"))[0], signal.SIGKILL
    )
    _, said = sweep.communicate(timeout=300)
    assert sweep.returncode == 1
    assert "Traceback" not in said
    assert "The launcher gave up" in said
    assert "SIGKILL" in said
    again = command(*sweep.args[2:], folder=root)
    assert again.returncode == 0, again.stderr
    assert GOES_ON in again.stdout + again.stderr
    only_result(root)


def test_a_job_that_fails_is_named_with_its_reason(world, tmp_path):
    sweep = swept(world, tmp_path / "root", *JOBLIB, f"dataset.source={tmp_path / 'nowhere'}")
    _, said = sweep.communicate(timeout=300)
    assert sweep.returncode == 1
    assert "seed=0" in said
    assert "nowhere" in said
