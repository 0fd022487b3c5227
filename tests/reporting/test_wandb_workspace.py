"""A table's W&B workspace and report: which runs, panels and texts they name; nothing is sent."""

import itertools
import json
import sys
from importlib.util import find_spec

import pytest
from omegaconf import OmegaConf

from rkd.__main__ import main
from rkd.errors import TrackingError
from rkd.reporting.table_files import name_of
from rkd.reporting.wandb_report import report_of
from rkd.reporting.wandb_workspace import save_view
from tests.support.tiny_world import REPOSITORY, composed

needs_package = pytest.mark.skipif(
    not find_spec("wandb_workspaces"), reason="requirements-workspaces.txt is not installed"
)
KEPT = REPOSITORY / "experiments" / "results" / "mini" / "tables"
DIGESTS = ["0123456789abcdef", "fedcba9876543210"]


def manifest(folder, table: str):
    """The manifest of a sweep of two jobs."""
    described = OmegaConf.to_container(composed([f"sweeps={table}"]).table, resolve=True)
    jobs = {f"outputs/Ours-mini_math-seed{seed}-{digest}": {"seed": seed} for seed, digest in enumerate(DIGESTS)}
    path = folder / f"{table}.jobs.json"
    path.write_text(json.dumps({"table": described, "jobs": jobs}), encoding="utf-8")
    return path


def specification(folder, table: str, capsys) -> dict:
    assert main(["workspace", str(manifest(folder, table)), "--entity", "me", "--dry-run"]) == 0
    return json.loads(capsys.readouterr().out)


def report(path) -> dict:
    """The content of the report of a table that is kept."""
    return json.loads(save_view(report_of, path, entity="me", project="rkd", dry_run=True))


@pytest.fixture(scope="module")
def table3() -> dict:
    """The report of Table 3."""
    pytest.importorskip("wandb_workspaces")
    return report(KEPT / "table3.jobs.json")


def grids_of(content: dict) -> dict[str, dict]:
    """The panel grids of a report by the headings above them."""
    blocks = content["spec"]["blocks"]
    return {
        title["children"][0]["text"]: grid["metadata"]
        for title, grid in itertools.pairwise(blocks)
        if grid["type"] == "panel-grid"
    }


def charts_of(grid: dict) -> list[dict]:
    return [panel["config"] for panel in grid["panelBankSectionConfig"]["panels"]]


def panels_of(content: dict, name: str) -> list[dict]:
    sections = content["spec"]["section"]["panelBankConfig"]["sections"]
    (section,) = (one for one in sections if one["name"] == name)
    return [panel["config"] for panel in section["panels"]]


@needs_package
def test_a_workspace_shows_the_runs_of_the_tables_jobs_by_row(tmp_path, capsys):
    content = specification(tmp_path, "table3", capsys)
    assert (content["entity"], content["project"]) == ("me", "rkd")
    assert content["displayName"].startswith("Table 3")
    (runs,) = content["spec"]["section"]["runSets"]
    (chosen,) = runs["filters"]["filters"]
    assert (chosen["key"]["name"], chosen["op"], chosen["value"]) == ("name", "IN", DIGESTS)  # W&B's `name` is the id
    assert runs["grouping"] == [{"section": "run", "name": "jobType"}]


@needs_package
def test_a_workspace_has_the_tables_columns_and_the_curves_of_each_stage(tmp_path, capsys):
    content = specification(tmp_path, "table3", capsys)
    columns = [f"test/{test_set}/accuracy" for test_set in ("mini_math", "mini_math_plus", "mini_choice")]
    assert [panel["metrics"] for panel in panels_of(content, "table3")] == [[column] for column in columns]
    for stage in ("sft", "dpo", "reward_model", "rl"):
        assert {panel["xAxis"] for panel in panels_of(content, stage)} == {f"{stage}/step"}
    assert ["rl/reward"] in [panel["metrics"] for panel in panels_of(content, "rl")]


@needs_package
def test_a_value_that_several_columns_show_has_one_panel(tmp_path, capsys):
    shown = [panel["metrics"] for panel in panels_of(specification(tmp_path, "table9", capsys), "table9")]
    assert ["reward_model/pos_neg_accuracy"] in shown
    assert len(shown) == len({tuple(metrics) for metrics in shown})


