"""Types and ranges of settings: the part that takes a setting declares them, and a wrong value ends a job at once."""

import dataclasses
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal, Protocol, Union

from hydra.errors import HydraException
from hydra.utils import get_method, get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

Range = tuple[Callable[[Any], bool], str]
"""A check whether a value is in the range, and the words for the range."""

ABOVE_0: Range = (lambda value: value > 0, "above 0")
NOT_NEGATIVE: Range = (lambda value: value >= 0, "at least 0")
AT_LEAST_1: Range = (lambda value: value >= 1, "at least 1")
SHARE: Range = (lambda value: 0 <= value <= 1, "in [0, 1]")

CONF = Path(__file__).parents[1] / "conf"
COMMON = "base"  # the file of values that all options of a group share; it is no option itself
HELP_WIDTH, HELP_INDENT = 100, " " * 4

NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", types.NoneType: "null"}


def published(key: str, default: float, *, _root_: DictConfig) -> float:
    """Resolve `${published:KEY,DEFAULT}` in a config: the paper's value for the models and dataset of the job.

    The table is `published` (conf/scale/paper.yaml). If it has no value for the dataset, the value for GSM8K holds. If
    it does not have the models, or if there is no table, the default holds.
    """
    student, teacher, dataset = (OmegaConf.select(_root_, f"{role}.name") for role in ("student", "teacher", "dataset"))
    values = OmegaConf.select(_root_, "published") or {}
    for name in (student, teacher, key):
        values = values.get(name) or {}
    value: float = values.get(dataset, values.get("gsm8k", default))
    return value


OmegaConf.register_new_resolver("published", published, replace=True)


def options(group: str) -> str:
    """Resolve `${options:GROUP}` in a config: the names of the group's options, as `--help` lists them."""
    names = [path.stem for path in (CONF / group).glob("*.yaml") if path.stem != COMMON]
    by_number = sorted(names, key=lambda name: re.sub(r"\d+", lambda digits: digits[0].zfill(4), name))
    return textwrap.fill(" ".join(by_number), HELP_WIDTH - len(HELP_INDENT), subsequent_indent=HELP_INDENT)


OmegaConf.register_new_resolver("options", options, replace=True)


def check_ranges(group: str, settings: object, ranges: Mapping[str, Range]) -> None:
    """Refuse a setting outside its range. None passes: the type of a setting says whether it may be None.

    Args:
        group: the config's name for the settings.

    Raises:
        ValueError: a setting is outside; the message names it, its value and its range.
    """
    for name, (is_possible, words) in ranges.items():
        value = getattr(settings, name)
        if value is not None and not is_possible(value):
            raise ValueError(f"{group}.{name}={value}: must be {words}.")


def check_types(config: DictConfig, whole: type) -> None:
    """Refuse settings that their part does not have, and values of a type that it does not take.

    Args:
        config: its parts are the nodes with a `_target_`, and the config itself.
        whole: the dataclass that takes the config's own values.

    Raises:
        ValueError: a setting is wrong; the message names it and the allowed values.
    """
    for key, value, declared in [*_values("", config, whole), *_values_of_parts("", config)]:
        if isinstance(value, str) and _is_part(declared):
            raise ValueError(
                f"{key}={value}: a part is chosen by its group, `{key.replace('.', '/')}={value}`, or, where the group "
                f"lies elsewhere, `GROUP@{key}={value}`; `python run.py --help` lists the groups."
            )
        allowed = _simple_types(declared)
        if allowed is not None and not any(_fits(value, one) for one in allowed):
            raise ValueError(f"{key}={value}: must be {' or '.join(map(_name, allowed))}.")


def _values_of_parts(key: str, node: DictConfig) -> Iterator[tuple[str, Any, Any]]:
    for name in map(str, node):
        child = None if OmegaConf.is_missing(node, name) else node[name]
        if not isinstance(child, DictConfig):
            continue
        inner = f"{key}{name}."
        if "_target_" in child and not OmegaConf.is_missing(child, "_target_"):
            part = get_object(child["_target_"])
            if part is get_method and not OmegaConf.is_missing(child, "path"):
                _refuse_what_is_no_function(f"{inner}path", child.path)
            _refuse_unknown(inner, child, part)
            yield from _values(inner, child, part)
        yield from _values_of_parts(inner, child)


