"""A recorded model asked with several prompts: what votes, what is taught, and the numbers of the public record."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rkd.data.answers import answer_of, answers_match
from rkd.data.columns import NumberColumns
from rkd.data.recorded_model import PROMPTS, RecordedModel
from rkd.data.sources import StoredDataset
from rkd.evaluation.accuracy import Evaluation
from rkd.protocols import Sampling
from rkd.records import Query, Response
from rkd.stages.labels import CorrectResponses, MajorityVote, score
from rkd.stages.teacher import RecordedSamples
from tests.support.documents import blocks, read

QUERY = Query("sums-a", "sums", "How many are 7 and 2?", "9")
ANSWERS = {
    "chain_of_thought": {"answer": "9", "response": "7 + 2 = 9. The answer is 9."},
    "least_to_most": {"answer": "8", "response": "7 + 2 = 8. The answer is 8."},
    "answer_only": {"answer": "9", "response": "The answer is 9."},
    "program": {"answer": "9.0"},
    "commented_program": {"answer": "[invalid]"},
}


def written(folder: Path, answers=ANSWERS, *, model: str = "gpt-3.5", **row) -> Path:
    row = {"id": "a", "question": QUERY.question, "teachers": {model: answers}} | row
    with gzip.open(folder / "sums.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return folder


def recorded(folder: Path, **settings) -> RecordedModel:
    return RecordedModel(name="model", path=str(folder), **{"model": "gpt-3.5"} | settings).source()


def vote(own: list[Response], query: Query = QUERY, threshold: float = 0.6):
    return MajorityVote(threshold=threshold).label([query], [own])


def test_every_prompt_votes_and_only_the_texts_of_taught_ones_are_scored(tmp_path):
    (own,) = recorded(written(tmp_path)).recorded([QUERY])
    assert [(one.text, one.recorded_answer, one.only_votes) for one in own] == [
        ("7 + 2 = 9. The answer is 9.", "9", False),
        ("7 + 2 = 8. The answer is 8.", "8", False),
        ("", "9", True),
        ("", "9", True),
        ("", "", True),
    ]
    (label,) = vote(own)
    assert (label.answer, label.consensus) == ("9", 0.6)  # three of five
    assert vote(own, threshold=0.7)[0].answer is None
    scored = score([QUERY], [own], [label])
    assert [(one.response.text, one.score) for one in scored[0]] == [(own[0].text, 1.0), (own[1].text, 0.0)]
    assert [one.response.text for one in CorrectResponses().select(scored)[0]] == [own[0].text]


def test_the_keys_choose_who_votes_what_is_taught_and_what_is_tested(tmp_path):
    model = recorded(
        written(tmp_path), voters=["program", "least_to_most"], taught=["least_to_most"], tested="least_to_most"
    )
    (own,) = model.recorded([QUERY])
    assert [(one.text, one.recorded_answer) for one in own] == [("", "9"), ("7 + 2 = 8. The answer is 8.", "8")]
    assert model.generate([QUERY], Sampling(0.0, 1, 8), 0) == [[own[1]]]
    with pytest.raises(ValueError, match=r"4 samples .*asked once with each prompt\. Choose another teacher="):
        model.generate([QUERY], Sampling(1.0, 4, 8), 0)
    with pytest.raises(ValueError, match=r"to 1 of 2 queries \(first: other\)\. The columns `id` and `question`"):
        model.generate([QUERY, Query("other", "asdiv", "Who?")], Sampling(0.0, 1, 8), 0)
    assert model.count == 2


@pytest.mark.parametrize(
    ("answer", "exact", "read"),
    [
        ("9", "9", "9"),
        ("9.0", "9", "9"),
        ("$ 1,200.50", "1200.5", "1200.5"),
        ("-3", "-3", "-3"),
        ("9 cents", None, "9"),
        ("5/10", None, "1/2"),
        ("(7, 17)", None, None),
        ("None", None, None),
        ("[invalid]", None, None),
        ("nan", None, None),
        ("2*x + 5", None, None),
    ],
)
def test_an_answer_that_is_no_number_by_itself_votes_for_nothing(tmp_path, answer, exact, read):
    folder = written(tmp_path, {"program": {"answer": answer}})
    settings = {"voters": ["program"], "taught": [], "tested": "program"}
    for is_exact, expected in ((True, exact), (False, read)):
        ((one,),) = recorded(folder, exact_answers=is_exact, **settings).recorded([QUERY])
        assert answer_of(one, "sums") == expected


def test_a_taught_text_is_scored_by_what_it_states_even_if_the_recorded_answer_has_a_unit(tmp_path):
    text = {"answer": "9 pears", "response": "7 + 2 = 9. The answer is 9 pears."}
    (own,) = recorded(written(tmp_path, ANSWERS | {"least_to_most": text})).recorded([QUERY])
    (label,) = vote(own)
    assert label.consensus == 0.6  # "9 pears" has no vote
    assert [one.score for one in score([QUERY], [own], [label])[0]] == [1.0, 1.0]


def test_rows_are_found_by_id_before_question_with_or_without_the_name_of_the_dataset(tmp_path):
    model = recorded(written(tmp_path))
    asked = [QUERY, Query("a", "sums", "other"), Query("b", "sums", " how many are 7 and  2?"), Query("c", "sums", "-")]
    assert [len(own) for own in model.recorded(asked)] == [5, 5, 5, 0]
    assert model.answered(asked) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"voters": []}, "teacher.voters=.*at least one"),
        ({"voters": ["program", "program"]}, "each once"),
        ({"voters": ["chain_of_thought"]}, "least_to_most is none of teacher.voters"),
        ({"tested": "guess"}, "guess is none of teacher.voters"),
        ({"model": "gpt-5"}, r"line 1: `gpt-5` is missing \(present: gpt-3.5\).*teacher.model"),
    ],
)
def test_settings_that_the_files_do_not_have_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        recorded(written(tmp_path), **settings).recorded([QUERY])


def test_a_row_without_an_answer_to_a_prompt_is_named(tmp_path):
    answers = ANSWERS | {"program": {"response": "9"}}
    with pytest.raises(ValueError, match=r"sums.jsonl.gz, line 1: `answer` is missing"):
        recorded(written(tmp_path, answers)).recorded([QUERY])


def test_a_folder_without_files_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"teacher.path={tmp_path} holds no recorded answers"):
        recorded(tmp_path)


def test_answers_to_other_questions_alone_are_refused_with_the_columns_that_must_match(tmp_path):
    other = [Query("z", "sums", "Who?")]
    with pytest.raises(ValueError, match=r"no response to any of the 1 queries.*`id` and `question`"):
        RecordedSamples().first(recorded(written(tmp_path)), other, 0)


def test_the_fingerprint_names_content_and_settings_but_not_the_folder(tmp_path):
    (tmp_path / "copy").mkdir()
    first, copy = recorded(written(tmp_path)), recorded(written(tmp_path / "copy"))
    assert first.fingerprint() == copy.fingerprint()
    assert first.fingerprint() != recorded(tmp_path, taught=["chain_of_thought"]).fingerprint()


# ----------------------------------------------------------------------------------------------------------------------
# The public record
# ----------------------------------------------------------------------------------------------------------------------


def public(shared_data: Path, split: str) -> list[Query]:
    if not (shared_data / "recorded_teachers").is_dir():
        pytest.skip(f"no recorded_teachers/ in {shared_data}")
    columns = NumberColumns(question="question", answer="answer", id=["id"])
    return StoredDataset(name="recorded_teachers", source=str(shared_data), splits=[split], columns=columns).queries()


@pytest.mark.parametrize(
    ("split", "model", "kept", "right"),
    [
        ("asdiv", "code-davinci-001", 54.6, 89.9),
        ("asdiv", "gpt-3.5-turbo", 81.4, 98.3),
        ("svamp", "code-davinci-001", 45.6, 85.7),
        ("svamp", "gpt-3.5-turbo", 86.1, 95.7),
    ],
)
def test_the_vote_of_the_public_record_keeps_the_known_shares(shared_data, split, model, kept, right):
    queries = public(shared_data, split)
    responses = recorded(shared_data, model=model).recorded(queries)
    labels = MajorityVote(threshold=0.6).label(queries, responses)
    given = [(label, query) for label, query in zip(labels, queries, strict=True) if label.answer is not None]
    correct = sum(answers_match(label.answer, query.gold_answer, "") for label, query in given)
    assert {len(own) for own in responses} == {len(PROMPTS)}
    assert round(100 * len(given) / len(queries), 1) == kept
    assert round(100 * correct / len(given), 1) == right


@pytest.mark.parametrize(
    ("model", "exact", "as_read"), [("code-davinci-001", 40.0, 41.3), ("gpt-3.5-turbo", 80.6, 82.2)]
)
def test_the_public_record_is_tested_by_its_chain_of_thought(shared_data, model, exact, as_read):
    queries = public(shared_data, "svamp")
    evaluation = Evaluation(max_response_tokens=8, pass_at_k_samples=0)
    for exact_answers, expected in ((True, exact), (False, as_read)):
        teacher = recorded(shared_data, model=model, exact_answers=exact_answers)
        assert round(100 * evaluation.evaluate(teacher, queries, 0, test_set="svamp").accuracy, 1) == expected


def made_up_repository(root: Path) -> Path:
    """A folder in the layout of the public repository, with one question in each of its three data sets."""
    begins = ("code001", "code002", "text002", "text003", "gpt-3.5-turbo", "gpt4")
    for name in ("ASDiv", "MultiArith", "SVAMP"):
        files = {root / "data" / name / "test.jsonl": {"id": 7, "question": "7 + 2?", "answer": "Sum it.#### 9"}}
        for begin in begins:
            for end in ("COT", "LtM", "standard", "noNL", "NL+SL"):
                row = {"id": 7, "answer": " 9", "completion": f" {begin} by {end}: the answer is 9.\n\n"}
                files[root / "output_dir" / name / "test" / f"{begin}_{end}" / "predictions.jsonl"] = row
        for path, row in files.items():
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return root


def test_the_documented_script_turns_the_public_repository_into_files_that_are_read(tmp_path):
    (script,) = [block.text for block in blocks(read("docs", "datasets.md")) if "predictions.jsonl" in block.text]
    repository = made_up_repository(tmp_path / "repository")
    subprocess.run([sys.executable, "-c", script, repository, tmp_path / "made"], check=True, timeout=60)
    query = Query("svamp_7", "svamp", "7 + 2?", "9")
    (own,) = recorded(tmp_path / "made", model="gpt-4").recorded([query])
    assert [(one.text, one.recorded_answer) for one in own] == [
        ("gpt4 by COT: the answer is 9.", "9"),
        ("gpt4 by LtM: the answer is 9.", "9"),
        *[("", "9")] * 3,
    ]
    columns = NumberColumns(question="question", answer="answer", id=["id"])
    source = StoredDataset(
        name="recorded_teachers", source=str(tmp_path / "made"), splits=["asdiv", "multiarith"], columns=columns
    )
    assert [(one.id, one.gold_answer) for one in source.queries()] == [
        ("recorded_teachers-asdiv_7", "9"),
        ("recorded_teachers-multiarith_7", "9"),
    ]
