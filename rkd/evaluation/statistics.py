"""Statistics of accuracies and win rates: per-question outcomes in [0, 1] enter, intervals and tests leave.

Shapes: S seeds, N questions. Fractions are in [0, 1].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, mannwhitneyu
from torch import Tensor

_REPLICATES_PER_CHUNK = 500  # limits the memory of the bootstrap to 500 × N counts at a time


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Two rows on the same questions: `difference` is accuracy a − accuracy b, `p_value` is McNemar's, two-sided.

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
    """Mean of a − mean of b with its confidence interval and the two-sided p-value of no difference."""

    difference: float
    low: float
    high: float
    p_value: float


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


def paired_comparison(outcomes_a: ArrayLike, outcomes_b: ArrayLike) -> PairedComparison:
    """Compare two rows on the same questions, in the same order.

    For outcomes between 0 and 1, such as preferences, McNemar's test becomes the sign test.

    Args:
        outcomes_a: right (1) or wrong (0), (N,).
        outcomes_b: the same of the other row, (N,).

    Raises:
        ValueError: shapes differ, N is 0, or an outcome is outside [0, 1].
    """
    a, b = _outcomes(outcomes_a, dimensions=1), _outcomes(outcomes_b, dimensions=1)
    _check_same_questions(a, b)
    only_a, only_b = int(np.sum(a > b)), int(np.sum(b > a))
    return PairedComparison(
        questions=a.size,
        accuracy_a=float(a.mean()),
        accuracy_b=float(b.mean()),
        difference=float((a - b).sum()) / a.size,
        only_a=only_a,
        only_b=only_b,
        p_value=mcnemar_exact(only_a, only_b),
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
    confidence: float = 0.95,
    replicates: int = 10_000,
    seed: int = 0,
) -> DifferenceInterval:
    """Percentile interval of accuracy a − accuracy b, over both seeds and questions.

    Each replicate draws with replacement N questions, the same for both rows and all seeds, and the seeds of each row.
    The outcomes of one question under several seeds are not independent observations. With one seed the interval holds
    for that seed only. With few seeds the interval reflects only about (S − 1)/S of the variance over seeds.

    Args:
        outcomes_a: right (1) or wrong (0), (S, N); the rows may differ in S.
        outcomes_b: the same of the other row on the same questions, (S, N).
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
    generator = np.random.default_rng(seed)
    sizes = [_REPLICATES_PER_CHUNK] * (replicates // _REPLICATES_PER_CHUNK) + [replicates % _REPLICATES_PER_CHUNK]
    differences = np.concatenate([_resampled_differences(a, b, size, generator) for size in sizes if size])
    tail = (1 - confidence) / 2
    low, high = np.quantile(differences, (tail, 1 - tail))
    # Twice the smaller share of replicates on one side of 0; the observed difference counts as one replicate.
    beyond = 1 + min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    p_value = min(1.0, 2 * beyond / (replicates + 1))
    return DifferenceInterval(float(a.mean() - b.mean()), float(low), float(high), p_value)


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


def _resampled_differences(
    a: NDArray[np.float64], b: NDArray[np.float64], replicates: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """The difference of means in each replicate, (replicates,)."""
    per_question = _seed_means(a, replicates, generator) - _seed_means(b, replicates, generator)
    questions = a.shape[1]
    times_drawn = generator.multinomial(questions, np.full(questions, 1 / questions), size=replicates)
    differences: NDArray[np.float64] = np.einsum("rn,rn->r", per_question, times_drawn.astype(np.float64)) / questions
    return differences


def _seed_means(outcomes: NDArray[np.float64], replicates: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Mean outcome of each question over the seeds drawn, (replicates, N)."""
    seeds = outcomes.shape[0]
    times_drawn = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=replicates)
    means: NDArray[np.float64] = times_drawn.astype(np.float64) @ outcomes / seeds
    return means


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
