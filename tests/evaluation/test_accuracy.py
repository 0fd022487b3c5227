"""Evaluation: accuracies, intervals and comparisons worked by hand."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from rkd.evaluation.accuracy import Evaluation, accuracy, compare, mean_verdict
from rkd.evaluation.results import CategoryResult, ModelResult
from rkd.records import PseudoLabel, Query
from tests.support.fakes import ScriptedGenerator, query, says

QUERIES = [query("a", "1", "add"), query("b", "2", "add"), query("c", "3", "divide"), query("d", "4")]
GREEDY = {"a": says("1.00"), "b": says(9), "c": "Step 1: and so on", "d": says(4)}
GENERATOR = ScriptedGenerator(greedy=GREEDY, cut=frozenset({GREEDY["c"]}))
GREEDY_ONLY = Evaluation(max_response_tokens=64, pass_at_k_samples=0)


def result():
    return GREEDY_ONLY.evaluate(GENERATOR, QUERIES, seed=0, test_set="test")


def test_accuracy_is_the_share_of_greedy_responses_that_match_the_gold_answer():
    assert (result().n, result().correct, result().accuracy) == (4, 2, 0.5)
    assert result().outcomes == [True, False, False, True]
    assert result().answers == ["1", "9", None, "4"]
    assert result().question_ids == ["a", "b", "c", "d"]


def test_the_interval_is_wilsons():
    # p̂ = ½, n = 4, z² = 3.8415: centre ½; half-width 1.95996·√(1/16 + 3.8415/64) / (1 + 3.8415/4) = 0.34996.
    assert result().interval_low == pytest.approx(0.15004, abs=1e-5)
    assert result().interval_high == pytest.approx(0.84996, abs=1e-5)


def test_absent_answers_and_cut_responses_are_counted():
    assert (result().share_without_answer, result().share_truncated) == (0.25, 0.25)


def test_each_category_has_its_accuracy():
    assert result().by_category == {"add": CategoryResult(2, 0.5), "divide": CategoryResult(1, 0.0)}


def test_zero_samples_leave_pass_at_8_out():
    generator = ScriptedGenerator(greedy=GREEDY)
    assert GREEDY_ONLY.evaluate(generator, QUERIES, seed=0, test_set="test").pass_at_8 is None
    assert [sampling.temperature for _, sampling, _ in generator.asked] == [0.0]


def test_pass_at_8_is_the_unbiased_estimate():
    sampled = {"a": [says(1)] + [says(0)] * 9, "b": [says(0)]}
    generator = ScriptedGenerator(greedy=GREEDY, sampled=sampled)
    evaluation = Evaluation(max_response_tokens=64, pass_at_k_samples=10, pass_at_k_temperature=0.5)
    # a: 1 of 10 right, 1 − C(9, 8)/C(10, 8) = 1 − 9/45 = 0.8. b: none right, 0.
    assert evaluation.evaluate(generator, QUERIES[:2], 3, test_set="test").pass_at_8 == pytest.approx(0.4)
    _, sampling, seed = generator.asked[1]
    assert (sampling.temperature, sampling.samples_per_query, seed) == (0.5, 10, 3)


def test_maj_at_8_is_the_share_of_queries_whose_first_8_samples_have_the_right_majority():
    sampled = {
        "a": [says(1)] * 4 + [says("1.0")] + [says(0)] * 3,  # 5 of 8
        "b": [says(0)] * 3 + [says(2)] * 3 + ["Step 1: and so on"] * 2,  # a tie, and the wrong answer came first
    }
    generator = ScriptedGenerator(greedy=GREEDY, sampled=sampled)
    evaluation = Evaluation(max_response_tokens=64)
    assert evaluation.evaluate(generator, QUERIES[:2], 3, test_set="test").maj_at_8 == 0.5


def test_maj_at_8_takes_the_first_8_of_more_samples():
    sampled = {
        "a": [says(1)] * 5 + [says(0)] * 7,  # the first 8: right, 5 to 3; the last 8 and all 12: wrong
        "b": [says(0)] * 5 + [says(2)] * 7,  # the other way round
        "c": [says(3)] * 12,
    }
    generator = ScriptedGenerator(greedy=GREEDY, sampled=sampled)
    evaluation = Evaluation(max_response_tokens=64, pass_at_k_samples=12)
    assert evaluation.evaluate(generator, QUERIES[:3], 3, test_set="test").maj_at_8 == 2 / 3
    assert evaluation.evaluate(generator, QUERIES[:1], 3, test_set="test").maj_at_8 == 1


def test_what_a_response_leaves_open_is_guessed_only_where_that_is_asked_for():
    asked = [Query("x", "mmlu_pro", "Which?", "B"), Query("y", "mmlu_pro", "Which?", "C")]
    generator = ScriptedGenerator(greedy={"x": "(A) is wrong, so I think of B", "y": "The answer is C. Not D."})
    published = replace(GREEDY_ONLY, unstated="last_letter")
    assert GREEDY_ONLY.evaluate(generator, asked, 0, test_set="test").answers == [None, "C"]
    assert published.evaluate(generator, asked, 0, test_set="test").answers == ["B", "C"]
    assert published.evaluate(GENERATOR, QUERIES, 0, test_set="test").answers == result().answers


def test_pass_at_8_can_be_held_to_some_queries_the_same_for_every_seed():
    asked = []
    for seed in (0, 1):
        generator = ScriptedGenerator(greedy=GREEDY, sampled={one.id: [says(1)] for one in QUERIES})
        Evaluation(max_response_tokens=64, max_pass_at_k_queries=2).evaluate(generator, QUERIES, seed, test_set="test")
        asked.append(generator.asked[1][0])
    assert len(asked[0]) == 2
    assert asked[0] == asked[1]


def test_the_queries_of_pass_at_8_are_drawn_from_all_of_a_test_set_and_keep_its_order():
    asked = [query(str(number), "1") for number in range(40)]
    generator = ScriptedGenerator(greedy=dict.fromkeys(map(str, range(40)), says(1)), sampled={
        str(number): [says(1)] for number in range(40)
    })  # fmt: skip
    Evaluation(max_response_tokens=64, max_pass_at_k_queries=10).evaluate(generator, asked, 0, test_set="test")
    drawn = [int(number) for number in generator.asked[1][0]]
    assert (len(drawn), drawn) == (10, sorted(drawn))
    assert max(drawn) >= 20  # the first half alone would come up once in 5,000 draws


def test_too_few_samples_for_pass_at_8_are_refused():
    with pytest.raises(ValueError, match="pass@8 needs at least 8 samples; 0 leaves it out"):
        Evaluation(max_response_tokens=64, pass_at_k_samples=4)


def test_test_queries_without_gold_answers_are_refused():
    with pytest.raises(ValueError, match=r"1 of 2 queries have no gold answer \(first: x\)"):
        GREEDY_ONLY.evaluate(GENERATOR, [QUERIES[0], query("x")], seed=0, test_set="test")


def test_validation_accuracy_is_over_the_queries_that_have_a_label():
    labels = [
        PseudoLabel("a", "1", 1.0),
        PseudoLabel("b", None, 0.4),
        PseudoLabel("c", "3", 0.8),
        PseudoLabel("d", "4", 1),
    ]
    assert accuracy(GENERATOR, QUERIES, labels, max_response_tokens=64) == 2 / 3  # a and d of a, c, d


def test_validation_accuracy_follows_the_label_and_not_the_gold_answer():
    poisoned = [replace(one, gold_answer="9") for one in QUERIES]
    labels = [PseudoLabel(one.id, one.gold_answer, 1.0) for one in QUERIES]
    assert accuracy(GENERATOR, poisoned, labels, max_response_tokens=64) == 0.5


def test_validation_without_any_label_says_what_to_do():
    labels = [PseudoLabel(one.id, None, 0.4) for one in QUERIES]
    with pytest.raises(ValueError, match=r"none of 4 validation queries has a label: lower `labels.threshold`"):
        accuracy(GENERATOR, QUERIES, labels, max_response_tokens=64)


def role(name: str, right: list[str]) -> ModelResult:
    generator = ScriptedGenerator(greedy={one.id: says(one.gold_answer if one.id in right else 0) for one in QUERIES})
    return ModelResult(name, {"test": GREEDY_ONLY.evaluate(generator, QUERIES, seed=0, test_set="test")})


def test_a_comparison_counts_the_questions_that_one_role_alone_answers():
    comparison = compare(role("Ours", ["a", "b", "c"]), role("SFT", ["c", "d"]), "test")
    assert (comparison.first, comparison.second, comparison.test_set) == ("Ours", "SFT", "test")
    assert (comparison.only_first, comparison.only_second, comparison.difference) == (2, 1, 0.25)
    assert comparison.p_value == 1.0  # two-sided for 1 of 3 coins: 2 · (1 + 3)/8, at most 1


def test_roles_tested_on_other_questions_are_not_compared():
    other = role("SFT", [])
    test = other.test_sets["test"]
    moved = replace(other, test_sets={"test": replace(test, question_ids=test.question_ids[::-1])})
    with pytest.raises(ValueError, match="Ours and SFT were not tested on the same questions of test"):
        compare(role("Ours", []), moved, "test")


def test_mean_verdict_leaves_out_what_cannot_be_read():
    generator = ScriptedGenerator(greedy={"a": "x", "b": "y", "c": "z"})
    judge = SimpleNamespace(judge=lambda *_: [1.0, None, 0.4])
    asked = [query("a"), query("b"), query("c")]
    assert mean_verdict(generator, asked, judge, max_response_tokens=5) == pytest.approx(0.7)
    with pytest.raises(ValueError, match="could be read"):
        mean_verdict(generator, asked, SimpleNamespace(judge=lambda *_: [None] * 3), max_response_tokens=5)
