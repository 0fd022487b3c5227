"""What a setting may be: types against the dataclasses of this file, ranges, and what a user reads."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf

from rkd.config import ABOVE_0, check_ranges, check_types, without_environment
from tests.support import tiny_world


@dataclass(frozen=True)
class Part:
    count: int = 1
    rate: float = 0.5
    is_on: bool = False
    name: str = ""
    limit: int | None = None
    place: Literal["here", "there"] = "here"
    function: Callable[[], Any] | None = None
    anything: Any = None


@dataclass(frozen=True)
class Whole:
    seed: int
    part: Part
    parts: dict[str, Part]


def check(**values: Any) -> None:
    target = {"_target_": f"{__name__}.Part"}
    check_types(
        OmegaConf.create({"seed": 0, "other": "x", "part": target | values, "parts": {"a": dict(target)}}), Whole
    )


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"count": 2, "rate": 1, "is_on": True, "name": "x", "limit": None, "place": "there"},
        {"rate": 1e-4, "limit": 3, "anything": "x", "function": "any text"},
        {"count": "???"},
        {"anything": {"count": "two"}},  # no part: it names no target
    ],
)
def test_what_a_part_takes_passes(values):
    check(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"cuont": 2},
            "part.cuont: there is no such setting. Did you mean `part.count`?",
        ),
        (
            {"colour": 2},
            "part.colour: there is no such setting; part has count, rate, is_on, name, limit, "
            "place, function, anything.",
        ),
        ({"count": "two"}, "part.count=two: must be a whole number."),
        ({"count": 1.5}, "part.count=1.5: must be a whole number."),
        ({"count": True}, "part.count=True: must be a whole number."),
        ({"count": None}, "part.count=None: must be a whole number."),
        ({"rate": "fast"}, "part.rate=fast: must be a number."),
        ({"rate": False}, "part.rate=False: must be a number."),
        ({"is_on": 1}, "part.is_on=1: must be true or false."),
        ({"limit": "none"}, "part.limit=none: must be a whole number or null."),
        ({"name": 3}, "part.name=3: must be a text."),
        ({"place": "nowhere"}, "part.place=nowhere: must be here or there."),
    ],
)
def test_another_type_is_refused(values, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check(**values)


def test_the_values_of_the_whole_and_of_inner_parts_are_looked_at():
    with pytest.raises(ValueError, match=r"^seed=zero: must be a whole number\.$"):
        check_types(OmegaConf.create({"seed": "zero"}), Whole)
    inner = {"seed": 0, "parts": {"a": {"_target_": f"{__name__}.Part", "count": "two"}}}
    with pytest.raises(ValueError, match=r"^parts\.a\.count=two"):
        check_types(OmegaConf.create(inner), Whole)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nowhere.f", "it cannot be imported. ModuleNotFoundError: No module named 'nowhere'"),
        ("math.nothing", "it cannot be imported. "),
        ("math", "it is no function."),
        ("5", "it cannot be imported. "),
    ],
)
def test_a_function_that_is_not_there_is_refused_by_its_key(path, reason):
    function = {"_target_": "hydra.utils.get_method", "path": path}
    with pytest.raises(ValueError, match="^" + re.escape(f"part.function.path={path}: {reason}")):
        check_types(OmegaConf.create({"part": {"function": function}}), Whole)


def test_a_value_outside_its_range_is_refused_and_none_is_in_every_range():
    check_ranges("part", Part(limit=None), {"limit": ABOVE_0})
    with pytest.raises(ValueError, match=r"^part\.limit=0: must be above 0\.$"):
        check_ranges("part", Part(limit=0), {"limit": ABOVE_0})


def test_what_is_written_down_names_variables_and_not_their_values(monkeypatch):
    monkeypatch.setenv("RKD_TEST_KEY", "hush")
    config = OmegaConf.create(
        {"key": "${oc.env:RKD_TEST_KEY}", "header": "Bearer ${key}", "seed": 0, "again": "${seed}"}
    )
    plain = without_environment(config)
    assert plain == {
        "key": "${oc.env:RKD_TEST_KEY}", "header": "Bearer ${oc.env:RKD_TEST_KEY}", "seed": 0, "again": 0,
    }  # fmt: skip
    assert config.key == OmegaConf.create(plain).key == "hush"  # a process that is started with it reads it again


def test_files_that_are_parsed_once_give_the_config_that_hydra_gives():
    own = ["experiments=dpo", "scale=paper"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", OmegaConf.load.__wrapped__)
        alone = tiny_world.composed(own)
    for _ in range(2):
        again = tiny_world.composed(own)
        assert again == alone
        again.sft.epochs = 99  # a copy: the next one does not have it