@needs_package
def test_a_report_has_the_title_the_table_and_its_claims(table3):
    assert table3["displayName"] == "Table 3: teachers, students and methods, accuracy in %"
    assert table3["project"] == {"name": "rkd", "entityName": "me"}
    assert table3["description"] == "100 of 100 jobs finished when this report was saved."
    (text,) = (block["content"] for block in table3["spec"]["blocks"] if block["type"] == "markdown-block")
    assert "|  | Ours | **70.6 ± 1.5** (+7.9) | 64.1 |" in text
    assert "- *Ours is better than SFT*: **holds in part**, in 7 of 12 comparisons" in text


@needs_package
def test_a_report_has_a_set_of_runs_for_each_group_of_the_table(table3):
    jobs = json.loads((KEPT / "table3.jobs.json").read_text(encoding="utf-8"))["jobs"]
    for grid in grids_of(table3).values():
        assert [runs["name"] for runs in grid["runSets"]] == [
            "mini_large → mini_1", "mini_large → mini_3", "mini_small → mini_1", "mini_small → mini_3",
        ]  # fmt: skip
        for runs in grid["runSets"]:
            teacher, student = runs["name"].split(" → ")
            # The untuned student has no teacher: its jobs belong to the groups of both.
            chosen = [folder for folder, own in jobs.items() if own["student"] == student]
            chosen = [one for one in chosen if jobs[one]["teacher"] == teacher or one.startswith("outputs/ICL-")]
            (filtered,) = runs["filters"]["filters"]
            assert (filtered["key"]["name"], filtered["op"]) == ("name", "IN")  # W&B's `name` is the id
            assert filtered["value"] == sorted(folder.rpartition("-")[2] for folder in chosen)
            assert len(filtered["value"]) == 26
            assert runs["grouping"] == [{"section": "run", "name": "jobType"}]
            assert "project" not in runs  # that of the report


@needs_package
def test_a_report_shows_the_columns_the_curves_and_the_responses(table3):
    grids = grids_of(table3)
    columns = [f"test/{test_set}/accuracy" for test_set in ("mini_math", "mini_math_plus", "mini_choice")]
    assert [chart["metrics"] for chart in charts_of(grids["Columns"])] == [[column] for column in columns]
    assert ["rl/reward"] in [chart["metrics"] for chart in charts_of(grids["Curves of rl"])]
    assert {chart["xAxis"] for chart in charts_of(grids["Curves of sft"])} == {"sft/step"}
    shown = grids["Responses, results and labels"]["panelBankSectionConfig"]["panels"]
    assert "samples/rl" in json.dumps(shown[0])
    assert [panel["layout"]["y"] for panel in shown] == [0, 12, 24, 36]


@needs_package
@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(KEPT.glob("*.jobs.json")), ids=name_of)
def test_every_kept_table_has_a_report(path):
    sets = [runs for grid in grids_of(report(path)).values() for runs in grid["runSets"]]
    assert all(runs["filters"]["filters"][0]["value"] for runs in sets)


@needs_package
def test_the_option_chooses_the_report(tmp_path, capsys):
    path = str(manifest(tmp_path, "table3"))
    assert main(["workspace", path, "--entity", "me", "--report", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["description"].startswith("0 of 2 jobs finished")


@pytest.mark.parametrize("view", [[], ["--report"]], ids=["workspace", "report"])
def test_without_the_package_it_says_what_to_install(tmp_path, capsys, monkeypatch, view):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert main(["workspace", str(manifest(tmp_path, "table3")), "--entity", "me", "--dry-run", *view]) == 1
    assert "pip install -r requirements-workspaces.txt" in capsys.readouterr().err


class View:
    """In the place of a workspace or a report: it is saved, or W&B refuses it."""

    url = "https://wandb.ai/me/rkd"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def save(self) -> "View":
        if self.error is not None:
            raise self.error
        return self


def test_a_view_is_saved_and_its_address_told(tmp_path):
    told = save_view(lambda *_, **__: View(), manifest(tmp_path, "table3"), entity="me", project="rkd", dry_run=False)
    assert told == "https://wandb.ai/me/rkd"


def test_a_view_that_wandb_refuses_is_told_in_plain_words(tmp_path):
    refused = View(RuntimeError("api_key not configured (no-tty)\nmore"))
    with pytest.raises(TrackingError, match=r"did not save it \(api_key not configured \(no-tty\)\). Log in"):
        save_view(lambda *_, **__: refused, manifest(tmp_path, "table3"), entity="me", project="rkd", dry_run=False)


def test_what_is_no_manifest_is_refused(tmp_path, capsys):
    assert main(["workspace", str(tmp_path / "table3"), "--entity", "me"]) == 2
    assert "python run.py -m sweeps=NAME" in capsys.readouterr().err
