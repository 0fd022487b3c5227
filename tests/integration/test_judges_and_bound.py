"""Jobs that ask a judge about stored responses or measure the bound on the reward."""

import dataclasses

import pytest

from rkd.evaluation.results import read_result
from rkd.judges.attacks import KINDS
from tests.support.jobs import JUDGE_WORDS, run
from tests.support.tiny_world import RL_SETTINGS, SFT_SETTINGS


def test_a_judge_is_asked_about_the_first_pass_and_trains_nobody(world, same_store):
    _, seen = run(world, same_store, "judge=hf", f"judge.name_or_path={world / 'teacher'}", *JUDGE_WORDS)
    made = [line for line in seen.splitlines() if "✓" in line and "reused" not in line]
    assert [line.split()[1] for line in made] == ["judge_training", "judge_attacks"]
    (judged,) = [r for r in map(read_result, (same_store / "outputs").iterdir()) if r.notes.judge is not None]
    counts = judged.notes.judge.verdicts
    assert counts.without_verdict == 0
    verdicts = judged.notes.verdicts
    right = verdicts.right_called_right + verdicts.right_called_wrong
    assert counts.right_called_right + counts.right_called_wrong >= right  # those without a label are judged, too
    assert 0 <= judged.notes.judge.mean_yes_no_mass <= 1
    assert set(judged.notes.judge.attacks_accepted) == set(KINDS)
    assert sum(one.count for one in judged.notes.judge.reliability.values()) == sum(dataclasses.astuple(counts))


def test_a_row_that_trains_nothing_labels_its_training_queries_for_a_judge_alone(world, same_store):
    judge, nothing = ["judge=hf", f"judge.name_or_path={world / 'teacher'}", *JUDGE_WORDS], ["sft=none", "rl=none"]
    for more, asked in ((judge, True), ([], False)):
        _, seen = run(world, same_store, *more, stages=[*nothing, "reward_model=none"])
        made = {line.split()[1] for line in seen.splitlines() if "✓" in line}
        assert ({"teacher_first_training", "judge_training", "judge_attacks"} <= made) == asked
        assert not any("validation" in name for name in made)


@pytest.mark.parametrize(("judge", "has_mass"), [("student", True), ("likelihood", False), ("written", False)])
def test_other_judges_are_asked_about_the_same_responses(world, same_store, judge, has_mass):
    words = JUDGE_WORDS if judge == "student" else []
    run(world, same_store, f"judge={judge}", *words, stages=["sft=none", "reward_model=none", "rl=none"])
    (judged,) = [r for r in map(read_result, (same_store / "outputs").iterdir()) if r.notes.judge is not None]
    assert (judged.notes.judge.mean_yes_no_mass is not None) == has_mass
    unreadable = judged.notes.judge.verdicts.without_verdict
    scored = sum(one.count for one in judged.notes.judge.reliability.values())
    assert scored + unreadable == sum(dataclasses.astuple(judged.notes.judge.verdicts))
    assert unreadable == 0 or judge == "written"  # of random weights


def test_the_expected_score_of_a_written_grade_is_measured_and_rewards(world, same_store):
    read = "judge.read_reply.path=tests.support.tiny_grader.read_answer"
    judge = [f"judge.name_or_path={world / 'student'}", read, "judge.max_reply_tokens=16"]  # it says one or two
    asked = ["judge.prompt.template='Q: {question}\\n<response>{response}</response>\\nA:'"]
    results = {}
    for row, stages in (("expected_score", []), ("expected_score_reward", [*SFT_SETTINGS, *RL_SETTINGS])):
        before = set((same_store / "outputs").iterdir())
        run(world, same_store, f"experiments={row}", *judge, *asked, stages=stages)
        (folder,) = set((same_store / "outputs").iterdir()) - before
        results[row] = read_result(folder)
    quality = results["expected_score"].notes.judge
    assert quality.verdicts.without_verdict == 0
    # Grades are fifths: the mean of 1/5 and 2/5 by their probabilities is between them.
    scores = [one.mean_score for one in quality.reliability.values() if one.count]
    assert all(0.2 < score < 0.4 for score in scores)
    assert results["expected_score_reward"].notes.counts["rl/episodes"] > 0


def test_the_bound_is_measured_on_samples_of_both_policies(world, same_store):
    _, seen = run(
        world,
        same_store,
        "evaluation/bound=sampled",
        "evaluation.bound.samples_per_query=2",
        "evaluation.bound.max_response_tokens=16",
    )
    made = [line.split()[1] for line in seen.splitlines() if "✓" in line and "reused" not in line]
    assert made == ["bound_samples_sft", "bound_samples_rl"]
    (measured,) = [r for r in map(read_result, (same_store / "outputs").iterdir()) if r.notes.bound]
    assert set(measured.notes.bound) == {"label", "learned"}
    assert measured.notes.bound["label"].true_gain == measured.notes.bound["learned"].true_gain
    assert measured.costs["bound_samples_rl"]["tokens"] > 0
