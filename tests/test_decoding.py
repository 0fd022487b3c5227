"""Records from JSON: what comes back as it was, and what is refused in which words."""

import dataclasses
import json

import pytest

from rkd.decoding import decode
from rkd.evaluation.results import CategoryResult, EvaluationResult
from rkd.records import (
    PreferencePair,
    Query,
    Response,
    ScoredResponse,
    digest_of,
    read_jsonl,
    write_jsonl,
)

QUERY = Query("q0", "svamp", "What is 1 + 1?", "2")
RIGHT = ScoredResponse(Response("q0", "teacher", 0, "It is 2.\u2028", True), "2", 1)
WRONG = ScoredResponse(Response("q0", "student", 3, "", False, withheld="refusal"), None, None)


def test_nested_records_come_back_as_they_were(tmp_path):
    pairs = [PreferencePair(QUERY, RIGHT, WRONG), PreferencePair(QUERY, WRONG, RIGHT)]
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    assert read_jsonl(tmp_path / "pairs.jsonl", PreferencePair) == pairs


def test_a_whole_number_stays_one_where_a_float_is_declared(tmp_path):
    # 1 and 1.0 are equal, but not their text, of which the digest is made.
    records = [RIGHT, dataclasses.replace(RIGHT, score=1.0)]
    write_jsonl(tmp_path / "records.jsonl", records)
    again = read_jsonl(tmp_path / "records.jsonl", ScoredResponse)
    assert [type(one.score) for one in again] == [int, float]
    assert digest_of(again) == digest_of(records)


def test_the_cluster_of_a_query_is_kept_and_decides_no_digest(tmp_path):
    clustered = dataclasses.replace(QUERY, cluster="problem 1")
    pair = PreferencePair(clustered, RIGHT, WRONG)
    write_jsonl(tmp_path / "pairs.jsonl", [pair])
    assert read_jsonl(tmp_path / "pairs.jsonl", PreferencePair) == [pair]
    assert digest_of([clustered]) == digest_of([QUERY]) != digest_of([dataclasses.replace(QUERY, category="x")])
    assert digest_of([pair]) == digest_of([PreferencePair(QUERY, RIGHT, WRONG)])


def fields(**changes: object) -> dict:
    return {**dataclasses.asdict(RIGHT), **changes}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (fields(w=2), r"ScoredResponse has no field 'w' @ \$"),
        ({"answer": None, "score": 1}, r"field 'response' is missing @ \$"),
        (fields(score="1"), r"'1' is not a number @ \$\.score"),
        (fields(score=True), r"True is not a number @ \$\.score"),
        (fields(answer=7), r"7 is not a text @ \$\.answer"),
        (fields(response=fields()["response"] | {"sample_index": 1.0}), r"1\.0 is not a whole .*\.response\.sample_i"),
        (fields(response=fields()["response"] | {"is_finished": 1}), r"1 is not true or false @ \$\.response\.is_fin"),
        (fields(response=[1]), r"not an object @ \$\.response"),
        ([1], r"\[1\] is not an object"),
        ({}, r"'response'.*'answer'.*'score'"),
        ({"response": {}, "answer": None, "score": None}, r"query_id.*generator.*sample_index.*; 2 more"),
    ],
)  # fmt: skip
def test_a_value_of_another_form_is_refused_by_its_path(value, message):
    with pytest.raises(ValueError, match=message):
        decode(ScoredResponse, value)


@pytest.mark.parametrize("line", ['{"id": "q1"', "[]", '{"id": "q1", "dataset": "svamp", "question": null}'])
def test_a_faulty_line_is_refused_by_file_and_line(tmp_path, line):
    path = tmp_path / "queries.jsonl"
    path.write_text(json.dumps(dataclasses.asdict(QUERY)) + f"\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"queries\.jsonl, line 2, is no Query: "):
        read_jsonl(path, Query)


@pytest.mark.parametrize("outcomes", [[True, False], [0.7, 0.5], [1, 0.5]])
def test_outcomes_are_verdicts_or_preferences(outcomes):
    result = EvaluationResult("mini", 2, 1, 0.5, 0.1, 0.9, None, outcomes, ["1", None], ["a", "b"], 0.5, 0.0)
    result = dataclasses.replace(result, by_category={"all": CategoryResult(2, 0.5)})
    again = decode(EvaluationResult, json.loads(json.dumps(dataclasses.asdict(result))))
    assert (again, [*map(type, again.outcomes)]) == (result, [*map(type, outcomes)])


def test_a_record_that_does_not_fit_together_is_refused_in_its_own_words():
    result = EvaluationResult("mini", 1, 1, 1.0, 0.2, 1.0, None, [True], ["1"], ["a"], 0.0, 0.0)
    with pytest.raises(ValueError, match="mini: n=1, correct=0 do not fit 1 outcomes"):
        decode(EvaluationResult, dataclasses.asdict(result) | {"correct": 0})
    with pytest.raises(ValueError, match=r"'x' is not a number @ \$\.outcomes"):
        decode(EvaluationResult, dataclasses.asdict(result) | {"outcomes": ["x"]})
