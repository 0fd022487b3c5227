"""Rows of files from outside: JSON objects line by line, each with its place, so that an error can name a bad row.

A file has one JSON object per line (UTF-8), and may be compressed (`.gz`). A bad line stops the run: a silently smaller
dataset would change every number of a table.
"""

import codecs
import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


def rows_of(path: Path) -> Iterator[tuple[str, Row]]:
    """Each row of a file with its place ("FILE, line 3").

    Raises:
        ValueError: a line is no JSON object, the file is not UTF-8, or its gzip stream is cut off.
    """
    for number, line in enumerate(_lines(path), start=1):
        place = f"{path}, line {number}"
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{place}: not UTF-8 ({error.reason}). Save the file in UTF-8.") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place}: no JSON object ({error}). Each line must hold one.") from error
        if not isinstance(row, dict):
            raise ValueError(f"{place}: {type(row).__name__} instead of a JSON object. Each line must hold one.")
        yield place, row


def value_in(row: Row, column: str) -> Any:
    """The value in a column; if no column has the name `model.text`, the value `text` of the object in column `model`.

    Raises:
        ValueError: the row lacks it.
    """
    if column in row:
        return row[column]
    outer, _, inner = column.partition(".")
    if inner and isinstance(within := row.get(outer), dict):
        return value_in(within, inner)
    raise ValueError(f"`{column}` is missing (present: {', '.join(map(str, row)) or 'nothing'})")


def text_in(row: Row, column: str) -> str:
    """The text in a column.

    Raises:
        ValueError: it is missing, not text, empty, or cannot be written in UTF-8.
    """
    text = value_in(row, column)
    if not isinstance(text, str):
        raise ValueError(f"`{column}` is {type(text).__name__} instead of text")
    if not text.strip():
        raise ValueError(f"`{column}` is empty")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"`{column}` holds half a surrogate pair, which no UTF-8 file can")
    return text


def id_in(row: Row, column: str) -> str:
    """The id in a column, a text or a whole number.

    Raises:
        ValueError: it is missing or neither.
    """
    value = value_in(row, column)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_in(row, column).strip()


def question_key(question: str) -> str:
    """A key that is the same for questions that differ only in case and white space."""
    return " ".join(question.split()).casefold()


def _lines(path: Path) -> list[bytes]:
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError) as error:
            raise ValueError(f"{path}: no complete gzip file ({error}). Copy it again.") from error
    return content.removesuffix(b"\n").split(b"\n") if content else []
