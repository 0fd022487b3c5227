"""Sweeps on a Ray cluster of two nodes, a head and a worker, on this machine. Ray has an environment of its own:

    python -m venv ray_env && ray_env/bin/pip install -r requirements.txt -r requirements-ray.txt pytest
    ray_env/bin/python -m pytest -m "" -n 0 tests/cluster/test_ray.py

tests/cluster/README.md has the last result.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.cluster.long_sweeps import GOES_ON, processes_named, swept, while_training
from tests.integration.test_sweeps import sweep_probe
from tests.support.jobs import only_result
from tests.support.server_process import free_port

RAY = shutil.which("ray", path=Path(sys.executable).parent)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(RAY is None, reason="no Ray: pip install -r requirements-ray.txt, in an environment of its own"),
]


@contextmanager
def node(*options: str) -> Iterator[None]:
    """A node with one core for jobs, for as long as the context lasts."""
    command = [str(RAY), "start", "--block", "--num-cpus=1", "--disable-usage-stats", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[str]]:
    """Overrides for a sweep on a cluster of a head and a worker."""
    port = free_port()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray"))  # Ray's sockets have short paths
        head = ["--head", f"--port={port}", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"]
        stack.enter_context(node(*head, "--include-dashboard=false"))
        until_answering(port)
        stack.enter_context(node(f"--address=127.0.0.1:{port}", "--node-ip-address=127.0.0.1"))
        yield ["hydra/launcher=ray_cpu", "threads=1", f"hydra.launcher.ray.init.address=127.0.0.1:{port}"]


def until_answering(port: int) -> None:
    subprocess.run([str(RAY), "health-check", f"--address=127.0.0.1:{port}"], timeout=60, check=False)


def test_a_sweep_on_a_cluster_leaves_the_table_of_one_here(world, tmp_path, cluster):
    alone, on_ray = (sweep_probe(world, tmp_path / name, *more) for name, more in (("alone", []), ("ray", cluster)))
    assert alone == on_ray


def test_a_job_whose_process_is_killed_goes_on(world, tmp_path, cluster):
    root = tmp_path / "root"
    sweep = swept(world, root, *cluster)
    os.kill(while_training(root, lambda: processes_named("ray::_run_job"))[0], signal.SIGKILL)
    told, said = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, said
    assert GOES_ON in told + said
    only_result(root)


def test_a_job_that_fails_is_named_with_its_reason(world, tmp_path, cluster):
    sweep = swept(world, tmp_path / "root", *cluster, f"dataset.source={tmp_path / 'nowhere'}")
    _, said = sweep.communicate(timeout=300)
    assert sweep.returncode == 1
    assert "seed=0" in said
    assert "nowhere" in said
