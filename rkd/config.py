"""Types and ranges of settings: the part that takes a setting declares them, and a wrong value ends a job at once."""

import dataclasses
import functools
import inspect
import math
import re
import shlex
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal, Protocol, Union

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.utils import get_method, get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
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
OF_HYDRA = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")

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
        if isinstance(value, str | int | float) and _is_part(declared):
            raise ValueError(
                f"{key}={value}: a part is chosen by its group, `{key.replace('.', '/')}={value}`, or, where the group "
                f"lies elsewhere, `GROUP@{key}={value}`; `python run.py --help` lists the groups."
            )
        allowed = _simple_types(declared)
        if allowed is None:
            _check_structure(key, value, declared)
            continue
        if OmegaConf.is_config(value):
            raise ValueError(f"{key}={OmegaConf.to_container(value)}: must be {' or '.join(map(_name, allowed))}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key}={value}: must be a finite number.")
        if not any(_fits(value, one) for one in allowed):
            raise ValueError(f"{key}={value}: must be {' or '.join(map(_name, allowed))}.")


def check_keys(config: DictConfig, whole: type) -> None:
    """Refuse a missing part, and a key that nothing reads: `check_types` looks only at the keys within the parts.

    The job reads the fields of `whole`, the keys that its config files set, and what other values refer to.

    Args:
        whole: the dataclass that takes the config's own values.

    Raises:
        ValueError: a part is missing, or nothing reads a key; the message names it and the nearest key.
    """
    fields = {field.name for field in dataclasses.fields(whole)}
    if missing := sorted(fields - {str(name) for name in config}):
        raise ValueError(
            f"{missing[0]} is missing: the job needs this part. Where it can be left out, `{missing[0]}=none` does so."
        )
    for prefix, node, known in _mappings(config, fields):
        unread = [name for name in map(str, node) if name not in known]
        if unread and (unread := [name for name in unread if f"{prefix}{name}" not in _references(config)]):
            keys = sorted(f"{prefix}{name}" for name in known)
            raise ValueError(_unknown(f"{prefix}{unread[0]}", keys, prefix[:-1] or "the job"))


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
    """Refuse settings that a part does not take, and a part without a setting that it needs."""
    taken = _parameters(part)
    if taken is None:
        return
    for name in map(str, node):
        if name not in taken and name not in OF_HYDRA:
            raise ValueError(_unknown(f"{key}{name}", [f"{key}{one}" for one in taken], key[:-1]))
    given = [str(name) for name in node]  # `in` would leave out the mandatory values, ???
    needed = () if node.get("_partial_") or "_args_" in given else (name for name in taken if taken[name])
    if missing := [name for name in needed if name not in given]:
        raise ValueError(without_value(f"{key}{missing[0]}"))


def without_value(key: str) -> str:
    """The message for a key that needs a value and has none."""
    group, _, within = key.partition(".")
    said = f" The comments in conf/{group}/ say what it takes." if within else ""
    return f"{key} has no value of its own: give it one, `python run.py {key}=...`.{said}"


def _parameters(part: Any) -> dict[str, bool] | None:
    """The settings that a part takes by name, and whether it needs them; None if it takes any."""
    try:
        taken = inspect.signature(part).parameters.values()
    except (TypeError, ValueError):  # some built-in functions have none
        return None
    if part is get_method:
        return {"path": True}
    if any(one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL) for one in taken):
        return None
    return {one.name: one.default is one.empty for one in taken if one.kind is not one.POSITIONAL_ONLY}


def _unknown(key: str, known: Iterable[str], part: str) -> str:
    """The message for a key that does not exist; `known` are the keys beside it, and `part` is what they belong to."""
    names = {name.rpartition(".")[2]: name for name in known}
    if near := get_close_matches(key.rpartition(".")[2], names, 1):
        return f"{key}: there is no such setting. Did you mean `{names[near[0]]}`?"
    if not names:
        return f"{key}: there is no such setting; {part} has none."
    return f"{key}: there is no such setting; {part} has {', '.join(names)}."


def _mappings(config: DictConfig, fields: set[str]) -> Iterator[tuple[str, DictConfig, set[str]]]:
    """The config itself and its mappings that are no parts, each with its prefix and the keys that it may have."""
    files = _keys_of_files()
    yield "", config, fields | set(files)
    for name, known in files.items():
        node = None if name in fields or OmegaConf.is_missing(config, name) else config.get(name)
        if isinstance(node, DictConfig) and known and "_target_" not in node:
            yield f"{name}.", node, known


@functools.cache
def _keys_of_files() -> dict[str, set[str]]:
    """The keys that the files of the whole job set, each with those below it: `conf/config.yaml` and the scales."""
    found: dict[str, set[str]] = {}
    for path in (CONF / "config.yaml", *(CONF / "scale").glob("*.yaml")):
        content = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(content, dict)
        for entry in content.pop("defaults", []):
            for group in entry if isinstance(entry, dict) else ():
                place = str(group).rpartition("@")[2]
                if not place.startswith("override "):
                    name, *below = re.split("[/.]", place)
                    found.setdefault(name, set()).update(below)
        content.pop("hydra", None)
        for name, value in content.items():
            found.setdefault(str(name), set()).update(map(str, value) if isinstance(value, dict) else ())
    return found


