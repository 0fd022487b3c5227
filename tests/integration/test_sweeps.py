"""Sweeps and searches as a user calls them: what jobs they run, and what they leave together."""

import json
from importlib.util import find_spec

import pytest

from tests.support import tiny_world
from tests.support.jobs import command
from tests.support.tiny_world import overrides

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
  figure: {_target_: rkd.reporting.table_figures.Dots}
hydra:
  sweeper:
    products:
      - {experiments: icl}
      - {experiments: [ours_wo_r, icl], seed: [0, 1]}
"""


@pytest.mark.slow
def test_what_no_job_of_a_table_can_be_is_said_once_and_leaves_no_file(tmp_path):
    done = command("-m", "sweeps=table11", "seed=x", folder=tmp_path)
    assert done.returncode == 1
    # Nine jobs, of which the seed that replaces their three leaves as many as there are rows.
    assert "3 of 3 jobs cannot be run: seed=x: must be a whole number" in done.stderr
    assert done.stderr.count("seed=x") == 1
    assert "Not every job finished" in done.stderr
    assert not list(tmp_path.iterdir())


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
    told = (root / "tables" / "probe.md").read_text(encoding="utf-8")
    assert "Settings that are not the paper's" in told
    assert "± is over training seeds alone." in told
    assert {path.suffix for path in (root / "tables").glob("probe*")} == {
        ".md",
        ".csv",
        ".tex",
        ".json",
        ".jsonl",
        ".png",
    }


@pytest.mark.slow
def test_what_a_table_keeps_of_its_jobs_names_no_place_on_the_machine(swept, world):
    root, *_ = swept
    kept = "".join(
        (root / "tables" / f"probe.{kind}").read_text(encoding="utf-8") for kind in ("json", "results.jsonl")
    )
    described = json.loads((root / "tables" / "probe.jobs.json").read_text(encoding="utf-8"))
    choices = [key for own in described["jobs"].values() for key in own]
    assert not {"artifacts.root", "output_root", "table_root"} & set(choices)
    assert {own["student.name_or_path"] for own in described["jobs"].values()} == {"student"}  # what is chosen is kept
    assert str(root) not in kept
    assert str(world) not in kept


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "plugin", "requirements"),
    [
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], "hydra_joblib_launcher", "joblib"),
        (
            ["hydra/launcher=submitit_local_cpu", "hydra.sweeper.max_batch_size=2"],
            "hydra_submitit_launcher",
            "submitit",
        ),
        (["hydra/launcher=ray_cpu", "+hydra.launcher.ray.init.num_cpus=2"], "hydra_ray_launcher", "ray"),
    ],
)
def test_a_launcher_leaves_the_same_table_whatever_folder_it_is_called_in(
    world, tmp_path, launcher, plugin, requirements
):
    pytest.importorskip(f"hydra_plugins.{plugin}", reason=f"optional: pip install -r requirements-{requirements}.txt")
    tables = [sweep_probe(world, tmp_path / name, *extra) for name, extra in (("alone", []), ("beside", launcher))]
    assert tables[0] == tables[1]


def sweep_probe(world, root, *more) -> dict:
    """Run the table's jobs of seed 0 under `root`, which must succeed; its cells."""
    (root / "conf" / "sweeps").mkdir(parents=True)
    (root / "conf" / "sweeps" / "probe.yaml").write_text(TABLE.lstrip(), encoding="utf-8")
    usual = overrides(world, root, f"table_root={root / 'tables'}", "seed=0", stages=tiny_world.SFT_SETTINGS)
    done = command("--config-dir", str(root / "conf"), "-m", "sweeps=probe", *usual, *more, folder=root)
    assert done.returncode == 0, done.stderr
    return json.loads((root / "tables" / "probe.json").read_text())["cells"]


@pytest.mark.slow
def test_a_launcher_whose_plugin_is_missing_names_its_requirements(tmp_path):
    if find_spec("ray"):
        pytest.skip("Ray is installed")
    done = command("-m", "hydra/launcher=ray_cpu", "seed=0", folder=tmp_path)
    assert done.returncode == 1
    assert "requirements-ray.txt" in done.stderr


@pytest.mark.slow
def test_the_same_sweep_again_runs_what_is_missing_alone_and_the_command_line_replaces_its_choices(swept):
    root, _, again = swept
    assert again.returncode == 0, again.stderr
    # Seeds 0 and 2 of both rows: seed 0 is there.
    assert "4 jobs, 2 of them finished before." in again.stdout
    cells = json.loads((root / "tables" / "probe.json").read_text())["cells"]
    assert {cell["row"]: sorted(cell["values"]) for cell in cells}["Ours w/o R"] == ["0", "2"]


@pytest.mark.slow
def test_the_same_command_again_trains_nothing(world, tmp_path):
    pytest.importorskip("optuna", reason="optional: pip install -r requirements-optuna.txt")
    (tmp_path / "conf" / "sweeps").mkdir(parents=True)
    (tmp_path / "conf" / "sweeps" / "probe.yaml").write_text(
        "# @package _global_\nhydra: {sweeper: {search: {_target_: rkd.jobs.search.Search, folder: searches, "
        "trials: 2, space: {sft.learning_rate: [1e-9, 1e-3]}}}}\n"
    )
    usual = overrides(world, tmp_path, "experiments=ours_wo_r", stages=["sft.epochs=1"])
    arguments = ["--config-dir", str(tmp_path / "conf"), "-m", "sweeps=probe", *usual]
    first, again = command(*arguments, folder=tmp_path), command(*arguments, folder=tmp_path)
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    assert "0 of 2 trials finished before" in first.stdout
    assert "2 of 2 trials finished before" in again.stdout
    assert "✓ sft" not in again.stdout
    (best,) = (tmp_path / "searches").glob("*/best.txt")
    assert best.read_text().startswith("sft.learning_rate=")
    assert best.read_text().strip() in again.stdout
