"""Files that are written as a whole, so that a reader never finds an incomplete one."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


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


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one row per line, in JSON."""
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that `write_rows` wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def checksum(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