def _references(config: DictConfig) -> set[str]:
    """The keys that values of the config refer to by `${KEY}`, and those above them."""
    found = set()
    for key in re.findall(r"\$\{([\w.]+)\}", OmegaConf.to_yaml(config)):
        parts = key.split(".")
        found |= {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return found


def _values(key: str, node: DictConfig, part: Any) -> Iterator[tuple[str, Any, Any]]:
    """The values that a dataclass is given, with their declared types."""
    if not (isinstance(part, type) and dataclasses.is_dataclass(part)):
        return
    declared = typing.get_type_hints(part)
    for field in dataclasses.fields(part):
        if field.name in node and not OmegaConf.is_missing(node, field.name):
            yield f"{key}{field.name}", node[field.name], declared[field.name]


def _check_structure(key: str, value: Any, declared: Any) -> None:
    """Refuse null where a part or a container has to be, and another value than the declared container."""
    kinds = _alternatives(declared)
    if value is None:
        if types.NoneType not in kinds and Any not in kinds:
            raise ValueError(f"{key}=null: this setting cannot be left out.")
        return
    origins = {typing.get_origin(kind) or kind for kind in kinds} - {types.NoneType}
    if origins <= {Sequence, list, tuple} and not isinstance(value, ListConfig):
        raise ValueError(f"{key}={value}: must be a list.")
    if origins <= {Mapping, dict} and not isinstance(value, DictConfig):
        raise ValueError(f"{key}={value}: must be a mapping.")


def _alternatives(declared: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    return typing.get_args(declared) if typing.get_origin(declared) in (Union, types.UnionType) else (declared,)


def _is_part(declared: Any) -> bool:
    """Whether the declared type is a dataclass or a protocol."""
    kinds = [one for one in _alternatives(declared) if one is not types.NoneType]
    return all(isinstance(one, type) and (dataclasses.is_dataclass(one) or Protocol in one.__mro__) for one in kinds)


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

PLAIN_CHARACTERS = re.compile(r"[\w/\\+.$%*@?|: -]", re.ASCII)
"""The characters that a value may hold without quotes, besides the commas of lists."""


def refusal(error: Exception, command: str) -> str:
    """The message for a refused command line: Hydra's reason, without its internal details, and where to look.

    Args:
        error: one of `REFUSALS`, or an error of Hydra's own that is of a built-in type.
        command: the command as the user types it.
    """
    if isinstance(error, OverrideParseException):
        return unreadable(error.override)
    if str(error).startswith("Config group override must be"):
        return "A group is given a value that names no option. To leave a stage out take its option none, as `rl=none`."
    said = [line for one in (error, error.__cause__) if one is not None for line in str(one).splitlines()]
    lines = [line for line in dict.fromkeys(said) if line]
    if "hydra/launcher" in lines[0]:
        lines.append(
            "Jobs side by side need a plugin: `pip install -r requirements-joblib.txt` for joblib, "
            "requirements-submitit.txt for submitit_…, requirements-ray.txt for ray_…."
        )
    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(cause.parent_node, DictConfig):
        key, prefix = str(cause.full_key), str(cause.full_key).removesuffix(str(cause.key))
        beside = [f"{prefix}{name}" for name in map(str, cause.parent_node) if name != "hydra"]
        lines = [_unknown(key, [*beside, *_groups(key)], prefix.strip(".") or "the job")]
    # Hydra's advice to append an unknown key would only be refused later, and internal names do not help a user.
    noise = ("To append to your config", "    full_key:", "    object_type=", "Config search path", "\tprovider=")
    lines = [line for line in lines if not line.startswith(noise)]
    lines.append(f"`{command} --help` lists groups and options, `{command} --cfg job` all values.")
    return "\n".join(lines)


def _groups(key: str) -> list[str]:
    """The groups below others, if the key looks like one of them."""
    if "/" not in key:
        return []
    return [str(path.relative_to(CONF)) for path in CONF.glob("*/**/") if any(path.glob("*.yaml"))]


def unreadable(override: str) -> str:
    """The message for an override that Hydra cannot parse: the reason, and how to quote it."""
    key, is_set, value = override.partition("=")
    if not is_set:
        return f"`{override}` gives no value: a setting is KEY=VALUE without spaces, as in `seed=1`."
    if not re.fullmatch(r"[~+]{0,2}[\w./@:-]+", key, re.ASCII):
        return f"`{override}` cannot be read: `{key}` is no key. A setting is KEY=VALUE without spaces, as in `seed=1`."
    if value[:1] in ("[", "{"):
        return (
            f"`{override}` cannot be read: a bracket is not closed, or a text in it needs quotes. Quote such a text, "
            f'the whole for the shell: \'{key}=["a = b","c"]\''
        )
    odd = " ".join(dict.fromkeys(c for c in value if not PLAIN_CHARACTERS.match(c))) or "`${`"
    said = f"`{override}` cannot be read: its value holds {odd} without quotes."
    home = str(Path(value).expanduser()) if value.startswith("~") else value
    quoted = home.replace('"', '\\"')
    for written in (f"{key}={home}", f'{key}="{quoted}"', f"{key}='{home}'"):
        if _means(written, home):
            return f"{said} Quote it for Hydra and for the shell: {shlex.quote(written)}"
    return f"{said} Quote it for Hydra and for the shell: '{key}=\"...\"'"


def _means(override: str, value: str) -> bool:
    """Whether Hydra reads this text as the value of an override."""
    try:
        return bool(OverridesParser.create().parse_override(override).value() == value)
    except HydraException:
        return False
