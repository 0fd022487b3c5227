"""The notebooks run from top to bottom, by a Jupyter kernel, on tables that are there and on those that are not."""

import json
from pathlib import Path

import nbformat
import pytest
from hydra import initialize_config_dir
from nbclient import NotebookClient

from rkd.evaluation.results import ModelResult, RunResult, write_result
from tests.support.made_up_results import on_test_set
from tests.support.made_up_tables import write_table

REPOSITORY = Path(__file__).parents[2]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
# Of each notebook, the tables that it reads, and how many pictures it then shows.
OF_TABLES = {
    "results": (("table3", "table1", "table11", "table6", "fig11"), 5),
    "reward_model": (("table9", "fig7", "fig8"), 4),
    "labels": (("table10", "fig9", "table5"), 3),
    "rl_dynamics": (("fig10", "table6", "table3"), 4),
}
SOLVED = {"SFT": 9, "Ours": 12}


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Path:
    """Every table that a notebook reads."""
    folder = tmp_path_factory.mktemp("tables")
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        for name in sorted({name for names, _ in OF_TABLES.values() for name in names}):
            write_table(folder, name)
    return folder


def run(name: str, folder: Path, variable: str) -> tuple[str, list[str]]:
    """Run a notebook in its place, with another folder in its first cell: all text that it shows, and its pictures."""
    notebook = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert first.source.count(f"\n{variable} = ") == 1
    lines = [
        f"{variable} = Path({str(folder)!r})" if line.startswith(variable) else line
        for line in first.source.split("\n")
    ]
    first.source = "\n".join(lines)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(REPOSITORY / "notebooks")}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    data = [output.data for output in shown if "data" in output]
    texts = [output.get("text", "") for output in shown] + [one.get("text/markdown", "") for one in data]
    return "\n".join(texts), [one["image/png"] for one in data if "image/png" in one]


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_TABLES)
def test_a_notebook_shows_the_tables_that_are_there(name, tables):
    text, pictures = run(name, tables, "RESULTS")
    assert "python run.py -m sweeps=" not in text
    assert len(pictures) == OF_TABLES[name][1]


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_TABLES)
def test_a_notebook_names_a_table_that_is_missing_with_the_command_that_makes_it(name, tmp_path):
    text, pictures = run(name, tmp_path, "RESULTS")
    assert all(f"`python run.py -m sweeps={table}`" in text for table in OF_TABLES[name][0])
    assert pictures == []


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_TABLES)
def test_a_notebook_runs_on_the_committed_results(name):
    text, pictures = run(name, REPOSITORY / "experiments" / "results" / "mini" / "tables", "RESULTS")
    assert pictures or "python run.py -m sweeps=" in text


@pytest.mark.slow
def test_jobs_are_compared_question_by_question(tmp_path):
    # Of 20 questions Ours solves the first 12, SFT the first 9.
    models = [ModelResult(role, {"math": on_test_set("math", right, 20, 0, 1)}) for role, right in SOLVED.items()]
    values = {"row": "Ours", "seed": 0, "config": {}, "revision": None, "versions": {}, "costs": {}}
    made = {"models": models, "comparisons": [], "failure": None, "created": "2030-01-01T00:00:00+00:00"}
    write_result(RunResult(**values, **made), tmp_path / "job")
    text, _ = run("compare_runs", tmp_path, "OUTPUTS")
    assert "| Ours |" in text
    assert "60.0" in text
    assert "only Ours 3, only SFT 0" in text


@pytest.mark.slow
def test_without_jobs_there_is_nothing_to_compare(tmp_path):
    assert "no job in" in run("compare_runs", tmp_path, "OUTPUTS")[0]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
