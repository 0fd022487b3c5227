"""Tiny jobs: run in this process or by the command line, and what they left behind."""

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rkd.errors import JobError
from rkd.evaluation.results import RESULT_FILE, read_result
from rkd.jobs.job import run_job
from rkd.store.artifact_store import open_artifact
from tests.support.tiny_world import REPOSITORY, composed, overrides

JUDGE_WORDS = ["judge.prompt.yes_word=' 1'", "judge.prompt.no_word=' 2'"]  # the tiny tokenizer has no Yes
ROLES = ["teacher", "student few-shot", "student zero-shot", "SFT student", "Ours"]


def run(
    world: Path, root: Path, *more: str, stages: list[str] | None = None, without: tuple[str, ...] = ()
) -> tuple[float | None, str]:
    """Run a tiny job in this process: what it returns, and what the user sees.

    Args:
        without: beginnings of overrides that do not fit the job; `more` stays.
    """
    usual = [o for o in overrides(world, root, stages=stages) if not o.startswith(without or ("-",))]
    seen = io.StringIO()
    with redirect_stdout(seen):
        accuracy = run_job(composed([*usual, *more]))
    return accuracy, seen.getvalue()


def failure(world: Path, root: Path, *more: str, stages: list[str] | None = None) -> str:
    """The message that a job fails with."""
    with pytest.raises(JobError) as error:
        run(world, root, *more, stages=stages)
    return str(error.value)


def command(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    """`python run.py` as a user calls it, from another folder; `variables` are of its environment."""
    return subprocess.run(
        [sys.executable, REPOSITORY / "run.py", *arguments], cwd=folder, env=_environment(variables),
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def started(*arguments: str, folder: Path) -> subprocess.Popen:
    """`python run.py`, started as the head of a group of processes, as a terminal does it."""
    return subprocess.Popen(
        [sys.executable, REPOSITORY / "run.py", *arguments], cwd=folder, env=_environment({}),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=_hears_interrupts,
    )  # fmt: skip


def _hears_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell lets what it starts in the background ignore Ctrl-C


def _environment(variables: dict[str, str]) -> dict[str, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", **variables}
    environment.pop("HYDRA_FULL_ERROR", None)
    return environment


def only_result(root: Path):
    """The one result under `root`, and its folder."""
    (path,) = (root / "outputs").rglob(RESULT_FILE)
    return read_result(path.parent), path.parent


def line_of(seen: str, stage: str) -> str:
    """The line that tells of one stage."""
    (line,) = (line for line in seen.splitlines() if f"✓ {stage} " in line)
    return line


def weights(root: Path, stage: str):
    """The weights of the one artifact of a stage."""
    (folder,) = (root / "artifacts" / stage).glob("[!.]*")
    return load_file(folder / "model.safetensors")


def fingerprint_of(folder: Path, stage: str) -> dict:
    """What the one artifact of a stage that a job uses was made from."""
    (label,) = (label for label in json.loads((folder / "artifacts.json").read_text()) if label.startswith(f"{stage}/"))
    return open_artifact(folder.parents[1] / "artifacts" / label).manifest["fingerprint"]


def pairs_of(folder: Path) -> list[dict]:
    """The pairs that the reward model of a job was trained on."""
    labels = json.loads((folder / "artifacts.json").read_text())
    (label,) = (label for label in labels if label.startswith("reward_model/"))
    lines = (folder.parents[1] / "artifacts" / label / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
