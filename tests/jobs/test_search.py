"""Searches: what trials are run, what a study keeps, and what the best setting is written as."""

from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException

from rkd.errors import JobError
from rkd.jobs.search import Search

SPACE = {"rate": {"low": 0.0, "high": 1.0}, "kind": ["a", "b"]}


class ScriptedLauncher:
    """Jobs of which `kind=b` and a rate near 0.3 are better; keeps their overrides, is cut off at job `interrupted`."""

    def __init__(self, *, interrupted: int | None = None, failing: int | None = None) -> None:
        self.interrupted, self.failing = interrupted, failing
        self.jobs: list[tuple[str, ...]] = []

    def launch(self, job_overrides, initial_job_idx):
        return [self._run(overrides, initial_job_idx + i) for i, overrides in enumerate(job_overrides)]

    def _run(self, overrides, number):
        if number == self.interrupted:
            raise KeyboardInterrupt
        self.jobs.append(overrides)
        values = dict(one.split("=") for one in overrides)
        if number == self.failing:
            return JobReturn(status=JobStatus.FAILED)
        returned = JobReturn(status=JobStatus.COMPLETED)
        returned.return_value = 0.5 * (values["kind"] == "b") + 0.5 - abs(float(values["rate"]) - 0.3)
        return returned


def go_on(search: Search, folder: Path, launcher: ScriptedLauncher) -> float:
    pytest.importorskip("optuna", reason="optional: pip install -r requirements-optuna.txt")
    return search._go_on(folder, SPACE, ["seed=0"], launcher)


def test_a_search_finds_the_better_setting_and_writes_it_as_overrides(tmp_path):
    launcher = ScriptedLauncher()
    best = go_on(Search(space=SPACE, trials=30, folder=""), tmp_path, launcher)
    # Of kind b at most 1, of kind a at most a half.
    assert best > 0.8
    rate, kind = (tmp_path / "best.txt").read_text().split()
    assert kind == "kind=b"
    assert abs(float(rate.removeprefix("rate=")) - 0.3) < 0.2
    assert len(launcher.jobs) == 30
    assert all(job[0] == "seed=0" for job in launcher.jobs)


def test_an_interrupted_search_goes_on_with_the_trial_that_was_cut_off(tmp_path):
    search = Search(space=SPACE, trials=5, folder="")
    first, second, whole = ScriptedLauncher(interrupted=3), ScriptedLauncher(), ScriptedLauncher()
    with pytest.raises(KeyboardInterrupt):
        go_on(search, tmp_path, first)
    go_on(search, tmp_path, second)
    (tmp_path / "whole").mkdir()
    go_on(search, tmp_path / "whole", whole)
    assert len(first.jobs) == 3
    assert len(second.jobs) == 2
    assert [*first.jobs, second.jobs[0]] == whole.jobs[:4]
    again = ScriptedLauncher()
    go_on(search, tmp_path, again)
    assert again.jobs == []


def test_a_trial_that_failed_is_told_of_and_run_first_by_the_next_command(tmp_path):
    search, first, second = Search(space=SPACE, trials=3, folder=""), ScriptedLauncher(failing=1), ScriptedLauncher()
    with pytest.raises(JobError, match="1 of 3 trials failed"):
        go_on(search, tmp_path, first)
    go_on(search, tmp_path, second)
    assert second.jobs == [first.jobs[1]]


def test_a_job_without_validation_accuracy_ends_the_search(tmp_path):
    class Testing(ScriptedLauncher):
        def _run(self, overrides, number):
            returned = super()._run(overrides, number)
            returned.return_value = None
            return returned

    with pytest.raises(HydraException, match="search over a row that trains its student"):
        go_on(Search(space=SPACE, trials=3, folder=""), tmp_path, Testing())


def test_trials_at_once_are_launched_together(tmp_path):
    launched = []

    class Counting(ScriptedLauncher):
        def launch(self, job_overrides, initial_job_idx):
            launched.append(len(job_overrides))
            return super().launch(job_overrides, initial_job_idx)

    go_on(Search(space=SPACE, trials=5, folder="", trials_at_once=2), tmp_path, Counting())
    assert launched == [2, 2, 1]


def test_what_the_command_line_sets_is_not_searched():
    search = Search(space=SPACE, trials=1, folder="")
    assert search._open_space(["sweeps=search_rl", "rate=0.1"]) == {"kind": ["a", "b"]}
    with pytest.raises(HydraException, match="Nothing is left to search"):
        search._open_space(["rate=0.1", "kind=a"])
    with pytest.raises(HydraException, match="gives each trial one value"):
        search._open_space(["seed=0,1"])


@pytest.mark.parametrize("values", [{"low": 0.0}, {"low": 0.0, "high": 1.0, "step": 1}])
def test_a_range_that_is_none_is_refused_at_once(values):
    with pytest.raises(TypeError):
        Search(space={"rate": values}, trials=1, folder="")
