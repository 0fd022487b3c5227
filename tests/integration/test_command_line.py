"""`python run.py` as a user calls it, in a process of its own."""

import os
import re
import signal
import time

import pytest

from rkd.evaluation.results import read_result
from rkd.processes import INTERRUPTED
from tests.support.jobs import command, only_result, started
from tests.support.tiny_world import overrides


@pytest.mark.slow
def test_help_lists_the_groups_from_another_folder(tmp_path):
    done = command("--help", folder=tmp_path)
    assert done.returncode == 0
    assert re.search(r"^labels  .*\n +gold noisy_vote rubric_judge vote vote_of_prompts$", done.stdout, re.MULTILINE)
    assert re.search(r"^experiments  .*\n +best_of_n coin confidence contradiction dpo ", done.stdout, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("sft.leaning_rate=1", "sft.leaning_rate: there is no such setting. Did you mean `sft.learning_rate`?"),
        ("student=huge", "Could not find 'student/huge'"),
        ("seed", "`seed` gives no value"),
    ],
)
def test_an_unknown_option_is_one_message_without_traceback(tmp_path, argument, said):
    done = command(argument, folder=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert "python run.py --help" in done.stderr or "as in `seed=1`" in done.stderr
    assert "Traceback" not in done.stderr
    assert "HYDRA_FULL_ERROR" not in done.stderr


@pytest.mark.slow
def test_a_sweep_without_multirun_is_refused_with_the_right_command(tmp_path):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "probe.yaml").write_text("# @package _global_\nhydra: {sweeper: {products: [{seed: 1}]}}\n")
    done = command("--config-dir", str(tmp_path), "sweeps=probe", folder=tmp_path)
    assert done.returncode == 1
    assert "python run.py -m sweeps=probe" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_bad_job_is_one_message_without_traceback(world, tmp_path):
    done = command(*overrides(world, tmp_path, "student.name_or_path=/no/such/folder"), folder=tmp_path)
    assert done.returncode == 1
    assert "there is no folder /no/such/folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_multirun_runs_its_jobs_in_one_process_as_if_each_were_alone(world, finished, tmp_path):
    (tmp_path / "cwd").mkdir()
    done = command("-m", *overrides(world, tmp_path, "seed=1,0"), folder=tmp_path / "cwd")
    assert done.returncode == 0, done.stderr
    results = {result.seed: result for result in map(read_result, (tmp_path / "outputs").glob("*/"))}
    alone, _ = only_result(finished[0])
    assert results.keys() == {0, 1}
    # Seed 0 runs second here, and ran alone in `finished`: models and answers agree.
    assert results[0].models == alone.models
    assert not list((tmp_path / "cwd").iterdir())
    assert done.stderr == ""


@pytest.mark.slow
def test_a_multirun_goes_on_after_a_failed_job_and_exits_with_an_error(world, tmp_path):
    arguments = overrides(world, tmp_path, "student.name_or_path=/no/such,${student_ok}", stages=[])
    arguments = [argument.replace("${student_ok}", str(world / "student")) for argument in arguments]
    done = command("-m", *arguments, "experiments=icl", folder=tmp_path)
    assert done.returncode == 1
    assert "there is no folder /no/such" in done.stderr
    assert "Not every job finished" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "outputs").glob("ICL-*/result.json"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_ctrl_c_ends_a_multirun_with_one_line_and_keeps_what_is_complete(world, tmp_path, launcher):
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    settings = overrides(world, tmp_path, "seed=0,1", "sft.epochs=500", f"hydra/launcher={launcher}")
    process = started("-m", *settings, folder=tmp_path)
    assert process.stdout is not None
    deadline = time.monotonic() + 240
    while not list((tmp_path / "artifacts").glob("teacher_first_validation/[!.]*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(2.0)  # in the training of the student
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: every process of the group gets it
    out, err = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert err.strip().splitlines()[-1] == "Interrupted. What is complete is kept, and the same command makes the rest."
    assert "Traceback" not in out + err
    assert len(err.strip().splitlines()) == 1
    assert not list((tmp_path / "outputs").glob("*/result.json"))
    assert list((tmp_path / "artifacts").glob("teacher_first_training/[!.]*/manifest.json"))
