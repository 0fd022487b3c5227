"""The tutorial: every command of its blocks is run as it stands, in their order, with the models of the tiny world."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from tests.support.tiny_world import REPOSITORY, overrides

# What the tutorial's own settings decide.
OF_TUTORIAL = ("artifacts.root=", "output_root=", "tracking=", "threads=")


def commands() -> list[str]:
    """The lines of all blocks of the page that are marked as `bash`."""
    text = (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


@pytest.mark.slow
def test_every_command_of_the_tutorial_runs(world, tmp_path):
    tiny = [one for one in overrides(world, tmp_path, stages=[]) if not one.startswith(OF_TUTORIAL)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "PYTHONPATH": str(REPOSITORY)}
    said = {}
    for command in commands():
        words = shlex.split(command)
        if words[:2] == ["python", "run.py"]:
            first = next(place for place, word in enumerate(words) if "=" in word)  # Hydra takes them in one piece
            own = [*words[2:first], *tiny, *words[first:]]
            line = shlex.join([sys.executable, str(REPOSITORY / "run.py"), *own])
        elif words[0] == "python":
            line = shlex.join([sys.executable, *words[1:]])
        else:
            line = command  # of the shell, its wildcards included
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        said[command] = done.stdout
    assert len(said) > 10
    assert "Ours" in said["cat debug/outputs/*/table.md"]
    assert (tmp_path / "debug" / "tables" / "table11.md").is_file()
    assert "This job is finished already" in said["python run.py debug=fast_dev_run"]  # the second time
