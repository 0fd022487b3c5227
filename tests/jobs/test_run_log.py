"""What a dashboard shows of a job: tiny jobs run with W&B offline, and the files of their runs are read back."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from rkd.errors import JobError
from rkd.evaluation.results import Overlap, read_result
from rkd.io import read_rows
from rkd.jobs.job import run_job
from rkd.jobs.run_log import CHARACTERS_SHOWN, SAMPLES_LOGGED, columns_of, input_digests, summary_of, thinned
from rkd.store.artifact_store import Store, open_artifact
from rkd.training.curves import CURVES_FILE
from tests.support.offline_runs import OfflineRun, offline_folders, read_run
from tests.support.tiny_world import RL_SETTINGS, SFT_SETTINGS, composed, overrides

WITH_CURVES = ["tracking=wandb", "trainer.log_every_n_steps=1", "threads=1"]


def run(world: Path, root: Path, *more: str, stages: list[str] | None = None) -> None:
    usual = [one for one in overrides(world, root, stages=stages) if not one.startswith(("tracking=", "threads="))]
    run_job(composed([*usual, *WITH_CURVES, *more]))


@pytest.fixture(scope="module")
def job(world, tmp_path_factory) -> tuple[Path, OfflineRun]:
    """The root of a finished job, and its run."""
    root = tmp_path_factory.mktemp("job")
    run(world, root)
    (folder,) = offline_folders(root)
    return root, read_run(folder)


def artifact_of(root: Path, stage: str):
    (folder,) = (folder for folder in Store(root / "artifacts").folders() if folder.parent.name == stage)
    return open_artifact(folder)


def test_a_run_is_named_and_grouped_by_its_table_and_row(job):
    root, own = job
    (folder,) = (root / "outputs").iterdir()
    assert own.described["run_id"] == folder.name.rpartition("-")[2]
    assert (own.described["run_group"], own.described["job_type"]) == ("svamp", "Ours")
    assert own.described["tags"] == ["paper D", "Ours", "svamp", "mini_large", "mini_1", "seed 0"]
    assert own.described["project"] == "rkd"
    assert own.exit_code == 0


def test_each_stage_has_its_own_axis_and_its_curve(job):
    root, own = job
    for stage in ("sft", "reward_model", "rl"):
        assert own.axes[f"{stage}/*"] == f"{stage}/step"
        kept = read_rows(artifact_of(root, stage).folder / CURVES_FILE)
        steps = [row["step"] for row in kept]
        assert [row[f"{stage}/step"] for row in own.curve(stage)] == steps == sorted(steps)
    # 72 examples of 32 are 3 batches: a loss for each, and one validation.
    assert sum("sft/train/loss" in row for row in own.curve("sft")) == 3
    assert sum("rl/reward" in row for row in own.curve("rl")) == 2


def test_the_summary_holds_what_the_result_says(job):
    root, own = job
    (folder,) = (root / "outputs").iterdir()
    result = read_result(folder)
    tested = result.models[-1].test_sets["svamp"]
    for role in ("test", "Ours"):
        assert own.summary[f"{role}/svamp/accuracy"] == tested.accuracy
        assert own.summary[f"{role}/svamp/interval_low"] == tested.interval_low
    assert own.summary["teacher/svamp/n"] == 12
    assert own.summary["labels/precision"] == result.notes.labels.precision
    assert own.summary["costs/rl/seconds"] == result.costs["rl"]["seconds"]
    assert own.summary["costs/tokens"] == sum(cost["tokens"] for cost in result.costs.values())
    # A column of a table may show it, and the table's W&B view looks for it here.
    near = dataclasses.replace(result, overlaps={"svamp": Overlap(12, 0.0, 0.0, 0, [0, 5])})
    others = [outcome for place, outcome in enumerate(tested.outcomes) if place not in (0, 5)]
    assert summary_of(near)["test/svamp/without_near_duplicates"] == sum(others) / 10


def test_tokens_are_those_of_the_responses_that_were_sampled(job):
    _, own = job
    # "The answer is 1." and its end: six tokens, of which the text has five; 36 queries × 8 samples, 2 rollouts of 32.
    assert own.summary["costs/student_samples_training/tokens"] == 36 * 8 * 5
    assert own.summary["costs/rl/tokens"] == 2 * 32 * 6


def test_responses_labels_and_results_are_tables(job):
    _, own = job
    samples = own.table("samples/teacher_first_training")
    assert set(samples[0]) == {"question", "response", "sample", "finished"}
    assert "say" in samples[0]["question"]
    statistics = {row["what"]: row["value"] for row in own.table("labels/statistics")}
    assert (statistics["labels/queries"], statistics["labels/precision"]) == (36, 1)
    assert sum(row["queries"] for row in own.table("labels/consensus")) == 36
    assert [row["model"] for row in own.table("results")][-1] == "Ours"
    assert "samples/student_samples_validation.path" not in own.summary


def test_responses_of_reinforcement_learning_are_logged_with_what_each_reward_says(job):
    root, own = job
    (folder,) = (root / "outputs").iterdir()
    rows, shown = read_rows(folder / "samples_rl.jsonl"), own.table("samples/rl")
    assert rows == read_rows(artifact_of(root, "rl").folder / "samples.jsonl")
    assert [row["rollout"] for row in rows] == [rollout for rollout in (0, 1) for _ in range(16)]
    assert shown == [columns_of(row) for row in rows]
    assert list(shown[0]) == [
        "rollout", "episodes", "term", "query_id", "question", "response", "is_finished", "tokens", "answer", "label",
        "reward", "parts/learned", "parts/answered", "parts/consistent", "parts/check", "parts/kl_penalty", "advantage",
    ]  # fmt: skip
    for row in rows:
        assert row["response"] == f"The answer is {row['answer']}."
        assert row["parts"]["consistent"] == float(row["answer"] == row["label"])
        assert row["reward"] == pytest.approx(row["parts"]["learned"] + row["parts"]["check"], abs=1e-3)
    assert len(own.tables["samples/rl"]) == 2  # an increment for each rollout


def test_a_table_shows_texts_cut_and_without_control_characters():
    row = {"response": "\x1b[2J" + "x" * CHARACTERS_SHOWN, "answer": None, "parts": {"learned": 0.5}}
    shown = columns_of(row)
    assert shown["response"] == r"\x1b[2J" + "x" * (CHARACTERS_SHOWN - 4) + "… [4 more characters]"
    assert shown["answer"] is None
    assert shown["parts/learned"] == 0.5


class Broken(BaseException):
    """Stands for the end of a process."""


def breaking(queries, responses) -> list[float]:
    """A reward of one's own: if the file `calls` is there, the process ends at the second rollout."""
    assert len(queries) == len(responses)
    if (calls := Path("calls")).is_file():
        if calls.read_text():
            raise Broken
        calls.write_text("one")
    return [float(len(response.text)) for response in responses]


