"""An open-ended task as a whole job: grades instead of labels, Eq. 11, and win rates against references."""

import io
from contextlib import redirect_stdout

import pytest

from rkd.errors import JobError
from rkd.evaluation.results import read_result
from rkd.jobs.job import run_job
from rkd.jobs.run_log import summary_of
from rkd.pipeline.pipeline import build_stages
from rkd.reporting.job_summary import OWN, summarize
from rkd.reporting.report import final_table_markdown
from tests.support.tiny_grader import OPEN
from tests.support.tiny_world import composed, overrides


def run(world, root, *more: str) -> str:
    seen = io.StringIO()
    with redirect_stdout(seen):
        own = [*overrides(world, root), *OPEN, f"evaluation.annotator.name_or_path={world / 'teacher'}", *more]
        run_job(composed(own))
    return seen.getvalue()


@pytest.fixture(scope="module")
def job(world, tmp_path_factory):
    root = tmp_path_factory.mktemp("open")
    return run(world, root), read_result(next((root / "outputs").glob("*/result.json")))


def test_a_whole_job_is_graded_trained_and_compared(job):
    seen, result = job
    assert {model.role for model in result.models} >= {"teacher", "SFT student", "Ours"}
    for model in result.models:
        test = model.test_sets["svamp"]
        assert test.win_rate.rubric is not None
        assert all(0 <= outcome <= 1 for outcome in test.outcomes)
        assert (test.pass_at_8, test.maj_at_8) == (None, None)
    teacher, student = result.notes.grades["teacher_training"], result.notes.grades["student_samples_training"]
    assert teacher.mean > student.mean
    assert student.exact == 1
    assert student.unreadable > 0
    assert f"{student.unreadable} of " in seen
    assert result.notes.labels is None
    assert result.notes.counts["training_pairs"] > 0
    assert result.notes.counts["sft/best_validation"] <= 1
    rewarded = result.notes.histories["rl"]
    assert all(row["reward"] > -5 for row in rewarded if "reward" in row)


def test_a_result_with_win_rates_is_tabulated_and_summarized(job):
    _, result = job
    shown = summary_of(result)
    own_rate = result.models[-1].test_sets["svamp"].win_rate
    assert shown["test/svamp/win_rate/length_controlled"] == own_rate.length_controlled
    table = final_table_markdown(result)
    assert "win rate in %" in table
    assert "sign test: p = " in table
    assert "pass@8" not in table
    summary = summarize(result, "job", {})
    own = summary.models[OWN]["svamp"]
    assert own.n == len(result.models[-1].test_sets["svamp"].outcomes)
    assert own.accuracy == pytest.approx(result.models[-1].test_sets["svamp"].accuracy, abs=1e-3)
    assert own.win_rate.length_controlled == result.models[-1].test_sets["svamp"].win_rate.length_controlled
    assert summary.values["grades.teacher_training.unreadable"] == result.notes.grades["teacher_training"].unreadable


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["evaluation/annotator=none"], "evaluation/annotator=none compares none"),
        (["labels=vote"], "there is no answer to vote on"),
        (["reward_mix=label"], "comparison of answers"),
        (["evaluation.difficulty=nowhere.csv"], r"nowhere\.csv"),
        (["pairs.best_score=1"], "pairs.best_score=1: with these labels the highest score is 5"),
    ],
)
def test_what_does_not_go_with_an_open_ended_task_is_refused_at_once(world, tmp_path, more, reason):
    own = [*overrides(world, tmp_path), *OPEN, f"evaluation.annotator.name_or_path={world / 'teacher'}", *more]
    if "evaluation/annotator=none" in more:
        own = [one for one in own if not one.startswith("evaluation.annotator.") and one != "evaluation/annotator=hf"]
    with pytest.raises(JobError, match=reason):
        run_job(composed(own))
    assert not (tmp_path / "artifacts").exists()


def test_a_function_of_yours_can_reward_open_ended_responses(world, tmp_path):
    own = ["reward_mix=own", "reward_mix.verifiable.function.path=rkd.mini.open.rubric_reward"]
    mix = build_stages(
        composed([*overrides(world, tmp_path), *OPEN, f"evaluation.annotator.name_or_path={world / 'teacher'}", *own])
    ).reward_mix
    assert list(mix.used) == ["verifiable"]


def test_grades_without_a_judge_are_refused(world, tmp_path):
    with pytest.raises(JobError, match="takes grades of a judge"):
        run_job(composed([*overrides(world, tmp_path), "labels=rubric_judge"]))
