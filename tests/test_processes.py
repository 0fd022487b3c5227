"""A started process imports the same code as its parent, in a clone and where the project is installed."""

import os
import shutil
import subprocess
import sys

import pytest

from rkd.processes import FOLDER, with_import_path

SHOW = "import rkd, hydra_plugins.rkd_sweeper as sweeper; print(rkd.__file__, sweeper.__file__)"


def bare(environment: dict[str, str]) -> dict[str, str]:
    """An environment without an import path."""
    return {name: value for name, value in environment.items() if name != "PYTHONPATH"}


def test_this_code_comes_first_once_and_other_places_stay():
    given = {"PYTHONPATH": os.pathsep.join(["/elsewhere", str(FOLDER)]), "LANG": "C"}
    assert with_import_path(given) == {"PYTHONPATH": os.pathsep.join([str(FOLDER), "/elsewhere"]), "LANG": "C"}
    assert with_import_path(with_import_path({})) == {"PYTHONPATH": str(FOLDER)}


def test_a_started_process_finds_the_package_and_the_sweeper_in_any_folder(tmp_path):
    environment = with_import_path(bare(dict(os.environ)))
    command = [sys.executable, "-P", "-c", SHOW]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(FOLDER / "rkd/__init__.py"), str(FOLDER / "hydra_plugins/rkd_sweeper.py")]


@pytest.mark.slow
def test_run_py_finds_the_sweeper_in_a_clone_that_is_not_installed(tmp_path):
    clone = tmp_path / "clone"
    ignored = shutil.ignore_patterns("__pycache__", "checkpoints")
    for name in ("rkd", "hydra_plugins", "conf", "experiments", "sweeps"):
        shutil.copytree(FOLDER / name, clone / name, symlinks=True, ignore=ignored)
    shutil.copy(FOLDER / "run.py", clone)
    command = [sys.executable, str(clone / "run.py"), "-m", "sweeps=table11", "seed=x"]
    done = subprocess.run(
        command, cwd=tmp_path, env=bare(dict(os.environ)), capture_output=True, text=True, check=False
    )
    assert "seed=x: must be a whole number" in done.stdout + done.stderr


@pytest.mark.slow
def test_an_editable_install_finds_the_package_and_the_sweeper(tmp_path):
    pytest.importorskip("setuptools", minversion="77", reason="the build backend of pyproject.toml is not installed")
    install = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(
        [sys.executable, *install, "--editable", str(FOLDER)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    code = f"import site; site.addsitedir({str(tmp_path / 'site')!r}); {SHOW}"
    shown = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=bare(dict(os.environ)), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert shown.stdout.split() == [str(FOLDER / "rkd/__init__.py"), str(FOLDER / "hydra_plugins/rkd_sweeper.py")]