def test_a_job_that_was_killed_goes_on_with_the_samples_of_the_rollouts_before(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    more = [
        "reward_model=none", "reward_mix=own", "reward_mix.verifiable.function.path=tests.jobs.test_run_log.breaking",
        "trainer.seconds_between_checkpoints=0",
    ]  # fmt: skip
    stages = [*SFT_SETTINGS, *RL_SETTINGS]
    Path("calls").touch()
    with pytest.raises(Broken):
        run(world, tmp_path / "killed", *more, stages=stages)
    (folder,) = (tmp_path / "killed" / "outputs").iterdir()
    assert {row["rollout"] for row in read_rows(folder / "samples_rl.jsonl")} == {0}
    # As an attempt leaves it that ended while it wrote a line, after its last checkpoint.
    with (folder / "samples_rl.jsonl").open("a") as file:
        file.write('{"rollout": 1}\n{"roll')
    Path("calls").unlink()
    run(world, tmp_path / "killed", *more, stages=stages)
    run(world, tmp_path / "whole", *more, stages=stages)
    (whole,) = (tmp_path / "whole" / "outputs").iterdir()
    assert (folder / "samples_rl.jsonl").read_bytes() == (whole / "samples_rl.jsonl").read_bytes()
    tables = [read_run(offline_folders(tmp_path / name)[-1]).table("samples/rl") for name in ("killed", "whole")]
    assert tables[0] == tables[1]
    assert len(tables[0]) == 32


def test_outputs_name_the_digests_of_what_they_were_made_from(job):
    root, own = job
    digests = {stage: artifact_of(root, stage).digest for stage in ("sft", "dpo", "reward_model", "rl")}
    by_kind = {name.rpartition("-")[0]: output["metadata"] for name, output in own.artifacts.items()}
    assert {stage: by_kind[stage]["digest"] for stage in digests} == digests
    policy, reward_model = by_kind["rl"]["inputs"], by_kind["reward_model"]["inputs"]
    assert policy["student"] == digests["dpo"]
    assert policy["reward_model"] == digests["reward_model"]
    assert policy["labels"] == by_kind["labels"]["digest"] == by_kind["pairs"]["inputs"]["labels"]
    assert reward_model["pairs"] == by_kind["pairs"]["digest"]
    assert reward_model["student"] == by_kind["dpo"]["inputs"]["student"] == digests["sft"]
    assert by_kind["labels"]["inputs"] == {
        "teacher_first_training": artifact_of(root, "teacher_first_training").digest,
    }


def test_a_stage_left_out_has_no_files(job):
    _, own = job
    (output,) = (output for name, output in own.artifacts.items() if name.startswith("dpo-"))
    assert (output["files"], output["metadata"]["is_left_out"]) == ([], True)


def test_a_reused_stage_has_the_curve_of_the_job_that_trained_it(world, job, tmp_path):
    root, fresh = job
    shutil.copytree(root / "artifacts", tmp_path / "artifacts")
    run(world, tmp_path)
    reused = read_run(offline_folders(tmp_path)[0])
    for stage in ("sft", "reward_model", "rl"):
        assert reused.curve(stage) == fresh.curve(stage)
    assert reused.axes == fresh.axes
    assert reused.artifacts == fresh.artifacts
    assert reused.table("samples/rl") == fresh.table("samples/rl")
    (own,), (before,) = ((folder / "outputs").glob("*/samples_rl.jsonl") for folder in (tmp_path, root))
    assert own.read_bytes() == before.read_bytes()


@pytest.mark.slow
def test_a_stage_that_was_trained_untracked_has_its_curve_where_it_is_reused(world, job, tmp_path):
    run(world, tmp_path, "tracking=none")
    assert offline_folders(tmp_path) == []
    shutil.rmtree(tmp_path / "outputs")
    run(world, tmp_path)
    assert read_run(offline_folders(tmp_path)[0]).curve("sft") == job[1].curve("sft")


def test_a_stage_of_a_time_before_curves_were_kept_is_told(world, job, tmp_path, capsys):
    root, _ = job
    shutil.copytree(root / "artifacts", tmp_path / "artifacts")
    for manifest in (tmp_path / "artifacts" / "sft").glob("*/manifest.json"):
        content = json.loads(manifest.read_text())
        del content["files"][CURVES_FILE]
        manifest.write_text(json.dumps(content))
        (manifest.parent / CURVES_FILE).unlink()
    run(world, tmp_path, "tracking=csv")
    assert "sft was made before its curves were kept" in capsys.readouterr().out


def test_a_finished_job_opens_no_run(world, job):
    root, _ = job
    run(world, root)
    assert len(offline_folders(root)) == 1


def test_a_failed_job_ends_its_run_with_what_it_made(world, tmp_path):
    with pytest.raises(JobError, match="there is no pair"):
        run(world, tmp_path, f"student.name_or_path={world / 'teacher'}")
    own = read_run(offline_folders(tmp_path)[0])
    assert own.exit_code == 1
    assert "there is no pair" in own.summary["failure"]
    assert own.curve("sft")
    assert any(name.startswith("sft-") for name in own.artifacts)


def test_the_config_of_a_run_names_variables_and_not_their_values(world, tmp_path, monkeypatch):
    monkeypatch.setenv("RKD_TEST_STORE", str(tmp_path / "hush"))
    named = "${oc.env:RKD_TEST_STORE}"
    run(world, tmp_path, f"artifacts.root={named}", "experiments=icl", stages=[])
    assert (tmp_path / "hush" / "evaluation").is_dir()
    assert read_run(offline_folders(tmp_path)[0]).config["artifacts"]["root"] == named
    assert read_result(next((tmp_path / "outputs").iterdir())).config["artifacts"]["root"] == named


def test_digests_are_found_wherever_they_stand_in_a_fingerprint():
    digests = ["0" * 16, "1" * 16, "a" * 16]
    fingerprint = {
        "student": {"_class_": "Checkpoint", "digest": digests[0]},
        "pairs": digests[1],
        "validation": {"labels": digests[2], "max_response_tokens": 16},
        "stage": {"learning_rate": 0.1},
    }
    assert input_digests(fingerprint) == {"student": digests[0], "pairs": digests[1], "validation/labels": digests[2]}


def test_of_many_samples_some_are_shown_the_same_each_time_and_not_one_index_alone():
    samples = [(query, index) for query in range(5 * SAMPLES_LOGGED) for index in range(10)]
    shown = thinned(samples)
    assert len(shown) == SAMPLES_LOGGED
    assert shown == sorted(shown) == thinned(samples)
    assert {index for _, index in shown} == set(range(10))
    assert thinned(samples[:3]) == samples[:3]
