"""Counts of labels and verdicts, worked by hand."""

from dataclasses import replace

import pytest
from fakes import query, responses, says

from rkd.label_statistics import judge_quality, label_statistics, verdict_counts
from rkd.labels import score
from rkd.records import PseudoLabel
from rkd.results import LabelStatistics, VerdictCounts

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


def test_a_judge_of_right_responses_alone_has_no_area():
    own = score(GOLD[:1], [responses("a", [says(1)])], LABELS[:1])
    assert judge_quality(GOLD[:1], own, [0.7], [1.0]).area_under_curve is None
