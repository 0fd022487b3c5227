"""The documents: links lead somewhere, files and packages are there, and numbers are those of kept tables."""

import dataclasses
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.image import imread

from rkd.evaluation.results import RunResult
from tests.support.documents import (
    DOCUMENTS,
    EXTENDING,
    REPOSITORY,
    blocks,
    name_of,
    prose,
    read,
    section,
    shown_files,
    spans,
    table_rows,
)
from tests.test_architecture import FLOORS

RESULTS = REPOSITORY / "experiments" / "results"
TABLES = RESULTS / "mini" / "tables"
CLASS = r"(?:[A-Z][a-z]+){2,}(?:\.\w+)?"
each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)

# ----------------------------------------------------------------------------------------------------------------------
# Links
# ----------------------------------------------------------------------------------------------------------------------


def links(path: Path) -> list[str]:
    """What a document links to within the repository, pictures included."""
    text = re.sub(r"`[^`]*`", "", prose(path.read_text(encoding="utf-8")))
    found = [re.split(r'\s+"', link)[0] for link in re.findall(r"\]\(([^)]+)\)", text)]
    return [link for link in found if "://" not in link and not link.startswith("mailto:")]


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them: a repeated one gets a number."""
    counts: dict[str, int] = {}
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE):
        shown = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        found.add(f"{name}-{counts[name]}" if name in counts else name)
        counts[name] = counts.get(name, 0) + 1
    return found


def test_anchors_are_those_that_github_makes():
    text = "# A: b `c`\n## [Link](x.md), (d)\n## Same\n## Same\n```\n# no heading\n```\n## 2.1 A–B's λ_c\n"
    assert anchors(text) == {"a-b-c", "link-d", "same", "same-1", "21-abs-λ_c"}


@each_document
def test_every_link_and_anchor_of_a_document_is_there(path):
    for link in links(path):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def test_documents_have_links_to_check():
    assert sum(len(links(path)) for path in DOCUMENTS) > 110


def test_every_page_is_linked_in_the_index_and_stands_in_the_menu_of_the_site():
    pages = {path.relative_to(REPOSITORY / "docs").as_posix() for path in (REPOSITORY / "docs").rglob("*.md")}
    assert pages - set(links(REPOSITORY / "docs" / "index.md")) == {"index.md"}
    assert set(re.findall(r": (\S+\.md)$", read("mkdocs.yml"), re.MULTILINE)) == pages


# ----------------------------------------------------------------------------------------------------------------------
# Files, modules, packages
# ----------------------------------------------------------------------------------------------------------------------


@each_document
def test_every_file_that_a_document_names_is_there(path):
    pattern = r"(?:rkd|conf|tests|docs|sweeps|experiments|notebooks|hydra_plugins)/[\w./-]*"
    named = [span for span in spans(path.read_text(encoding="utf-8")) if re.fullmatch(pattern, span)]
    made_by_reader = set(shown_files(path)) | set(table_files(path)) if path == EXTENDING else set()
    missing = [name for name in named if not (REPOSITORY / name).exists() and "NAME" not in name]
    assert set(missing) <= made_by_reader


def table_files(path: Path) -> list[str]:
    """The files that a reader of the example of a stage makes."""
    rows = table_rows(section(path.read_text(encoding="utf-8"), "Stage"))
    return [name for name in re.findall(r"`([\w./]+)`", " ".join(row[0] for row in rows)) if "interpolation" in name]


@each_document
def test_every_module_and_class_that_a_document_names_is_there(path):
    of_reader = [name.removesuffix(".py").replace("/", ".") for name in shown_files(path)]
    for name in re.findall(r"(?<![\w./])rkd(?:\.\w+)+", path.read_text(encoding="utf-8")):
        if any(name.startswith(own) for own in of_reader):
            continue
        parts = name.split(".")
        places = [REPOSITORY.joinpath(*parts[:count]) for count in range(1, len(parts) + 1)]
        modules = list(itertools.takewhile(lambda place: place.is_dir() or place.with_suffix(".py").is_file(), places))
        assert len(modules) >= len(parts) - 1, name
        if len(modules) < len(parts):  # the last part is a class or a function
            code = modules[-1].with_suffix(".py").read_text(encoding="utf-8")
            assert re.search(rf"^(class|def) {parts[-1]}\b", code, re.MULTILINE), name


def test_classes_and_functions_stand_in_the_file_that_a_document_says():
    named = r"((?:`[\w.]+`(?: \(\d+\))?(?:, | and )?)+) in `(rkd/[\w/]+\.py)`"
    found = [one for path in DOCUMENTS for one in re.findall(named, re.sub(r"\s+", " ", path.read_text("utf-8")))]
    found += re.findall(r"^ *(rkd/[\w/]+\.py) +(\w+(?:\.\w+)?)(?:\(|  )", read("docs", "architecture.md"), re.MULTILINE)
    assert len(found) > 45
    for one in found:
        file, names = sorted(one, key=lambda part: not part.startswith("rkd/"))
        for name in re.findall(r"(\w+)(?=[`( ]|$)", re.sub(r" \(\d+\)|,| and", "", names)):
            assert re.search(rf"^\s*(class|def) {name}\b|^{name}\b", read(file), re.MULTILINE), f"{name} in {file}"


def test_every_class_that_a_document_names_is_there():
    code = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "rkd").rglob("*.py"))
    named = {span for path in DOCUMENTS for span in spans(path.read_text("utf-8")) if re.fullmatch(CLASS, span)}
    assert len(named) > 15
    wrong = {name for name in named if not re.search(rf"^class {name.partition('.')[0]}\b", code, re.MULTILINE)}
    assert wrong == {"LightningModule", "AutoModelForSequenceClassification"}  # of libraries


def test_the_page_of_the_architecture_has_every_package_on_its_floor():
    rows = table_rows(section(read("docs", "architecture.md"), "Packages and floors"))
    listed: dict[int, set[str]] = {}
    for number, named, told in (row for row in rows if len(row) == 3):
        rooms = told if named == "`rkd/*.py`" else named
        listed.setdefault(int(number), set()).update(re.findall(r"`(?:rkd/)?(\w+)(?:/|\.py)?`", rooms))
    assert [listed[number] for number in sorted(listed)] == FLOORS


def test_the_page_of_the_architecture_lists_every_module_of_a_package():
    rows = table_rows(section(read("docs", "architecture.md"), "Files of the packages"))
    packages = {path.parent.name for path in (REPOSITORY / "rkd").glob("*/__init__.py")}
    assert {named.strip("`/") for named, _ in rows} == packages
    for named, told in rows:
        package = named.strip("`/")
        there = {path.stem for path in (REPOSITORY / "rkd" / package).glob("*.py")} - {"__init__"}
        files = set(re.findall(r"`([a-z_]+)`", told))
        assert files <= there, package
        assert files == there or "and others" in told, (package, there - files)


def test_the_map_of_the_readme_has_every_package():
    packages = {path.parent.name for path in (REPOSITORY / "rkd").glob("*/__init__.py")}
    named = re.findall(r"`rkd/(\w+)/`", section(read("README.md"), "Map"))
    assert sorted(named) == sorted(packages)


def test_the_picture_is_drawn_by_its_script_and_names_packages_that_are_there(tmp_path):
    script, picture = REPOSITORY / "docs" / "images" / "architecture.py", tmp_path / "drawn.png"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, script, picture], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0
    assert np.array_equal(imread(picture), imread(script.with_suffix(".png")))
    named = set(re.findall(r"rkd/(\w+)", script.read_text(encoding="utf-8")))
    assert len(named) > 10
    assert {name for name in named if not list((REPOSITORY / "rkd").glob(f"{name}*"))} == set()


# ----------------------------------------------------------------------------------------------------------------------
# What the documents say
# ----------------------------------------------------------------------------------------------------------------------


def test_the_readme_is_short_and_has_one_picture_and_both_papers():
    text = read("README.md")
    assert len(text.splitlines()) <= 120
    assert text.count("![") == 1
    assert all(f"(https://arxiv.org/abs/{number})" in text for number in ("2502.19557", "2604.02621"))


@each_document
def test_lines_of_prose_are_not_too_long(path):
    lines = prose(path.read_text(encoding="utf-8")).splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


@pytest.mark.parametrize(("title", "folder"), [("Rows", "experiments"), ("Tables", "sweeps")])
def test_every_row_and_every_sweep_is_described_and_no_other(title, folder):
    rows = table_rows(section(read("docs", "experiments.md"), title))
    described = [re.search(r"`(\w+)`", row[0])[1] for row in rows]
    assert sorted(described) == sorted(path.stem for path in (REPOSITORY / folder).glob("*.yaml"))


def test_means_over_seeds_are_those_of_a_kept_table():
    pattern = r"\d+\.\d ± \d+\.\d"
    kept = {number for path in TABLES.glob("*.md") for number in re.findall(pattern, path.read_text(encoding="utf-8"))}
    pages = re.sub(r"±\s+", "± ", read("docs", "results", "paper_d.md") + read("docs", "results", "paper_j.md"))
    # The default job with SVAMP is in no table; its numbers are in the README, too.
    own = section(read("docs", "results", "paper_d.md"), "The default job")
    told = re.findall(pattern, pages.replace(own, ""))
    assert len(told) > 100
    assert set(told) - kept == set()
    short = section(read("README.md"), "The mini world")
    assert set(re.findall(pattern, short)) <= set(re.findall(pattern, own))


@pytest.mark.parametrize("path", [["README.md"], ["docs", "results", "small.md"]], ids="/".join)
def test_the_table_of_the_real_student_has_the_numbers_of_the_kept_one(path):
    short = table_rows(section(read(*path), "A real student and recorded teachers"))
    kept = (RESULTS / "small" / "tables" / "small_headline.md").read_text(encoding="utf-8")
    whole = [[re.sub(r" \(.*?\)| ▲|\*", "", cell) for cell in row] for row in table_rows(kept)]
    assert [cells[1:] for cells in short] == [row[2:] for row in whole]
    assert [one.split()[0].rstrip(",") for one, *_ in short] == ["teacher", "student", "SFT", "Ours", "gpt-3.5-turbo"]
    assert [row[1].split()[0].rstrip(",") for row in whole] == ["Teacher", "Student", "SFT", "Ours", "Teacher"]


def test_every_table_that_is_kept_is_linked():
    pages = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "docs" / "results").glob("*.md"))
    kept = {path.relative_to(RESULTS).as_posix() for path in RESULTS.glob("*/tables/*.md")}
    assert kept - set(re.findall(r"experiments/results/(\w+/tables/\w+\.md)", pages)) == set()


def test_every_section_of_the_method_that_code_and_tables_cite_is_there():
    cited = set()
    for folder in ("rkd", "conf", "experiments", "sweeps"):
        for path in (REPOSITORY / folder).rglob("*"):
            if path.is_file() and path.suffix in (".py", ".yaml", ".md"):
                text = path.read_text(encoding="utf-8")
                cited |= set(re.findall(r"docs/method\.md,? (?:section )?(\d(?:\.\d+)?)", text))
    headings = set(re.findall(r"^#+ (\d(?:\.\d+)?)\.? ", read("docs", "method.md"), re.MULTILINE))
    assert len(cited) > 20
    assert cited - headings == set()


def test_the_tutorial_describes_every_part_of_a_result():
    rows = table_rows(section(read("docs", "tutorial.md"), "Read the result"))
    named = {name.partition(".")[0] for row in rows for name in re.findall(r"`([\w.]+)`", row[0])}
    assert named == {field.name for field in dataclasses.fields(RunResult)} - {"created"}


def test_blocks_of_yaml_can_be_read():
    shown = [block for path in DOCUMENTS for block in blocks(path.read_text("utf-8")) if block.language == "yaml"]
    assert len(shown) > 5
    for block in shown:
        assert yaml.safe_load(block.text)
