"""A job that is killed at random moments of its stages ends as one that was left alone (see `interruptions`)."""

import pytest

from tests.interruptions import kill_again_and_again
from tests.support import tiny_world

STAGES = {"teacher_first_training", "sft", "student_samples_training", "reward_model", "rl", "evaluation"}


@pytest.mark.slow
def test_a_job_that_is_killed_at_random_moments_ends_like_one_that_was_left_alone(tmp_path):
    kinds: set[str] = set()
    for seed in range(3):  # which stages are struck is a matter of timing: further rounds where it was too few
        root = tmp_path / str(seed)
        root.mkdir()
        struck = kill_again_and_again(tiny_world.make_world(root / "world"), root, kills=20, seed=seed)
        assert sum(struck.stages.values()) == 20
        assert struck.resumed
        assert struck.unequal == []
        kinds |= STAGES & set(struck.stages)
        if len(kinds) >= 5:
            break
    assert len(kinds) >= 5
