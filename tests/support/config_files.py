"""Config files that are parsed once in a process: a test run composes some hundred configs of the same files."""

import functools
import os
import pickle
from collections.abc import Callable
from typing import Any


def parsing_once(load: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`OmegaConf.load` that parses a file once for as long as it stays as it is.

    Each call returns a copy of its own.
    """
    parsed: dict[tuple[str, int], bytes] = {}

    @functools.wraps(load)
    def load_once(file: Any) -> Any:
        path = os.fspath(file.name if hasattr(file, "read") else file)
        key = (path, os.stat(path).st_mtime_ns)
        if key not in parsed:
            parsed[key] = pickle.dumps(load(file))
        return pickle.loads(parsed[key])

    return load_once
