"""Every option of every group, every row and every sweep: composed, and its parts instantiated."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from rkd.pipeline import build_stages, job_digest

REPOSITORY = Path(__file__).parents[1]
PARTS_OF_OTHERS = {"queries", "prompt", "pretrain", "experiments", "sweeps"}


def _options() -> list[str]:
    files = sorted((REPOSITORY / "conf").glob("*/*.yaml"))
    return [f"{path.parent.name}={path.stem}" for path in files if path.parent.name not in PARTS_OF_OTHERS]


def _rows() -> list[str]:
    return [path.stem for path in sorted((REPOSITORY / "experiments").glob("*.yaml"))]


def _compose(*overrides: str):
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        return compose("config", overrides=list(overrides))


@pytest.mark.parametrize("option", _options())
def test_every_option_builds(option):
    group, _, name = option.partition("=")
    group = {"trainer": "trainer@training", "tracking": "tracking@tracker"}.get(group, group)
    extra = ["reward_mix.function.path=builtins.len"] if option == "reward_mix=own" else []
    build_stages(_compose(f"{group}={name}", *extra))


@pytest.mark.parametrize("row", _rows())
@pytest.mark.parametrize("scale", ["mini", "paper"])
def test_every_row_builds_and_has_a_digest(row, scale):
    stages = build_stages(_compose(f"experiments={row}", f"scale={scale}"))
    assert len(job_digest(stages)) == 16


def test_two_rows_have_different_digests():
    digests = [job_digest(build_stages(_compose(f"experiments={row}"))) for row in _rows()]
    assert len(set(digests)) == len(digests)


def test_tracking_and_hardware_do_not_change_the_digest():
    plain = job_digest(build_stages(_compose()))
    assert job_digest(build_stages(_compose("tracking@tracker=none", "training.accelerator=cpu"))) == plain