def _refuse_what_is_no_function(key: str, path: Any) -> None:
    try:
        is_function = callable(resolve_name(str(path)))
    except Exception as error:  # the import of a module may raise any error
        raise ValueError(f"{key}={path}: it cannot be imported. {type(error).__name__}: {error}") from error
    if not is_function:
        raise ValueError(f"{key}={path}: it is no function.")


def _refuse_unknown(key: str, node: DictConfig, part: Any) -> None:
    if isinstance(part, type) and dataclasses.is_dataclass(part):
        known = [field.name for field in dataclasses.fields(part) if field.init]
        for name in map(str, node):
            if name not in known and not name.startswith("_"):
                raise ValueError(f"{key}{name}: there is no such setting; {key[:-1]} has {', '.join(known)}.")


def _values(key: str, node: DictConfig, part: Any) -> Iterator[tuple[str, Any, Any]]:
    """The plain values that a dataclass is given, with their declared types; containers and parts are left out."""
    if not (isinstance(part, type) and dataclasses.is_dataclass(part)):
        return
    declared = typing.get_type_hints(part)
    for field in dataclasses.fields(part):
        if field.name in node and not OmegaConf.is_missing(node, field.name):
            value = node[field.name]
            if not OmegaConf.is_config(value):
                yield f"{key}{field.name}", value, declared[field.name]


def _is_part(declared: Any) -> bool:
    """Whether the declared type is a dataclass or a protocol."""
    declared = [one for one in typing.get_args(declared) or (declared,) if one is not types.NoneType]
    return all(isinstance(one, type) and (dataclasses.is_dataclass(one) or Protocol in one.__mro__) for one in declared)


def _simple_types(declared: Any) -> list[Any] | None:
    """The simple types or literals that a value may have; None if the declaration has other types too."""
    if typing.get_origin(declared) in (Union, types.UnionType):
        allowed: list[Any] = []
        for one in typing.get_args(declared):
            if (own := _simple_types(one)) is None:
                return None
            allowed += own
        return allowed
    if typing.get_origin(declared) is Literal:
        return list(typing.get_args(declared))
    return [declared] if declared in NAMES else None


def _fits(value: Any, allowed: Any) -> bool:
    if not isinstance(allowed, type):
        return bool(value == allowed)
    if isinstance(value, bool):
        return allowed is bool
    return isinstance(value, (int, float) if allowed is float else allowed)


def _name(allowed: Any) -> str:
    return NAMES[allowed] if isinstance(allowed, type) else str(allowed)


def without_environment(config: DictConfig) -> dict[str, Any]:
    """The resolved config as plain values; an environment variable keeps its reference, `${oc.env:NAME}`.

    Files and uploads thus hold no key, and a job that is run with them reads the variable again.
    """
    OmegaConf.register_new_resolver("oc.env", lambda *name: f"${{oc.env:{','.join(map(str, name))}}}", replace=True)
    try:
        return plain_values(config)
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def plain_values(config: DictConfig) -> dict[str, Any]:
    """The resolved config as plain values."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(name): value for name, value in values.items()}


REFUSALS = (HydraException, OmegaConfBaseException)
"""Errors that Hydra raises for a command line it cannot compose; with HYDRA_FULL_ERROR=1 they reach the caller."""


def refusal(error: Exception, command: str) -> str:
    """The message for a refused command line: Hydra's reason, without its internal details, and where to look.

    Args:
        error: one of `REFUSALS`.
        command: the command as the user types it.
    """
    said = f"{error}\n{error.__cause__ or ''}".splitlines()
    # Appending an unknown key would only be refused later, and OmegaConf's internal names do not help a user.
    noise = ("To append to your config", "    full_key:", "    object_type=", "Config search path", "\tprovider=")
    lines = [line for line in dict.fromkeys(said) if line and not line.startswith(noise)]
    if "hydra/launcher" in said[0]:
        lines.append(
            "Jobs side by side need a plugin: `pip install -r requirements-joblib.txt` for joblib, "
            "requirements-submitit.txt for submitit_…, requirements-ray.txt for ray_…."
        )
    lines.append(f"`{command} --help` lists groups and options, `{command} --cfg job` all values.")
    return "\n".join(lines)
