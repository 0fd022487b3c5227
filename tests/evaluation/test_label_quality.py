"""Counts of labels and verdicts, worked by hand."""

from dataclasses import replace

import pytest

from rkd.evaluation.label_quality import grade_statistics, judge_quality, label_statistics, verdict_counts
from rkd.evaluation.verdict_counts import LabelStatistics, ReliabilityBin, VerdictCounts
from rkd.records import PseudoLabel
from rkd.stages.labels import score
from tests.support.fakes import query, responses, says, scored

GOLD = [query("a", "1"), query("b", "2.0"), query("c", "4"), query("d", "5")]
LABELS = [
    PseudoLabel("a", "1", 1.0),
    PseudoLabel("b", "2", 0.75),
    PseudoLabel("c", "3", 0.7),
    PseudoLabel("d", None, 0.25),
]
RESPONSES = [
    responses("a", [says(1), says(1), says(9)]),  # called right, right, wrong; and so they are
    responses("b", [says(2), "Step 1: and so on"]),  # called right, wrong; and so they are
    responses("c", [says(3), says(4), says(7)]),  # called right, wrong, wrong; are wrong, right, wrong
    responses("d", [says(5), says(6)]),  # no label, no verdict
]
SCORED = score(GOLD, RESPONSES, LABELS)


def test_labels_are_counted_by_consensus_and_whether_they_are_right():
    statistics = label_statistics(LABELS, GOLD)
    assert statistics == LabelStatistics(4, 3, 2, [0, 0, 1, 0, 0, 0, 0, 2, 0, 1])
    assert (statistics.share_without_label, statistics.precision) == (0.25, 2 / 3)


def test_the_precision_of_no_labels_is_none():
    assert label_statistics([PseudoLabel("q", None, 0.5)], [query("q", "1")]).precision is None


def test_verdicts_are_counted_against_the_truth():
    counts = verdict_counts(GOLD, SCORED)
    assert counts == VerdictCounts(
        right_called_right=3, wrong_called_right=1, right_called_wrong=1, wrong_called_wrong=3, without_verdict=2
    )
    assert (counts.precision_of_right, counts.precision_of_wrong) == (3 / 4, 3 / 4)
    assert list(counts.shares.values()) == [3 / 8, 1 / 8, 1 / 8, 3 / 8]


def test_the_rubric_calls_only_its_highest_score_right():
    rated = [[replace(one, score=5.0 if one.score else 4.0) for one in own] for own in SCORED[:3]]
    assert verdict_counts(GOLD[:3], rated, best_score=5) == replace(verdict_counts(GOLD, SCORED), without_verdict=0)


def test_a_class_without_verdicts_has_no_precision():
    counts = verdict_counts(GOLD[:1], score(GOLD[:1], [responses("a", [says(1)])], LABELS[:1]))
    assert (counts.precision_of_right, counts.precision_of_wrong) == (1.0, None)
    assert verdict_counts(GOLD[3:], SCORED[3:]).shares is None


def test_queries_without_gold_answers_or_in_another_order_are_refused():
    with pytest.raises(ValueError, match=r"need gold answers: 1 of 1 .*first: q"):
        label_statistics([PseudoLabel("q", "1", 1.0)], [query("q")])
    with pytest.raises(ValueError, match="part at place 0"):
        label_statistics(LABELS[::-1], GOLD)
    with pytest.raises(ValueError, match="part at place 0"):
        verdict_counts(GOLD[::-1], SCORED)
    with pytest.raises(ValueError, match="of no queries"):
        label_statistics([], [])


def test_a_judge_is_counted_against_the_truth_on_every_response():
    truth = [1, 1, 0, 1, 0, 0, 1, 0, 1, 0]  # of RESPONSES, in a row
    scores = [0.9, 0.2, 0.6, 0.8, 0.1, 0.3, 0.7, 0.4, 0.5, 0.05]
    quality = judge_quality(GOLD, SCORED, scores, [0.5] * 5 + [1.0] * 5)
    assert quality.verdicts == VerdictCounts(3, 1, 2, 4, 0)  # 0.5 is not above 0.5
    above = [
        (a > b) + 0.5 * (a == b)
        for a, s in zip(scores, truth, strict=True)
        if s
        for b, t in zip(scores, truth, strict=True)
        if not t
    ]
    assert quality.area_under_curve == pytest.approx(sum(above) / len(above))
    assert quality.mean_yes_no_mass == 0.75


def test_agreement_beyond_chance_is_worked_by_hand():
    counts = VerdictCounts(3, 1, 2, 4, 5)  # 5 right and 5 wrong, 4 called right and 6 called wrong
    assert (counts.accuracy, counts.right_accepted, counts.wrong_accepted) == (0.7, 3 / 5, 1 / 5)
    assert counts.share_unreadable == 5 / 15
    # 3 right ones among 4 called right, 4 wrong ones among 6 called wrong.
    assert (counts.precision_of_right, counts.precision_of_wrong) == (3 / 4, 4 / 6)
    assert counts.kappa == pytest.approx((0.7 - 0.5) / (1 - 0.5))  # by chance 0.5 · 0.4 + 0.5 · 0.6
    nothing = VerdictCounts(0, 0, 0, 0, 3)
    assert (nothing.accuracy, nothing.kappa, nothing.right_accepted, nothing.share_unreadable) == (None, None, None, 1)
    assert VerdictCounts(3, 0, 0, 0, 0).kappa is None


