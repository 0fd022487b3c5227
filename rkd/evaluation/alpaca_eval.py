"""AlpacaEval 2 (paper D, Table 4): a judge's recorded preferences enter, win rates leave.

An annotation is a JSON object: one per line, or all in one array, as alpaca-eval writes them. `preference` is in
[1, 2]: 2 prefers the model (output 2), 1 the baseline; 0 is a draw. `len_1` and `len_2` are the characters of baseline
and model, or `output_1` and `output_2` their texts. `index` is the place of the instruction among AlpacaEval's 805,
from 0; a file with all of them in order may leave it out. The length-controlled win rate is what the regression of
`rkd.evaluation.length_control` predicts with its length term set to zero. Rates are in [0, 1].

    python -m rkd alpaca-eval ANNOTATIONS --difficulty instruction_difficulty.csv [--weights lc_glm_weights.csv]
"""

import codecs
import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from rkd.data.jsonl import Row, rows_of, text_in, value_in
from rkd.evaluation.length_control import LengthControl, fit_length_control
from rkd.markdown import markdown_table

INSTRUCTIONS = 805  # of AlpacaEval
DRAW = 1.5
LARGEST = 2**53  # whole numbers up to it are exact as floats


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


def read_annotations(path: Path) -> list[Annotation]:
    """The annotations of one model against the baseline.

    Raises:
        ValueError: a row is bad, an instruction occurs twice, or the rows belong to several models; it names the place.
    """
    rows = list(_rows(path))
    if not rows:
        raise ValueError(f"{path} holds no annotation. Give a file with one JSON object per instruction.")
    if not any("index" in row for _, row in rows):
        if len(rows) != INSTRUCTIONS:
            raise ValueError(
                f"{path}: its {len(rows)} rows have no `index`, and are not AlpacaEval's {INSTRUCTIONS} in order. Add "
                "the place of each row's instruction among them, from 0, as `index`."
            )
        rows = [(place, {**row, "index": index}) for index, (place, row) in enumerate(rows)]
    annotations: dict[int, Annotation] = {}
    for place, row in rows:
        try:
            one = _annotation(row)
        except ValueError as error:
            raise ValueError(f"{place}: {error}. Correct or remove this row.") from error
        if one.index in annotations:
            raise ValueError(f"{place}: instruction {one.index} occurs a second time. Keep one row of each.")
        annotations[one.index] = one
    for column, meaning in {"generator_2": "models", "generator_1": "baselines", "annotator": "judges"}.items():
        names = sorted({str(row[column]) for _, row in rows if column in row})
        if len(names) > 1:
            raise ValueError(
                f"{path}: annotations of {len(names)} {meaning} ({', '.join(names)}). Give one file for each."
            )
    if {row["preference"] for _, row in rows} == {0, 1}:
        raise ValueError(
            f"{path}: every `preference` is 0 or 1. Here 1 prefers the baseline, 2 the model, and 0 is a draw. If the "
            "file counts wins, add 1 to each; if it is right as it is, write the draws as 1.5."
        )
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
        weights: the published coefficients; None fits them to these annotations.

    Raises:
        ValueError: an instruction has no difficulty.
    """
    difficulties = _difficulties(annotations, difficulty)
    if weights is None:
        differences = np.array([one.baseline_characters - one.model_characters for one in annotations], dtype=float)
        weights = fit_length_control(differences, _wins(annotations), None if difficulty is None else difficulties)
    return _mean(expit(weights.difficulty * difficulties + weights.model))


def read_difficulty(path: Path) -> dict[int, float]:
    """γ_x by instruction, from a CSV file with the columns `index` and `instruction_difficulty`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it lacks a column, a number is none, or an instruction occurs twice; it names the place.
    """
    difficulty: dict[int, float] = {}
    for row in _csv(path, ["index", "instruction_difficulty"]):
        index = _number(path, row, "index")
        if index in difficulty or index != int(index):
            raise ValueError(f"{path}: index {index:g} is not whole or occurs twice. Keep one row per instruction.")
        difficulty[int(index)] = _number(path, row, "instruction_difficulty")
    return difficulty


def read_weights(path: Path) -> dict[str, LengthControl]:
    """The published coefficients by the model's name, from the CSV file of the AlpacaEval repository.

    Raises:
        OSError: the file cannot be read.
        ValueError: it lacks a column, or a number is none; it names the place.
    """
    columns = ["np.tanh(std_delta_len)", "instruction_difficulty", "not_gamed_baseline.astype(float)"]
    rows = _csv(path, ["name", *columns])
    return {row.get("name", ""): LengthControl(*(_number(path, row, column) for column in columns)) for row in rows}


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
        rates = [_percent(win_rate(annotations)), _percent(controlled)]
        rows.append([name, len(annotations), *rates, "given" if given else "fitted"])
    return markdown_table(["model", "n", "win rate %", "length-controlled %", "coefficients"], rows)


def _percent(rate: Rate) -> str:
    error = "" if math.isnan(rate.standard_error) else f" ± {100 * rate.standard_error:.2f}"
    return f"{100 * rate.rate:.2f}{error}"


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Each annotation with its place, from JSON lines or from one JSON array."""
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    if not content.lstrip().startswith(b"["):
        yield from rows_of(path)
        return
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON array ({error}). Write it again, or one JSON object per line.") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"{path}, entry {number}: {type(row).__name__} instead of a JSON object.")
        yield f"{path}, entry {number}", row


def _annotation(row: Row) -> Annotation:
    index = _whole(value_in(row, "index"), "index")
    baseline_characters, model_characters = _characters(row, "1"), _characters(row, "2")
    preference = value_in(row, "preference")
    if isinstance(preference, bool) or not isinstance(preference, int | float):
        raise ValueError(f"`preference` is {preference!r} instead of a number from 1 to 2")
    if preference == 0:  # some judges' files write a draw as 0
        preference = DRAW
    if not 1 <= preference <= 2:
        raise ValueError(f"`preference` is {preference!r}, not in [1, 2]")
    return Annotation(index, text_in(row, "generator_2"), float(preference), baseline_characters, model_characters)


def _characters(row: Row, which: str) -> int:
    text = row.get(f"output_{which}")
    if f"len_{which}" not in row and isinstance(text, str):
        return len(text)
    return _whole(value_in(row, f"len_{which}"), f"len_{which}")


def _whole(value: Any, column: str) -> int:
    """The value as a whole number; 10.0 is one, as a table with gaps writes it."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LARGEST and value == int(value):
        return int(value)
    raise ValueError(f"`{column}` is {value!r} instead of a whole number, at least 0")


def _wins(annotations: Sequence[Annotation]) -> NDArray[np.float64]:
    return np.array([one.preference - 1 for one in annotations])


def _difficulties(annotations: Sequence[Annotation], difficulty: Mapping[int, float] | None) -> NDArray[np.float64]:
    if difficulty is None:
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
    """The rows of a CSV file that has these columns; a first column without a name is the first of them."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            present, *lines = list(csv.reader(file)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8 ({error}). Copy it again.") from error
    present = [name or columns[0] if place == 0 else name for place, name in enumerate(present)]
    if lacking := [column for column in columns if column not in present]:
        raise ValueError(f"{path} has no column {lacking[0]!r} (present: {', '.join(present) or 'none'}).")
    return [dict(zip(present, line, strict=False)) for line in lines if line]


def _number(path: Path, row: Mapping[str, str], column: str) -> float:
    try:
        value = float(row.get(column, ""))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{path}: {column!r} is {row.get(column, '')!r} instead of a number in the row {row}.")
    return value
