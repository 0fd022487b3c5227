"""Names in fingerprints: what code is called, not where it lives, and no two alike."""

import dataclasses
import importlib
import inspect
import pkgutil
import types
from collections import defaultdict

import rkd
from rkd.data.answers import extract_answer
from rkd.records import Checkpoint
from rkd.store.fingerprint import as_fingerprint, stable_name


def test_no_two_classes_or_functions_of_the_package_have_one_name():
    places = defaultdict(set)
    for module in _modules():
        for value in vars(module).values():
            is_own = getattr(value, "__module__", None) == module.__name__
            if is_own and (inspect.isfunction(value) or _enters_fingerprints(value)):
                places[stable_name(value)].add(module.__name__)
    assert len(places) > 500
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_the_name_says_nothing_of_the_place(tmp_path):
    assert as_fingerprint(Checkpoint(tmp_path, "0" * 16))["_class_"] == "Checkpoint"
    assert as_fingerprint(extract_answer) == "answers.extract_answer"


def test_code_of_a_user_keeps_its_whole_name():
    assert as_fingerprint(_modules) == f"{__name__}._modules"


def _modules() -> list[types.ModuleType]:
    names = [module.name for module in pkgutil.walk_packages(rkd.__path__, "rkd.")]
    return [importlib.import_module(name) for name in names if not name.endswith("__main__")]


def _enters_fingerprints(value: object) -> bool:
    if not isinstance(value, type):
        return False
    is_frozen = dataclasses.is_dataclass(value) and value.__dataclass_params__.frozen
    return is_frozen or callable(getattr(value, "fingerprint", None))
