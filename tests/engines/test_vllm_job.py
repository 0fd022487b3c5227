"""A job whose rollouts vLLM samples is killed and goes on. RKD_VLLM_PYTHON names a Python with vLLM.

RKD_VLLM_PYTHON=vllm_env/bin/python pytest -m "" -n 0 tests/engines/test_vllm_job.py
"""

import os
import signal
import time

import pytest

from rkd.generation.vllm_process import WORKER
from tests.cluster.long_sweeps import GOES_ON, processes_named
from tests.support.jobs import only_result, started
from tests.support.tiny_world import REPOSITORY, overrides

PYTHON = os.environ.get("RKD_VLLM_PYTHON")
CHECKPOINT = REPOSITORY / "checkpoints" / "smollm2_135m"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="RKD_VLLM_PYTHON names no Python with vLLM (tests/engines/vllm.sh)"),
    pytest.mark.skipif(not CHECKPOINT.is_dir(), reason="no model: python -m rkd models get smollm2_135m"),
]
ROLLOUTS = ["episodes=48", "queries_per_rollout=4", "responses_per_query=4", "max_response_tokens=12"]
JOB = [
    "experiments=vr", "sft=none", "trainer.precision=32-true", "trainer.seconds_between_checkpoints=0",
    "generation=vllm", "generation.samples_policy=true", "generation.enforce_eager=true", "generation.kv_cache_gb=1",
    *(f"rl.rollouts.{one}" for one in ROLLOUTS),
]  # fmt: skip


def of_vllm() -> list[int]:
    """The processes of vLLM, which may rename themselves."""
    return [*processes_named(str(WORKER)), *processes_named("VLLM::")]


def test_a_job_that_is_killed_in_a_rollout_leaves_no_process_of_vllm_and_goes_on(world, tmp_path):
    models = [f"{role}.name_or_path={CHECKPOINT}" for role in ("student", "teacher")]
    job = overrides(world, tmp_path, f"generation.python={PYTHON}", *models, *JOB, stages=[])
    process = started(*job, folder=tmp_path)
    until = time.monotonic() + 300
    while not (any((tmp_path / "artifacts" / "rl").glob(".*.progress/training*")) and of_vllm()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 30
    while left := of_vllm():
        assert time.monotonic() < until, left
        time.sleep(0.2)
    again = started(*job, folder=tmp_path)
    told, said = again.communicate(timeout=900)
    assert again.returncode == 0, told + said
    assert GOES_ON in told + said
    only_result(tmp_path)
