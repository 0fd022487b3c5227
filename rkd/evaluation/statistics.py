"""Statistics of accuracies and win rates: per-question outcomes in [0, 1] enter, intervals and tests leave.

Questions that are variants of one problem form a cluster, and clusters are what is independent: `clusters` names the
cluster of each question. None: each question is a cluster of its own.

Shapes: S seeds, N questions, K clusters. Fractions are in [0, 1].
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, mannwhitneyu, norm
from torch import Tensor

REPLICATES = 100_000  # of a bootstrap; its smallest p-value is 2 / (REPLICATES + 1)
_COUNTS_AT_A_TIME = 2_000_000  # limits the memory of the bootstrap


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Two rows on the same questions: `difference` is accuracy a − accuracy b; the test is two-sided and exact.

    `only_a` counts the questions on which a has the better outcome.
    """

    questions: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    only_a: int
    only_b: int
    p_value: float


@dataclass(frozen=True, slots=True)
class DifferenceInterval:
    """Mean of a − mean of b with its confidence interval and the two-sided p-value of no difference.

    `is_bound` says that the p-value is the smallest that the bootstrap can give: the true one is at most that.
    """

    difference: float
    low: float
    high: float
    p_value: float
    is_bound: bool


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927), as (low, high).

    Raises:
        ValueError: n < 1, `successes` is outside [0, n], or `confidence` is outside (0, 1).
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes={successes} of n={n}: needs n of at least 1 and successes from 0 to n.")
    _check_confidence(confidence)
    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """McNemar's exact two-sided p-value.

    If both accuracies are equal, each question that only one row answers correctly belongs to either with chance 1/2.

    Args:
        only_first: number of questions that only the first answers correctly.
        only_second: number of questions that only the second answers correctly.

    Raises:
        ValueError: a count is negative.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"only_first={only_first}, only_second={only_second}: counts must be at least 0.")
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def accuracy_interval(
    outcomes: ArrayLike, clusters: Sequence[Hashable] | None = None, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the mean outcome, as (low, high): Wilson's, with the number of questions that clusters leave.

    n questions in clusters are worth n / deff independent ones. The design effect deff (Kish 1965) is the variance of
    the mean over clusters, divided by p (1 − p) / n; below 1 it counts as 1. If all outcomes are equal, a cluster is
    worth one question.

    Args:
        outcomes: right (1) or wrong (0), (N,).
        clusters: the cluster of each question, (N,).

    Raises:
        ValueError: N is 0, an outcome is outside [0, 1], there is not one cluster per question, or `confidence` is
            outside (0, 1).
    """
    array = _outcomes(outcomes, dimensions=1)
    _check_confidence(confidence)
    mean, n = float(array.mean()), float(array.size)
    if clusters is not None:
        error = standard_error(array, clusters)
        independent = len(set(clusters))
        n = min(n, mean * (1 - mean) / error**2) if error > 0 else min(n, independent)
    z = float(norm.ppf((1 + confidence) / 2))
    centre, half = mean + z**2 / (2 * n), z * math.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2))
    # Rounding must not leave a bound a hair beside 0 or 1.
    low = (centre - half) / (1 + z**2 / n) if mean > 0 else 0.0
    high = (centre + half) / (1 + z**2 / n) if mean < 1 else 1.0
    return low, high


def standard_error(outcomes: ArrayLike, clusters: Sequence[Hashable] | None = None) -> float:
    """Standard error of the mean outcome over clusters; 0 for a single cluster.

        √(K / (K − 1) Σ_k (s_k − n_k m)²) / N,    s_k: sum of the n_k outcomes of cluster k, m: mean outcome

    Raises:
        ValueError: as `accuracy_interval`.
    """
    array = _outcomes(outcomes, dimensions=1)
    sums, sizes = _by_cluster(array[None], clusters)
    k = sizes.size
    residuals = sums[0] - sizes * array.mean()
    return float(np.sqrt(k / (k - 1) * (residuals**2).sum()) / array.size) if k > 1 else 0.0


