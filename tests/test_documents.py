"""The documents: links lead somewhere, commands can be run, numbers are those of kept tables, rows are described."""

import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from rkd.__main__ import command_parser

FOLDER = Path(__file__).parents[1]
TABLES = FOLDER / "experiments" / "results" / "mini" / "tables"
DOCUMENTS = [FOLDER / "README.md", FOLDER / "CONTRIBUTING.md", *sorted((FOLDER / "docs").rglob("*.md"))]
DOCUMENTS.append(FOLDER / "tests" / "benchmarks" / "README.md")
each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(FOLDER).as_posix())


def read(*parts: str) -> str:
    """A document of the repository."""
    return FOLDER.joinpath(*parts).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(path.read_text(encoding="utf-8")), re.MULTILINE)
    names: dict[str, int] = {}
    found = set()
    for heading in headings:
        text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found.add(f"{name}-{names[name]}" if name in names else name)
        names[name] = names.get(name, 0) + 1
    return found


@each_document
def test_every_link_and_anchor_of_a_document_is_there(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text(encoding="utf-8"))):
        if "://" in link or link.startswith("mailto:"):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def test_documents_have_links_to_check():
    assert sum(len(re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))) for path in DOCUMENTS) > 100


# ----------------------------------------------------------------------------------------------------------------------
# Commands
# ----------------------------------------------------------------------------------------------------------------------


def commands(start: str) -> list[tuple[str, str]]:
    """Every command of the documents that begins so, with the document: in blocks of code and between backticks."""
    found = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        blocks = re.findall(r"^```(?:sh|bash)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        lines = list(itertools.chain.from_iterable(block.replace("\\\n", " ").splitlines() for block in blocks))
        lines += [re.sub(r"\s+", " ", span) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(text))]
        for line in lines:
            if line.strip().startswith(start) and "…" not in line:
                found.append((path.relative_to(FOLDER).as_posix(), line.strip()))
    return list(dict.fromkeys(found))


RUNS = commands("python run.py")
OURS = [one for one in commands("python -m rkd ") if "|" not in one[1]]


def arguments(command: str) -> list[str]:
    """The arguments of a command, without what stands behind a `#`."""
    return shlex.split(command, comments=True)[2:]


def overrides_of(words: list[str]) -> list[str]:
    """The overrides among the arguments of run.py."""
    words, kept = list(words), []
    while words:
        word = words.pop(0)
        if word in ("--cfg", "-p", "--package"):
            words.pop(0)
        elif not word.startswith("-"):
            kept.append(word)
    return kept


def placed(words: list[str]) -> Iterator[str]:
    """The overrides with the first of several values, and what a document leaves to the reader filled in."""
    for override in OverridesParser.create().parse_overrides(words):
        key, value = override.input_line.partition("=")[::2]
        if key == "hydra/launcher":  # of plugins that need not be installed
            continue
        if override.is_sweep_override():
            value = str(next(iter(override.sweep_string_iterator())))
        if value == "NAME":
            value = {"sweeps": "table3", "experiments": "sft"}.get(key, value)
        yield f"{key}={value}" if "=" in override.input_line else override.input_line


def test_documents_have_commands_to_check():
    assert len(RUNS) > 60
    assert len(OURS) > 12


@pytest.mark.parametrize(("path", "command"), RUNS)
def test_a_command_of_a_document_is_composed(path, command):
    del path
    own = overrides_of(arguments(command))
    with initialize_config_dir(str(FOLDER / "conf"), version_base="1.3"):
        config = compose("config", overrides=list(placed(own)), return_hydra_config=True)
    assert config.row


@pytest.mark.parametrize(("path", "command"), OURS)
def test_a_command_beside_run_py_is_one_that_there_is(path, command):
    del path
    words = arguments(command)[1:]
    if words[0] == "pretrain":
        with initialize_config_dir(str(FOLDER / "conf"), version_base="1.3"):
            compose("pretrain", overrides=[word for word in words[1:] if not word.startswith("-")])
        return
    if words[-1] in ("--help", "-h"):
        return
    command_parser().parse_args(words)


