"""A finished job, for the tests of whole jobs."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.jobs import run
from tests.support.made_once import made_once


@pytest.fixture(scope="session")
def finished(world, tmp_path_factory) -> tuple[Path, float | None, str]:
    """A finished job: its root, what it returned and what it printed. No test writes in its folder."""

    def make(folder: Path) -> None:
        advance = run(world, folder)
        (folder / "told.json").write_text(json.dumps(advance), encoding="utf-8")

    root = made_once(tmp_path_factory, "finished", make)
    accuracy, seen = json.loads((root / "told.json").read_text(encoding="utf-8"))
    return root, accuracy, seen


@pytest.fixture
def same_store(finished, tmp_path) -> Path:
    """A root of one's own, with the stages and the result of `finished`."""
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    return tmp_path
