"""The rows of the controls that change the reward alone: each is a job of its own kind in the tiny world."""

import json
import shutil
from pathlib import Path

import pytest

from rkd.evaluation.results import read_result
from tests.support.jobs import ROLES, fingerprint_of, only_result, run
from tests.support.tiny_world import RL_SETTINGS, SFT_SETTINGS

# The components of the reward besides their sum, by row.
CONTROLS = {
    "student_vote": {"vote"},
    "confidence": {"confidence"},
    "coin": {"coin"},
    "contradiction": {"verifiable"},
    "noise_corrected": {"verifiable", "corrected"},
}


@pytest.fixture(scope="module")
def rows(world, finished, tmp_path_factory) -> dict[str, Path]:
    """The folders of the rows' jobs, in the store of `finished`, and of one whose teacher errs."""
    root = tmp_path_factory.mktemp("controls")
    shutil.copytree(finished[0], root, dirs_exist_ok=True)
    jobs = {row: [f"experiments={row}"] for row in CONTROLS}
    jobs["a teacher that errs"] = ["experiments=noise_corrected", f"teacher.name_or_path={world / 'student'}"]
    folders = {}
    for name, chosen in jobs.items():
        before = set((root / "outputs").iterdir())
        run(world, root, *chosen, stages=[*SFT_SETTINGS, *RL_SETTINGS])
        (folders[name],) = set((root / "outputs").iterdir()) - before
    return folders


@pytest.mark.parametrize(("row", "components"), CONTROLS.items())
def test_a_control_trains_the_student_of_ours_on_as_many_responses_under_its_own_reward(
    rows, finished, row, components
):
    (ours, folder), result = only_result(finished[0]), read_result(rows[row])
    assert [model.role for model in result.models] == [*ROLES[:4], result.row]
    assert result.notes.counts["rl/episodes"] == ours.notes.counts["rl/episodes"]
    assert fingerprint_of(rows[row], "sft") == fingerprint_of(folder, "sft")
    assert result.notes.reward_model == {}
    (label,) = (name for name in json.loads((rows[row] / "artifacts.json").read_text()) if name.startswith("rl/"))
    (sample, *_) = (rows[row].parents[1] / "artifacts" / label / "samples.jsonl").read_text("utf-8").splitlines()
    assert json.loads(sample)["parts"].keys() - {"kl_penalty"} == components


def test_the_rates_of_a_corrected_label_come_of_the_votes_and_decide_the_training(rows):
    for row, is_zero in (("noise_corrected", True), ("a teacher that errs", False)):
        counts, fingerprint = read_result(rows[row]).notes.counts, fingerprint_of(rows[row], "rl")
        rates = [counts[f"label_noise/{name}"] for name in ("false_positive", "false_negative")]
        assert rates == [fingerprint["noise"][name] for name in ("false_positive", "false_negative")]
        assert (rates == [0, 0]) is is_zero
    assert "noise" not in fingerprint_of(rows["coin"], "rl")