# ----------------------------------------------------------------------------------------------------------------------
# What the documents say
# ----------------------------------------------------------------------------------------------------------------------


def test_the_readme_is_short():
    assert len(read("README.md").splitlines()) <= 120


@each_document
def test_every_file_that_a_document_names_is_there(path):
    if path.name == "extending.md":
        return  # it names files that its reader makes
    named = re.findall(
        r"`((?:rkd|conf|tests|docs|sweeps|experiments|notebooks)/[\w./-]+)`", path.read_text(encoding="utf-8")
    )
    assert [name for name in named if not (FOLDER / name).exists() and "NAME" not in name] == []


@each_document
def test_every_module_that_a_document_names_is_there(path):
    for name in re.findall(r"(?<![\w./])rkd(?:\.[a-z_]+)+", path.read_text(encoding="utf-8")):
        parts = name.split(".")
        places = [FOLDER.joinpath(*parts[:count]) for count in range(1, len(parts) + 1)]
        files = [place for place in places if place.with_suffix(".py").is_file() or place.is_dir()]
        assert len(files) >= len(parts) - 1, name  # the last part may be a function


def test_means_over_seeds_are_those_of_a_kept_table():
    pattern = r"\d+\.\d ± \d+\.\d"
    kept = {number for path in TABLES.glob("*.md") for number in re.findall(pattern, path.read_text(encoding="utf-8"))}
    told = re.findall(
        pattern, re.sub(r"±\s+", "± ", read("docs", "results", "paper_d.md") + read("docs", "results", "paper_j.md"))
    )
    assert len(told) > 100
    # The default job's own row is no table's: the README tells it.
    assert set(told) - kept - set(re.findall(pattern, read("README.md"))) == set()


@pytest.mark.parametrize("folder", ["sweeps", "experiments"])
def test_every_row_and_every_sweep_is_described(folder):
    rows = [line.split("|")[1] for line in read("docs", "experiments.md").splitlines() if line.startswith("|")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    there = {path.stem for path in (FOLDER / folder).glob("*.yaml")}
    assert there - named == set()


def test_every_row_and_sweep_that_is_described_is_there():
    there = {path.stem for folder in ("sweeps", "experiments") for path in (FOLDER / folder).glob("*.yaml")}
    named = set(
        re.findall(
            r"(?:sweeps|experiments)=(\w+)", "\n".join(map(str, (path.read_text("utf-8") for path in DOCUMENTS)))
        )
    )
    assert named - there <= {"NAME"} | {name for name in named if name in read("docs", "extending.md")}


def test_every_table_that_is_kept_is_linked():
    pages = "".join(path.read_text(encoding="utf-8") for path in (FOLDER / "docs" / "results").glob("*.md"))
    assert {path.name for path in TABLES.glob("*.md")} - set(re.findall(r"tables/(\w+\.md)", pages)) == set()


def test_every_section_of_the_method_that_code_and_tables_cite_is_there():
    cited = set()
    for folder in ("rkd", "conf", "experiments", "sweeps"):
        for path in (FOLDER / folder).rglob("*"):
            if path.is_file() and path.suffix in (".py", ".yaml", ".md"):
                cited |= set(
                    re.findall(r"docs/method\.md,? (?:section )?(\d(?:\.\d+)?)", path.read_text(encoding="utf-8"))
                )
    headings = set(re.findall(r"^#+ (\d(?:\.\d+)?)\.? ", read("docs", "method.md"), re.MULTILINE))
    assert len(cited) > 20
    assert cited - headings == set()


def test_the_picture_is_drawn_by_its_script_and_names_packages_that_are_there(tmp_path):
    script, picture = FOLDER / "docs" / "images" / "architecture.py", tmp_path / "drawn.png"
    done = subprocess.run([sys.executable, script, picture], cwd=FOLDER, env={"PYTHONPATH": str(FOLDER)}, check=False)
    assert done.returncode == 0
    assert picture.read_bytes() == script.with_suffix(".png").read_bytes()
    named = set(re.findall(r"rkd/(\w+)", script.read_text(encoding="utf-8")))
    assert len(named) > 10
    assert {name for name in named if not list((FOLDER / "rkd").glob(f"{name}*"))} == set()
