"""The export of finished jobs: plain transformers and datasets load everything back, and cards say what it is."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from datasets import load_dataset
from huggingface_hub import DatasetCard, ModelCard
from huggingface_hub.errors import OfflineModeIsEnabled
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rkd.data.judge_prompts import JudgePrompt
from rkd.data.licences import STORED, licence_of_questions, licence_of_texts, licence_of_weights
from rkd.data.sources import GeneratedDataset, StoredDataset
from rkd.errors import ArtifactError, ExportError, UsageError
from rkd.jobs.export import TOKEN, export, push
from rkd.jobs.export_model import asked_of_judge, asked_of_student
from rkd.jobs.finished_job import FinishedJob, finished_job
from rkd.judges.single_token import LocalYesNo
from rkd.mini.math import queries as mini_queries
from rkd.models.loading import load_causal_lm, load_tokenizer
from rkd.models.packaged import REPOSITORY
from rkd.records import Response
from rkd.rl.rewards import learned_reward
from tests.support import tiny_world
from tests.support.jobs import JUDGE_WORDS, failure, run
from tests.support.recorded_models import recorded_by_three
from tests.support.rkd_command import rkd_command
from tests.support.tiny_tokenizers import LAYOUTS

NO_RL = [*tiny_world.SFT_SETTINGS, *tiny_world.REWARD_MODEL_SETTINGS]
QUERIES = tiny_world.queries(300, 6)


def made(world, root: Path, *more: str, stages: list[str] | None = None) -> FinishedJob:
    run(world, root, *more, stages=stages)
    (folder,) = (root / "outputs").iterdir()
    return finished_job(folder)


@pytest.fixture(scope="module")
def job(world, tmp_path_factory) -> FinishedJob:
    """The default row, with a student and a reward model that reads the last token."""
    return made(world, tmp_path_factory.mktemp("job"), "rl.optimisation.learning_rate=1e-3")


@pytest.fixture(scope="module")
def exported(job, tmp_path_factory):
    """The folder of a part of the job."""
    folders: dict[str, Path] = {}

    def export_once(part: str) -> Path:
        if part not in folders:
            folders[part] = tmp_path_factory.mktemp("exported") / part
            export(job, folders[part], part, licence="mit")
        return folders[part]

    return export_once


def code_of(folder: Path) -> dict:
    """The names that the code of a card defines, run as it stands there but for the place of the folder."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code.count('FOLDER = "."') == 1
    names: dict = {}
    exec(code.replace('FOLDER = "."', f"FOLDER = {str(folder)!r}"), names)
    return names


def test_the_student_is_a_plain_model_with_the_same_logprobs(job, exported):
    folder = exported("student")
    plain, own = AutoModelForCausalLM.from_pretrained(folder), load_causal_lm(job.artifact("rl").folder)
    ids = torch.tensor(
        [load_tokenizer(job.artifact("rl").folder)(job.stages.zero_shot.render(QUERIES[0]))["input_ids"]]
    )
    with torch.no_grad():
        assert torch.equal(plain(ids).logits.log_softmax(-1), own(ids).logits.log_softmax(-1))
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == load_tokenizer(job.artifact("rl").folder).get_vocab()
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "README.md"} <= names
    assert not [
        name for name in names if name.endswith((".jsonl", ".bin", ".pt")) or "report" in name or "manifest" in name
    ]


def test_the_code_of_the_students_card_answers_as_the_job_did(job, exported):
    respond = code_of(exported("student"))["respond"]
    (tested,) = job.result.models[-1].test_sets.values()
    questions = {query.id: query.question for query in job.stages.dataset.test_sets()["svamp"]}
    answers = [re.search(r"\d+", respond(questions[one])) for one in tested.question_ids]
    assert [found and found[0] for found in answers] == tested.answers


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_the_reward_model_gives_the_same_rewards_in_plain_transformers(world, job, tmp_path, pooling):
    if pooling == "mean":
        job = made(world, tmp_path / "job", "rl=none", stages=[*NO_RL, "reward_model.pooling=mean"])
    folder = tmp_path / "exported"
    export(job, folder, "reward_model")
    reward = code_of(folder)["reward"]
    texts = ["The answer is 1.", "The answer is 2.", "I do not know"] * 2
    responses = [Response(query.id, "", 0, text, True) for query, text in zip(QUERIES, texts, strict=True)]
    own = learned_reward(job.artifact("reward_model").folder, job.stages.zero_shot, job.stages.student.options)
    expected = own(QUERIES, responses).total.tolist()
    found = [reward(query.question, text) for query, text in zip(QUERIES, texts, strict=True)]
    assert found == pytest.approx(expected, abs=1e-5)
    assert len(set(found)) > 2
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    assert plain.config.num_labels == 1
    assert ("gives another number" in (folder / "README.md").read_text(encoding="utf-8")) == (pooling == "mean")


