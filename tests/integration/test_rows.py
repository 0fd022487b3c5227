"""Rows of the table: the models each is tested beside, and what each stage was made from."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rkd.evaluation.results import read_result
from rkd.store.artifact_store import open_artifact
from tests.support.jobs import JUDGE_WORDS, ROLES, fingerprint_of, only_result, pairs_of, run, weights
from tests.support.tiny_world import REWARD_MODEL_SETTINGS as REWARD_MODEL
from tests.support.tiny_world import RL_SETTINGS as RL
from tests.support.tiny_world import SFT_SETTINGS as SFT

VERIFIER = ["reward_model.epochs=1", "reward_model.prompt.yes_word=' 1'", "reward_model.prompt.no_word=' 2'"]
GKD = ["rl.epochs=1", "rl.learning_rate=1e-3", "rl.rollouts.max_response_tokens=16"]
REJECTION = ["rl.rollouts.episodes=96", "rl.rollouts.responses_per_query=4", "rl.rollouts.max_response_tokens=16"]


@pytest.fixture(scope="module")
def rows(world, finished, tmp_path_factory) -> dict[str, Path]:
    """Rows of the table in the store of `finished`: the folders of their jobs."""
    root = tmp_path_factory.mktemp("rows")
    shutil.copytree(finished[0], root, dirs_exist_ok=True)
    errs = [f"teacher.name_or_path={world / 'student'}", "labels.threshold=0.1"]  # a teacher that is right and wrong
    dpo = ["dpo.epochs=1", "dpo.learning_rate=1e-3", "dpo.validations_per_epoch=2"]
    judge = [f"judge.name_or_path={world / 'teacher'}", *JUDGE_WORDS]
    by_judge = ["reward_mix=judge", "reward_mix.judge.queries=all", "judge=hf", *judge]
    jobs = {
        "dpo": [*SFT, *dpo],
        "ours_wo_d": [*SFT, *REWARD_MODEL, *RL],
        "orm_s": [*SFT, *REWARD_MODEL, *RL],
        "orm_t": [*SFT, *REWARD_MODEL, *RL, *errs],
        "best_of_n": [*SFT, *REWARD_MODEL, "evaluation.inference.samples_per_query=4"],
        "noisy_labels": [*SFT, *REWARD_MODEL, *RL, "labels.noise=0.4"],
        "on_policy_distillation": [*SFT, *RL],
        "ours_refreshed": [*SFT, *REWARD_MODEL, *RL, "reward_mix.learned.refresh.every_rollouts=1"],
        "gkd": [*SFT, *GKD],
        "generative_verifier": [*SFT, *VERIFIER, *RL],
        "rejection_sampling": [*SFT, *REJECTION],
        "rejection_sampling_rounds": [*SFT, *REJECTION, *by_judge],
        "judge_reward": [*SFT, *RL, *judge],
    }
    folders = {}
    for row, stages in jobs.items():
        before = set((root / "outputs").iterdir())
        run(world, root, f"experiments={row}", stages=stages)
        (folders[row],) = set((root / "outputs").iterdir()) - before
    return folders


@pytest.mark.parametrize(
    "row",
    [
        "dpo", "ours_wo_d", "orm_s", "orm_t", "best_of_n", "noisy_labels", "judge_reward", "on_policy_distillation",
        "rejection_sampling", "rejection_sampling_rounds", "generative_verifier", "gkd", "ours_refreshed",
    ],
)  # fmt: skip
def test_each_row_is_tested_beside_the_models_it_comes_of(rows, row):
    result = read_result(rows[row])
    assert result.failure is None
    assert [model.role for model in result.models] == [*ROLES[:4], result.row]
    assert result.models[-1].test_sets["svamp"].n == 12


def test_dpo_starts_from_the_sft_student_and_is_the_rows_model(rows, finished):
    result, ours = read_result(rows["dpo"]), only_result(finished[0])
    assert fingerprint_of(rows["dpo"], "dpo")["student"] == fingerprint_of(ours[1], "reward_model")["student"]
    assert (
        result.notes.counts["dpo/pairs"]
        == result.notes.counts["training_pairs"]
        == ours[0].notes.counts["training_pairs"]
    )
    # The start, and two validations of one epoch.
    assert [row["share"] for row in result.notes.histories["dpo"]][::2] == [0.0, 1.0]
    assert len(result.notes.histories["dpo"]) == 3
    assert result.notes.reward_model == {}


def test_without_warm_up_the_policy_alone_starts_from_the_untuned_student(rows, finished):
    ours, untuned = only_result(finished[0])[1], rows["ours_wo_d"]
    a, b = fingerprint_of(ours, "rl"), fingerprint_of(untuned, "rl")
    assert {name for name in a if a[name] != b[name]} == {"student"}
    assert b["student"] == fingerprint_of(ours, "sft")["student"]


def test_outcome_reward_models_learn_right_and_wrong_responses_of_one_source(rows):
    for row, source in (("orm_t", "teacher"), ("orm_s", "student")):
        pairs = pairs_of(rows[row])
        assert {pair[f"{side}_generator"] for pair in pairs for side in ("chosen", "rejected")} == {source}
        assert {(pair["chosen_score"], pair["rejected_score"]) for pair in pairs} == {(1.0, 0.0)}
        assert fingerprint_of(rows[row], "reward_model")["stage"]["preference_weight"] == 0.0


def test_every_reward_model_is_judged_by_the_same_pairs(rows, finished):
    ours, folder = only_result(finished[0])
    used = [fingerprint_of(rows[row], "reward_model") for row in ("orm_s", "ours_wo_d", "best_of_n")]
    assert {fingerprint["validation_pairs"] for fingerprint in used} == {
        fingerprint_of(folder, "reward_model")["validation_pairs"]
    }
    kinds = {"pos_neg_accuracy", "student_pos_neg_accuracy", "pos_pos_accuracy"} & ours.notes.reward_model.keys()
    assert "student_pos_neg_accuracy" in kinds
    assert all(0 <= ours.notes.reward_model[name] <= 1 for name in kinds)
    assert ours.notes.counts["reward_model/validation_pairs_of/pair_accuracy"] == ours.notes.counts["validation_pairs"]
    history = ours.notes.histories["reward_model"]
    assert ours.notes.reward_model in [{name: row[name] for name in ours.notes.reward_model} for row in history]


def test_the_best_of_n_asks_the_reward_model_of_ours_and_trains_no_policy(rows, finished):
    result, ours = read_result(rows["best_of_n"]), only_result(finished[0])[1]
    assert fingerprint_of(rows["best_of_n"], "reward_model") == fingerprint_of(ours, "reward_model")
    assert "rl/episodes" not in result.notes.counts or result.notes.counts["rl/episodes"] == 0
    assert result.models[-1].test_sets["svamp"].pass_at_8 is None


def test_the_judges_verdict_can_be_the_reward_without_a_reward_model(rows):
    result = read_result(rows["judge_reward"])
    assert result.notes.judge is not None
    assert result.notes.reward_model == {}
    assert result.notes.counts["rl/episodes"] > 0


def test_on_policy_distillation_reads_the_teacher_and_trains_no_other_model(rows):
    folder = rows["on_policy_distillation"]
    result = read_result(folder)
    assert fingerprint_of(folder, "rl")["teacher"] == fingerprint_of(folder, "teacher_first_training")["model"]
    assert result.notes.counts["all_queries"] == result.notes.counts["training_queries"]
    assert result.notes.reward_model == {}


def test_rejection_sampling_teaches_what_the_label_accepts_once_beside_the_teachers_responses(rows):
    folder = rows["rejection_sampling"]
    counts, made = read_result(folder).notes.counts, fingerprint_of(folder, "rejection")
    assert counts["rejection/sampled"] == 96
    assert 0 < counts["rejection/accepted"] < 96  # the student guesses
    # Right responses of the tiny world have one text, which the teacher's have: trained anew, as SFT was.
    assert counts["rejection/examples"] == counts["sft_examples"]
    assert made == fingerprint_of(folder, "sft")
    assert fingerprint_of(folder, "rejection_samples")["student"] != made["student"]


def test_a_refreshed_reward_model_starts_as_that_of_ours_and_learns_from_rollouts(rows, finished):
    folder, ours = rows["ours_refreshed"], only_result(finished[0])[1]
    a, b = fingerprint_of(folder, "rl"), fingerprint_of(ours, "rl")
    assert {name for name in a if a[name] != b[name]} == {"reward_mix"}
    (label,) = (one for one in json.loads((folder / "artifacts.json").read_text()) if one.startswith("rl/"))
    rows_of_rl = (folder.parents[1] / "artifacts" / label / "history.jsonl").read_text(encoding="utf-8").splitlines()
    rollouts = [row for row in map(json.loads, rows_of_rl) if "reward" in row]
    assert len(rollouts) == 2
    assert all(row["refresh/pairs"] > 0 for row in rollouts)


def test_gkd_learns_the_responses_of_sft_from_the_teachers_probabilities(rows):
    folder = rows["gkd"]
    counts, made = read_result(folder).notes.counts, fingerprint_of(folder, "rl")
    assert counts["rl/examples"] == counts["sft_examples"]
    assert made["examples"] == fingerprint_of(folder, "sft")["examples"]
    assert made["teacher"] == fingerprint_of(folder, "teacher_first_training")["model"]
    assert counts["rl/best_validation"] >= counts["sft/best_validation"]  # it starts from the SFT student


def test_a_generative_verifier_learns_the_pairs_of_ours_and_takes_the_place_of_r(rows, finished):
    folder, (ours, ours_folder) = rows["generative_verifier"], only_result(finished[0])
    made, of_ours = (fingerprint_of(one, "reward_model") for one in (folder, ours_folder))
    assert {name for name in made if made[name] != of_ours[name]} == {"stage"}
    counts = read_result(folder).notes.counts
    assert counts["reward_model/validation_pairs_of/pair_accuracy"] == ours.notes.counts["validation_pairs"]
    assert counts["reward_model/verdicts"] > 0
    assert counts["rl/episodes"] == ours.notes.counts["rl/episodes"]
    a, b = (fingerprint_of(one, "rl") for one in (folder, ours_folder))
    assert {name for name in a if a[name] != b[name]} == {"reward_model"}


def test_each_round_samples_the_student_of_the_last_one(rows):
    folder = rows["rejection_sampling_rounds"]
    trained, samples = (
        {label for label in json.loads((folder / "artifacts.json").read_text()) if label.startswith(f"{stage}/")}
        for stage in ("rejection", "rejection_samples")
    )
    assert (len(trained), len(samples)) == (3, 3)
    store = folder.parents[1] / "artifacts"
    sampled = {open_artifact(store / label).manifest["fingerprint"]["student"]["digest"] for label in samples}
    assert len(sampled) == 3
    assert len(sampled & {open_artifact(store / label).digest for label in trained}) == 2


def test_noisy_labels_are_wrong_and_the_teacher_is_asked_once(rows, finished):
    noisy, ours = read_result(rows["noisy_labels"]), only_result(finished[0])[0]
    assert noisy.notes.labels.labelled == ours.notes.labels.labelled
    assert noisy.notes.labels.right < ours.notes.labels.right
    assert fingerprint_of(rows["noisy_labels"], "teacher_first_training") == fingerprint_of(
        only_result(finished[0])[1], "teacher_first_training"
    )


def test_a_row_without_any_training_evaluates_the_student_with_its_examples(world, finished, tmp_path):
    run(world, tmp_path, "experiments=icl", stages=[])
    result, folder = only_result(tmp_path)
    assert result.row == "ICL"
    assert [model.role for model in result.models] == ["teacher", "student zero-shot", "ICL"]
    few_shot = only_result(finished[0])[0].models[ROLES.index("student few-shot")]
    assert result.models[-1].test_sets == few_shot.test_sets
    assert not (folder / "learning_curves.png").exists()
    assert not list((tmp_path / "artifacts").glob("teacher_*"))  # nobody was asked for labels
    assert result.notes.labels is None
    untouched = load_file(world / "student" / "model.safetensors")
    assert all(untouched[name].equal(value) for name, value in weights(tmp_path, "rl").items())
