"""The notebooks run from top to bottom on what a job leaves behind."""

import json
import sys
import types
from pathlib import Path

import pytest
from test_report import on_test_set

from rkd.results import ModelResult, RunResult, write_result

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def result() -> RunResult:
    """Of 20 questions Ours solves the first 12, SFT the first 9."""
    models = [ModelResult(role, {"math": on_test_set("math", right, 20, 0, 1)}) for role, right in SOLVED.items()]
    values = {"row": "Ours", "seed": 0, "config": {}, "revision": None, "versions": {}, "counts": {}, "costs": {}}
    return RunResult(**values, models=models, comparisons=[], failure=None, created="2030-01-01T00:00:00+00:00")


SOLVED = {"SFT": 9, "Ours": 12}


@pytest.fixture
def shown(monkeypatch):
    """What the notebook shows; IPython is not among the requirements."""
    seen = []
    display = types.ModuleType("IPython.display")
    display.Markdown, display.Image, display.display = str, dict, lambda *objects: seen.extend(objects)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return seen


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_the_jobs_that_are_there(path, shown, tmp_path, monkeypatch, capsys):
    write_result(result(), tmp_path / "outputs" / "job")
    (tmp_path / "outputs" / "job" / "learning_curves.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    run(path)
    assert any("| Ours |" in str(one) and "60.0" in str(one) for one in shown)
    assert any("learning_curves.png" in str(one) for one in shown)
    assert "only Ours 3, only SFT 0" in capsys.readouterr().out


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_without_jobs_says_so(path, shown, tmp_path, monkeypatch, capsys):
    (tmp_path / "outputs").mkdir()
    monkeypatch.chdir(tmp_path)
    run(path)
    assert "no job in" in capsys.readouterr().out
    assert shown == ["no finished job"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


def run(path: Path) -> None:
    names: dict[str, object] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), str(path), "exec"), names)
