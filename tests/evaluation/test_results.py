"""`result.json`: what is written is read back, and what is no result is refused."""

import dataclasses
import json

import pytest

from rkd.evaluation.results import (
    CategoryResult,
    Comparison,
    EvaluationResult,
    ModelResult,
    Notes,
    RunResult,
    WinRate,
    read_result,
    response_rows,
    with_clusters,
    write_result,
)
from rkd.evaluation.verdict_counts import JudgeQuality, ReliabilityBin, VerdictCounts
from rkd.records import Query

MATH = EvaluationResult(
    test_set="mini_math",
    n=4,
    correct=3,
    accuracy=0.75,
    interval_low=0.3,
    interval_high=0.95,
    pass_at_8=None,
    outcomes=[True, False, True, True],
    answers=["7", None, "12", "½"],
    question_ids=["q0", "q1", "q2", "q3"],
    share_without_answer=0.25,
    share_truncated=0.0,
    by_category={"adding": CategoryResult(n=2, accuracy=0.5)},
)
RESULT = RunResult(
    row="Ours",
    seed=1,
    config={"rl": {"lr": 1e-5, "betas": [0.9, 0.95]}, "dataset": None},
    revision=None,
    versions={"torch": "2.13"},
    costs={"rl": {"seconds": 12.5, "tokens": 1000}},
    models=[ModelResult(role="Ours", test_sets={"mini_math": MATH})],
    comparisons=[Comparison("Ours", "SFT", "mini_math", 3, 1, 0.5, 0.625)],
    failure=None,
    created="2030-01-01T00:00:00+00:00",
    notes=Notes(counts={"queries": 100, "pairs_per_query": 2.5}),
)


def test_result_reads_back_as_it_was_written_from_folder_or_file(tmp_path):
    path = write_result(RESULT, tmp_path / "job")
    assert read_result(path) == RESULT
    assert read_result(tmp_path / "job") == RESULT
    assert [file.name for file in (tmp_path / "job").iterdir()] == ["result.json"]


def test_a_result_file_has_no_texts_of_responses_and_a_row_for_each_question_has_them(tmp_path):
    texts = ["It is 7.", "", "12", "½ of it"]
    told = ModelResult("Ours", {"mini_math": dataclasses.replace(MATH, responses=texts)})
    older = ModelResult("teacher", {"mini_math": MATH})  # its test was stored before texts were kept
    result = dataclasses.replace(RESULT, models=[older, told])
    assert read_result(write_result(result, tmp_path)).models[1].test_sets["mini_math"].responses == []
    queries = [Query(f"q{place}", "mini_math", f"Question {place}?", gold_answer=str(place)) for place in range(4)]
    rows = list(response_rows(result, {"mini_math": queries}))
    assert rows[3] == {
        "test_set": "mini_math",
        "id": "q3",
        "question": "Question 3?",
        "gold_answer": "3",
        "responses": {"Ours": "½ of it"},
    }
    assert [row["responses"]["Ours"] for row in rows] == texts


def test_responses_that_are_not_one_for_each_question_are_refused():
    with pytest.raises(ValueError, match="n=4"):
        dataclasses.replace(MATH, responses=["one", "two"])


def test_a_result_of_before_there_were_notes_is_read(tmp_path):
    path = write_result(RESULT, tmp_path / "job")
    fields = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**fields.pop("notes"), **fields}), encoding="utf-8")
    assert read_result(path) == RESULT


def test_a_judges_quality_reads_back_with_and_without_what_older_results_lack(tmp_path):
    counts = VerdictCounts(3, 1, 2, 4, 1)
    bins = {"0": ReliabilityBin(0, None, None), "1": ReliabilityBin(10, 0.15, 0.5)}
    full = JudgeQuality(counts, 0.8, None, bins, 0.7, 200, {"colon": 0.25, "yes": 0.0})
    for name, quality in (("full", full), ("older", JudgeQuality(counts, 0.8, 0.99))):
        path = write_result(dataclasses.replace(RESULT, notes=Notes(judge=quality)), tmp_path / name)
        assert read_result(path).notes.judge == quality
    written = json.loads(path.read_text(encoding="utf-8"))
    for field in ("reliability", "agreement_with_label", "attacked_queries", "attacks_accepted"):
        del written["notes"]["judge"][field]
    path.write_text(json.dumps(written), encoding="utf-8")
    assert read_result(path).notes.judge == JudgeQuality(counts, 0.8, 0.99)