def sign_flip_exact(differences: Sequence[int]) -> float:
    """Exact two-sided p-value: the chance that |Σ ± d_k| is at least |Σ d_k| if each sign is + or − with chance 1/2.

    If two rows are equally good, their outcomes on a cluster can be swapped. With one question in each cluster, d_k is
    −1, 0 or 1, and this is McNemar's exact test.

    Args:
        differences: for each cluster the questions that only the first row solves, minus those that only the second
            does, (K,).
    """
    sizes = [abs(one) for one in differences if one]
    observed, reach = abs(sum(differences)), sum(sizes)
    if set(sizes) <= {1}:
        return mcnemar_exact((reach + observed) // 2, (reach - observed) // 2)
    chances = np.zeros(2 * reach + 1)  # of each sum from −reach to reach
    chances[reach] = 1.0
    for size in sizes:
        chances = (np.roll(chances, size) + np.roll(chances, -size)) / 2  # no sum leaves the range
    totals = np.abs(np.arange(-reach, reach + 1))
    return min(1.0, float(chances[totals >= observed].sum()))


def paired_comparison(
    outcomes_a: ArrayLike, outcomes_b: ArrayLike, clusters: Sequence[Hashable] | None = None
) -> PairedComparison:
    """Compare two rows on the same questions, in the same order, by `sign_flip_exact`.

    Without clusters this is McNemar's exact test; for outcomes between 0 and 1, such as preferences, the sign test.

    Args:
        outcomes_a: right (1) or wrong (0), (N,).
        outcomes_b: the same of the other row, (N,).
        clusters: the cluster of each question, (N,).

    Raises:
        ValueError: shapes differ, N is 0, an outcome is outside [0, 1], or there is not one cluster per question.
    """
    a, b = _outcomes(outcomes_a, dimensions=1), _outcomes(outcomes_b, dimensions=1)
    _check_same_questions(a, b)
    better, _ = _by_cluster(np.sign(a - b)[None], clusters)
    return PairedComparison(
        questions=a.size,
        accuracy_a=float(a.mean()),
        accuracy_b=float(b.mean()),
        difference=float((a - b).sum()) / a.size,
        only_a=int(np.sum(a > b)),
        only_b=int(np.sum(b > a)),
        p_value=sign_flip_exact([round(one) for one in better[0]]),
    )


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate, from c right of n samples, of the chance that at least one of k samples is right.

        1 − C(n−c, k) / C(n, k),    Chen et al. 2021, arXiv:2107.03374, Eq. 1

    Raises:
        ValueError: 0 ≤ c ≤ n or 1 ≤ k ≤ n does not hold.
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"n={n}, c={c}, k={k}: needs 0 <= c <= n and 1 <= k <= n.")
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1 - k / i for i in range(n - c + 1, n + 1))