def test_reliability_counts_scores_in_tenths():
    truth_and_scores = [0.95, 1.0, 0.92, 0.1, 0.19, 0.9, 0.5, 0.59, 0.5, 0.05]
    quality = judge_quality(GOLD, SCORED, truth_and_scores, [None] * 10)  # truth 1 1 0 1 0 0 1 0 1 0
    bins = quality.reliability
    assert list(bins) == [str(place) for place in range(10)]
    assert [one.count for one in bins.values()] == [1, 2, 0, 0, 0, 3, 0, 0, 0, 4]
    assert bins["2"] == ReliabilityBin(0, None, None)
    assert bins["1"].mean_score == pytest.approx(0.145)
    assert (bins["1"].share_right, bins["5"].share_right, bins["9"].share_right) == (1 / 2, 2 / 3, 2 / 4)
    # |mean score - share right|, each times its count: 0.05, 0.71, |1.59 - 2| and |3.77 - 2|
    assert quality.expected_calibration_error == pytest.approx((0.05 + 0.71 + 0.41 + 1.77) / 10)
    assert quality.mean_yes_no_mass is None


def test_a_judge_is_compared_with_the_label_where_both_have_a_verdict():
    # The label's verdicts: 1 1 0, 1 0, 1 0 0, and none on the last two.
    quality = judge_quality(GOLD, SCORED, [0.9, 0.1, 0.2, None, 0.3, 0.8, 0.9, 0.1, 0.7, 0.7], [1.0] * 10)
    assert quality.agreement_with_label == 5 / 7


def test_an_unreadable_verdict_is_counted_and_never_wrong():
    quality = judge_quality(GOLD, SCORED, [None, 0.9, *[None] * 8], [None, 0.4, *[None] * 8])
    assert quality.verdicts == VerdictCounts(1, 0, 0, 0, 9)
    assert quality.verdicts.share_unreadable == 0.9
    assert quality.mean_yes_no_mass == 0.4
    assert quality.area_under_curve is None
    assert judge_quality(GOLD, SCORED, [None] * 10, [None] * 10).expected_calibration_error is None


def test_accepted_attacks_are_counted_by_kind_where_there_is_a_verdict():
    fooled = [("colon", 0.9), ("yes", 0.2), ("colon", 0.4), ("yes", None), ("colon", 0.5), ("colon", 0.51)]
    fooled += [("empty", None)]  # whether it would be accepted nobody knows
    quality = judge_quality(GOLD, SCORED, [0.5] * 10, [1.0] * 10, fooled)
    assert quality.attacks_accepted == {"colon": 2 / 4, "yes": 0}
    assert (quality.attacked_queries, quality.mean_attacks_accepted) == (4, 1 / 4)
    assert judge_quality(GOLD, SCORED, [0.5] * 10, [1.0] * 10).mean_attacks_accepted is None


def test_a_judge_of_right_responses_alone_has_no_area():
    own = score(GOLD[:1], [responses("a", [says(1)])], LABELS[:1])
    assert judge_quality(GOLD[:1], own, [0.7], [1.0]).area_under_curve is None


def test_a_grader_calls_right_what_has_its_highest_grade():
    scores = [1.0, 0.8, *[0.8] * 8]
    of_grader = judge_quality(GOLD, SCORED, scores, [None] * 10, [("empty", 0.8), ("yes", 1.0)], threshold=0.9)
    assert of_grader.verdicts.right_called_right + of_grader.verdicts.wrong_called_right == 1
    assert of_grader.attacks_accepted == {"empty": 0.0, "yes": 1.0}
    assert judge_quality(GOLD, SCORED, scores, [None] * 10).verdicts.right_called_wrong == 0


def test_grade_statistics_count_by_grade_and_compare_with_a_rubric():
    own = [scored("a", ("x", 5.0), ("xx", 3.0)), scored("b", ("xxx", None), ("xxxx", 3.0))]
    found = grade_statistics([query("a"), query("b")], own, 5, lambda _, text: 5 - len(text))
    assert (found.responses, found.unreadable, found.mean) == (3, 1, pytest.approx(11 / 3))
    assert found.counts == {"0": 0, "1": 0, "2": 0, "3": 2, "4": 0, "5": 1}
    # By the rubric 4, 3 and 1.
    assert (found.exact, found.within_one) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert found.mean_by_rubric == pytest.approx(8 / 3)
    assert found.rank_correlation == pytest.approx(0.866, abs=1e-3)
    without = grade_statistics([query("a")], own[:1], 5)
    assert (without.exact, without.rank_correlation) == (None, None)
