"""The steps of all stages on a pretended GPU, in a process of its own: torch then keeps the new kind of device."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.step_names import NAMES


@pytest.mark.slow
def test_a_step_of_every_stage_mixes_no_devices_and_gives_the_numbers_of_the_cpu():
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.steps"], cwd=Path(__file__).parents[2], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stdout.split("\n")[:-1] == [f"{name}: as on the CPU" for name in NAMES], done.stderr[-3000:]
