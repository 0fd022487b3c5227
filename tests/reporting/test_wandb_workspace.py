"""A table's W&B workspace: which runs, panels and columns its specification names; nothing is sent."""

import json
import sys
from importlib.util import find_spec

import pytest
from omegaconf import OmegaConf

from rkd.__main__ import main
from tests.support.tiny_world import composed

needs_package = pytest.mark.skipif(
    not find_spec("wandb_workspaces"), reason="requirements-workspaces.txt is not installed"
)
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


def test_without_the_package_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert main(["workspace", str(manifest(tmp_path, "table3")), "--entity", "me", "--dry-run"]) == 1
    assert "pip install -r requirements-workspaces.txt" in capsys.readouterr().err


def test_what_is_no_manifest_is_refused(tmp_path, capsys):
    assert main(["workspace", str(tmp_path / "table3"), "--entity", "me"]) == 2
    assert "python run.py -m sweeps=NAME" in capsys.readouterr().err
