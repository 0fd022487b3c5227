"""The sweeper: in what order jobs run, and how many the launcher gets at once."""

from pathlib import Path

import pytest

from rkd.jobs.sweeper import Job, UnionSweeper, shared_first


def job(name: str, **choices: str) -> Job:
    return Job((name,), Path(name), {"sft": "mini", "reward_model": "none", "rl": "none", **choices})


class RecordingLauncher:
    """Keeps what it is given, and returns the names of the jobs."""

    def __init__(self) -> None:
        self.given: list[tuple[int, list[str]]] = []

    def launch(self, overrides, initial_job_idx):
        names = [name for (name,) in overrides]
        self.given.append((initial_job_idx, names))
        return names


def test_jobs_that_others_share_most_with_come_first():
    ours, without_r = job("ours", reward_model="mini", rl="mini", seed="0"), job("wo_r", seed="0")
    second = job("wo_r_1", seed="1")
    other_teacher = job("other", teacher="small", seed="0")
    # The cheapest for each teacher, then the second SFT student, then the reward model of the first.
    assert shared_first([ours, without_r, second, other_teacher]) == [without_r, other_teacher, second, ours]


@pytest.mark.parametrize(("size", "given"), [(None, [(0, ["a", "b", "c"])]), (2, [(0, ["a", "b"]), (2, ["c"])])])
def test_the_launcher_gets_no_more_jobs_at_once_than_a_batch_has(size, given):
    sweeper = UnionSweeper(max_batch_size=size)
    sweeper.launcher = RecordingLauncher()
    assert sweeper._launch([job(name) for name in "abc"]) == ["a", "b", "c"]
    assert sweeper.launcher.given == given
