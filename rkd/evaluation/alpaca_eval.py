"""AlpacaEval 2 (paper D, Table 4): a judge's recorded preferences enter, win rates leave.

An annotation is one JSON object per line. `preference` is in [1, 2]: 2 prefers the model (output 2), 1 the baseline.
`len_1` and `len_2` are the characters of baseline and model; `index` is that of the instruction. The length-controlled
win rate comes from a logistic regression whose length term is set to zero (Dubois et al. 2024, arXiv:2404.04475):

    P(model wins) = σ(w_length · tanh((len_1 − len_2) / s) + w_difficulty · γ_x + w_model)

s: standard deviation of the length differences; γ_x: difficulty of instruction x, a published constant. Rates are in
[0, 1].

    python -m rkd alpaca-eval ANNOTATIONS.jsonl --difficulty instruction_difficulty.csv [--weights lc_glm_weights.csv]
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from rkd.data.jsonl import Row, rows_of, text_in, value_in
from rkd.markdown import markdown_table

DRAW = 1.5


@dataclass(frozen=True, slots=True)
class Annotation:
    """The judge's preference for one instruction; `model` made output 2."""

    index: int
    model: str
    preference: float
    baseline_characters: int
    model_characters: int


@dataclass(frozen=True, slots=True)
class Rate:
    """A win rate and the standard error of its mean over n instructions, which ignores the judge's own noise."""

    rate: float
    standard_error: float
    n: int


@dataclass(frozen=True, slots=True)
class LengthControl:
    """The coefficients of the regression: length, difficulty and model."""

    length: float
    difficulty: float
    model: float


def read_annotations(path: Path) -> list[Annotation]:
    """The annotations of one model against the baseline.

    Raises:
        ValueError: a row is bad, an instruction occurs twice, or the rows belong to several models; it names the place.
    """
    annotations: dict[int, Annotation] = {}
    for place, row in rows_of(path):
        try:
            one = _annotation(row)
        except ValueError as error:
            raise ValueError(f"{place}: {error}. Correct or remove this row.") from error
        if one.index in annotations:
            raise ValueError(f"{place}: instruction {one.index} occurs a second time. Keep one row of each.")
        annotations[one.index] = one
    models = sorted({one.model for one in annotations.values()})
    if len(models) != 1:
        raise ValueError(f"{path}: annotations of {len(models)} models ({', '.join(models)}). Give one file for each.")
    return list(annotations.values())


def win_rate(annotations: Sequence[Annotation]) -> Rate:
    """The mean preference for the model."""
    return _mean(_wins(annotations))


def length_controlled_win_rate(
    annotations: Sequence[Annotation],
    difficulty: Mapping[int, float] | None = None,
    weights: LengthControl | None = None,
) -> Rate:
    """The win rate that the regression predicts for outputs as long as the baseline's.

    Args:
        difficulty: γ_x by the index of the instruction; None, for other instructions than AlpacaEval's, leaves its term
            out.
        weights: the published coefficients; None fits them to these annotations. A fit comes near the published rate
            but does not equal it: the published fit adds annotations of shortened and lengthened baselines, and a
            penalty.

    Raises:
        ValueError: an instruction has no difficulty.
    """
    weights = weights or fit_length_control(annotations, difficulty)
    return _mean(expit(weights.difficulty * _difficulties(annotations, difficulty) + weights.model))


def fit_length_control(
    annotations: Sequence[Annotation], difficulty: Mapping[int, float] | None = None
) -> LengthControl:
    """The maximum-likelihood coefficients; a preference between 1 and 2 counts as a fraction of a win."""
    differences = np.array([one.baseline_characters - one.model_characters for one in annotations], dtype=np.float64)
    spread = differences.std(ddof=min(1, len(differences) - 1)) or 1.0  # 0 if all lengths differ by the same number
    features = np.column_stack(
        [np.tanh(differences / spread), _difficulties(annotations, difficulty), np.ones(len(annotations))]
    )
    wins = _wins(annotations)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = features @ weights
        likelihood = wins * log_expit(logits) + (1 - wins) * log_expit(-logits)
        return -float(likelihood.mean()), features.T @ (expit(logits) - wins) / len(wins)

    fitted = minimize(loss, np.zeros(3), jac=True, method="BFGS", options={"gtol": 1e-8})
    return LengthControl(*map(float, fitted.x))


