"""Recorded responses as a teacher: how they find their queries, and what is refused."""

import json

import pytest

from rkd.data.recorded_responses import StoredTeacher
from rkd.protocols import Sampling
from rkd.records import Query, Response
from rkd.stages.teacher import RecordedSamples

QUERIES = [Query("sums-a", "sums", "What is 1 + 1?"), Query("sums-7", "sums", "What is 2 + 2?")]
ROWS = [
    {"query": "what is  1 + 1?\n", "response": "It is 2."},
    {"query": 7, "response": "It is 5.", "is_finished": False},
    {"query": "7", "response": "It is 4.", "other": None},
    {"query": "unasked", "response": "It is 6."},
]


def written(folder, rows=ROWS, name="responses.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def stored(path, **columns):
    return StoredTeacher(name="recorded", path=str(path), **columns).source()


def test_a_response_finds_its_query_by_question_or_id_and_keeps_its_place(tmp_path):
    assert stored(written(tmp_path)).recorded(QUERIES) == [
        [Response("sums-a", "recorded", 0, "It is 2.", True)],
        [Response("sums-7", "recorded", 0, "It is 5.", False), Response("sums-7", "recorded", 1, "It is 4.", True)],
    ]


@pytest.mark.parametrize(
    ("row", "defect"),
    [
        ({"response": "It is 2."}, None),
        ({"response": "It is 2.", "finish_reason": "stop"}, None),
        ({"response": "It is 2.", "finish_reason": "EOS"}, None),
        ({"response": "It is 2.", "finish_reason": "stop", "is_finished": True}, None),
        ({"response": "It is 2.", "finish_reason": "length"}, "length"),
        ({"response": "It is 2.", "finish_reason": "length", "is_finished": True}, "length"),
        ({"response": "It is 2.", "finish_reason": "stop", "is_finished": False}, "length"),
        ({"response": "It is 2.", "is_finished": False}, "length"),
        ({"response": "It is 2.", "finish_reason": None}, "null"),
        ({"response": "It is 2.", "finish_reason": "tool_calls"}, "tool_calls"),
        ({"response": "It is 2.", "finish_reason": 3}, "int"),
        ({"response": None}, "empty"),
        ({"response": "", "finish_reason": "stop"}, "empty"),
        ({"response": " \n"}, "empty"),
    ],
)
def test_a_response_that_is_not_whole_is_kept_and_says_why(tmp_path, row, defect):
    (one,) = stored(written(tmp_path, [{"query": "a"} | row])).recorded(QUERIES[:1])[0]
    assert one.defect == defect
    assert one.text.strip() in ("It is 2.", "")


def test_half_a_surrogate_pair_in_a_response_is_replaced(tmp_path):
    (one,) = stored(written(tmp_path, [{"query": "a", "response": "2 \ud83d \0"}])).recorded(QUERIES[:1])[0]
    assert one.text == "2 \ufffd \ufffd"


def test_an_id_may_carry_the_name_of_its_dataset(tmp_path):
    source = stored(written(tmp_path, [{"query": "sums-a", "response": "It is 2."}]))
    assert [source.answered([query]) for query in QUERIES] == [1, 0]


def test_columns_of_other_names_are_read(tmp_path):
    path = written(tmp_path, [{"question": "What is 1 + 1?", "output": "It is 2."}])
    source = stored(path, query_column="question", response_column="output")
    assert source.recorded(QUERIES[:1])[0][0].text == "It is 2."


def test_several_columns_are_samples_of_a_query_and_objects_are_entered_by_a_dot(tmp_path):
    row = {"question": "What is 1 + 1?", "small": {"text": "It is 3."}, "large": {"text": "It is 2."}, "a.b": "2"}
    path, columns = written(tmp_path, [row]), ["small.text", "large.text", "a.b"]
    source = stored(path, query_column="question", response_column=columns)
    assert [one.text for one in source.recorded(QUERIES[:1])[0]] == ["It is 3.", "It is 2.", "2"]
    for wrong in ("small.txt", "huge.text", "question.text"):
        with pytest.raises(ValueError, match=f"line 1: `{wrong.split('.')[-1]}`|line 1: `{wrong}` is missing"):
            stored(path, query_column="question", response_column=["large.text", wrong]).count  # noqa: B018


def test_no_column_at_all_is_refused(tmp_path):
    with pytest.raises(ValueError, match="names no column"):
        stored(written(tmp_path), response_column=[])


def test_a_response_can_be_rewritten_or_left_out_by_a_function(tmp_path):
    source = stored(written(tmp_path), rewrite=lambda text: None if "5" in text else text.upper())
    assert [[one.text for one in own] for own in source.recorded(QUERIES)] == [["IT IS 2."], ["IT IS 4."]]


def test_the_first_responses_answer_a_query_that_is_asked(tmp_path):
    source, greedy = stored(written(tmp_path)), Sampling(0.0, 1, 16)
    assert [own[0].text for own in source.generate(QUERIES, greedy, seed=0)] == ["It is 2.", "It is 5."]
    with pytest.raises(ValueError, match=r"fewer than 2 responses to 1 of 2 queries \(first: sums-a\)"):
        source.generate(QUERIES, Sampling(0.5, 2, 16), seed=0)


def test_the_content_of_the_file_is_in_its_recipe_and_its_place_is_not(tmp_path):
    (tmp_path / "other").mkdir()
    fingerprint = stored(written(tmp_path)).fingerprint()
    assert stored(written(tmp_path / "other")).fingerprint() == fingerprint
    assert stored(written(tmp_path, ROWS[:1])).fingerprint() != fingerprint


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"response": "It is 2."}, "`query` is missing"),
        ({"query": None, "response": "It is 2."}, "`query` is NoneType instead of text"),
        ({"query": True, "response": "It is 2."}, "`query` is bool instead of text"),
        ({"query": " ", "response": "It is 2."}, "`query` is empty"),
        ({"query": "a"}, "`response` is missing"),
        ({"query": "a", "response": ["It is 2."]}, "`response` is list instead of text"),
        ({"query": "a", "response": "It", "is_finished": "no"}, "`is_finished` is 'no' instead of true or false"),
    ],
)
def test_a_bad_row_is_refused_with_file_line_and_reason(tmp_path, row, reason):
    source = stored(written(tmp_path, [*ROWS, row]))
    with pytest.raises(ValueError, match=rf"responses\.jsonl, line 5: {reason}"):
        source.recorded(QUERIES)


def test_a_file_that_is_not_there_is_named_with_its_key(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"teacher\.path=.*absent\.jsonl is no file"):
        stored(tmp_path / "absent.jsonl")


def test_responses_to_other_queries_are_refused(tmp_path):
    source = stored(written(tmp_path, ROWS[3:]))
    with pytest.raises(ValueError, match=r"no response to any of the 2 queries \(first: 'sums-a'\)"):
        RecordedSamples().first(source, QUERIES, seed=0)
