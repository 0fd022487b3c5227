"""Records from JSON: the output of `json.loads` enters, a dataclass with checked types leaves.

A value keeps the form that it has in the file. A whole number stays one where a float is declared, because digests are
made of the text that is written again.
"""

import dataclasses
from typing import Any, TypeVar

from cattrs import ClassValidationError, Converter, ForbiddenExtraKeysError, IterableValidationError, transform_error

Kind = TypeVar("Kind")

SHOWN = 3  # faults of one value that a message lists; further ones are counted
NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def decode(kind: type[Kind], value: Any) -> Kind:
    """Build `kind` from JSON by its annotations.

    Raises:
        ValueError: a field is missing, unknown or of another type. The message names each such field by its path.
    """
    if dataclasses.is_dataclass(kind) and not isinstance(value, dict):
        raise ValueError(f"{value!r} is not an object")
    try:
        return _CONVERTER.structure(value, kind)
    except (ClassValidationError, IterableValidationError) as group:
        faults = transform_error(group, format_exception=_said)
        more = f"; {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise ValueError("; ".join(faults[:SHOWN]) + more) from group


def _said(error: BaseException, kind: type | None) -> str:  # noqa: ARG001
    if isinstance(error, ForbiddenExtraKeysError):
        return f"{error.cl.__name__} has no field {', '.join(map(repr, sorted(error.extra_fields)))}"
    if isinstance(error, KeyError):
        return f"field {error} is missing"
    if isinstance(error, AttributeError):  # cattrs asked for the keys of a value that has none
        return "not an object"
    return str(error)


def _check(value: Any, kind: type) -> Any:
    """The value itself, if it has the type; true and false are not numbers."""
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{value!r} is not {NAMES[kind]}")
    return value


def _check_outcomes(value: Any, _: Any) -> Any:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is not a list")
    if not all(isinstance(one, bool) for one in value):
        for one in value:
            _check(one, float)
    return value


def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True)
    for kind in (str, int, float, bool):
        converter.register_structure_hook(kind, _check)
    converter.register_structure_hook(int | float, lambda value, _: _check(value, float))
    converter.register_structure_hook(list[bool] | list[float], _check_outcomes)
    return converter


_CONVERTER = _converter()