def test_the_judge_gives_the_same_verdicts_in_plain_transformers(world, tmp_path):
    recorded = recorded_by_three(tmp_path / "recorded")
    row = ["experiments=yon", "judge=small_judge", "judge.held_out.model=mixed", "judge.teachers=[right,wrong]",
           *JUDGE_WORDS, f"judge.held_out.path={recorded}", "judge.learning_rate=1e-2", "judge.batch_size=4",
           "judge.max_tokens=128", "dataset.labelled_fraction=0.5"]  # fmt: skip
    job = made(world, tmp_path, stages=[*tiny_world.SFT_SETTINGS, *tiny_world.RL_SETTINGS, *row])
    assert job.parts == ["student", "judge", "data"]
    folder, source = tmp_path / "exported", job.artifact("judge").folder
    export(job, folder, "judge")
    verdict = code_of(folder)["verdict"]
    texts = ["The answer is 1.", "The answer is 2."] * 3
    responses = [Response(query.id, "", 0, text, True) for query, text in zip(QUERIES, texts, strict=True)]
    expected = LocalYesNo(load_causal_lm(source), load_tokenizer(source), job.stages.judge.prompt).judge(
        QUERIES, responses
    )
    found = [verdict(query.question, text) for query, text in zip(QUERIES, texts, strict=True)]
    assert found == pytest.approx(expected, abs=1e-5)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| judge_tests.student.area_under_curve |" in card
    assert ".reliability." not in card
    assert "| texts judged in training | right, wrong | mit |" in card


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_prompt_of_a_card_has_the_tokens_of_the_jobs_prompt(layout):
    tokenizer, (query, *_) = layout(), QUERIES
    prompts = [tiny_world.PROMPT, replace(tiny_world.PROMPT, is_chat=False)]
    for (text, before), tokens in [
        *((asked_of_student(one, tokenizer), one.encode([query], tokenizer)) for one in prompts),
        (asked_of_judge(JudgePrompt(), tokenizer), JudgePrompt().encode([query], ["It is 1."], tokenizer)),
    ]:
        asked = text.replace("{question}", query.question).replace("{response}", "It is 1.")
        assert [*before, *tokenizer(asked, add_special_tokens=False)["input_ids"]] == tokens[0]


def test_labels_and_pairs_are_datasets(job, exported, tmp_path):
    folder = exported("data")
    labels, pairs = (load_dataset(str(folder), name, cache_dir=str(tmp_path)) for name in ("labels", "pairs"))
    assert {split: len(rows) for split, rows in labels.items()} == {"train": 36, "validation": 4}
    gold = {f"svamp-{query.id}": query.gold_answer for query in tiny_world.queries(200, 40)}
    assert all(row["label"] == gold[row["query_id"]] for row in labels["train"])  # this teacher is always right
    assert set(labels["train"].column_names) == {"query_id", "question", "label", "consensus"}
    assert len(pairs["train"]) == job.result.notes.counts["training_pairs"]
    assert len(pairs["validation"]) == job.result.notes.counts["validation_pairs"]
    kept = [json.loads(line) for line in (job.artifact("reward_model").folder / "pairs.jsonl").read_text().splitlines()]
    assert [row["chosen"] for row in pairs["train"]] == [row["chosen"] for row in kept]
    card = DatasetCard.load(folder / "README.md")
    assert [config["config_name"] for config in card.data.configs] == ["labels", "pairs"]
    assert card.data.license == ["mit", "other"]
    assert "labels.precision" in card.text
    assert "Left out" not in card.text


def test_a_card_says_what_a_model_was_made_from_and_how_good_it_is(job, exported):
    card = ModelCard.load(exported("student") / "README.md")
    (test,) = job.result.models[-1].test_sets.values()
    (measured,) = card.data.eval_results
    assert measured.metric_value == round(test.accuracy, 4)
    assert measured.metric_args == {
        "interval_95": [round(test.interval_low, 4), round(test.interval_high, 4)],
        "questions": 12,
    }
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == (
        "other",
        "transformers",
        "text-generation",
    )
    interval = f"{100 * test.interval_low:.1f} to {100 * test.interval_high:.1f}"
    for said in (
        "| weights at the start | mini_1 | not known: ask its source before you pass it on |",
        "| questions | svamp | mit |",
        "| weights of the teacher | mini_large |",
        f"| Ours | svamp | {100 * test.accuracy:.1f} | {interval} | 12 |",
        "learning_rate: 0.001",
        f"Revision of the code: {job.result.revision}",
        "100.0 % of the labels are right.",
        "svamp: nearest training question shares",
    ):
        assert said in card.text
    (recipe,) = re.findall(r"```yaml\n(.*?)```", card.text, re.DOTALL)
    assert yaml.safe_load(recipe)["rl"]["rollouts"]["episodes"] == 64
    assert str(Path.home()) not in card.content
    assert str(job.root.parent) not in card.content


