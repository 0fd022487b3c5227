"""Sweeps: what jobs a command line asks for, in what order, and what they leave together."""

import json
from pathlib import Path

import pytest
import tiny_world
from test_job import command
from tiny_world import overrides

from rkd.sweeper import Job, shared_first

TABLE = """
# @package _global_
table:
  name: probe
  title: A probe
  columns: [{label: svamp, paper: SVAMP, test_set: svamp}]
  groups:
    - label: teacher to student
      rows:
        Teacher: {model: teacher, published: [90.0]}
        ICL: {jobs: {experiments: icl}, published: [40.0]}
        Ours w/o R: {jobs: {experiments: ours_wo_r}, published: [61.0]}
  claims:
    - {says: Data helps, better: Ours w/o R, worse: [ICL]}
  figure: {_target_: rkd.table_figures.Dots}
hydra:
  sweeper:
    products:
      - {experiments: icl}
      - {experiments: [ours_wo_r, icl], seed: [0, 1]}
"""


def job(name: str, **choices: str) -> Job:
    return Job((name,), Path(name), {"sft": "mini", "reward_model": "none", "rl": "none", **choices}, False)


def test_jobs_that_others_share_most_with_come_first():
    ours, without_r = job("ours", reward_model="mini", rl="mini", seed="0"), job("wo_r", seed="0")
    second = job("wo_r_1", seed="1")
    other_teacher = job("other", teacher="small", seed="0")
    # The cheapest for each teacher, then the second SFT student, then the reward model of the first.
    assert shared_first([ours, without_r, second, other_teacher]) == [without_r, other_teacher, second, ours]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return tiny_world.make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def swept(world, tmp_path_factory):
    """A sweep that ran, its root, and how it ran again."""
    root = tmp_path_factory.mktemp("swept")
    (root / "conf" / "sweeps").mkdir(parents=True)
    (root / "conf" / "sweeps" / "probe.yaml").write_text(TABLE.lstrip(), encoding="utf-8")
    usual = overrides(world, root, f"table_root={root / 'tables'}", stages=tiny_world.SFT_SETTINGS)
    arguments = ["--config-dir", str(root / "conf"), "-m", "sweeps=probe", *usual]
    return root, command(*arguments, folder=root), command(*arguments, "seed=0,2", folder=root)


@pytest.mark.slow
def test_a_sweep_runs_each_job_once_and_leaves_its_table(swept):
    root, first, _ = swept
    assert first.returncode == 0, first.stderr
    # ICL with seed 0 is in both products: 4 jobs, not 5.
    assert "4 jobs, 0 of them finished before." in first.stdout
    assert "probe.md: 4 of 4 jobs finished" in first.stdout
    assert {path.suffix for path in (root / "tables").glob("probe*")} == {
        ".md",
        ".csv",
        ".tex",
        ".json",
        ".jsonl",
        ".png",
    }


@pytest.mark.slow
def test_the_same_sweep_again_runs_what_is_missing_alone_and_the_command_line_replaces_its_choices(swept):
    root, _, again = swept
    assert again.returncode == 0, again.stderr
    # Seeds 0 and 2 of both rows: seed 0 is there.
    assert "4 jobs, 2 of them finished before." in again.stdout
    cells = json.loads((root / "tables" / "probe.json").read_text())["cells"]
    assert {cell["row"]: sorted(cell["values"]) for cell in cells}["Ours w/o R"] == ["0", "2"]
