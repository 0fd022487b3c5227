"""Values packed into a page: JSON, gzipped, in base64. A browser unpacks a block when a view first needs it."""

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any


class Blocks:
    """Blocks by the digest of their content, so that equal values of several jobs stand in the page once."""

    def __init__(self) -> None:
        self.packed: dict[str, str] = {}

    def add(self, value: Any, name: str | None = None) -> str:
        """The name of the block that holds the value: the digest of its content, if no name is given."""
        # ASCII, because a response may hold half of a surrogate pair, which has no UTF-8 form.
        text = json.dumps(finite(value), separators=(",", ":"), allow_nan=False)
        name = name or hashlib.sha256(text.encode()).hexdigest()[:16]
        if name not in self.packed:
            self.packed[name] = packed_text(text)
        return name


def packed_text(text: str) -> str:
    """The text, gzipped, in base64: it has no character that could end an element of HTML."""
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


def finite(value: Any) -> Any:
    """The value with None for numbers that JSON lacks: a diverging training logs NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return value
