import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from rkd.evaluation.statistics import (
    area_under_curve,
    bootstrap_over_seeds_and_questions,
    mcnemar_exact,
    paired_comparison,
    pass_at_k,
    wilson_interval,
)


def test_wilson_interval_agrees_with_a_published_case():
    # Newcombe 1998, Statistics in Medicine 17:857, Table I: 81 of 263, score method: 0.2553 to 0.3662.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


# Quantiles of the normal distribution at 0.75, 0.95, 0.975 and 0.995, from tables.
@pytest.mark.parametrize(
    ("confidence", "z"),
    [(0.5, 0.6744897501960817), (0.9, 1.6448536269514722), (0.95, 1.959963984540054), (0.99, 2.5758293035489004)],
)
@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (3, 10), (0, 7), (7, 7), (81, 263), (1199, 1319)])
def test_wilson_interval_is_its_formula(successes, n, confidence, z):
    share = successes / n
    centre, width = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    expected = [(centre - width) / (1 + z**2 / n), (centre + width) / (1 + z**2 / n)]
    assert wilson_interval(successes, n, confidence) == pytest.approx(expected, rel=0, abs=1e-12)


def test_wilson_interval_is_closed_at_its_ends():
    # Rounding must not leave a bound a hair beside 0 or 1.
    for n in (1, 7, 80, 1319):
        assert wilson_interval(0, n)[0] == 0.0
        assert wilson_interval(n, n)[1] == 1.0


@pytest.mark.parametrize(("successes", "n", "confidence"), [(1, 0, 0.95), (-1, 5, 0.95), (6, 5, 0.95), (1, 5, 1.0)])
def test_wilson_interval_refuses_impossible_counts(successes, n, confidence):
    with pytest.raises(ValueError, match=r"(successes|confidence)="):
        wilson_interval(successes, n, confidence)


def test_mcnemar_counts_the_tails_of_a_fair_coin():
    # 1 and 4: 2 · (C(5,0) + C(5,1)) / 2^5 = 2 · 6 / 32.
    assert mcnemar_exact(1, 4) == pytest.approx(0.375)
    assert mcnemar_exact(4, 1) == pytest.approx(0.375)
    assert mcnemar_exact(0, 10) == pytest.approx(2 / 1024)


@pytest.mark.parametrize(("first", "second"), [(1, 0), (3, 9), (40, 40), (41, 40), (310, 402), (0, 60), (900, 880)])
def test_mcnemar_is_twice_the_smaller_tail(first, second):
    tail = sum(math.comb(first + second, right) for right in range(min(first, second) + 1))
    expected = min(Fraction(1), Fraction(2 * tail, 2 ** (first + second)))
    assert mcnemar_exact(first, second) == pytest.approx(float(expected), rel=0, abs=1e-12)


def test_mcnemar_without_evidence_is_one():
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(5, 5) == 1.0


def test_mcnemar_refuses_negative_counts():
    with pytest.raises(ValueError, match="only_second=-1"):
        mcnemar_exact(3, -1)


def test_paired_comparison_counts_what_one_row_alone_gets_right():
    comparison = paired_comparison([1, 1, 1, 0, 0], [1, 0, 0, 1, 0])
    assert (comparison.questions, comparison.only_a, comparison.only_b) == (5, 2, 1)
    assert (comparison.accuracy_a, comparison.accuracy_b) == (0.6, 0.4)
    assert comparison.difference == pytest.approx(0.2)
    assert comparison.p_value == 1.0  # 2 against 1: 2 · (1 + 3) / 8, at most 1


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ([1, 0], [1], "2 questions against 1"),
        ([], [], "at least one outcome"),
        ([[1]], [[1]], r"expected \(N,\)"),
        ([1.5], [1], "outside 0"),
        ([float("nan")], [1], "outside 0"),
    ],
)
def test_paired_comparison_refuses_outcomes_that_do_not_pair(a, b, reason):
    with pytest.raises(ValueError, match=reason):
        paired_comparison(a, b)


def test_preferences_are_compared_question_by_question():
    paired = paired_comparison([0.9, 0.5, 0.2, 0.6], [0.4, 0.5, 0.3, 0.1])
    assert (paired.only_a, paired.only_b) == (2, 1)
    assert paired.difference == pytest.approx(0.9 / 4)
    assert paired.p_value == paired_comparison([1, 1, 0, 0], [0, 0, 1, 0]).p_value


def test_pass_at_k_by_hand():
    # n 5, c 2, k 2: 1 − C(3,2)/C(5,2) = 1 − 3/10.
    assert pass_at_k(5, 2, 2) == pytest.approx(0.7)
    assert pass_at_k(5, 2, 1) == pytest.approx(0.4)
    assert pass_at_k(5, 0, 3) == 0.0
    assert pass_at_k(5, 3, 3) == 1.0


