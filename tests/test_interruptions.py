"""A job that is killed at random moments of its stages ends as one that was left alone (see `interruptions`)."""

import pytest
import tiny_world
from interruptions import kill_again_and_again

STAGES = {"teacher_first_training", "sft", "student_samples_training", "reward_model", "rl", "evaluation"}


@pytest.mark.slow
def test_a_job_that_is_killed_at_random_moments_ends_like_one_that_was_left_alone(tmp_path):
    struck = kill_again_and_again(tiny_world.make_world(tmp_path / "world"), tmp_path, kills=20, seed=0)
    assert sum(struck.stages.values()) == 20
    assert struck.resumed
    assert struck.unequal == []
    assert len(STAGES & set(struck.stages)) >= 5
