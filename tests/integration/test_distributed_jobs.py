"""Jobs whose trainings take several processes: what they leave, what is refused, and how they end."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rkd.errors import JobError
from rkd.evaluation.results import read_result
from rkd.jobs.job import run_job
from tests.support import tiny_world


def started(overrides: list[str], root: Path, before: tuple[str, ...] = ()) -> subprocess.Popen:
    """`python run.py` as a user calls it."""
    return subprocess.Popen(
        [sys.executable, tiny_world.REPOSITORY / "run.py", *before, *overrides],
        cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def with_ddp(world: Path, root: Path, *more: str) -> list[str]:
    """The command line of a tiny job with two processes to each training."""
    return tiny_world.overrides(world, root, "trainer=ddp", "rl.optimisation.minibatches_per_epoch=2", *more)


def followers_of(process: subprocess.Popen) -> list[int]:
    """The processes that a leader has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        text = status.read_text()
        if f"PPid:\t{process.pid}\n" in text and "rkd.jobs.follower" in (status.parent / "cmdline").read_text():
            found.append(int(status.parent.name))
    return found


@pytest.mark.slow
def test_in_a_multirun_the_other_process_runs_the_job_and_not_the_sweep(world, tmp_path):
    process = started(with_ddp(world, tmp_path, "seed=0,1"), tmp_path, before=("-m",))
    seen, _ = process.communicate(timeout=240)
    assert process.returncode == 0, seen
    results = sorted((tmp_path / "outputs").rglob("result.json"))
    assert [read_result(path).seed for path in results] == [0, 1]
    assert all(read_result(path).failure is None for path in results)
    for path in results:
        log = (path.parent / "process1.log").read_text()
        assert log.count("Ours") == 0  # it tells nothing of its own
        assert "Error" not in log
    assert seen.count("teacher_first_training     made") == 1


@pytest.mark.slow
def test_a_job_in_shards_leaves_what_one_process_leaves_with_batches_of_twice_the_size(world, tmp_path):
    rows = ["rl=none", "sft.epochs=2", "sft.validations_per_epoch=2", "reward_model.pooling=last"]

    def job(name: str, batch: int, *more: str) -> list[str]:
        sizes = [f"{stage}.batch_size={batch}" for stage in ("sft", "reward_model")]
        return tiny_world.overrides(world, tmp_path / name, *rows, *sizes, *more, stages=[])

    process = started(job("sharded", 8, "trainer=fsdp"), tmp_path)
    seen, _ = process.communicate(timeout=240)
    assert process.returncode == 0, seen
    run_job(tiny_world.composed(job("alone", 16)))
    for stage in ("sft", "reward_model"):
        sharded, alone = (
            load_file(next((tmp_path / name / "artifacts" / stage).glob("[!.]*/model.safetensors")))
            for name in ("sharded", "alone")
        )
        assert sharded.keys() == alone.keys()
        for name in alone:
            torch.testing.assert_close(sharded[name], alone[name], rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize("victim", ["the leader", "a follower"])
def test_when_one_process_dies_no_other_stays(world, tmp_path, victim):
    process = started(with_ddp(world, tmp_path, "rl.rollouts.episodes=6400"), tmp_path)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "artifacts").glob("rl/.*.making-*")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(2)
    (follower,) = followers_of(process)
    os.kill(process.pid if victim == "the leader" else follower, signal.SIGKILL)
    seen, _ = process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{follower}").exists():
        assert time.monotonic() < deadline, "the follower lives on"
        time.sleep(0.1)
    assert process.returncode != 0
    if victim == "a follower":
        assert "a process that takes part in the training failed: ended by signal 9" in " ".join(seen.split())
        (result,) = (tmp_path / "outputs").rglob("result.json")
        assert "ended by signal 9" in read_result(result).failure


def test_rl_in_shards_is_refused_with_what_to_do_instead(world, tmp_path):
    with pytest.raises(JobError, match=r"trainer=fsdp does not train rl.*trainer=ddp"):
        run_job(tiny_world.composed(tiny_world.overrides(world, tmp_path, "trainer=fsdp")))


def test_when_the_rollout_cannot_be_shared_out_the_job_says_so_at_once(world, tmp_path):
    message = "rl.rollouts.queries_per_rollout=4 must be a multiple of the 2 processes"
    with pytest.raises(JobError, match=re.escape(message)):
        run_job(tiny_world.composed(with_ddp(world, tmp_path, "rl.optimisation.minibatches_per_epoch=4")))
    assert not (tmp_path / "artifacts").exists()