@pytest.mark.parametrize(("n", "c", "k"), [(5, 6, 1), (5, -1, 1), (5, 1, 0), (5, 1, 6)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
    with pytest.raises(ValueError, match="needs 0 <= c <= n"):
        pass_at_k(n, c, k)


def outcomes(accuracy, seeds, questions, seed):
    return np.random.default_rng(seed).random((seeds, questions)) < accuracy


def test_bootstrap_gives_the_plain_difference_inside_its_interval():
    a, b = outcomes(0.6, 3, 200, seed=1), outcomes(0.4, 3, 200, seed=2)
    interval = bootstrap_over_seeds_and_questions(a, b, replicates=2000)
    assert interval.difference == pytest.approx(a.mean() - b.mean())
    assert 0 < interval.low < interval.difference < interval.high


def test_bootstrap_repeats_with_its_seed():
    a, b = outcomes(0.6, 2, 50, seed=1), outcomes(0.4, 3, 50, seed=2)
    first = bootstrap_over_seeds_and_questions(a, b, replicates=700, seed=5)
    assert first == bootstrap_over_seeds_and_questions(a, b, replicates=700, seed=5)


def test_bootstrap_of_equal_rows_of_one_seed_has_no_width():
    a = outcomes(0.5, 1, 50, seed=1)
    interval = bootstrap_over_seeds_and_questions(a, a, replicates=100)
    assert (interval.difference, interval.low, interval.high) == (0, 0, 0)


def test_repeating_a_seed_does_not_narrow_the_interval():
    # Four copies of one seed hold no more evidence than one; a bootstrap of S·N outcomes would halve the width.
    a, b = outcomes(0.6, 1, 200, seed=1), outcomes(0.5, 1, 200, seed=2)
    one = bootstrap_over_seeds_and_questions(a, b, replicates=4000)
    four = bootstrap_over_seeds_and_questions(np.repeat(a, 4, axis=0), np.repeat(b, 4, axis=0), replicates=4000)
    assert four.high - four.low == pytest.approx(one.high - one.low, rel=0.1)


def test_one_seed_interval_has_the_width_of_the_paired_normal_approximation():
    a, b = outcomes(0.6, 1, 400, seed=1), outcomes(0.5, 1, 400, seed=2)
    interval = bootstrap_over_seeds_and_questions(a, b, replicates=4000)
    # Var of a paired mean difference: the variance of a_i − b_i over N; 2 · 1.96 standard errors wide.
    width = 2 * 1.96 * np.std(a[0].astype(float) - b[0]) / np.sqrt(400)
    assert interval.high - interval.low == pytest.approx(width, rel=0.1)


def test_seeds_that_disagree_widen_the_interval():
    # Mean 0.5 in both; the first row's seeds are right on everything or on nothing.
    split = np.repeat([[1.0], [0.0], [1.0], [0.0]], 200, axis=1)
    steady, other = outcomes(0.5, 4, 200, seed=1), outcomes(0.5, 4, 200, seed=2)
    wide = bootstrap_over_seeds_and_questions(split, other, replicates=2000)
    narrow = bootstrap_over_seeds_and_questions(steady, other, replicates=2000)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


@pytest.mark.parametrize(
    ("a", "b", "options", "reason"),
    [
        ([[1, 0]], [[1]], {}, "2 questions against 1"),
        ([1, 0], [1, 0], {}, r"expected \(S, N\)"),
        ([[50]], [[1]], {}, "outside 0"),
        ([[1]], [[1]], {"replicates": 0}, "replicates=0"),
        ([[1]], [[1]], {"confidence": 95}, "confidence=95"),
    ],
)
def test_bootstrap_refuses_what_it_cannot_resample(a, b, options, reason):
    with pytest.raises(ValueError, match=reason):
        bootstrap_over_seeds_and_questions(a, b, **options)


@pytest.mark.parametrize("levels", [1, 2, 5, 1_000_000])
def test_area_under_curve_counts_pairs_with_ties_as_half(levels):
    generator = torch.Generator().manual_seed(levels)
    scores = torch.randint(levels, (60,), generator=generator).double() / 7
    is_correct = torch.rand(60, generator=generator) < 0.4
    pairs = [(right, wrong) for right in scores[is_correct] for wrong in scores[~is_correct]]
    expected = sum(float(right > wrong) + float(right == wrong) / 2 for right, wrong in pairs) / len(pairs)
    assert area_under_curve(scores, is_correct) == pytest.approx(expected, rel=0, abs=1e-12)
