"""What the documents tell a reader to type: commands fit, and options and keys are there."""

import dataclasses
import functools
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from rkd.__main__ import command_parser
from rkd.evaluation.results import Notes
from tests.support.documents import (
    DOCUMENTS,
    EXTENDING,
    REPOSITORY,
    commands,
    name_of,
    read,
    section,
    spans,
    table_rows,
    write_extended,
)

CONF = REPOSITORY / "conf"
PLACEHOLDERS = {"", "NAME", "…"}
each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)

RUNS = commands("python run.py")
OURS = commands("python -m rkd ")


def arguments(command: str) -> list[str]:
    """The arguments of `python run.py` or of `python -m`, without what stands behind a `#`."""
    return shlex.split(command, comments=True)[2:]


def overrides_of(words: list[str]) -> list[str]:
    """The overrides among the arguments of run.py."""
    waiting, kept = iter(words), []
    for word in waiting:
        if word in ("--cfg", "-p", "--package"):
            next(waiting)
        elif not word.startswith("-"):
            kept.append(word)
    return kept


def ways(words: list[str]) -> Iterator[list[str]]:
    """The overrides of each job that a sweep over several values means; one job without several values.

    NAME stands for a row or table that there is. A launcher is left out: its plugin need not be installed.
    """
    choices = []
    for override in OverridesParser.create().parse_overrides(words):
        key, _, value = override.input_line.partition("=")
        if key == "hydra/launcher":
            assert value in options(key), value
        elif override.is_sweep_override():
            choices.append([f"{key}={one}" for one in override.sweep_string_iterator()])
        elif value == "NAME" and key in ("sweeps", "experiments"):
            choices.append([f"{key}={path.stem}" for path in sorted((REPOSITORY / key).glob("*.yaml"))[:1]])
        else:
            choices.append([override.input_line])
    for number in range(max(map(len, choices), default=1)):  # each value once, not each combination
        yield [of_key[number % len(of_key)] for of_key in choices]


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A copy of conf/, experiments/ and sweeps/ with the files that docs/extending.md shows."""
    return write_extended(tmp_path_factory.mktemp("extended")) / "conf"


def test_documents_have_commands_to_check():
    assert len(RUNS) > 65
    assert len(OURS) > 20
    documents = {document for document, _ in RUNS}
    assert documents >= {"README.md", "docs/tutorial.md", "docs/extending.md", "docs/results/paper_d.md"}


@pytest.mark.slow
@pytest.mark.parametrize(("document", "command"), RUNS)
def test_a_command_of_a_document_is_composed(document, command, extended):
    folder = extended if document == name_of(EXTENDING) else CONF
    words = arguments(command)
    with initialize_config_dir(str(folder), version_base="1.3"):
        for own in ways(overrides_of(words)):
            assert compose("config", overrides=own, return_hydra_config=True).row
    if any(word.startswith("sweeps=") for word in words) and "-m" not in words:
        assert "without `-m`" in read(document)  # shown as what is refused


@pytest.mark.parametrize("command", [command for _, command in OURS])
def test_a_command_beside_run_py_is_one_that_there_is(command):
    words = arguments(command)[1:]
    if words[0] == "pretrain":  # its arguments are Hydra's
        with initialize_config_dir(str(CONF), version_base="1.3"):
            assert compose("pretrain", overrides=overrides_of(words[1:])).corpus
    else:
        assert command_parser().parse_args(words).run


# ----------------------------------------------------------------------------------------------------------------------
# Groups, options and keys
# ----------------------------------------------------------------------------------------------------------------------

# Configs that together have every key that a part of a job can have.
KINDS_OF_JOBS = [
    ["experiments=dpo", "generation=vllm"],
    ["experiments=semi_supervised", "rl=mini_grpo", "dataset=mini_math_aug"],
    ["scale=paper", "dataset=gsm8k"],
    ["dataset=mini_open"],
    ["teacher=endpoint", "judge=endpoint", "experiments=noisy_labels"],
    ["dataset=gsm_plus"],
    ["teacher=stored", "pairs=stored", "sft/data=all", "evaluation/bound=sampled"],
    ["teacher=recorded", "dataset=asdiv_multiarith", "judge=small_judge", "arithmetic=small"],
    ["experiments=rejection_sampling_rounds"],
    ["experiments=gkd"],
    ["experiments=ours_refreshed"],
    ["experiments=coin"],
    ["experiments=generative_verifier"],
    ["sweeps=fig7"],
]
NO_KEYS = {"model.generate"}  # a method of transformers' models
FILES = ("py", "md", "json", "jsonl", "gz", "txt", "png", "yaml", "yml", "csv", "ipynb", "lock")


def options(group: str) -> set[str]:
    """The options of a group; joblib's launcher is its plugin's own."""
    own = {path.stem for path in (CONF / group).glob("*.yaml")} - {"base"}  # of which others are made
    return own | {"joblib"} if group == "hydra/launcher" else own


def groups() -> set[str]:
    """The groups of a configuration, those of Hydra left out."""
    found = {path.parent.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml")}
    return {group for group in found if group != "." and not group.startswith("hydra/")} | {"experiments", "sweeps"}


@functools.cache
def keys() -> set[str]:
    """Every key of the configs of several kinds of jobs, in dots."""

    def within(node: Any, name: str) -> Iterator[str]:
        yield name
        if isinstance(node, dict):
            for key, value in node.items():
                yield from within(value, f"{name}.{key}" if name else str(key))

    with initialize_config_dir(str(CONF), version_base="1.3"):
        configs = [compose("config", overrides=own) for own in KINDS_OF_JOBS]
        configs.append(compose("pretrain", overrides=["pretrain=mini_1"]))
    named = (within(OmegaConf.to_container(config, resolve=False), "") for config in configs)
    return set(itertools.chain.from_iterable(named)) - {""}


def chosen(text: str) -> Iterator[tuple[str, str]]:
    """Keys and values of the spans that consist of overrides, as `judge=hf judge.name_or_path=NAME`."""
    for span in spans(text):
        words = span.strip("'").removeprefix("-m ").split(" ")
        if all(re.match(r"\+{0,2}[a-z][\w/]*(@[\w.]+|\.[\w.]+)?=", word) for word in words):
            for word in words:
                key, _, value = word.lstrip("+").partition("=")
                yield key, value


@each_document
def test_every_option_and_key_that_a_document_sets_is_there(path):
    for key, value in chosen(path.read_text(encoding="utf-8")):
        group, _, place = key.partition("@")
        if (CONF / group).is_dir():
            assert value in PLACEHOLDERS or set(value.split(",")) <= options(group), f"{key}={value}"
            assert not place or place in keys(), key
        else:
            assert key in keys(), key


@each_document
def test_every_key_that_a_document_names_is_there(path):
    named = [span for span in spans(path.read_text(encoding="utf-8")) if re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)+", span)]
    others = {f"notes.{field.name}" for field in dataclasses.fields(Notes)} | NO_KEYS
    wrong = [key for key in named if key.rpartition(".")[2] not in FILES and key not in keys() | others]
    assert wrong == []


def test_documents_have_options_and_keys_to_check():
    texts = [path.read_text(encoding="utf-8") for path in DOCUMENTS]
    assert len({one for text in texts for one in chosen(text)}) > 70
    assert {"rl.kl.target", "roles.one", "teacher.server.budget_cost"} <= keys()
    assert not {"rl.guard.nothing", "kl_controller", "rl.advantages.trace_decay"} & keys()


def test_the_page_of_the_configuration_lists_every_group_and_its_options():
    listed = {}
    for named, _, told in table_rows(section(read("docs", "configuration.md"), "Groups")):
        for group in re.findall(r"`([\w/]+)`", named):
            listed[group] = told
    assert set(listed) == groups()
    for group, told in listed.items():
        named = set(re.findall(r"`(\w+)`", told))
        assert named <= options(group), group
        if named and "others" not in told and "the same with" not in told:
            assert named == options(group), group
