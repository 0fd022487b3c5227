"""What a user sees when a job cannot run."""

import re
import shutil

import pytest

from rkd.errors import JobError
from rkd.models.loading import load_tokenizer
from tests.support.jobs import failure, only_result, run
from tests.support.tiny_models import gpt2
from tests.support.tiny_world import REWARD_MODEL_SETTINGS as REWARD_MODEL
from tests.support.tiny_world import RL_SETTINGS as RL
from tests.support.tiny_world import SFT_SETTINGS as SFT


def test_a_teacher_that_is_always_right_cannot_teach_an_orm(world, same_store):
    message = failure(world, same_store, "experiments=orm_t", stages=[*SFT, *REWARD_MODEL, *RL])
    assert "pairs.source=teacher: none of 36 labelled queries has right and wrong responses of the teacher" in message


def test_the_best_of_n_without_reward_model_is_refused_before_anything_is_made(world, tmp_path):
    message = failure(world, tmp_path, "experiments=best_of_n", "reward_model=none", stages=SFT)
    assert "evaluation/inference=best_of_n needs a reward model" in message
    assert not (tmp_path / "artifacts").exists()


def test_a_verifier_is_not_trained_on_rollouts(world, tmp_path):
    message = failure(world, tmp_path, "reward_mix=distilled_refreshed", "reward_model=mini_verifier", stages=SFT)
    assert "the learned reward is no reward model with a head. Take" in message
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(
    ("choices", "way_out"),
    [
        (["reward_mix=judge"], "judge=mini_judge"),
        (["reward_mix=yon", "judge=mini_judge"], "dataset=mini_math_aug"),
        (["reward_mix.rho=0.5"], "they sum to 0.5"),
        (["evaluation/bound=sampled", "rl=none"], "rl=none"),
        (["reward_mix=student_vote", "rl.rollouts.responses_per_query=2"], "rl.rollouts.responses_per_query=8"),
        (["student/calculator=equations", "generation=hf"], "generation=local"),
        (["rl=mini_rejection", "reward_mix=distilled_refreshed"], "rl trains on no rollouts"),
        (["rl=mini_rejection", "reward_mix=confidence"], "cannot accept by it"),
        (["rl=mini_rejection", "reward_mix.rho=0.5", "reward_mix.lambda_=0.5"], "by one reward"),
        (["student/calculator=equations", "arithmetic=small"], "arithmetic=none"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_before_anything_is_made(world, tmp_path, choices, way_out):
    assert way_out in failure(world, tmp_path, *choices, stages=[*SFT, *REWARD_MODEL])
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [("threads=0", "threads=0: "), ("threads=two", "threads='two': "), ("evaluate_only=no", "evaluate_only='no': ")],
)
def test_a_wrong_value_of_the_job_itself_is_refused_at_once(world, tmp_path, override, message):
    assert message in failure(world, tmp_path, override)
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(
    ("option", "key"),
    [("teacher=stored", "teacher.path"), ("teacher=recorded", "teacher.model"), ("student=hf", "student.name_or_path")],
)
def test_a_value_that_only_the_user_knows_is_asked_for(world, tmp_path, option, key):
    role = option.partition("=")[0]
    with pytest.raises(
        JobError, match=rf"^{key} has no value of its own: give it one, `python run\.py {key}=\.\.\.`\. .*conf/{role}/"
    ):
        run(world, tmp_path, option, without=(f"{role}.", "teacher_samples."))


def test_a_teacher_that_is_asked_and_samples_that_are_recorded_name_the_samples_to_take(world, tmp_path):
    with pytest.raises(JobError, match=r"any other teacher is asked\. Take `python run\.py teacher_samples=mini`"):
        run(world, tmp_path, "teacher_samples=recorded", without=("teacher_samples.",))


def test_an_open_ended_dataset_is_refused_before_anything_is_made(world, tmp_path):
    message = failure(world, tmp_path, "+dataset.is_verifiable=false")
    assert "dataset=svamp is open-ended" in message
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize("row", ["on_policy_distillation", "gkd"])
@pytest.mark.parametrize(
    "teacher", [["teacher=recorded", "teacher.model=gpt-4"], ["teacher=endpoint", "teacher.model=m"]]
)
def test_a_teacher_whose_probabilities_cannot_be_read_is_refused_where_they_are(world, tmp_path, teacher, row):
    with pytest.raises(
        JobError, match=r"known by its texts alone, and this row reads .* `python run\.py teacher=mini_large`"
    ):
        run(world, tmp_path, f"experiments={row}", *teacher, without=("teacher", "reward_model.", "rl."))
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize("how", [[], ["dry_run=true"], ["evaluate_only=true"]])
def test_a_question_that_a_student_cannot_read_is_named_before_anything_is_made(world, tmp_path, how):
    tokenizer = load_tokenizer(world / "student")
    model = gpt2(vocab_size=len(tokenizer))
    model.config.n_positions = 24  # a response may have 16 tokens
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "short")
    message = failure(world, tmp_path, f"student.name_or_path={tmp_path / 'short'}", *how)
    assert "short has 24 positions" in message
    assert "of the question " in message
    assert "give fewer examples, or take a model with more positions" in message
    assert not (tmp_path / "artifacts").exists()


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused_before_anything_is_made(world, tmp_path):
    shutil.copytree(world / "student", tmp_path / "larger")
    tokenizer = load_tokenizer(world / "student")
    tokenizer.add_tokens([": say "])  # each question holds it
    tokenizer.save_pretrained(tmp_path / "larger")
    message = failure(world, tmp_path, f"student.name_or_path={tmp_path / 'larger'}")
    assert "holds ': say '" in message
    assert "resize_token_embeddings" in message
    assert not (tmp_path / "artifacts").exists()


def test_a_failed_job_leaves_its_reason_and_can_be_run_again(world, tmp_path):
    message = failure(world, tmp_path, "sft.learning_rate=1e30")
    result, folder = only_result(tmp_path)
    assert result.failure == message
    assert (folder / "traceback.txt").is_file()
    assert failure(world, tmp_path, "sft.learning_rate=1e30") == message
    assert not list((tmp_path / "artifacts" / "sft").glob("[!.]*"))


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("sft.learning_rate=1e30", "sft.learning_rate"),
        ("reward_model.learning_rate=1e30", "reward_model.learning_rate"),
        ("rl.optimisation.learning_rate=1e30", "rl.optimisation.learning_rate"),
    ],
)
def test_a_nan_loss_names_the_stage_and_the_rate_to_lower(world, same_store, override, key):
    extra = ["sft.gradient_clip=null", "reward_model.gradient_clip=null"]
    message = failure(world, same_store, override, *extra)
    assert f"Lower `{key}`" in message


