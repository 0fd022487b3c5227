"""A dry pass (`debug=fast_dev_run`) reaches every stage with models that can do nothing."""

import json

import pytest

from rkd.models.loading import load_tokenizer
from rkd.pipeline.dry_pass import OF_EACH_KIND, made_up_labels, made_up_responses
from rkd.records import Checkpoint, PseudoLabel
from rkd.store.artifact_store import open_artifact
from tests.support.jobs import only_result, run
from tests.support.tiny_grader import OPEN
from tests.support.tiny_models import gpt2, llama
from tests.support.tiny_world import queries

STAGES = ("sft", "reward_model", "rl")
MARK = "made up ("


def untrained(folder, kind, world) -> Checkpoint:
    """A model of random weights in `folder`, as any user may have one."""
    tokenizer = load_tokenizer(world / "random")
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    kind(vocab_size=len(tokenizer), seed=3, hidden=16, **special).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Checkpoint(folder, kind.__name__)


def dry_pass(world, root, *more: str, stages=STAGES, **options):
    """What a dry pass prints and leaves; each stage that trains must have been reached."""
    roots = [f"artifacts.root={root / 'artifacts'}", f"output_root={root / 'outputs'}"]
    _, seen = run(world, root, "debug=fast_dev_run", *roots, *more, **options)
    assert [stage for stage in stages if f"{stage}: step 1/1, " not in seen] == []
    return seen, *only_result(root)


def stored_texts(root) -> dict[str, str]:
    """All text files of the store, by stage and name."""
    files = [path for path in (root / "artifacts").glob("*/[!.]*/*") if path.suffix in (".json", ".jsonl")]
    return {f"{path.parent.parent.name}/{path.name}": path.read_text(encoding="utf-8") for path in files}


@pytest.mark.parametrize("kind", [llama, gpt2])
def test_a_student_that_answers_nothing_goes_through_every_stage(world, tmp_path, kind):
    student = untrained(tmp_path / "model", kind, world)
    lengths = [f"{stage}.max_tokens=96" for stage in ("sft", "reward_model")]  # the positions of this GPT-2
    seen, result, _ = dry_pass(world, tmp_path, f"student.name_or_path={student.folder}", *lengths)
    assert "dry pass: the student gives nothing to train on, so 576 training responses are made up" in seen
    assert result.notes.counts["training_made_up/student"] == 576  # 16 for each of 36 queries
    assert "training_made_up/teacher" not in result.notes.counts


def test_what_is_made_up_is_marked_and_stored_only_with_the_stage_that_trains_on_it(world, tmp_path):
    random = world / "random"
    seen, result, folder = dry_pass(
        world, tmp_path, *(f"{role}.name_or_path={random}" for role in ("student", "teacher"))
    )
    assert "dry pass: the teacher gives nothing to train on, so 576 training responses are made up" in seen
    assert {name.partition("/")[0] for name, text in stored_texts(tmp_path).items() if MARK in text} == {"reward_model"}
    for label in json.loads((folder / "artifacts.json").read_text(encoding="utf-8")):
        if label.partition("/")[0] in STAGES:
            manifest = open_artifact(tmp_path / "artifacts" / label).manifest
            assert manifest["fingerprint"]["fast_dev_run"] is True
    assert result.config["trainer"]["fast_dev_run"] is True
    assert MARK not in (folder / "result.json").read_text(encoding="utf-8")


def test_models_that_give_what_a_stage_needs_are_not_replaced(world, tmp_path):
    seen, result, _ = dry_pass(world, tmp_path)
    assert "made up" not in seen
    assert not [name for name in result.notes.counts if "made_up" in name]


@pytest.mark.slow
@pytest.mark.parametrize("pairs", ["mini_of_teacher", "mini_of_student", "mini_of_student_matched"])
def test_every_kind_of_pairs_is_made_up_for_a_teacher_that_is_always_right(world, tmp_path, pairs):
    student = f"student.name_or_path={world / 'random'}"
    _, result, _ = dry_pass(world, tmp_path, student, f"pairs={pairs}", without=("pairs.",))
    assert result.notes.counts["training_pairs"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "row", ["experiments=dpo", "reward_mix=label", "evaluation/inference=best_of_n", "rl=mini_grpo", "labels=gold"]
)
def test_every_kind_of_stage_is_reached_without_a_right_answer(world, tmp_path, row):
    models = [f"{role}.name_or_path={world / 'random'}" for role in ("student", "teacher")]
    trained = ("sft", "dpo" if "dpo" in row else "rl")
    dry_pass(world, tmp_path, row, *models, stages=trained, without=("rl.", "reward_model."))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "stages"),
    [
        ("on_policy_distillation", ("sft", "rl")),
        ("gkd", ("sft", "rl")),
        ("rejection_sampling_rounds", ("sft",)),
        ("generative_verifier", STAGES),
        ("ours_refreshed", STAGES),
    ],
)
def test_the_controls_go_through_every_stage_without_a_right_answer(world, tmp_path, row, stages):
    models = [f"{role}.name_or_path={world / 'random'}" for role in ("student", "teacher")]
    words = ["reward_model.prompt.yes_word=' 1'", "reward_model.prompt.no_word=' 2'"]
    own = words if row == "generative_verifier" else []
    _, result, _ = dry_pass(
        world, tmp_path, f"experiments={row}", *models, *own, stages=stages, without=("rl.", "reward_model.")
    )
    assert result.failure is None


def test_an_open_ended_task_with_a_judge_that_writes_no_grade_goes_through_every_stage(world, tmp_path):
    task = [override for override in OPEN if "judge." not in override and not override.startswith("judge=")]
    roles = ("student", "teacher", "judge", "evaluation.annotator")
    models = [f"{role}.name_or_path={world / 'random'}" for role in roles]
    judge = ["judge=mini_marker", "judge.max_reply_tokens=4"]
    seen, result, _ = dry_pass(world, tmp_path, *task, *judge, *models)
    assert "dry pass: the teacher gives nothing to train on" in seen
    assert result.failure is None


def test_a_judge_whose_verdicts_cannot_be_read_rewards_a_dry_pass(world, tmp_path):
    dry_pass(world, tmp_path, "reward_mix=judge", "judge=written", f"judge.name_or_path={world / 'random'}")


def test_the_made_up_responses_differ_and_are_whole():
    asked = queries(0, 2)
    own = made_up_responses("student", asked, 5.0)
    assert [len({one.response.text for one in of_query}) for of_query in own] == [2 * OF_EACH_KIND] * 2
    assert {one.score for one in own[0]} == {5.0, 0.0}
    assert all(one.response.defect is None and MARK in one.response.generator for one in own[0])
    labels = [PseudoLabel("q0", None, 0.2), PseudoLabel("q1", "2", 0.9)]
    assert made_up_labels(asked, labels) == [PseudoLabel("q0", "1", 0.0), labels[1]]