def bootstrap_over_seeds_and_questions(
    outcomes_a: ArrayLike,
    outcomes_b: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> DifferenceInterval:
    """Percentile interval of accuracy a − accuracy b, over both seeds and questions.

    Each replicate draws with replacement K clusters of questions, the same for both rows and all seeds, and the seeds
    of each row. The outcomes of one question under several seeds are not independent observations. With one seed the
    interval holds for that seed only.

    The variance over S seeds that replicates have is (S − 1)/S of the true one: with three seeds, two thirds. On the
    other hand, what differs from seed to seed on one question enters twice. With three seeds, 0.9, 1.1, 5.7 and 10.2 %
    of equally good rows differ at a level of 5 % if training seeds have a deviation of 0, 1, 2 and 4 points
    (tests/benchmarks/false_positives.py). No factor on the seeds' part alone corrects both.

    Args:
        outcomes_a: right (1) or wrong (0), (S, N); the rows may differ in S.
        outcomes_b: the same of the other row on the same questions, (S, N).
        clusters: the cluster of each question, (N,).
        replicates: number of bootstrap draws.
        seed: seed of the draws.

    Raises:
        ValueError: shapes do not match, an outcome is outside [0, 1], or an option is out of range.
    """
    a, b = _outcomes(outcomes_a, dimensions=2), _outcomes(outcomes_b, dimensions=2)
    _check_same_questions(a, b)
    _check_confidence(confidence)
    if replicates < 1:
        raise ValueError(f"replicates={replicates}: must be at least 1.")
    differences = _resampled_differences(a, b, clusters, replicates, np.random.default_rng(seed))
    tail = (1 - confidence) / 2
    low, high = np.quantile(differences, (tail, 1 - tail))
    # Twice the smaller share of replicates on one side of 0; the observed difference counts as one replicate.
    beyond = 1 + min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    p_value = min(1.0, 2 * beyond / (replicates + 1))
    return DifferenceInterval(float(a.mean() - b.mean()), float(low), float(high), p_value, beyond == 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for multiple tests, in the same order: Holm 1979, which controls the family-wise error rate.

    p̃_(i) = max_{j ≤ i} min(1, (m − j + 1) p_(j))    over the ascending p_(1) … p_(m)
    """
    # SciPy has no Holm correction, and statsmodels would be a dependency of 58 MB for these lines.
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def p_value_text(value: float, *, is_bound: bool = False) -> str:
    """A p-value in words: "p = 0.012", "p < 0.001", or for a bound, rounded up to two digits, "p ≤ 0.00024"."""
    if is_bound:
        decimals = 1 - math.floor(math.log10(value))
        rounded = math.ceil(round(value * 10**decimals, 6)) / 10**decimals
        return f"p ≤ {rounded:.{decimals}f}"
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _resampled_differences(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    clusters: Sequence[Hashable] | None,
    replicates: int,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """The difference of means in each replicate, (replicates,)."""
    (sums_a, sizes), (sums_b, _) = _by_cluster(a, clusters), _by_cluster(b, clusters)
    # Equal clusters are one kind, and a way to draw the seeds occurs often. Both save thousands of draws.
    kinds, members = np.unique(np.vstack([sums_a, sums_b, sizes]), axis=1, return_counts=True)
    times_drawn = [generator.multinomial(len(one), np.full(len(one), 1 / len(one)), size=replicates) for one in (a, b)]
    ways = np.hstack(times_drawn)
    codes = ways @ generator.integers(1 << 40, size=ways.shape[1])  # sorting numbers is faster than sorting rows
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    weights = ways[first] / np.repeat([len(a), -len(b)], [len(a), len(b)])
    differences = [
        _resampled_means(gaps, kinds[-1], members, int(count), generator)
        for gaps, count in zip(weights @ kinds[:-1], counts, strict=True)
    ]
    return np.concatenate(differences)


def _resampled_means(
    sums: NDArray[np.float64],
    sizes: NDArray[np.float64],
    members: NDArray[np.int64],
    replicates: int,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Σ sums / Σ sizes over as many clusters as there are, drawn with replacement, (replicates,).

    Args:
        sums, sizes, members: of each kind of clusters, the sum of a cluster, its size, and the number of such clusters.
    """
    # Equal sums make larger kinds still. Rounding joins sums that differ by the rounding of their additions.
    _, first, kind = np.unique(np.round(sums * 1e9 + 1j * sizes), return_index=True, return_inverse=True)
    sums, sizes, members = sums[first], sizes[first], np.bincount(kind, weights=members).astype(np.int64)
    clusters, means = int(members.sum()), []
    at_once = max(1, _COUNTS_AT_A_TIME // clusters)
    for done in range(0, replicates, at_once):
        size = min(at_once, replicates - done)
        if sums.size * 10 < clusters:
            drawn = generator.multinomial(clusters, members / clusters, size=size)
            means.append(drawn @ sums / (drawn @ sizes))
        else:  # then a draw of every cluster is faster
            chosen = np.repeat(np.arange(sums.size), members)[generator.integers(clusters, size=(size, clusters))]
            means.append(sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1))
    return np.concatenate(means)


def _by_cluster(
    outcomes: NDArray[np.float64], clusters: Sequence[Hashable] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sum of the outcomes of each cluster, (S, K), and its number of questions, (K,)."""
    questions = outcomes.shape[1]
    if clusters is None:
        return outcomes, np.ones(questions)
    if len(clusters) != questions:
        raise ValueError(f"{len(clusters)} clusters are named for {questions} questions: name that of each question.")
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    member = np.array([numbers[cluster] for cluster in clusters])
    sums = np.stack([np.bincount(member, weights=row) for row in outcomes]).astype(np.float64)
    return sums, np.bincount(member).astype(np.float64)


def _outcomes(outcomes: ArrayLike, *, dimensions: int) -> NDArray[np.float64]:
    array = np.asarray(outcomes, dtype=np.float64)
    if array.ndim != dimensions or array.size == 0:
        expected = "(N,)" if dimensions == 1 else "(S, N)"
        raise ValueError(f"outcomes have the shape {array.shape}: expected {expected} with at least one outcome.")
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError("an outcome is outside 0 (wrong) to 1 (right): pass per-question outcomes, not percent.")
    return array


def _check_same_questions(a: NDArray[np.float64], b: NDArray[np.float64]) -> None:
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"{a.shape[-1]} questions against {b.shape[-1]}: compare two rows on the same questions.")


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must be between 0 and 1, as 0.95.")


def area_under_curve(scores: Tensor, is_correct: Tensor) -> float:
    """Chance that a correct response scores above a wrong one; ties count half, and one of each must exist."""
    correct, wrong = scores[is_correct].numpy(), scores[~is_correct].numpy()
    # Only the statistic is used; the exact p-value would take long.
    above = mannwhitneyu(correct, wrong, method="asymptotic").statistic
    return float(above / (len(correct) * len(wrong)))
