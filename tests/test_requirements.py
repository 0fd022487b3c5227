"""The pinned sets: the lock holds what requirements.txt pins, no two files disagree, and pyproject.toml names each."""

import re
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
FILES = sorted(REPOSITORY.glob("requirements*.txt"))
BASE, LOCK = REPOSITORY / "requirements.txt", REPOSITORY / "requirements.lock"
APART = {"requirements-vllm.txt", "requirements-ray.txt"}  # in an environment of their own, with other versions
PIN = re.compile(r"([A-Za-z0-9._-]+)(?:\[[\w,]+\])?==([\w.+!]+)")


def pins(path: Path) -> dict[str, str]:
    """The version of each package that a file pins, by the package's normalised name."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [match for line in lines if (match := PIN.match(line))]
    return {re.sub(r"[-_.]+", "-", match[1]).lower(): match[2] for match in found}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_requirement_is_pinned(path):
    lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line for line in lines if line and not PIN.fullmatch(line)] == []


def test_the_lock_holds_what_requirements_txt_pins():
    locked = pins(LOCK)
    assert {name: locked.get(name) for name in pins(BASE)} == pins(BASE), "make lock"


def test_every_locked_package_has_a_hash_and_no_address_is_named():
    text = LOCK.read_text(encoding="utf-8")
    packages = re.split(r"\n(?=[a-z0-9])", text.partition("\n")[2])
    without = [one.split()[0] for one in packages if "==" in one and "--hash=sha256:" not in one]
    assert without == []
    assert not re.search(r"://|--(?:extra-)?index-url|--find-links", text)


def test_files_that_are_installed_together_agree():
    versions = defaultdict(set)
    for path in FILES:
        for name, version in pins(path).items() if path.name not in APART else ():
            versions[name].add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_pyproject_reads_every_file():
    described = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "dynamic"
    ]
    extras = {name: extra["file"] for name, extra in described["optional-dependencies"].items()}
    assert described["dependencies"]["file"] == [BASE.name]
    assert extras == {name: [f"requirements-{name}.txt"] for name in extras}
    assert {BASE.name, *(file for files in extras.values() for file in files)} == {
        path.name for path in FILES if path.name not in {"requirements-vllm.txt", "requirements-small.txt"}
    }
