"""One job from its config to what it leaves behind."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from rkd.data.answers import extract_answer
from rkd.data.recorded_model import PROMPTS
from rkd.evaluation.results import RESULT_FILE
from rkd.generation.local import open_generator
from rkd.io import read_rows
from rkd.protocols import Sampling
from rkd.records import Checkpoint
from rkd.store.artifact_store import Store, label_of, open_artifact
from tests.support import tiny_world
from tests.support.jobs import ROLES, only_result, run, weights
from tests.support.tiny_world import REWARD_MODEL_SETTINGS as REWARD_MODEL
from tests.support.tiny_world import RL_SETTINGS as RL
from tests.support.tiny_world import SFT_SETTINGS as SFT


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
        RESULT_FILE, "responses.jsonl", "splits.json", "table.md", "learning_curves.png", "artifacts.json",
        "samples_rl.jsonl",
    }  # fmt: skip
    assert [model.role for model in result.models] == ROLES
    assert result.failure is None
    # The best of RL's validations, whatever the test says.
    assert accuracy == max(row["validation_accuracy"] for row in result.notes.histories["rl"])
    # 40 distinct questions, a tenth of them kept for validation; 12 test questions.
    assert (result.notes.counts["training_queries"], result.notes.counts["validation_queries"]) == (36, 4)
    assert result.models[0].test_sets["svamp"].n == 12
    assert result.config["dataset"]["name"] == "svamp"


def test_a_job_keeps_each_model_s_response_to_each_test_question(finished):
    result, folder = only_result(finished[0])
    rows = read_rows(folder / "responses.jsonl")
    assert [row["id"] for row in rows] == result.models[0].test_sets["svamp"].question_ids
    assert rows[0]["question"] == "Nina 300: say one"
    assert rows[0]["gold_answer"] == "1"
    assert [list(row["responses"]) for row in rows] == [ROLES] * 12
    for model in result.models:
        answers = model.test_sets["svamp"].answers
        assert [row["responses"][model.role] for row in rows] == [f"The answer is {answer}." for answer in answers]
    assert '"responses"' not in (folder / RESULT_FILE).read_text(encoding="utf-8")


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


def stored_teacher(root: Path, *splits: tuple[int, int]) -> list[str]:
    """The overrides for a teacher that is a file of right responses to these queries (first, count)."""
    asked = [query for first, count in splits for query in tiny_world.queries(first, count)]
    rows = [{"query": query.id, "response": tiny_world.response(query.gold_answer)} for query in asked]
    root.mkdir(exist_ok=True)
    (root / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return ["teacher=stored", f"teacher.path={root / 'responses.jsonl'}"]


def test_a_calculator_leaves_wrong_calculations_out_of_what_is_taught(world, tmp_path):
    queries = [*tiny_world.queries(200, 40), *tiny_world.queries(300, 12)]
    rows = [
        {"query": query.id, "response": f"So 1 + {number % 2} = 1. {tiny_world.response(query.gold_answer)}"}
        for number, query in enumerate(queries)
    ]
    (tmp_path / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    teacher = ["teacher=stored", f"teacher.path={tmp_path / 'responses.jsonl'}"]
    more = ["student/calculator=equations", "reward_model=none", "rl=none"]
    run(world, tmp_path, *teacher, *more, stages=SFT, without=WITHOUT_MODEL)
    counts = only_result(tmp_path)[0].notes.counts
    training = counts["training_queries"]
    assert counts["sft_examples"] + counts["sft_examples_miscalculated"] == training == 36
    assert 0 < counts["sft_examples_miscalculated"] <= 20  # every second of the 40 questions


WITHOUT_MODEL = ("teacher.", "teacher_samples.")


def test_recorded_responses_teach_as_a_model_does_and_are_tested_where_they_answer_all(world, tmp_path):
    _, seen = run(world, tmp_path, *stored_teacher(tmp_path, (200, 40), (300, 12)), without=WITHOUT_MODEL)
    result, _ = only_result(tmp_path)
    assert "52 recorded responses" in seen
    assert [model.role for model in result.models] == ROLES
    assert result.models[0].test_sets["svamp"].accuracy == 1.0
    assert result.notes.labels.precision == 1.0
    assert {comparison.second for comparison in result.comparisons} == set(ROLES[:4])


def recorded_model(root: Path) -> list[str]:
    """The overrides for a recorded model: four of its five prompts are right, and least to most is wrong."""
    lines = []
    for query in [*tiny_world.queries(200, 40), *tiny_world.queries(300, 12)]:
        right, wrong = query.gold_answer, {"1": "2", "2": "1"}[query.gold_answer]
        answers = dict.fromkeys(PROMPTS, right) | {"least_to_most": wrong}
        entries = {
            prompt: {"answer": answer} | ({} if "program" in prompt else {"response": tiny_world.response(answer)})
            for prompt, answer in answers.items()
        }
        lines.append(json.dumps({"id": query.id, "question": query.question, "teachers": {"tiny": entries}}))
    (root / "recorded_teachers").mkdir(parents=True)
    (root / "recorded_teachers" / "sayings.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return ["teacher=recorded", "teacher.model=tiny", f"teacher.path={root}"]


def test_what_only_votes_is_never_taught_or_paired_and_the_result_tells_of_the_vote(world, tmp_path):
    teacher, stages = recorded_model(tmp_path), [*SFT, *REWARD_MODEL]
    without = (*WITHOUT_MODEL, "labels.")
    _, seen = run(world, tmp_path, *teacher, "pairs=mini_of_teacher", "rl=none", stages=stages, without=without)
    result, _ = only_result(tmp_path)
    assert (result.notes.labels.labelled, result.notes.labels.precision) == (36, 1.0)
    assert result.notes.counts["sft_examples"] == 36  # chain of thought alone: least to most is wrong
    counts = result.notes.verdicts
    assert (counts.right_called_right, counts.wrong_called_wrong) == (36, 36)
    (file,) = (tmp_path / "artifacts" / "reward_model").glob("[!.]*/pairs.jsonl")
    pairs = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(pairs) == 36
    assert {extract_answer(pair["chosen"], "") for pair in pairs} == {"1", "2"}
    assert all(pair["rejected"].startswith("The answer is") for pair in pairs)
    assert result.models[0].test_sets["svamp"].accuracy == 1.0  # by chain of thought
    assert "a vote over 5 prompts, not over samples" in result.origins["tiny"]
    assert "a vote over 5 prompts, not over samples" in seen
    assert "never taught" not in seen  # a vote without a text is no defect


def test_queries_without_a_recorded_response_are_left_out(world, tmp_path):
    teacher = stored_teacher(tmp_path, (200, 30))
    _, seen = run(world, tmp_path, *teacher, "experiments=sft", stages=SFT, without=WITHOUT_MODEL)
    result, _ = only_result(tmp_path)
    answered = result.notes.counts["training_queries"] - result.notes.counts["training_without_response"]
    assert result.notes.counts["sft_examples"] == answered < 36
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


def test_the_pretrained_student_is_a_rival_of_the_paired_test(finished):
    result, folder = only_result(finished[0])
    assert {pair.second for pair in result.comparisons} == set(ROLES) - {"Ours"}
    best = max(model.test_sets["svamp"].correct for model in result.models[1:-1])
    named = [model.role for model in result.models[1:-1] if model.test_sets["svamp"].correct == best]
    (line,) = (line for line in (folder / "table.md").read_text().splitlines() if "best other student" in line)
    assert all(role in line for role in named)


def test_the_overlap_with_the_training_questions_is_printed_and_kept(finished):
    root, _, seen = finished
    overlap = only_result(root)[0].overlaps["svamp"]
    # "Ada 304: say one": names and numbers differ from question to question, ": say one" is in each of both splits,
    # and so is one trigram of three, "<name> <number> :", "<number> : say", ": say one".
    assert (overlap.questions, overlap.exact_duplicates) == (12, 0)
    assert overlap.mean == overlap.percentile_95 == pytest.approx(1 / 3)
    assert "svamp: nearest training question shares 33.3%" in seen


def test_a_result_has_the_validations_of_each_stage(finished):
    result, _ = only_result(finished[0])
    assert result.notes.histories.keys() == {"sft", "reward_model", "rl"}
    assert [set(row) for row in result.notes.histories["sft"]] == [{"step", "share", "accuracy"}]
    # Before reinforcement learning, and after each of two rollouts; the rollouts themselves stay with the policy.
    assert [row["episodes"] for row in result.notes.histories["rl"]] == [0, 32, 64]


def test_evaluate_only_makes_nothing_but_evaluations(world, tmp_path):
    accuracy, _ = run(world, tmp_path, "evaluate_only=true", "teacher.name_or_path=no/such/teacher")
    result, _ = only_result(tmp_path)
    assert [model.role for model in result.models] == ["student few-shot", "student zero-shot"]
    assert accuracy is None
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == ["evaluation"]


def test_a_result_says_where_the_weights_of_its_models_come_from(world, tmp_path):
    folder, origin = shutil.copytree(world / "student", tmp_path / "student"), "some-org/tiny, weights dequantised"
    (folder / "origin.json").write_text(json.dumps({"origin": origin}), encoding="utf-8")
    _, seen = run(world, tmp_path, "evaluate_only=true", f"student.name_or_path={folder}")
    result, job = only_result(tmp_path)
    assert result.origins == {"mini_1": origin}
    assert f"Model mini_1: {origin}." in (job / "table.md").read_text(encoding="utf-8")
    assert f"Model mini_1: {origin}." in seen


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


def test_the_samples_of_the_store_know_no_gold_answer(finished):
    root, _, _ = finished
    for folder in Store(root / "artifacts").folders():
        if folder.parent.name != "evaluation":
            assert "gold" not in json.dumps(open_artifact(folder).manifest["fingerprint"]), folder


def test_a_job_warms_its_student_up_with_equations(world, finished, tmp_path):
    warm_up = ["arithmetic=small", "arithmetic.equations=16", "arithmetic.batch_size=8"]
    run(world, tmp_path, *warm_up, "reward_model=none", "rl=none", stages=SFT)
    counts = only_result(tmp_path)[0].notes.counts
    assert (counts["arithmetic/examples"], counts["arithmetic/steps"]) == (16, 2)
    before, after = weights(finished[0], "sft"), weights(tmp_path, "sft")
    assert any(not torch.equal(before[name], after[name]) for name in before)
