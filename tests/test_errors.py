"""Errors that a user can mend have one base, and naming them loads nothing."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from rkd import errors
from rkd.errors import UserError

REPOSITORY = Path(__file__).parents[1]


def test_every_error_here_is_a_user_error():
    classes = [one for _, one in inspect.getmembers(errors, inspect.isclass)]
    assert len(classes) > 1
    assert all(issubclass(one, UserError) for one in classes)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run.py", "--help"], "GROUP=OPTION"),
        (["run.py", "sft.epoks=1"], "sft.epoks: there is no such setting. Did you mean `sft.epochs`?"),
        (["-m", "rkd", "--help"], "alpaca-eval"),
        (["-m", "rkd", "artifacts", "gc", "--help"], "--outputs"),
    ],
)
def test_help_and_a_typo_are_answered_before_pytorch_is_loaded(arguments, words):
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert words in done.stdout + done.stderr
    assert "rkd" in imported
    assert imported.isdisjoint({"torch", "transformers", "scipy", "pytorch_lightning"})
