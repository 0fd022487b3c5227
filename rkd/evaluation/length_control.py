"""The regression behind AlpacaEval's length-controlled win rate (Dubois et al. 2024, arXiv:2404.04475).

    P(model wins) = σ(w_length · tanh((len_1 − len_2) / s) + w_difficulty · γ_x + w_model)

Lengths in characters and preferences of one model enter, its three coefficients leave. s: standard deviation of the
length differences; γ_x: difficulty of instruction x, a published constant.

With difficulties the fit is that of the package alpaca-eval 0.6.6 (`length_controlled_v1`). It minimises the loss of
the model's annotations, plus that of the baseline's own (`BASELINE_ROWS`), plus an L1 penalty whose strength 5-fold
cross-validation chooses. The published rates of 49 models are met within 0.13 points. With fewer than 100 annotations
rates differ by about a point: so much depends on the strength that is chosen.

Without difficulties, for other instructions than AlpacaEval's, the fit is that of maximum likelihood; the weakest
penalty keeps it finite. The package's own choice (`length_controlled_minimal`) gives 0.5 to a model that loses every
comparison.

Shapes: N annotations of the model, K rows of the baseline.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit

Array = NDArray[np.float64]

FOLDS = 5
STRENGTHS = np.logspace(4, -4, 10)  # of the L1 penalty, the strongest first; alpaca-eval's C is the inverse
# Makes |w| smooth for Newton steps, sqrt(w² + ROUNDING²): coefficients are of size 1, and this error is below 1e-4.
ROUNDING = 1e-4
# The baseline was asked to be concise and asked to be verbose, and compared with itself on 805 instructions each. It is
# one model, so that length and difficulty alone explain who wins. alpaca-eval adds these 1,610 annotations with weight
# 0.1 to every fit, which keeps the length coefficient from explaining more than it does there.
# Seven rows stand for them: length term, difficulty, share won, weight. As a function of (w_length, w_difficulty) in
# [-4.5, 3] × [-2, 2.5], their loss differs from that of the annotations by a constant, within 0.2 of up to 247 nats.
# Lengths and difficulties are published. The shares follow from the published coefficients of 61 models: at each of
# these optima the gradient of the whole loss vanishes.
BASELINE_ROWS = np.array(
    [
        (0.881, -1.477, 0.0621, 28.4625),
        (0.880, -0.233, 0.1433, 39.8313),
        (0.833, 0.916, 0.3001, 28.9054),
        (0.773, 2.299, 0.5726, 13.9548),
        (0.197, 3.512, 0.9048, 6.4642),
        (-0.016, 1.374, 0.7411, 22.8382),
        (-0.678, 3.033, 0.9707, 7.2653),
    ]
)


@dataclass(frozen=True, slots=True)
class LengthControl:
    """The coefficients of the regression: length, difficulty and model."""

    length: float
    difficulty: float
    model: float


def fit_length_control(
    differences: Array, wins: Array, difficulties: Array | None = None, baseline_rows: Array = BASELINE_ROWS
) -> LengthControl:
    """The coefficients for one model.

    Args:
        differences: characters of the baseline's output minus those of the model's, (N,).
        wins: how far the model is preferred, in [0, 1], (N,). A share counts as that part of a win.
        difficulties: γ_x, (N,). None leaves its term out, and with it baseline rows and penalty.
        baseline_rows: as `BASELINE_ROWS`, (K, 4).
    """
    n = len(wins)
    length_terms, ones = _length_terms(differences), np.ones(n)
    if difficulties is None:
        length, model = _minimum(np.column_stack([length_terms, ones]), wins, ones, STRENGTHS[-1])
        return LengthControl(length, 0.0, model)
    k = len(baseline_rows)
    features = np.vstack(
        [np.column_stack([length_terms, difficulties, ones]), np.column_stack([baseline_rows[:, :2], np.zeros(k)])]
    )
    wins, weights = np.append(wins, baseline_rows[:, 2]), np.append(ones, baseline_rows[:, 3])
    # The share of each row that each fold holds out: all or nothing of an annotation, a fifth of a baseline row.
    held_out = np.vstack([np.eye(FOLDS)[np.arange(n) % FOLDS], np.full((k, FOLDS), 1 / FOLDS)])  # (N + K, FOLDS)

    def held_out_loss(strength: float) -> float:
        return sum(
            _loss(_minimum(features, wins, weights * (1 - share), strength), features, wins, weights * share)
            for share in held_out.T
        )

    return LengthControl(*_minimum(features, wins, weights, min(STRENGTHS, key=held_out_loss)))


def _length_terms(differences: Array) -> Array:
    spread = differences.std(ddof=1) if len(differences) > 1 else 0.0
    # With equal differences the effect of length cannot be told from that of the model: the term is left out.
    return np.tanh(differences / spread) if spread > 0 else np.zeros_like(differences)


def _loss(coefficients: Array, features: Array, wins: Array, weights: Array) -> float:
    """The weighted sum of the negative log-likelihoods, in nats."""
    logits = features @ coefficients
    return -float(weights @ (wins * log_expit(logits) + (1 - wins) * log_expit(-logits)))


def _minimum(features: Array, wins: Array, weights: Array, strength: float) -> Array:
    """The coefficients that minimise the loss plus strength · Σ|w|, (3,)."""

    def objective(w: Array) -> float:
        return _loss(w, features, wins, weights) + strength * float(np.hypot(w, ROUNDING).sum())

    def gradient(w: Array) -> Array:
        return features.T @ (weights * (expit(features @ w) - wins)) + strength * w / np.hypot(w, ROUNDING)

    def hessian(w: Array) -> Array:
        won = expit(features @ w)
        of_penalty = strength * ROUNDING**2 / np.hypot(w, ROUNDING) ** 3
        return (features.T * (weights * won * (1 - won))) @ features + np.diag(of_penalty)

    # The result says "bad approximation" where the last digits are reached before gtol: it is not looked at.
    return minimize(
        objective, np.zeros(features.shape[1]), jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-6}
    ).x
