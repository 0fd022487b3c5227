"""Win rates against the published leaderboard, and what is refused."""

import csv
import json
import math

import numpy as np
import pytest
from scipy.special import expit

from rkd.evaluation.alpaca_eval import (
    Annotation,
    LengthControl,
    fit_length_control,
    length_controlled_win_rate,
    read_annotations,
    read_difficulty,
    read_weights,
    win_rate,
)

MODELS = ["FuseChat-Gemma-2-9B-Instruct", "claude-2.1", "gpt-3.5-turbo-1106", "alpaca-7b"]
ROW = {"index": 0, "generator_2": "m", "preference": 1.25, "len_1": 10, "len_2": 30}


@pytest.fixture(scope="module")
def alpaca(shared_data):
    return shared_data / "alpaca_eval"


@pytest.fixture(scope="module")
def leaderboard(alpaca):
    with (alpaca / "leaderboard.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def annotations_of(alpaca, model):
    return read_annotations(alpaca / f"annotations_{model}.jsonl")


def written(folder, *rows):
    path = folder / "annotations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("model", MODELS)
def test_the_published_win_rate_is_met_exactly(alpaca, leaderboard, model):
    rate, published = win_rate(annotations_of(alpaca, model)), leaderboard[model]
    assert rate.n == 805
    # The recorded preferences have ten decimals.
    assert 100 * rate.rate == pytest.approx(float(published["win_rate"]), abs=1e-7)
    assert 100 * rate.standard_error == pytest.approx(float(published["standard_error"]), abs=1e-7)


@pytest.mark.parametrize("model", MODELS)
def test_the_published_length_controlled_rate_is_met_with_the_published_weights_and_nearly_with_fitted_ones(
    alpaca, leaderboard, model
):
    annotations, difficulty = annotations_of(alpaca, model), read_difficulty(alpaca / "instruction_difficulty.csv")
    weights = read_weights(alpaca / "lc_glm_weights.csv")[model]
    published = float(leaderboard[model]["length_controlled_winrate"])
    given = length_controlled_win_rate(annotations, difficulty, weights)
    assert 100 * given.rate == pytest.approx(published, abs=1e-4)
    if leaderboard[model]["lc_standard_error"]:
        assert 100 * given.standard_error == pytest.approx(float(leaderboard[model]["lc_standard_error"]), abs=1e-4)
    assert 100 * length_controlled_win_rate(annotations, difficulty).rate == pytest.approx(published, abs=3)


def test_the_fit_finds_the_coefficients_that_made_the_preferences():
    rng, weights = np.random.default_rng(0), LengthControl(-1.5, 0.8, -0.4)
    lengths, difficulty = rng.integers(100, 2000, (400, 2)), dict(enumerate(rng.normal(size=400)))
    differences = lengths[:, 0] - lengths[:, 1]
    features = np.tanh(differences / differences.std(ddof=1))
    wins = expit(weights.length * features + weights.difficulty * np.array(list(difficulty.values())) + weights.model)
    annotations = [
        Annotation(index, "m", 1 + float(win), int(a), int(b))
        for index, (win, (a, b)) in enumerate(zip(wins, lengths, strict=True))
    ]
    fitted = fit_length_control(annotations, difficulty)
    assert (fitted.length, fitted.difficulty, fitted.model) == pytest.approx((-1.5, 0.8, -0.4), abs=1e-4)
    assert win_rate(annotations).rate == pytest.approx(wins.mean())


def test_the_rate_by_hand(tmp_path):
    annotations = read_annotations(written(tmp_path, ROW, ROW | {"index": 1, "preference": 0}))  # 0 is a draw
    rate = win_rate(annotations)
    assert (rate.rate, rate.n) == (0.375, 2)
    assert rate.standard_error == pytest.approx(0.125)
    controlled = length_controlled_win_rate(annotations, {0: 0.0, 1: 1.0}, LengthControl(9.0, math.log(3), 0.0))
    assert controlled.rate == pytest.approx((1 / 2 + 3 / 4) / 2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"preference": 2.5}, r"`preference` is 2.5, not in \[1, 2\]"),
        ({"preference": None}, "`preference` is None instead of a number"),
        ({"len_1": -1}, "`index`, `len_1` and `len_2` must be whole numbers"),
        ({"len_2": "30"}, "must be whole numbers"),
        ({"generator_2": ""}, "`generator_2` is empty"),
    ],
)
def test_a_bad_annotation_is_refused_with_file_line_and_reason(tmp_path, change, reason):
    with pytest.raises(ValueError, match=rf"annotations\.jsonl, line 2: .*{reason}"):
        read_annotations(written(tmp_path, ROW, ROW | {"index": 1} | change))


def test_repeated_instructions_several_models_and_missing_difficulties_are_refused(tmp_path):
    with pytest.raises(ValueError, match="line 2: instruction 0 occurs a second time"):
        read_annotations(written(tmp_path, ROW, ROW))
    with pytest.raises(ValueError, match=r"annotations of 2 models \(m, n\)"):
        read_annotations(written(tmp_path, ROW, ROW | {"index": 1, "generator_2": "n"}))
    with pytest.raises(ValueError, match=r"1 of 1 instructions have no difficulty \(first: index 0\)"):
        length_controlled_win_rate(read_annotations(written(tmp_path, ROW)), {})
