import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from rkd.evaluation.statistics import (
    REPLICATES,
    accuracy_interval,
    area_under_curve,
    bootstrap_over_seeds_and_questions,
    mcnemar_exact,
    p_value_text,
    paired_comparison,
    pass_at_k,
    sign_flip_exact,
    standard_error,
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


def test_swapping_clusters_by_hand():
    # ±3 ± 1 ± 1: sums 5, 3, 3, 1 and their negatives. |Σ d| = 3 + 1 − 1 = 3 is reached by 6 of 8.
    assert sign_flip_exact([3, 1, -1]) == pytest.approx(6 / 8)
    assert sign_flip_exact([-3, -1, -1, 0]) == pytest.approx(2 / 8)
    assert sign_flip_exact([0, 0]) == sign_flip_exact([]) == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_swapping_clusters_agrees_with_all_signs_counted(seed):
    drawn = np.random.default_rng(seed).integers(-7, 8, size=9).tolist()
    sums = [sum(s * d for s, d in zip(signs, drawn, strict=True)) for signs in itertools.product((1, -1), repeat=9)]
    assert sign_flip_exact(drawn) == pytest.approx(sum(abs(one) >= abs(sum(drawn)) for one in sums) / 2**9)


def test_one_question_in_each_cluster_is_mcnemars_test():
    a, b = outcomes(0.6, 1, 300, seed=1)[0], outcomes(0.5, 1, 300, seed=2)[0]
    assert paired_comparison(a, b, clusters=range(300)).p_value == pytest.approx(paired_comparison(a, b).p_value)


def test_copies_of_a_question_are_no_further_evidence_for_a_paired_test():
    a, b = outcomes(0.6, 1, 100, seed=1)[0], outcomes(0.5, 1, 100, seed=2)[0]
    copied = paired_comparison(np.repeat(a, 7), np.repeat(b, 7), clusters=np.repeat(range(100), 7).tolist())
    once = paired_comparison(a, b)
    assert copied.p_value == pytest.approx(once.p_value)
    assert (copied.questions, copied.only_a, copied.only_b) == (700, 7 * once.only_a, 7 * once.only_b)


def test_a_paired_test_of_many_clusters_neither_overflows_nor_exceeds_one():
    clusters = np.repeat(range(2000), 2).tolist()
    assert paired_comparison([1] * 4000, [0] * 4000, clusters).p_value == 0.0  # 2 · 2^−2000 is below every float
    half = [1, 1, 0, 0] * 1000
    assert paired_comparison(half, half[::-1], clusters).p_value == 1.0


@pytest.mark.parametrize("call", [paired_comparison, lambda a, _, clusters: accuracy_interval(a, clusters)])
def test_every_question_needs_a_cluster(call):
    with pytest.raises(ValueError, match=r"2 clusters are named for 3 questions"):
        call([1, 0, 1], [1, 1, 1], ["x", "y"])


def test_accuracy_without_clusters_has_wilsons_interval():
    for right, n in ((0, 1), (1, 1), (3, 10), (7, 7), (81, 263)):
        assert accuracy_interval([1] * right + [0] * (n - right)) == pytest.approx(wilson_interval(right, n))
        assert accuracy_interval([1] * right + [0] * (n - right), range(n))[0] >= 0


def test_copies_of_a_question_do_not_narrow_the_interval_of_an_accuracy():
    right = [1] * 30 + [0] * 70
    # The variance over clusters divides by K − 1: 99 questions' worth instead of 100.
    low, high = accuracy_interval(np.repeat(right, 7), np.repeat(range(100), 7).tolist())
    once = wilson_interval(30, 100)
    assert high - low == pytest.approx(once[1] - once[0], rel=0.01)
    # Equal outcomes tell nothing about the variance: each cluster counts once.
    assert accuracy_interval([1] * 70, np.repeat(range(10), 7).tolist()) == pytest.approx(wilson_interval(10, 10))
    assert accuracy_interval([0] * 70, np.repeat(range(10), 7).tolist())[0] == 0.0


def test_clusters_that_say_nothing_about_their_questions_leave_the_interval_as_it_is():
    drawn = outcomes(0.4, 1, 7000, seed=3)[0]
    low, high = accuracy_interval(drawn, np.repeat(range(1000), 7).tolist())
    once = accuracy_interval(drawn)
    assert once[1] - once[0] <= high - low == pytest.approx(once[1] - once[0], rel=0.06)


def test_the_standard_error_by_hand():
    # Clusters {1, 1, 0} and {0, 0}: m = 2/5; s − n m = 2 − 6/5 = 4/5 and −4/5; √(2/1 · 32/25) / 5 = 1.6 / 5.
    assert standard_error([1, 0, 1, 0, 0], ["x", "y", "x", "x", "y"]) == pytest.approx(0.32)
    # Without clusters: √(N/(N−1) Σ (x − m)²)/N, here √(4/3 · 1)/4.
    assert standard_error([1, 0, 1, 0]) == pytest.approx(math.sqrt(4 / 3) / 4)
    assert standard_error([1, 0], ["x", "x"]) == 0.0


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
    assert interval.p_value == 1


def test_a_p_value_of_the_bootstrap_worked_by_hand():
    # Two questions, one seed: of the four equally likely draws one has only the question on which both rows agree.
    for a, b in (([[1, 1]], [[0, 1]]), ([[0, 1]], [[1, 1]])):
        p_value = bootstrap_over_seeds_and_questions(a, b, replicates=20_000).p_value
        assert p_value == pytest.approx(2 * 1 / 4, abs=0.02)


def test_the_seeds_of_each_row_are_drawn_by_themselves():
    # Seed 0 is right on everything and seed 1 on nothing, in both rows: drawn together, they would never differ.
    split = np.repeat([[1.0], [0.0]], 20, axis=1)
    interval = bootstrap_over_seeds_and_questions(split, split, replicates=2000)
    assert (interval.difference, interval.low, interval.high) == (0, -1, 1)


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


@pytest.mark.parametrize("size", [2, 7])
def test_copies_of_a_question_do_not_narrow_the_interval_of_a_difference(size):
    a, b = outcomes(0.6, 3, 100, seed=1), outcomes(0.5, 3, 100, seed=2)
    once = bootstrap_over_seeds_and_questions(a, b, replicates=20_000)
    copied = [np.repeat(one, size, axis=1) for one in (a, b)]
    clusters = [f"problem {i}" for i in range(100) for _ in range(size)]
    clustered = bootstrap_over_seeds_and_questions(*copied, clusters=clusters, replicates=20_000)
    assert clustered.high - clustered.low == pytest.approx(once.high - once.low, rel=0.03)
    alone = bootstrap_over_seeds_and_questions(*copied, replicates=20_000)
    assert alone.high - alone.low < 0.9 * (once.high - once.low)


def test_clusters_may_be_scattered_and_of_several_sizes():
    a, b = outcomes(0.7, 2, 60, seed=1), outcomes(0.4, 2, 60, seed=2)
    clusters = [i % 7 if i % 2 else i % 11 for i in range(60)]
    order = np.argsort(clusters, kind="stable")
    scattered = bootstrap_over_seeds_and_questions(a, b, clusters=clusters, replicates=20_000)
    sorted_ = bootstrap_over_seeds_and_questions(
        a[:, order], b[:, order], clusters=[clusters[i] for i in order], replicates=20_000
    )
    assert scattered.difference == pytest.approx(a.mean() - b.mean())
    assert (scattered.low, scattered.high) == pytest.approx((sorted_.low, sorted_.high), abs=0.01)


@pytest.mark.parametrize("values", [2, 3, 400])
def test_drawing_kinds_is_drawing_questions(values):
    # Few kinds of questions are drawn by their numbers, many one by one; both are the plain bootstrap, drawn here.
    drawn = np.random.default_rng(5)
    a, b = (drawn.integers(values, size=(2, 40)) / (values - 1) for _ in range(2))
    got = bootstrap_over_seeds_and_questions(a, b, replicates=20_000)
    plain = []
    for _ in range(10_000):
        questions = drawn.integers(40, size=40)
        means = [one[drawn.integers(2, size=2)][:, questions].mean() for one in (a, b)]
        plain.append(means[0] - means[1])
    assert [got.low, got.high] == pytest.approx(np.quantile(plain, [0.025, 0.975]).tolist(), abs=0.02)


def test_a_p_value_that_no_replicate_contradicts_is_a_bound():
    all_right, all_wrong = np.ones((3, 50)), np.zeros((3, 50))
    floor = bootstrap_over_seeds_and_questions(all_right, all_wrong)
    assert REPLICATES >= 100_000
    assert floor.is_bound
    assert floor.p_value == 2 / (REPLICATES + 1)
    unclear = bootstrap_over_seeds_and_questions(outcomes(0.6, 3, 50, seed=1), outcomes(0.5, 3, 50, seed=2))
    assert not unclear.is_bound


@pytest.mark.parametrize(
    ("value", "is_bound", "text"),
    [
        (0.0123, False, "p = 0.012"),
        (0.0004, False, "p < 0.001"),
        (1.0, False, "p = 1.000"),
        (2 / 100_001, True, "p ≤ 0.000020"),
        (12 * 2 / 100_001, True, "p ≤ 0.00024"),
        (0.00241, True, "p ≤ 0.0025"),  # never rounded down
        (0.0991, True, "p ≤ 0.100"),
        (1.0, True, "p ≤ 1.0"),
    ],
)
def test_p_values_in_words(value, is_bound, text):
    assert p_value_text(value, is_bound=is_bound) == text


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
