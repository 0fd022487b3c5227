"""The house: packages stand on floors, a module imports from lower floors only, and no imports go round in a circle."""

import ast
import functools
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rkd"
MOST_MODULES = 12  # directly in rkd/

FLOORS = [
    set(floor.split())
    for floor in (
        "records protocols losses config decoding io markdown errors processes distributed work",
        "store",
        "models",
        "data",
        "training generation",
        "judges",
        "rl evaluation",
        "stages",
        "mini reporting",
        "pipeline",
        "jobs",
        "__main__",
    )
]
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def test_every_package_stands_on_a_floor_and_says_what_it_is_for():
    packages = {path.parent.name: path for path in PACKAGE.glob("*/__init__.py")}
    assert set(packages) <= set().union(*FLOORS)
    for path in packages.values():
        sentence = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert sentence is not None, path
        assert sentence.endswith("."), path
        assert sentence.count(".") == 1, path


def test_few_modules_lie_directly_in_the_package():
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert len(modules) <= MOST_MODULES
    assert modules <= set().union(*FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_from_lower_floors_only(path):
    own = _room(path)
    for imported in {_room(other) for other in _imports()[path]} - {own}:
        same_ground = {own, imported} <= FLOORS[0]  # the modules of the ground floor are no packages
        assert same_ground or _floor(imported) < _floor(own), (
            f"{own} (floor {_floor(own)}) imports {imported} (floor {_floor(imported)})"
        )


def test_no_imports_of_files_go_round_in_a_circle():
    try:
        TopologicalSorter(_imports()).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(path.relative_to(PACKAGE).as_posix() for path in reversed(error.args[1])))


def _room(path: Path) -> str:
    """The package that a module lies in, or the module itself."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _floor(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


@functools.cache
def _imports() -> dict[Path, set[Path]]:
    """The modules of ours that each module imports, wherever in its text."""
    return {path: _imported_by(path) for path in MODULES}


def _imported_by(path: Path) -> set[Path]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "rkd":
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    places = {PACKAGE.parent.joinpath(*name.split(".")).with_suffix(".py") for name in names}
    return {place for place in places if place in MODULES} - {path}
