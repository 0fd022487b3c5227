"""Files that are written as a whole, so that a reader never finds an incomplete one."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# Control characters and the marks that turn the direction of text: they may change what a terminal shows.
STEERING = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def write_whole(path: Path, text: str) -> None:
    """Write `text` beside `path`, then move it to `path`: a reader finds the old text or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def writable(text: str) -> str:
    """The text with U+FFFD for each NUL and each half of a surrogate pair: files and tokenizers take neither."""
    if "\0" not in text and text.isascii():
        return text
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")  # joins the halves of a pair
    return whole.replace("\0", "\ufffd")


def readable(text: str, characters: int) -> str:
    """The text for a table or a terminal: cut after so many characters, and steering characters as escapes.

    Line breaks and tabs stay.
    """
    cut = len(text) - characters
    shown = text if cut <= 0 else f"{text[:characters]}… [{cut:,} more characters]"
    return STEERING.sub(lambda found: found[0] if found[0] in "\n\t" else ascii(found[0])[1:-1], shown)


def json_line(row: Mapping[str, Any]) -> str:
    """A row as one line of JSON that is safe to print; steering characters are escaped, as JSON allows."""
    text = json.dumps(row, ensure_ascii=False)
    return STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one row per line, in JSON."""
    write_whole(path, "".join(map(json_line, rows)))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that `write_rows` wrote."""
    with path.open(encoding="utf-8") as file:  # `splitlines` would split at characters that a text may have
        return [json.loads(line) for line in file]


def checksum(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
