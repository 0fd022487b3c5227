"""How sure a number is: intervals and tests for accuracies and win rates, means of per-question outcomes in [0, 1].

Shapes: S seeds, N questions. Fractions are in [0, 1].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, mannwhitneyu
from torch import Tensor

_REPLICATES_PER_CHUNK = 500  # bounds the memory of the bootstrap: 500 × N counts at a time


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Two rows on the same questions: `difference` is accuracy a − accuracy b, `p_value` McNemar's, two-sided.

    `only_a` counts the questions where a has the better outcome.
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
    """Mean of a − mean of b, with the ends of its confidence interval, and the two-sided p-value of no difference."""

    difference: float
    low: float
    high: float
    p_value: float


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927), as (low, high).

    Raises:
        ValueError: not 0 ≤ successes ≤ n, n < 1, or `confidence` outside (0, 1).
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes={successes} of n={n}: needs n of at least 1 and successes from 0 to n.")
    _check_confidence(confidence)
    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """McNemar's exact two-sided p-value: under equal accuracy a question that one alone gets right is a fair coin.

    Args:
        only_first: questions that the first alone answers rightly.
        only_second: questions that the second alone answers rightly.

    Raises:
        ValueError: a count is negative.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"only_first={only_first}, only_second={only_second}: counts must be at least 0.")
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def paired_comparison(outcomes_a: ArrayLike, outcomes_b: ArrayLike) -> PairedComparison:
    """Compare two rows on the same questions, in the same order.

    Of outcomes between 0 and 1, preferences for instance, McNemar's test is the sign test.

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
    """Chance that at least one of k samples is right, estimated without bias from c right of n samples.

        1 − C(n−c, k) / C(n, k),    Chen et al. 2021, arXiv:2107.03374, Eq. 1

    Raises:
        ValueError: not 0 ≤ c ≤ n or not 1 ≤ k ≤ n.
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
    """Percentile interval of accuracy a − accuracy b that allows for both other seeds and other questions.

    Each replicate draws N questions, the same for both rows and all seeds, and seeds for each row, all with
    replacement: outcomes of one question under several seeds are no independent observations. With one seed the
    interval is for that seed; with few the spread over seeds is understated by about (S − 1)/S of its variance.

    Args:
        outcomes_a: right (1) or wrong (0), (S, N); the rows may differ in S.
        outcomes_b: the same of the other row on the same questions, (S, N).
        replicates: number of bootstrap draws.
        seed: of the draws.

    Raises:
        ValueError: shapes do not fit, an outcome is outside [0, 1], or an option is out of range.
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
    # Twice the smaller share of replicates on one side of 0, the observed difference counted as one of them.
    beyond = 1 + min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    p_value = min(1.0, 2 * beyond / (replicates + 1))
    return DifferenceInterval(float(a.mean() - b.mean()), float(low), float(high), p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the same order: Holm 1979, which bounds the chance of any false finding.

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
    """Chance that a correct response scores above a wrong one, ties counting half; there must be one of each."""
    correct, wrong = scores[is_correct].numpy(), scores[~is_correct].numpy()
    # The p-value is not used, and the exact one takes long.
    above = mannwhitneyu(correct, wrong, method="asymptotic").statistic
    return float(above / (len(correct) * len(wrong)))
