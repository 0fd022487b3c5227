"""Jobs that train their judge: on labels of the vote or on gold answers, and with it as the reward."""

import dataclasses
import json
import shutil

import pytest

from rkd.pipeline.pipeline import build_stages
from rkd.store.artifact_store import open_artifact
from tests.support import tiny_world
from tests.support.jobs import JUDGE_WORDS, failure, fingerprint_of, line_of, only_result, run
from tests.support.recorded_models import recorded_by_three
from tests.support.tiny_world import composed, overrides

JUDGE = ["judge=small_judge", "judge.held_out.model=mixed", "judge.teachers=[right,wrong]", *JUDGE_WORDS]
SETTINGS = ["judge.learning_rate=1e-2", "judge.batch_size=4", "judge.max_tokens=128"]
YON = ["experiments=yon", *JUDGE, *SETTINGS, "dataset.labelled_fraction=0.5"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> str:
    """Where the responses of three models to the questions are."""
    return f"judge.held_out.path={recorded_by_three(tmp_path_factory.mktemp('recorded'))}"


def stages_of(*more: str) -> list[str]:
    """The stages of a row that needs no reward model."""
    return [*tiny_world.SFT_SETTINGS, *tiny_world.RL_SETTINGS, *more]


def test_a_judge_is_trained_on_labelled_questions_tested_on_others_and_rewards(world, recorded, tmp_path):
    _, seen = run(world, tmp_path, recorded, stages=stages_of(*YON))
    result, folder = only_result(tmp_path)
    made = [line.split()[1] for line in seen.splitlines() if "✓" in line]
    assert made.index("judge") < made.index("judge_training") < made.index("sft") < made.index("judge_held_out")
    # 36 of 40 questions are for training, and half of them have a label: 18, each with a right and a wrong response.
    counts = result.notes.counts
    assert (counts["judge/verdicts"], counts["judge/share_yes"], counts["judge/validation_verdicts"]) == (36, 0.5, 8)
    # Four validation questions: one response of the recorded model to each, and 8 samples of the student.
    tests = result.notes.judge_tests
    assert {name: sum(dataclasses.astuple(own.verdicts)) for name, own in tests.items()} == {
        "held_out": 4,
        "student": 32,
    }
    # The judge that rewards, and that is measured, is the one that was trained.
    (label,) = (one for one in json.loads((folder / "artifacts.json").read_text()) if one.startswith("judge/"))
    trained = open_artifact(tmp_path / "artifacts" / label)
    asked = {
        stage: fingerprint_of(folder, stage)["judge"]["model"] for stage in ("judge_training", "judge_held_out", "rl")
    }
    assert len({json.dumps(own, sort_keys=True) for own in asked.values()}) == 1
    start = trained.manifest["fingerprint"]["student"]
    assert asked["rl"] != start

    _, again = run(world, tmp_path, recorded, "rl.optimisation.learning_rate=2e-3", stages=stages_of(*YON))
    assert "reused" in line_of(again, "judge")
    # Only the labels count: those of a teacher that is always right make the same judge, those of another do not.
    for teacher, found in (("teacher", "reused"), ("student", "made in")):
        vote = ["labels=vote", f"teacher.name_or_path={world / teacher}"]
        _, voted = run(world, tmp_path, recorded, *vote, stages=stages_of(*YON))
        assert found in line_of(voted, "judge")


def test_a_row_that_trains_nothing_else_trains_and_measures_the_judge(world, recorded, tmp_path):
    run(world, tmp_path, recorded, *JUDGE, *SETTINGS, stages=["sft=none", "reward_model=none", "rl=none"])
    result, _ = only_result(tmp_path)
    assert set(result.notes.judge_tests) == {"held_out", "student"}
    assert result.notes.judge.attacked_queries == 36
    assert result.notes.histories["judge"]


def test_a_dry_pass_trains_the_judge_and_a_dry_run_counts_its_work(world, recorded, tmp_path):
    more = [recorded, "trainer.fast_dev_run=true"]
    run(world, tmp_path / "pass", *more, stages=stages_of(*YON))
    assert only_result(tmp_path / "pass")[0].notes.counts["judge/steps"] == 1
    _, seen = run(world, tmp_path / "run", recorded, "dry_run=true", stages=stages_of(*YON))
    assert [line for line in seen.splitlines() if line.strip().startswith("judge  ") and "verdicts, 1 epoch" in line]


def test_a_judge_without_responses_to_validation_questions_keeps_its_last_weights_and_is_not_tested(
    world, recorded, tmp_path
):
    own = tmp_path / "recorded"
    shutil.copytree(recorded.partition("=")[2], own)
    asked = build_stages(composed(overrides(world, tmp_path))).dataset.validation_queries()
    (file,) = own.iterdir()
    rows = map(json.loads, file.read_text().splitlines())
    left = [row for row in rows if row["question"] not in {query.question for query in asked}]
    file.write_text("".join(json.dumps(row) + "\n" for row in left))
    _, seen = run(world, tmp_path, f"judge.held_out.path={own}", stages=stages_of(*YON))
    result, _ = only_result(tmp_path)
    assert result.notes.counts["judge/validation_verdicts"] == 0
    assert set(result.notes.judge_tests) == {"student"}
    assert "the judge is not tested on responses of mixed: there are none to the validation questions" in " ".join(
        seen.split()
    )


def test_a_teacher_whose_texts_are_not_taught_gives_a_judge_nothing_to_judge(world, recorded, tmp_path):
    folder = recorded.partition("=")[2]
    teacher = ["teacher=recorded", "teacher.model=right", f"teacher.path={folder}", "teacher.exact_answers=false"]
    votes = ["teacher.voters=[chain_of_thought]", "teacher.taught=[]", "teacher.tested=chain_of_thought"]
    stages = ["sft=none", "reward_model=none", "rl=none"]
    run(
        world, tmp_path, *teacher, *votes, recorded, *JUDGE, *SETTINGS, stages=stages,
        without=("teacher.", "teacher_samples.", "labels"),
    )  # fmt: skip
    result, _ = only_result(tmp_path)
    assert result.notes.labels.precision == 1
    assert (sum(dataclasses.astuple(result.notes.judge.verdicts)), result.notes.judge.attacked_queries) == (0, 36)


def test_it_is_refused_where_there_are_no_labels_or_no_responses(world, recorded, tmp_path):
    elsewhere = failure(world, tmp_path, f"judge.held_out.path={tmp_path}", stages=stages_of(*YON))
    assert "judge.held_out" in elsewhere
    assert "holds no recorded answers" in elsewhere
    graded = failure(world, tmp_path, recorded, *JUDGE, "labels=rubric_judge")
    assert "judge=small_judge learns from labels, and labels=rubric_judge makes none" in graded
