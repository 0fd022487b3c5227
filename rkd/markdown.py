"""Tables in Markdown, as reports, tracked runs and printed results show them."""

from collections.abc import Iterable, Sequence
from typing import Any


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, text_columns: int = 1) -> str:
    """A table without a line break at its end.

    Args:
        rows: cells of any type; each is shown as `str` shows it.
        text_columns: how many columns, from the left, are aligned to the left. The others hold numbers.
    """
    rule = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in [header, rule, *rows])