def read_difficulty(path: Path) -> dict[int, float]:
    """γ_x by instruction, from a CSV file with the columns `index` and `instruction_difficulty`."""
    rows = _csv(path, ["index", "instruction_difficulty"])
    return {int(_number(path, row, "index")): _number(path, row, "instruction_difficulty") for row in rows}


def read_weights(path: Path) -> dict[str, LengthControl]:
    """The published coefficients by the model's name, from the CSV file of the AlpacaEval repository."""
    columns = ["np.tanh(std_delta_len)", "instruction_difficulty", "not_gamed_baseline.astype(float)"]
    rows = _csv(path, ["name", *columns])
    return {row["name"]: LengthControl(*(_number(path, row, column) for column in columns)) for row in rows}


def win_rate_table(paths: Sequence[Path], difficulty: Path, weights: Path | None) -> str:
    """Both win rates of each file of annotations, in percent, as a Markdown table.

    Args:
        difficulty: CSV file with the columns index and instruction_difficulty.
        weights: CSV file of published coefficients; None fits them.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file lacks a required entry; the message names the place.
    """
    difficulties = read_difficulty(difficulty)
    published = read_weights(weights) if weights else {}
    rows = []
    for path in paths:
        annotations = read_annotations(path)
        name = annotations[0].model
        given = published.get(name)
        controlled = length_controlled_win_rate(annotations, difficulties, given)
        rates = [
            f"{100 * one.rate:.2f} ± {100 * one.standard_error:.2f}" for one in (win_rate(annotations), controlled)
        ]
        rows.append([name, len(annotations), *rates, "given" if given else "fitted"])
    return markdown_table(["model", "n", "win rate %", "length-controlled %", "coefficients"], rows)


def _annotation(row: Row) -> Annotation:
    index, characters = value_in(row, "index"), [value_in(row, column) for column in ("len_1", "len_2")]
    if not all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in (index, *characters)):
        raise ValueError("`index`, `len_1` and `len_2` must be whole numbers, at least 0")
    preference = value_in(row, "preference")
    if isinstance(preference, bool) or not isinstance(preference, int | float):
        raise ValueError(f"`preference` is {preference!r} instead of a number from 1 to 2")
    if preference == 0:  # some judges' files write a draw as 0
        preference = DRAW
    if not 1 <= preference <= 2:
        raise ValueError(f"`preference` is {preference!r}, not in [1, 2]")
    return Annotation(index, text_in(row, "generator_2"), float(preference), *characters)


def _wins(annotations: Sequence[Annotation]) -> NDArray[np.float64]:
    return np.array([one.preference - 1 for one in annotations])


def _difficulties(annotations: Sequence[Annotation], difficulty: Mapping[int, float] | None) -> NDArray[np.float64]:
    if difficulty is None:  # its coefficient then stays at 0, the start of the fit
        return np.zeros(len(annotations))
    missing = [one.index for one in annotations if one.index not in difficulty]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(annotations)} instructions have no difficulty (first: index {missing[0]}): the "
            "length-controlled rate is defined for AlpacaEval's own 805 instructions."
        )
    return np.array([difficulty[one.index] for one in annotations])


def _mean(values: NDArray[np.float64]) -> Rate:
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Rate(float(values.mean()), error, len(values))


def _csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if lacking := [column for column in columns if not rows or column not in rows[0]]:
        raise ValueError(f"{path} has no column {lacking[0]!r} (present: {', '.join(rows[0]) if rows else 'none'}).")
    return rows


def _number(path: Path, row: Mapping[str, str | None], column: str) -> float:
    try:
        return float(row[column] or "")
    except ValueError as error:
        raise ValueError(f"{path}: {column!r} is {row[column]!r} instead of a number in the row {row}.") from error
