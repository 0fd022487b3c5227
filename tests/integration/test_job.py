"""One job from its config to what it leaves behind, and what a user sees when the input is bad."""

import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rkd.data.answers import extract_answer
from rkd.errors import JobError
from rkd.evaluation.results import RESULT_FILE, read_result
from rkd.generation.local import open_generator
from rkd.jobs.job import run_job
from rkd.judges.attacks import KINDS
from rkd.protocols import Sampling
from rkd.records import Checkpoint
from rkd.store.artifact_store import Store, label_of, open_artifact
from tests.support import tiny_world
from tests.support.tiny_world import REPOSITORY, composed, overrides
from tests.support.tiny_world import REWARD_MODEL_SETTINGS as REWARD_MODEL
from tests.support.tiny_world import RL_SETTINGS as RL
from tests.support.tiny_world import SFT_SETTINGS as SFT

JUDGE_WORDS = ["judge.prompt.yes_word=' 1'", "judge.prompt.no_word=' 2'"]  # the tiny tokenizer has no Yes
ROLES = ["teacher", "student few-shot", "student zero-shot", "SFT student", "Ours"]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Models `teacher`, `student` and `random`, and the datasets `data` and `poisoned`."""
    folder = tiny_world.make_world(tmp_path_factory.mktemp("world"))
    tiny_world.write_dataset(folder / "poisoned", wrong_gold=True)
    return folder


def run(
    world: Path, root: Path, *more: str, stages: list[str] | None = None, without: tuple[str, ...] = ()
) -> tuple[float | None, str]:
    """Run a tiny job in this process: what it returns, and what the user sees.

    Args:
        without: beginnings of overrides that do not fit the job; `more` stays.
    """
    usual = [o for o in overrides(world, root, stages=stages) if not o.startswith(without or ("-",))]
    seen = io.StringIO()
    with redirect_stdout(seen):
        accuracy = run_job(composed([*usual, *more]))
    return accuracy, seen.getvalue()


def failure(world: Path, root: Path, *more: str, stages: list[str] | None = None) -> str:
    """The message that a job fails with."""
    with pytest.raises(JobError) as error:
        run(world, root, *more, stages=stages)
    return str(error.value)


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    """`python run.py` as a user calls it, from another folder."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    environment.pop("HYDRA_FULL_ERROR", None)
    return subprocess.run(
        [sys.executable, REPOSITORY / "run.py", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def only_result(root: Path):
    """The one result under `root`, and its folder."""
    (path,) = (root / "outputs").rglob(RESULT_FILE)
    return read_result(path.parent), path.parent


def line_of(seen: str, stage: str) -> str:
    """The line that tells of one stage."""
    (line,) = (line for line in seen.splitlines() if f"✓ {stage} " in line)
    return line


def weights(root: Path, stage: str):
    """The weights of the one artifact of a stage."""
    (folder,) = (root / "artifacts" / stage).glob("[!.]*")
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """A finished job: its root, what it returned and what it printed."""
    root = tmp_path_factory.mktemp("finished")
    return root, *run(world, root)


def test_the_number_of_cores_does_not_change_the_result(world, finished, tmp_path):
    run(world, tmp_path, "threads=2", without=("threads=",))
    for stage in ("sft", "reward_model", "rl"):
        of_one, of_two = weights(finished[0], stage), weights(tmp_path, stage)
        assert all(torch.equal(of_one[name], of_two[name]) for name in of_one)
    assert only_result(tmp_path)[0].models == only_result(finished[0])[0].models


def test_a_job_leaves_result_table_and_figure(finished):
    root, accuracy, _ = finished
    result, folder = only_result(root)
    assert {path.name for path in folder.iterdir()} == {
        RESULT_FILE, "splits.json", "table.md", "learning_curves.png", "artifacts.json",
    }  # fmt: skip
    assert [model.role for model in result.models] == ROLES
    assert result.failure is None
    # The best of RL's validations, whatever the test says.
    assert accuracy == max(row["validation_accuracy"] for row in result.histories["rl"])
    # 40 distinct questions, a tenth of them kept for validation; 12 test questions.
    assert (result.counts["training_queries"], result.counts["validation_queries"]) == (36, 4)
    assert result.models[0].test_sets["svamp"].n == 12
    assert result.config["dataset"]["name"] == "svamp"


def test_a_job_notes_all_that_it_left_in_the_store(finished):
    root, _, _ = finished
    _, folder = only_result(root)
    noted = json.loads((folder / "artifacts.json").read_text())
    assert noted == sorted(label_of(path) for path in Store(root / "artifacts").folders())


def test_a_user_sees_the_plan_each_stage_and_where_everything_is(finished):
    root, _, seen = finished
    _, folder = only_result(root)
    assert "36 training, 4 validation; tests: svamp 12" in seen
    assert "64 episodes: 2 rollouts × 4 queries × 8" in seen
    assert all(f"✓ {stage} " in seen for stage in ("teacher_first_training", "sft", "reward_model", "rl"))
    assert all(str(folder / name) in seen for name in (RESULT_FILE, "table.md", "learning_curves.png"))
    assert "LOAD REPORT" not in seen


@pytest.fixture
def same_store(finished, tmp_path) -> Path:
    """A root of one's own, with the stages and the result of `finished`."""
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


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


def stored_teacher(root: Path, *splits: tuple[int, int]) -> list[str]:
    """The overrides for a teacher that is a file of right responses to these queries (first, count)."""
    asked = [query for first, count in splits for query in tiny_world.queries(first, count)]
    rows = [{"query": query.id, "response": tiny_world.response(query.gold_answer)} for query in asked]
    root.mkdir(exist_ok=True)
    (root / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return ["teacher=stored", f"teacher.path={root / 'responses.jsonl'}"]


WITHOUT_MODEL = ("teacher.", "teacher_samples.")


def test_recorded_responses_teach_as_a_model_does_and_are_tested_where_they_answer_all(world, tmp_path):
    _, seen = run(world, tmp_path, *stored_teacher(tmp_path, (200, 40), (300, 12)), without=WITHOUT_MODEL)
    result, _ = only_result(tmp_path)
    assert "52 recorded responses" in seen
    assert [model.role for model in result.models] == ROLES
    assert result.models[0].test_sets["svamp"].accuracy == 1.0
    assert result.labels.precision == 1.0
    assert {comparison.second for comparison in result.comparisons} == set(ROLES[:4])


def test_queries_without_a_recorded_response_are_left_out(world, tmp_path):
    teacher = stored_teacher(tmp_path, (200, 30))
    _, seen = run(world, tmp_path, *teacher, "experiments=sft", stages=SFT, without=WITHOUT_MODEL)
    result, _ = only_result(tmp_path)
    answered = result.counts["training_queries"] - result.counts["training_without_response"]
    assert result.counts["sft_examples"] == answered < 36
    assert "0 of 12 queries of svamp have a recorded response, so it is not evaluated there" in seen
    assert result.models[0].test_sets == {}
    assert "teacher" not in {comparison.second for comparison in result.comparisons}


def test_a_file_of_pairs_can_train_the_reward_model(world, finished, tmp_path):
    (made,) = (finished[0] / "artifacts" / "reward_model").glob("[!.]*/pairs.jsonl")
    run(world, tmp_path, "pairs=stored", f"pairs.path={made}", without=("pairs.",))
    (again,) = (tmp_path / "artifacts" / "reward_model").glob("[!.]*/pairs.jsonl")
    assert again.read_text(encoding="utf-8") == made.read_text(encoding="utf-8")


def test_a_chat_model_is_trained_and_asked_in_its_template(world, tmp_path):
    turn = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}{{ eos_token }}{% endfor %}"
    for role in ("student", "teacher"):
        shutil.copytree(world / role, tmp_path / role)
        template = turn + "{% if add_generation_prompt %}assistant:{% endif %}"
        (tmp_path / role / "chat_template.jinja").write_text(template, encoding="utf-8")
    folders = [f"{role}.name_or_path={tmp_path / role}" for role in ("student", "teacher")]
    run(world, tmp_path, *folders, "labels.threshold=0.1")
    result, _ = only_result(tmp_path)
    assert [model.role for model in result.models] == ROLES
    (sft,) = (tmp_path / "artifacts" / "sft").glob("[!.]*")
    assert (sft / "chat_template.jinja").is_file()  # it goes on with the checkpoint
    generator = open_generator(Checkpoint(sft, "sft"), tiny_world.PROMPT, "sft")
    (tokens,) = generator.prompt.encode(tiny_world.queries(300, 1), generator.tokenizer)
    asked = "user: " + tiny_world.PROMPT.render(tiny_world.queries(300, 1)[0]) + "<|end|>assistant:"
    assert generator.tokenizer.decode(tokens) == asked


@pytest.mark.skipif(not find_spec("peft"), reason="requirements-lora.txt is not installed")
def test_a_student_trains_with_adapters_through_every_stage(world, tmp_path):
    lora = ["student/options=lora", "student.options.lora.rank=2"]
    run(world, tmp_path, *lora, "student.options.gradient_checkpointing=true")
    result, _ = only_result(tmp_path)
    assert [model.role for model in result.models] == ROLES
    for stage in ("sft", "reward_model", "rl"):
        assert not any("lora" in name for name in weights(tmp_path, stage))


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


def test_the_pretrained_student_is_a_rival_of_the_paired_test(finished):
    result, folder = only_result(finished[0])
    assert {pair.second for pair in result.comparisons} == set(ROLES) - {"Ours"}
    best = max(model.test_sets["svamp"].correct for model in result.models[1:-1])
    named = [model.role for model in result.models[1:-1] if model.test_sets["svamp"].correct == best]
    (line,) = (line for line in (folder / "table.md").read_text().splitlines() if "best other student" in line)
    assert all(role in line for role in named)


def test_a_stage_left_out_has_no_line_of_its_own(world, same_store):
    run(world, same_store, "experiments=ours_wo_r", stages=SFT)
    (result,) = (read_result(path) for path in (same_store / "outputs").glob("Ours_wo_R-*"))
    assert [model.role for model in result.models] == [*ROLES[:3], "Ours w/o R"]


def test_the_overlap_with_the_training_questions_is_printed_and_kept(finished):
    root, _, seen = finished
    overlap = only_result(root)[0].overlaps["svamp"]
    # "Ada 304: say one": names and numbers differ from question to question, ": say one" is in each of both splits,
    # and so is one trigram of three, "<name> <number> :", "<number> : say", ": say one".
    assert (overlap.questions, overlap.exact_duplicates) == (12, 0)
    assert overlap.mean == overlap.percentile_95 == pytest.approx(1 / 3)
    assert "svamp: nearest training question shares 33.3%" in seen


@pytest.fixture(scope="module")
def rows(world, finished, tmp_path_factory) -> dict[str, Path]:
    """Rows of the table in the store of `finished`: the folders of their jobs."""
    root = tmp_path_factory.mktemp("rows")
    shutil.copytree(finished[0], root, dirs_exist_ok=True)
    errs = [f"teacher.name_or_path={world / 'student'}", "labels.threshold=0.1"]  # a teacher that is right and wrong
    dpo = ["dpo.epochs=1", "dpo.learning_rate=1e-3", "dpo.validations_per_epoch=2"]
    jobs = {
        "dpo": [*SFT, *dpo],
        "ours_wo_d": [*SFT, *REWARD_MODEL, *RL],
        "orm_s": [*SFT, *REWARD_MODEL, *RL],
        "orm_t": [*SFT, *REWARD_MODEL, *RL, *errs],
        "best_of_n": [*SFT, *REWARD_MODEL, "evaluation.inference.samples_per_query=4"],
        "noisy_labels": [*SFT, *REWARD_MODEL, *RL, "labels.noise=0.4"],
        "judge_reward": [*SFT, *RL, f"judge.name_or_path={world / 'teacher'}", *JUDGE_WORDS],
    }
    folders = {}
    for row, stages in jobs.items():
        before = set((root / "outputs").iterdir())
        run(world, root, f"experiments={row}", stages=stages)
        (folders[row],) = set((root / "outputs").iterdir()) - before
    return folders


def fingerprint_of(folder: Path, stage: str) -> dict:
    """What the one artifact of a stage that a job uses was made from."""
    (label,) = (label for label in json.loads((folder / "artifacts.json").read_text()) if label.startswith(f"{stage}/"))
    return open_artifact(folder.parents[1] / "artifacts" / label).manifest["fingerprint"]


def pairs_of(folder: Path) -> list[dict]:
    """The pairs that the reward model of a job was trained on."""
    labels = json.loads((folder / "artifacts.json").read_text())
    (label,) = (label for label in labels if label.startswith("reward_model/"))
    lines = (folder.parents[1] / "artifacts" / label / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("row", ["dpo", "ours_wo_d", "orm_s", "orm_t", "best_of_n", "noisy_labels", "judge_reward"])
def test_each_row_is_tested_beside_the_models_it_comes_of(rows, row):
    result = read_result(rows[row])
    assert result.failure is None
    assert [model.role for model in result.models] == [*ROLES[:4], result.row]
    assert result.models[-1].test_sets["svamp"].n == 12


def test_dpo_starts_from_the_sft_student_and_is_the_rows_model(rows, finished):
    result, ours = read_result(rows["dpo"]), only_result(finished[0])
    assert fingerprint_of(rows["dpo"], "dpo")["student"] == fingerprint_of(ours[1], "reward_model")["student"]
    assert result.counts["dpo/pairs"] == result.counts["training_pairs"] == ours[0].counts["training_pairs"]
    # The start, and two validations of one epoch.
    assert [row["share"] for row in result.histories["dpo"]][::2] == [0.0, 1.0]
    assert len(result.histories["dpo"]) == 3
    assert result.reward_model == {}


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
    kinds = {"pos_neg_accuracy", "student_pos_neg_accuracy", "pos_pos_accuracy"} & ours.reward_model.keys()
    assert "student_pos_neg_accuracy" in kinds
    assert all(0 <= ours.reward_model[name] <= 1 for name in kinds)
    assert ours.counts["reward_model/validation_pairs_of/pair_accuracy"] == ours.counts["validation_pairs"]
    history = ours.histories["reward_model"]
    assert ours.reward_model in [{name: row[name] for name in ours.reward_model} for row in history]


def test_a_result_has_the_validations_of_each_stage(finished):
    result, _ = only_result(finished[0])
    assert result.histories.keys() == {"sft", "reward_model", "rl"}
    assert [set(row) for row in result.histories["sft"]] == [{"step", "share", "accuracy"}]
    # Before reinforcement learning, and after each of two rollouts; the rollouts themselves stay with the policy.
    assert [row["episodes"] for row in result.histories["rl"]] == [0, 32, 64]


def test_the_best_of_n_asks_the_reward_model_of_ours_and_trains_no_policy(rows, finished):
    result, ours = read_result(rows["best_of_n"]), only_result(finished[0])[1]
    assert fingerprint_of(rows["best_of_n"], "reward_model") == fingerprint_of(ours, "reward_model")
    assert "rl/episodes" not in result.counts or result.counts["rl/episodes"] == 0
    assert result.models[-1].test_sets["svamp"].pass_at_8 is None


def test_a_judge_is_asked_about_the_first_pass_and_trains_nobody(world, same_store):
    _, seen = run(world, same_store, "judge=hf", f"judge.name_or_path={world / 'teacher'}", *JUDGE_WORDS)
    made = [line for line in seen.splitlines() if "✓" in line and "reused" not in line]
    assert [line.split()[1] for line in made] == ["judge_training", "judge_attacks"]
    (judged,) = [r for r in map(read_result, (same_store / "outputs").iterdir()) if r.judge is not None]
    counts = judged.judge.verdicts
    assert counts.without_verdict == 0
    verdicts = judged.verdicts
    right = verdicts.right_called_right + verdicts.right_called_wrong
    assert counts.right_called_right + counts.right_called_wrong >= right  # those without a label are judged, too
    assert 0 <= judged.judge.mean_yes_no_mass <= 1
    assert set(judged.judge.attacks_accepted) == set(KINDS)
    assert sum(one.count for one in judged.judge.reliability.values()) == sum(dataclasses.astuple(counts))


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
    (judged,) = [r for r in map(read_result, (same_store / "outputs").iterdir()) if r.judge is not None]
    assert (judged.judge.mean_yes_no_mass is not None) == has_mass
    unreadable = judged.judge.verdicts.without_verdict
    scored = sum(one.count for one in judged.judge.reliability.values())
    assert scored + unreadable == sum(dataclasses.astuple(judged.judge.verdicts))
    assert unreadable == 0 or judge == "written"  # of random weights


def test_the_bound_is_measured_on_samples_of_both_policies(world, same_store):
    small = ["evaluation.bound.samples_per_query=2", "evaluation.bound.max_response_tokens=16"]
    _, seen = run(world, same_store, "evaluation/bound=sampled", *small)
    made = [line.split()[1] for line in seen.splitlines() if "✓" in line and "reused" not in line]
    assert made == ["bound_samples_sft", "bound_samples_rl"]
    (measured,) = [r for r in map(read_result, (same_store / "outputs").iterdir()) if r.bound]
    assert set(measured.bound) == {"label", "learned"}
    assert measured.bound["label"].true_gain == measured.bound["learned"].true_gain
    assert measured.costs["bound_samples_rl"]["tokens"] > 0


def test_the_judges_verdict_can_be_the_reward_without_a_reward_model(rows):
    result = read_result(rows["judge_reward"])
    assert result.judge is not None
    assert result.reward_model == {}
    assert result.counts["rl/episodes"] > 0


def test_noisy_labels_are_wrong_and_the_teacher_is_asked_once(rows, finished):
    noisy, ours = read_result(rows["noisy_labels"]), only_result(finished[0])[0]
    assert noisy.labels.labelled == ours.labels.labelled
    assert noisy.labels.right < ours.labels.right
    assert fingerprint_of(rows["noisy_labels"], "teacher_first_training") == fingerprint_of(
        only_result(finished[0])[1], "teacher_first_training"
    )


def test_a_teacher_that_is_always_right_cannot_teach_an_orm(world, same_store):
    message = failure(world, same_store, "experiments=orm_t", stages=[*SFT, *REWARD_MODEL, *RL])
    assert "pairs.source=teacher: none of 36 labelled queries has right and wrong responses of the teacher" in message


def test_the_best_of_n_without_reward_model_is_refused_before_anything_is_made(world, tmp_path):
    message = failure(world, tmp_path, "experiments=best_of_n", "reward_model=none", stages=SFT)
    assert "evaluation/inference=best_of_n needs a reward model" in message
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(
    ("choices", "way_out"),
    [
        (["reward_mix=judge"], "judge=mini_judge"),
        (["reward_mix=yon", "judge=mini_judge"], "dataset=mini_math_aug"),
        (["reward_mix.rho=0.5"], "they sum to 0.5"),
        (["evaluation/bound=sampled", "rl=none"], "rl=none"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_before_anything_is_made(world, tmp_path, choices, way_out):
    assert way_out in failure(world, tmp_path, *choices, stages=[*SFT, *REWARD_MODEL])
    assert not (tmp_path / "artifacts").exists()


def test_a_row_without_any_training_evaluates_the_student_with_its_examples(world, finished, tmp_path):
    run(world, tmp_path, "experiments=icl", stages=[])
    result, folder = only_result(tmp_path)
    assert result.row == "ICL"
    assert [model.role for model in result.models] == ["teacher", "student zero-shot", "ICL"]
    few_shot = only_result(finished[0])[0].models[ROLES.index("student few-shot")]
    assert result.models[-1].test_sets == few_shot.test_sets
    assert not (folder / "learning_curves.png").exists()
    assert not list((tmp_path / "artifacts").glob("teacher_*"))  # nobody was asked for labels
    assert result.labels is None
    untouched = load_file(world / "student" / "model.safetensors")
    assert all(untouched[name].equal(value) for name, value in weights(tmp_path, "rl").items())


def test_evaluate_only_makes_nothing_but_evaluations(world, tmp_path):
    accuracy, _ = run(world, tmp_path, "evaluate_only=true", "teacher.name_or_path=no/such/teacher")
    result, _ = only_result(tmp_path)
    assert [model.role for model in result.models] == ["student few-shot", "student zero-shot"]
    assert accuracy is None
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == ["evaluation"]


@pytest.mark.parametrize(
    ("override", "message"),
    [("threads=0", "threads=0: "), ("threads=two", "threads='two': "), ("evaluate_only=no", "evaluate_only='no': ")],
)
def test_a_wrong_value_of_the_job_itself_is_refused_at_once(world, tmp_path, override, message):
    assert message in failure(world, tmp_path, override)
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(
    ("option", "key"), [("teacher=stored", "teacher.path"), ("student=hf", "student.name_or_path")]
)
def test_a_value_that_only_the_user_knows_is_asked_for(world, tmp_path, option, key):
    role = option.partition("=")[0]
    with pytest.raises(JobError, match=rf"^{key} has no value of its own: give it one, `python run\.py {key}=\.\.\.`"):
        run(world, tmp_path, option, without=(f"{role}.", "teacher_samples."))


def test_an_open_ended_dataset_is_refused_before_anything_is_made(world, tmp_path):
    message = failure(world, tmp_path, "+dataset.is_verifiable=false")
    assert "dataset=svamp is open-ended" in message
    assert not (tmp_path / "artifacts").exists()


def test_evaluate_only_is_another_job_than_the_training(world, same_store):
    assert "finished already" not in run(world, same_store, "evaluate_only=true")[1]


def test_a_fast_dev_run_goes_through_every_stage_and_is_not_taken_for_the_whole_job(world, same_store):
    _, seen = run(world, same_store, "debug=fast_dev_run")
    for stage in ("sft", "reward_model", "rl"):
        assert f"{stage}: step 1/1, " in seen
        assert "made in" in line_of(seen, stage)
    assert "debug    fast_dev_run=True: the training stages are cut short" in seen


def test_overfitting_shows_that_the_loss_of_each_stage_falls(world, same_store):
    # So little SFT that the student still errs, or there is no pair; as many rollouts as epochs, or RL's rate turns.
    stages = [
        "sft.learning_rate=4e-3",
        "sft.batch_size=32",
        "reward_model.learning_rate=1e-2",
        "reward_model.pooling=last",
        *RL,
        "rl.rollouts.episodes=640",
    ]
    _, seen = run(world, same_store, "debug=overfit", "trainer.max_epochs=20", stages=stages)
    changes = [line.split() for line in seen.splitlines() if " → " in line and line.endswith(" in 20 steps")]
    assert [metric for metric, *_ in changes] == ["train/loss", "train/loss", "reward"]
    sft, reward_model, rl = ((float(words[1]), float(words[3])) for words in changes)
    assert sft[1] < 0.75 * sft[0]
    assert reward_model[1] < 0.5 * reward_model[0]
    assert rl[1] > rl[0]


def test_poisoned_gold_answers_change_no_weight_of_a_label_free_row(world, finished, tmp_path):
    clean, _, _ = finished
    run(world, tmp_path, f"dataset.source={world / 'poisoned'}")
    result, _ = only_result(tmp_path)
    assert result.labels.precision == 0.0  # the poison is there, and only the report has seen it
    for stage in ("sft", "reward_model", "rl"):
        a, b = weights(clean, stage), weights(tmp_path, stage)
        assert all(a[name].equal(b[name]) for name in a), stage
    made = [{path.name for path in Store(root / "artifacts").folders()} for root in (clean, tmp_path)]
    assert made[0] == made[1]  # every digest, so nothing that decides a stage's content has changed either


def test_poisoned_gold_answers_do_change_a_row_with_gold_labels(world, tmp_path):
    # The control: the same poison, where gold is read, leaves no right response at all.
    stages = [*SFT, *RL]
    message = failure(world, tmp_path, "experiments=gold_label", f"dataset.source={world / 'poisoned'}", stages=stages)
    assert "sft: there is no example to train on" in message


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


def test_a_student_that_answers_but_never_stops_runs_through_and_is_told_so(world, tmp_path):
    # Cut before its end-of-sequence token, every response has its answer and none is finished.
    whole = len(tiny_world.response("1").split())
    limit = next(n for n in range(whole, 16) if _all_answer_and_none_stops(world / "student", n))
    stages = ["sft=none", *REWARD_MODEL, *RL]
    limits = [f"student_samples.max_response_tokens={limit}", f"rl.rollouts.max_response_tokens={limit}"]
    _, seen = run(world, tmp_path, *limits, stages=stages)
    assert (
        f"100% of the student's training samples do not stop within student_samples.max_response_tokens={limit}" in seen
    )
    (folder,) = (tmp_path / "artifacts" / "rl").glob("[!.]*")
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [row["share_truncated"] for row in rows if "reward" in row] == [1.0, 1.0]


def _all_answer_and_none_stops(folder: Path, limit: int) -> bool:
    generator = open_generator(Checkpoint(folder, "student"), tiny_world.PROMPT, "student")
    sampling = Sampling(0.7, 2, limit)
    own = [one for group in generator.generate(tiny_world.queries(0, 8), sampling, 0) for one in group]
    return all(extract_answer(one.text, "svamp") is not None and not one.is_finished for one in own)


def test_a_distilled_reward_without_reward_model_is_refused(world, tmp_path):
    message = failure(world, tmp_path, "reward_model=none", stages=[*SFT, *RL])
    assert "reward_mix=label" in message


def test_the_samples_of_the_store_know_no_gold_answer(finished):
    root, _, _ = finished
    for folder in Store(root / "artifacts").folders():
        if folder.parent.name != "evaluation":
            assert "gold" not in json.dumps(open_artifact(folder).manifest["fingerprint"]), folder


@pytest.mark.slow
def test_help_lists_the_groups_from_another_folder(tmp_path):
    done = command("--help", folder=tmp_path)
    assert done.returncode == 0
    assert re.search(r"^labels  .*\n +gold noisy_vote rubric_judge vote$", done.stdout, re.MULTILINE)
    assert re.search(r"^experiments  .*\n +best_of_n dpo ", done.stdout, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("sft.leaning_rate=1", "Key 'leaning_rate' is not in struct"),
        ("student=huge", "Could not find 'student/huge'"),
        ("seed", "Error parsing override"),
    ],
)
def test_an_unknown_option_is_one_message_without_traceback(tmp_path, argument, said):
    done = command(argument, folder=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert "python run.py --help" in done.stderr
    assert "Traceback" not in done.stderr
    assert "HYDRA_FULL_ERROR" not in done.stderr


@pytest.mark.slow
def test_a_sweep_without_multirun_is_refused_with_the_right_command(tmp_path):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "probe.yaml").write_text("# @package _global_\nhydra: {sweeper: {products: [{seed: 1}]}}\n")
    done = command("--config-dir", str(tmp_path), "sweeps=probe", folder=tmp_path)
    assert done.returncode == 1
    assert "python run.py -m sweeps=probe" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_bad_job_is_one_message_without_traceback(world, tmp_path):
    done = command(*overrides(world, tmp_path, "student.name_or_path=/no/such/folder"), folder=tmp_path)
    assert done.returncode == 1
    assert "there is no folder /no/such/folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_multirun_runs_its_jobs_in_one_process_as_if_each_were_alone(world, finished, tmp_path):
    (tmp_path / "cwd").mkdir()
    done = command("-m", *overrides(world, tmp_path, "seed=1,0"), folder=tmp_path / "cwd")
    assert done.returncode == 0, done.stderr
    results = {result.seed: result for result in map(read_result, (tmp_path / "outputs").glob("*/"))}
    alone, _ = only_result(finished[0])
    assert results.keys() == {0, 1}
    # Seed 0 runs second here, and ran alone in `finished`: models and answers agree.
    assert results[0].models == alone.models
    assert not list((tmp_path / "cwd").iterdir())
    assert done.stderr == ""


@pytest.mark.slow
def test_a_multirun_goes_on_after_a_failed_job_and_exits_with_an_error(world, tmp_path):
    arguments = overrides(world, tmp_path, "student.name_or_path=/no/such,${student_ok}", stages=[])
    arguments = [argument.replace("${student_ok}", str(world / "student")) for argument in arguments]
    done = command("-m", *arguments, "experiments=icl", folder=tmp_path)
    assert done.returncode == 1
    assert "there is no folder /no/such" in done.stderr
    assert "Not every job finished" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "outputs").glob("ICL-*/result.json"))) == 1


def test_a_folder_for_results_that_cannot_be_made_is_named_with_the_key_to_set(world, tmp_path):
    (tmp_path / "file").write_text("")
    message = failure(world, tmp_path, f"output_root={tmp_path / 'file' / 'outputs'}")
    assert "cannot be written (Not a directory)" in message
    assert "output_root=FOLDER" in message


@pytest.mark.parametrize("value", ["0", "2.5", "many"])
def test_an_impossible_size_of_shards_is_refused(world, tmp_path, value):
    assert "artifacts.responses_per_shard=" in failure(world, tmp_path, f"artifacts.responses_per_shard={value}")
