"""Fingerprints: everything that decides what a stage makes enters, plain JSON and a digest of it leave."""

import dataclasses
import enum
import functools
import hashlib
import json
import math
import types
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

FORMAT_VERSION = 2  # part of every digest: raising it makes every stage anew
PACKAGE = __name__.partition(".")[0]


def as_fingerprint(value: Any, where: str = "fingerprint") -> Any:
    """Plain JSON for a value, by explicit rules.

    A frozen dataclass becomes its fields, and an object with a method `fingerprint()` the result of that method, each
    with the name of its class under `_class_`. A function of a module becomes its name, a tuple a list, a path text, an
    enum its value. `where` is the key path so far.

    Raises:
        TypeError: any other type, a key that is no text, or a number that is not finite; the message names the key.
    """
    if isinstance(value, enum.Enum):
        return as_fingerprint(value.value, where)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where}={value} has no JSON form: a fingerprint holds finite numbers only.")
        return value
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, list | tuple):
        return [as_fingerprint(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        if unnamed := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"{where} has the key {unnamed[0]!r}: keys of a fingerprint are text.")
        return {str(key): as_fingerprint(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, type):
        raise TypeError(
            f"{where} is the class {_dotted_name(value)}: a fingerprint takes objects, or the name as text."
        )
    if isinstance(value, types.FunctionType):
        if "<" in value.__qualname__:
            raise TypeError(
                f"{where} is {value.__qualname__}: a fingerprint names functions, so give one defined in a module."
            )
        return stable_name(value)
    if callable(getattr(value, "fingerprint", None)):
        return {"_class_": stable_name(type(value))} | as_fingerprint(value.fingerprint(), where)
    if dataclasses.is_dataclass(value) and _is_frozen(type(value)):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"_class_": stable_name(type(value))} | as_fingerprint(fields, where)
    raise TypeError(
        f"{where} is a {_dotted_name(type(value))}, which has no JSON form. Make it a frozen dataclass, or give it "
        "a method `fingerprint()` that returns a mapping of what decides its results."
    )


def _is_frozen(record: type) -> bool:
    return bool(vars(record)["__dataclass_params__"].frozen)


def fingerprint_digest(name: str, fingerprint: Mapping[str, Any]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of {name, fingerprint, format version} as canonical JSON."""
    content = {"name": name, "fingerprint": as_fingerprint(fingerprint), "format_version": FORMAT_VERSION}
    return hashlib.sha256(_canonical_json(content).encode()).hexdigest()[:16]


def digest_of_files(paths: Iterable[Path]) -> str:
    """A digest of the files' names and contents, in the order of their paths: 16 hexadecimal digits.

    Many fingerprints name the same large files: a file is read again only if its size or time of change differs.
    """
    stats = [(path, path.stat()) for path in sorted(path.absolute() for path in paths)]
    return _digest_of_unchanged_files(*((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))


@functools.cache
def _digest_of_unchanged_files(*files: tuple[Path, int, int]) -> str:
    sha = hashlib.sha256()
    for path, _, _ in files:
        sha.update(path.name.encode() + path.read_bytes())
    return sha.hexdigest()[:16]


def _canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def stable_name(value: type | types.FunctionType) -> str:
    """The name of a class or a function in a fingerprint: it does not name the package, so that code can move.

    A class of this package has its bare name, a function the last part of its module and its name; a test checks that
    these names are unique. Code of a user keeps its whole dotted name, since shorter names need not be unique.
    """
    if value.__module__.partition(".")[0] != PACKAGE:
        return _dotted_name(value)
    if isinstance(value, type):
        return value.__qualname__
    return f"{value.__module__.rpartition('.')[2]}.{value.__qualname__}"


def _dotted_name(value: type | types.FunctionType) -> str:
    return f"{value.__module__}.{value.__qualname__}"
