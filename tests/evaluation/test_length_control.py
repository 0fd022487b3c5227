"""The regression against alpaca-eval 0.6.6, as recorded by `tests/oracle/record_alpaca_eval.py`, and by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit

from rkd.evaluation.alpaca_eval import Annotation, length_controlled_win_rate, win_rate
from rkd.evaluation.length_control import BASELINE_ROWS, fit_length_control

ORACLE = json.loads((Path(__file__).parents[1] / "oracle" / "alpaca_eval.json").read_text(encoding="utf-8"))
DIFFICULTIES = np.array(ORACLE["difficulties"])


def annotations_of(model):
    columns = ORACLE["models"][model]["annotations"]
    rows = zip(*(columns[name] for name in ("index", "preference", "len_1", "len_2")), strict=True)
    return [Annotation(index, model, preference, first, second) for index, preference, first, second in rows]


def baseline_rows():
    """The recorded annotations of the baseline, one row each with the package's weight."""
    own = ORACLE["baseline"]
    n = len(own["preference"])
    return np.column_stack(
        [np.tanh(own["std_delta_len"]), np.tile(DIFFICULTIES, 2), own["preference"], np.full(n, 0.2 / 2)]
    )


@pytest.mark.parametrize("model", ORACLE["models"])
def test_the_rates_are_those_of_alpaca_eval(model):
    annotations, recorded = annotations_of(model), ORACLE["models"][model]["rates"]
    difficulties = DIFFICULTIES[[one.index for one in annotations]]
    differences = np.array([one.baseline_characters - one.model_characters for one in annotations], dtype=float)
    wins = np.array([one.preference - 1 for one in annotations])
    weights = fit_length_control(differences, wins, difficulties, baseline_rows())
    controlled = length_controlled_win_rate(annotations, dict(enumerate(DIFFICULTIES)), weights)
    assert 100 * win_rate(annotations).rate == pytest.approx(recorded["win_rate"], abs=1e-5)
    assert 100 * controlled.rate == pytest.approx(recorded["length_controlled_winrate"], abs=0.2)
    assert 100 * controlled.standard_error == pytest.approx(recorded["lc_standard_error"], abs=0.02)


def test_without_difficulties_the_fit_finds_the_coefficients_that_made_the_preferences():
    differences = np.random.default_rng(0).normal(300, 900, 400)
    wins = expit(-1.5 * np.tanh(differences / differences.std(ddof=1)) - 0.4)
    fitted = fit_length_control(differences, wins)
    assert (fitted.length, fitted.difficulty, fitted.model) == pytest.approx((-1.5, 0.0, -0.4), abs=1e-4)


def test_equal_lengths_leave_the_length_term_out():
    wins = np.array([0.0, 1.0, 1.0, 1.0])
    assert expit(fit_length_control(np.full(4, 500.0), wins).model) == pytest.approx(3 / 4, abs=1e-4)


def test_annotations_without_information_leave_the_baseline_s_coefficients():
    # One drawn comparison of equal lengths: its coefficient of the model is 0, and the baseline's rows fix the others.
    # They are at the minimum where the weighted differences of predicted and won shares vanish.
    fitted = fit_length_control(np.zeros(1), np.array([0.5]), np.zeros(1))
    terms, wins, weights = BASELINE_ROWS[:, :2], BASELINE_ROWS[:, 2], BASELINE_ROWS[:, 3]
    predicted = expit(terms @ [fitted.length, fitted.difficulty])
    assert terms.T @ (weights * (predicted - wins)) == pytest.approx([0, 0], abs=0.05)
    assert (fitted.length, fitted.difficulty) == pytest.approx((-1.84, 0.74), abs=0.02)
    assert fitted.model == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("n", [1, 2, 3, 805])
@pytest.mark.parametrize("won", [0.0, 0.5, 1.0])
def test_one_sided_annotations_keep_to_their_side(n, won):
    differences = np.random.default_rng(0).normal(300, 900, n)
    fitted = fit_length_control(differences, np.full(n, won), np.zeros(n))
    assert np.isfinite([fitted.length, fitted.difficulty, fitted.model]).all()
    assert (expit(fitted.model) - 0.5) * (won - 0.5) >= 0


def test_the_order_of_the_rows_moves_a_rate_by_less_than_a_fifth_of_a_point():
    annotations = annotations_of("even")
    difficulty = dict(enumerate(DIFFICULTIES))
    rate = length_controlled_win_rate(annotations, difficulty).rate
    assert length_controlled_win_rate(annotations[::-1], difficulty).rate == pytest.approx(rate, abs=0.002)


def test_shares_of_the_baseline_rows_follow_one_pair_of_coefficients():
    # They are made so: the logits are linear in length term and difficulty, up to the four decimals kept.
    terms, shares = BASELINE_ROWS[:, :2], BASELINE_ROWS[:, 2]
    coefficients, *_ = np.linalg.lstsq(terms, logit(shares), rcond=None)
    assert terms @ coefficients == pytest.approx(logit(shares), abs=2e-3)
