"""Preference pairs as the JSONL that other tools read and write: `prompt`, `chosen` and `rejected` in each row.

A written file holds the prompt as plain text, and further columns from which the whole record is restored. A file to
read needs only the three columns, as texts or as conversations (lists of `role` and `content`). The prompt is then the
question; without scores the chosen response counts as right and the rejected one as wrong.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rkd.data.answers import extract_answer
from rkd.data.jsonl import Row, id_in, rows_of, text_in, value_in
from rkd.data.prompts import PromptTemplate
from rkd.records import PreferencePair, Query, Response, ScoredResponse

SIDES = {"chosen": 1.0, "rejected": 0.0}  # each with the score of a response that has none


def write_pairs(path: Path, pairs: Iterable[PreferencePair], prompt: PromptTemplate) -> None:
    """Write one row for each pair; the folder must exist."""
    with path.open("w", encoding="utf-8") as file:
        for pair in pairs:
            query = pair.query
            row: dict[str, Any] = {"prompt": prompt.render(query)}
            row |= {"chosen": pair.chosen.response.text, "rejected": pair.rejected.response.text}
            row |= {"question": query.question, "query_id": query.id, "dataset": query.dataset}
            for side in SIDES:
                scored = getattr(pair, side)
                row[f"{side}_score"] = scored.score
                for name in ("generator", "sample_index", "is_finished"):
                    row[f"{side}_{name}"] = getattr(scored.response, name)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_pairs(path: Path, dataset: str) -> list[PreferencePair]:
    """The pairs of a file, in its order.

    Args:
        dataset: the dataset of rows that do not name one; it says which answers the responses state.

    Raises:
        ValueError: a row is bad; the message names file, line and reason.
    """
    pairs = []
    for number, (place, row) in enumerate(rows_of(path)):
        try:
            pairs.append(_pair(row, dataset, f"{path.stem}-{number}"))
        except ValueError as error:
            raise ValueError(f"{place}: {error}. Correct or remove this row.") from error
    return pairs


def _pair(row: Row, dataset: str, row_id: str) -> PreferencePair:
    question = text_in(row, "question") if "question" in row else _last_turn(row, "prompt", "user")
    query_id = id_in(row, "query_id") if "query_id" in row else row_id
    query = Query(query_id, text_in(row, "dataset") if "dataset" in row else dataset, question)
    chosen, rejected = (_side(row, side, query) for side in SIDES)
    if chosen.response.text == rejected.response.text:
        raise ValueError("`chosen` and `rejected` are the same")
    if chosen.score is not None and rejected.score is not None and chosen.score < rejected.score:
        raise ValueError(f"`chosen_score` {chosen.score} is below `rejected_score` {rejected.score}")
    return PreferencePair(query, chosen, rejected)


def _side(row: Row, side: str, query: Query) -> ScoredResponse:
    score = row.get(f"{side}_score", SIDES[side])
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float) or score != score):
        raise ValueError(f"`{side}_score` is {score!r} instead of a number")
    is_finished, index = row.get(f"{side}_is_finished", True), row.get(f"{side}_sample_index", 0)
    if not isinstance(is_finished, bool) or not isinstance(index, int):
        raise ValueError(f"`{side}_is_finished` must be true or false, `{side}_sample_index` a whole number")
    text = _last_turn(row, side, "assistant")
    response = Response(query.id, str(row.get(f"{side}_generator", side)), index, text, is_finished)
    return ScoredResponse(response, extract_answer(text, query.dataset), None if score is None else float(score))


def _last_turn(row: Row, column: str, role: str) -> str:
    """The text of a column, or the last turn of the role where it holds a conversation."""
    value = value_in(row, column)
    if not isinstance(value, list):
        return text_in(row, column)
    texts = [turn.get("content") for turn in value if isinstance(turn, dict) and turn.get("role") == role]
    if not texts:
        raise ValueError(f"`{column}` is a conversation without a turn of the {role}")
    return text_in({column: texts[-1]}, column)
