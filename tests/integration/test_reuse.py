"""What a second job takes from the store, and what it makes anew."""

import shutil

from rkd.evaluation.results import read_result
from rkd.store.artifact_store import Store
from tests.support.jobs import ROLES, line_of, run
from tests.support.tiny_world import RL_SETTINGS as RL
from tests.support.tiny_world import SFT_SETTINGS as SFT


def test_a_finished_job_says_so_and_returns_the_same_validation_accuracy(world, finished):
    root, accuracy, _ = finished
    made = Store(root / "artifacts").folders()
    again, seen = run(world, root)
    assert again == accuracy
    assert "finished already" in seen
    assert Store(root / "artifacts").folders() == made


def test_other_weights_in_the_same_folder_are_another_job(world, tmp_path):
    own = tmp_path / "world"
    shutil.copytree(world, own)
    stages = ["sft=none", "reward_model=none", "rl=none"]
    run(own, tmp_path, stages=stages)
    shutil.copytree(own / "teacher", own / "student", dirs_exist_ok=True)
    assert "finished already" not in run(own, tmp_path, stages=stages)[1]


def test_a_second_row_reuses_the_stages_it_shares(world, same_store):
    _, seen = run(world, same_store, "experiments=pseudo_label", stages=[*SFT, *RL])
    for stage in ("teacher_first_training", "sft", "student_samples_training"):
        assert "reused" in line_of(seen, stage)


def test_a_row_that_ends_with_sft_samples_no_student(world, same_store):
    _, seen = run(world, same_store, "experiments=ours_wo_r", stages=SFT)
    assert "reused" in line_of(seen, "sft")
    assert "student_samples" not in seen


def test_what_does_not_depend_on_the_training_seed_is_evaluated_once(world, same_store):
    _, seen = run(world, same_store, "seed=1")
    state = {role: line_of(seen, f"{role} on svamp") for role in ROLES}
    assert ["reused" in state[role] for role in ROLES[:4]] == [True, True, True, False]


def test_pass_at_8_of_another_sampling_seed_is_sampled_anew(world, same_store):
    _, same = run(world, same_store, "evaluate_only=true")
    assert "reused" in line_of(same, "student few-shot on svamp")
    _, other = run(world, same_store, "evaluate_only=true", "sampling_seed=1")
    assert "made in" in line_of(other, "student few-shot on svamp")
    _, greedy = run(world, same_store, "evaluate_only=true", "evaluation.pass_at_k_samples=0")
    _, other_greedy = run(world, same_store, "evaluate_only=true", "evaluation.pass_at_k_samples=0", "sampling_seed=1")
    assert "made in" in line_of(greedy, "student zero-shot on svamp")
    assert "reused" in line_of(other_greedy, "student zero-shot on svamp")


def test_a_stage_left_out_has_no_line_of_its_own(world, same_store):
    run(world, same_store, "experiments=ours_wo_r", stages=SFT)
    (result,) = (read_result(path) for path in (same_store / "outputs").glob("Ours_wo_R-*"))
    assert [model.role for model in result.models] == [*ROLES[:3], "Ours w/o R"]


def test_evaluate_only_is_another_job_than_the_training(world, same_store):
    assert "finished already" not in run(world, same_store, "evaluate_only=true")[1]


def test_a_fast_dev_run_goes_through_every_stage_and_is_not_taken_for_the_whole_job(world, same_store):
    _, seen = run(world, same_store, "debug=fast_dev_run")
    for stage in ("sft", "reward_model", "rl"):
        assert f"{stage}: step 1/1, " in seen
        assert "made in" in line_of(seen, stage)
    assert "debug    fast_dev_run=True: the training stages are cut short" in seen