def test_failed_job_keeps_its_reason(tmp_path):
    failed = dataclasses.replace(RESULT, models=[], comparisons=[], failure="rl: reward is NaN at step 12")
    write_result(failed, tmp_path)
    assert read_result(tmp_path).failure == "rl: reward is NaN at step 12"


def test_writing_again_replaces_the_result(tmp_path):
    write_result(RESULT, tmp_path)
    write_result(dataclasses.replace(RESULT, seed=2), tmp_path)
    assert read_result(tmp_path).seed == 2


def test_number_that_is_not_finite_is_refused_and_leaves_the_old_result(tmp_path):
    write_result(RESULT, tmp_path)
    with pytest.raises(ValueError, match="Out of range float"):
        write_result(dataclasses.replace(RESULT, notes=Notes(counts={"reward": float("nan")})), tmp_path)
    assert read_result(tmp_path) == RESULT
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_counts_that_do_not_fit_the_outcomes_are_refused():
    with pytest.raises(ValueError, match=r"mini_math: n=4, correct=4 do not fit 4 outcomes \(3 of them true\)"):
        dataclasses.replace(MATH, correct=4)
    with pytest.raises(ValueError, match="3 answers"):
        dataclasses.replace(MATH, answers=["7", "8", "9"])


def test_missing_result_names_what_is_there(tmp_path):
    (tmp_path / "run.log").write_text("")
    with pytest.raises(FileNotFoundError, match=r"present: run\.log.*python run\.py"):
        read_result(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"sed": 1}, "RunResult has no field 'sed'"), ({"row": None}, "field 'row' is missing")],
)
def test_file_of_other_fields_is_refused_by_name(tmp_path, change, words):
    fields = dataclasses.asdict(RESULT) | change
    fields = {name: value for name, value in fields.items() if value is not None or name not in change}
    (tmp_path / "result.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=rf"result\.json is no result file.*{words}"):
        read_result(tmp_path)


def test_truncated_file_is_refused_by_name(tmp_path):
    path = write_result(RESULT, tmp_path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match=r"result\.json is no result file"):
        read_result(tmp_path)


def on_clusters(size: int, **changes) -> EvaluationResult:
    """100 questions in clusters of a size, whose first three fifths are right; the interval is Wilson's."""
    return EvaluationResult(
        test_set="plus",
        n=100,
        correct=60,
        accuracy=0.6,
        interval_low=0.502,
        interval_high=0.6906,
        pass_at_8=None,
        outcomes=[i < 60 for i in range(100)],
        answers=["1"] * 100,
        question_ids=[f"mini_math_plus-0-{i // size}-{i % size}" for i in range(100)],
        share_without_answer=0.0,
        share_truncated=0.0,
        **changes,
    )


def test_clusters_of_equal_outcomes_widen_the_interval_to_that_of_as_many_questions():
    clustered = with_clusters(on_clusters(5), [str(i // 5) for i in range(100)])
    assert clustered.clusters[:7] == [0, 0, 0, 0, 0, 1, 1]
    # 12 of 20 by Wilson, 0.387 to 0.781; the variance over 20 clusters divides by 19.
    assert (clustered.interval_low, clustered.interval_high) == pytest.approx((0.387, 0.781), abs=0.006)
    assert clustered.accuracy == 0.6


def test_questions_that_stand_alone_leave_the_result_as_it_is():
    assert with_clusters(on_clusters(5), [str(i) for i in range(100)]) == on_clusters(5)


def test_a_win_rate_has_the_standard_error_over_clusters():
    win_rate = WinRate(length_controlled=0.5, characters=1.0, reference_characters=1.0, unreadable=0)
    clustered = with_clusters(on_clusters(5, win_rate=win_rate), [str(i // 5) for i in range(100)])
    # √(p (1 − p) / 19) over 20 clusters of equal preferences.
    assert clustered.interval_high - 0.6 == pytest.approx(1.96 * (0.24 / 19) ** 0.5)


def test_a_file_older_than_clusters_has_those_that_its_ids_name(tmp_path):
    model = ModelResult("Ours", {"plus": on_clusters(5), "mini_math": MATH})
    write_result(dataclasses.replace(RESULT, models=[model]), tmp_path)
    read = read_result(tmp_path).models[0].test_sets
    assert read["plus"] == with_clusters(on_clusters(5), [str(i // 5) for i in range(100)])
    assert read["mini_math"] == MATH


def test_clusters_must_fit_the_questions():
    with pytest.raises(ValueError, match=r"n=100"):
        on_clusters(5, clusters=[0] * 99)