@pytest.fixture(scope="module")
def of_record(world, tmp_path_factory) -> FinishedJob:
    """A job whose teacher is a file of responses of an unknown licence."""
    root = tmp_path_factory.mktemp("record")
    rows = [{"query": one.id, "response": f"It says {one.gold_answer}. The answer is {one.gold_answer}."}
            for one in tiny_world.queries(200, 40)]  # fmt: skip
    (root / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    stored = ["teacher=stored", f"teacher.path={root / 'responses.jsonl'}", "rl=none"]
    run(world, root, *stored, stages=NO_RL, without=("teacher.", "teacher_samples."))
    (folder,) = (root / "outputs").iterdir()
    return finished_job(folder)


@pytest.mark.parametrize(("licence", "is_kept"), [(None, False), ("mit", True)])
def test_recorded_texts_without_a_known_licence_are_left_out_and_told(of_record, tmp_path, licence, is_kept):
    export(of_record, tmp_path / "exported", "data", licence=licence)
    labels, pairs = (
        load_dataset(str(tmp_path / "exported"), name, cache_dir=str(tmp_path / "cache"))["train"]
        for name in ("labels", "pairs")
    )
    generators = {row[f"{side}_generator"] for row in pairs for side in ("chosen", "rejected")}
    assert generators == ({"student", "stored"} if is_kept else {"student"})
    said = DatasetCard.load(tmp_path / "exported" / "README.md").text
    assert ("student's: the licence of the texts of the teacher (stored) is not known." in said) != is_kept
    assert f"| texts of the teacher | stored | {licence or 'not known: ask its source before you pass it on'} |" in said
    assert len(labels) == 36  # answers are no texts of the record


def test_a_licence_that_does_not_let_data_be_passed_on_is_refused(job, tmp_path):
    with pytest.raises(UsageError, match=r"--licence cc-by-nd-4\.0: data are passed on under one of apache-2.0, mit"):
        export(job, tmp_path / "exported", "data", licence="cc-by-nd-4.0")


@pytest.mark.parametrize("licence", [None, "cc-by-nd-4.0"])
def test_questions_that_may_not_be_passed_on_are_left_out_with_their_pairs(job, tmp_path, monkeypatch, licence):
    monkeypatch.setitem(STORED, "svamp", licence)
    export(job, tmp_path / "exported", "data")
    assert {path.parent.name for path in (tmp_path / "exported").rglob("*.jsonl")} == {"labels"}
    labels = load_dataset(str(tmp_path / "exported"), "labels", cache_dir=str(tmp_path / "cache"))["train"]
    assert set(labels.column_names) == {"query_id", "label", "consensus"}
    assert (
        "**Left out.** The questions of svamp, and with them all pairs"
        in (tmp_path / "exported" / "README.md").read_text()
    )


def test_licences_are_those_of_the_sources():
    stored = StoredDataset(name="gsm8k", source="hub", splits=["train"], columns=None)
    generated = GeneratedDataset(generator=mini_queries, split="train", size=1, seed=0)
    assert [licence_of_questions(one) for one in (stored, generated)] == ["mit", "apache-2.0"]
    mini = REPOSITORY / "rkd" / "mini" / "checkpoints" / "mini_1"
    assert licence_of_weights("rkd/mini/checkpoints/mini_1", mini) == "apache-2.0"
    assert licence_of_weights("checkpoints/smollm2_135m", None) == "apache-2.0"
    assert licence_of_weights("meta-llama/Llama-3.2-1B", None) is None
    assert licence_of_texts(object()) is None


def test_a_folder_that_is_not_empty_is_refused(job, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(UsageError, match="is not empty"):
        export(job, tmp_path / "mine", "student")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    export(job, tmp_path / "empty", "student")
    assert (tmp_path / "empty" / "README.md").is_file()


def test_a_part_that_the_job_has_not_made_is_refused(job, tmp_path):
    with pytest.raises(UsageError, match=r"has no judge\. It has: student, reward_model, data"):
        export(job, tmp_path / "exported", "judge")


def test_a_job_that_trains_nothing_has_no_student(world, tmp_path):
    job = made(world, tmp_path, "experiments=icl", stages=[])
    with pytest.raises(UsageError, match=r"has no student\. It has: nothing, it trained no model"):
        export(job, tmp_path / "exported", "student")


def test_a_job_that_failed_or_is_not_there_is_refused(world, tmp_path):
    said = failure(world, tmp_path, f"student.name_or_path={world / 'teacher'}")
    (folder,) = (tmp_path / "outputs").iterdir()
    with pytest.raises(ExportError, match=r"is not finished: .*there is no pair"):
        finished_job(folder)
    assert "there is no pair" in said
    with pytest.raises(FileNotFoundError, match="Give the folder of one job"):
        finished_job(tmp_path / "outputs" / "nothing")


def test_an_artifact_that_was_removed_or_altered_is_told(job, tmp_path):
    root = tmp_path / "artifacts"
    shutil.copytree(job.root, root)
    moved = finished_job(job.folder, root)
    weights = moved.artifact("rl").folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="was altered"):
        export(moved, tmp_path / "exported", "student")
    shutil.rmtree(root / "rl")
    with pytest.raises(ExportError, match="--root"):
        export(moved, tmp_path / "exported", "student")
    shutil.rmtree(root / "teacher_first_training")
    with pytest.raises(ArtifactError, match=r"teacher_first_training/\w+ is not in"):
        export(moved, tmp_path / "exported", "data")
    assert not (tmp_path / "exported").exists()
    assert not list(tmp_path.glob(".exported*"))


class FakeApi:
    """In the place of the hub's API: notes what it is asked, or raises an error."""

    calls: list
    error: Exception | None = None

    def __init__(self, token: str) -> None:
        self.calls.append(("token", token))

    def create_repo(self, name: str, **options: object) -> str:
        if self.error is not None:
            raise self.error
        self.calls.append(("create_repo", name, options))
        return f"https://huggingface.co/{name}"

    def upload_folder(self, **options: object) -> None:
        self.calls.append(("upload_folder", options))


@pytest.fixture
def api(monkeypatch) -> type[FakeApi]:
    monkeypatch.setenv(TOKEN, "hf_hush")
    return type("Api", (FakeApi,), {"calls": []})


@pytest.mark.parametrize(("is_dataset", "kind"), [(False, "model"), (True, "dataset")])
def test_a_push_makes_a_private_repository_and_uploads_the_folder(tmp_path, api, is_dataset, kind):
    assert push(tmp_path, "me/student", is_dataset=is_dataset, api_of=api) == "https://huggingface.co/me/student"
    assert api.calls == [
        ("token", "hf_hush"),
        ("create_repo", "me/student", {"repo_type": kind, "private": True, "exist_ok": True}),
        ("upload_folder", {"repo_id": "me/student", "folder_path": tmp_path, "repo_type": kind}),
    ]


def test_a_push_without_a_token_names_the_variable_and_asks_nothing(tmp_path, api, monkeypatch):
    monkeypatch.delenv(TOKEN)
    with pytest.raises(ExportError, match=r"HF_TOKEN is not set.*`hf upload me/student"):
        push(tmp_path, "me/student", is_dataset=False, api_of=api)
    assert api.calls == []


@pytest.mark.parametrize(
    "error",
    [OfflineModeIsEnabled("Cannot reach the hub: offline mode is enabled."), ConnectionError("no route to host")],
)
def test_a_push_that_the_network_or_the_hub_refuses_is_told_without_the_token(tmp_path, api, error):
    api.error = error
    with pytest.raises(ExportError, match="The hub did not take me/student") as told:
        push(tmp_path, "me/student", is_dataset=False, api_of=api)
    assert str(error) in str(told.value)
    assert "hf_hush" not in str(told.value)


def test_without_network_the_hubs_own_api_is_refused_in_plain_words(tmp_path, monkeypatch):
    monkeypatch.setenv(TOKEN, "hf_hush")
    with pytest.raises(ExportError, match="The hub did not take me/student"):
        push(tmp_path, "me/student", is_dataset=False)  # the tests run with HF_HUB_OFFLINE


def test_the_command_exports_and_says_what_is_wrong(job, tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)
    done = rkd_command("export", str(job.folder), str(tmp_path / "exported"), "--push", "me/student")
    assert done.returncode == 1
    assert "Written to" in done.stdout
    assert "HF_TOKEN is not set" in done.stderr
    again = rkd_command("export", str(job.folder), str(tmp_path / "exported"))
    assert (again.returncode, "is not empty" in again.stderr) == (2, True)
    assert "Traceback" not in done.stderr + again.stderr