def test_a_missing_checkpoint_is_named_with_its_key(world, tmp_path):
    message = failure(world, tmp_path, "student.name_or_path=/no/such/folder")
    assert "there is no folder /no/such/folder" in message
    assert "student.name_or_path=" in message


def test_a_truncated_checkpoint_is_named(world, tmp_path):
    shutil.copytree(world / "student", tmp_path / "broken")
    path = tmp_path / "broken" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    message = failure(world, tmp_path, f"student.name_or_path={tmp_path / 'broken'}")
    assert f"{path} are truncated" in message
    assert "rkd pretrain" in message


def test_a_dataset_without_rows_is_named(world, tmp_path):
    folder = tmp_path / "empty" / "svamp"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("")
    message = failure(world, tmp_path, f"dataset.source={tmp_path / 'empty'}")
    assert "dataset=svamp, split test, has no questions" in message
    assert str(tmp_path / "empty") in message


def test_a_limit_of_no_query_is_refused(world, tmp_path):
    message = failure(world, tmp_path, "dataset.max_training_queries=0")
    assert "dataset.max_training_queries=0: must be at least 1" in message


def test_no_query_after_the_vote_says_what_to_change(world, tmp_path):
    message = failure(world, tmp_path, f"teacher.name_or_path={world / 'random'}")
    assert "no query is left after the vote: none of 36" in message
    assert "labels.threshold=" in message
    assert re.search(
        r"\d+ of \d+ responses of the teacher state no answer that can be read, as this one: '.+'\.", message
    )


def test_no_pair_says_what_to_change(world, tmp_path):
    # A student that the teacher's own weights make always right: no query with right and wrong samples.
    message = failure(world, tmp_path, f"student.name_or_path={world / 'teacher'}")
    assert "there is no pair to train on" in message
    assert "dataset.max_training_queries=null" in message


def test_a_student_that_never_stops_is_told_apart_from_one_that_is_always_wrong(world, tmp_path):
    stages = ["sft=none", *REWARD_MODEL, *RL]
    message = failure(world, tmp_path, f"student.name_or_path={world / 'random'}", stages=stages)
    assert "there is no pair to train on" in message
    assert "of the student's training samples do not stop within student_samples.max_response_tokens=16" in message


def test_a_distilled_reward_without_reward_model_is_refused(world, tmp_path):
    message = failure(world, tmp_path, "reward_model=none", stages=[*SFT, *RL])
    assert "reward_mix=label" in message


def test_a_folder_for_results_that_cannot_be_made_is_named_with_the_key_to_set(world, tmp_path):
    (tmp_path / "file").write_text("")
    message = failure(world, tmp_path, f"output_root={tmp_path / 'file' / 'outputs'}")
    assert "cannot be written (Not a directory)" in message
    assert "output_root=FOLDER" in message


@pytest.mark.parametrize("value", ["0", "2.5", "many"])
def test_an_impossible_size_of_shards_is_refused(world, tmp_path, value):
    assert "artifacts.responses_per_shard=" in failure(world, tmp_path, f"artifacts.responses_per_shard={value}")
