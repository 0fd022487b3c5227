"""The benchmarks, which no test runs: their tables are those of their results, and they time calls that still exist."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def run(*arguments: str) -> str:
    """What Python prints in the folder of the benchmarks."""
    done = subprocess.run([sys.executable, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readme_shows_the_tables_of_the_results() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = [line for line in run("tables.py").splitlines() if line.startswith("|")]
    assert len(rows) > 50
    assert [row for row in rows if row not in readme] == []


@pytest.mark.slow
def test_benchmarks_find_what_they_import_and_the_calls_they_time() -> None:
    names = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "trl_rl")  # which needs TRL
    assert "shares" in names
    run("-c", f"import {', '.join(names)}\nfor owner, name in shares.PARTS: getattr(owner, name)")
