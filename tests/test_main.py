"""The command beside run.py: help on each part, one line on arguments that do not fit, and an exit code."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rkd.__main__ import main
from tests.support.rkd_command import rkd_command

REPOSITORY = Path(__file__).parents[1]
TABLES = REPOSITORY / "experiments" / "results" / "mini" / "tables"
COMMANDS = ["report", "compare", "artifacts", "pretrain", "models", "tables", "workspace", "export", "alpaca-eval"]


def test_help_names_every_command():
    done = rkd_command("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert f"python -m rkd {name}" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        *([name] for name in COMMANDS),
        *(["artifacts", action] for action in ("list", "show", "verify", "gc")),
        *(["models", action] for action in ("list", "get")),
        *(["tables", action] for action in ("list", "render")),
    ],
    ids=" ".join,
)
def test_every_command_has_help(command):
    done = rkd_command(*command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: python -m rkd {' '.join(command)}")


def test_pretrain_hands_what_follows_to_hydra_as_a_process():
    command = [sys.executable, "-m", "rkd", "pretrain", "pretrain=mini_1", "pretrain.seed=7", "--cfg", "job"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "  seed: 7\n" in done.stdout


def test_pretrain_names_its_models_where_none_is_chosen(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rkd"])
    done = rkd_command("pretrain")
    assert done.returncode == 2
    assert "mini_large" in done.stderr
    assert "`python -m rkd pretrain pretrain=mini_1 --cfg job`" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: COMMAND"),
        (["reprot"], "invalid choice: 'reprot'"),
        (["report"], "required: FOLDER"),
        (["report", "nowhere"], "no result.json under nowhere; `python run.py` writes one."),
        (["compare", "nowhere", "Ours"], "required: ROW_B"),
        (["artifacts"], "required: ACTION"),
        (["artifacts", "verify", "--repiar"], "--repiar"),
        (["tables", "render", "nowhere"], "nowhere holds no table"),
        (["tables", "render", str(TABLES), "table33"], "holds no table table33; there are"),
        (["workspace", "table3", "--entity", "me"], "give a file NAME.jobs.json"),
        (["alpaca-eval", "a.jsonl"], "--difficulty"),
    ],
)
def test_arguments_that_do_not_fit_are_named_in_one_line(tmp_path, arguments, words):
    done = rkd_command(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not done.stdout


def test_a_file_that_is_not_there_is_named(tmp_path):
    done = rkd_command("alpaca-eval", "a.jsonl", "--difficulty", "d.csv", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "d.csv" in done.stderr


def test_tables_are_listed_with_their_finished_jobs():
    (line,) = [line for line in rkd_command("tables", "list", str(TABLES)).stdout.splitlines() if "table5 " in line]
    assert "4 of    4 jobs" in line


def test_tables_are_made_anew_as_they_were_kept(tmp_path):
    for ending in ("jobs.json", "results.jsonl"):
        shutil.copy(TABLES / f"table10.{ending}", tmp_path)
        shutil.copy(TABLES / f"table5.{ending}", tmp_path)
    done = rkd_command("tables", "render", str(tmp_path), "table10")
    assert done.stdout == f"{tmp_path}/table10.md: 4 of 4 jobs finished\n"
    for ending in ("md", "csv", "tex", "json"):
        kept = (TABLES / f"table10.{ending}").read_text(encoding="utf-8")
        assert (tmp_path / f"table10.{ending}").read_text(encoding="utf-8") == kept
    assert not (tmp_path / "table5.md").exists()


def test_a_damaged_result_is_told_in_one_message(tmp_path):
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "result.json").write_text(json.dumps({"row": 1}))
    assert rkd_command("report", str(tmp_path)).returncode == 1


def test_the_command_reads_the_process_arguments(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["rkd", "tables", "list", str(tmp_path)])
    assert main() == 2
    assert "holds no table" in capsys.readouterr().err
