"""The README: what it links to is there, its numbers are those of the kept tables, and it names every row and sweep."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1]
README = (FOLDER / "README.md").read_text(encoding="utf-8")
TABLES = FOLDER / "experiments" / "results" / "mini" / "tables"


def section(title: str) -> str:
    """The text under a heading, down to the next one of its level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## )", README, re.MULTILINE | re.DOTALL)
    return found[1]


def named(text: str) -> set[str]:
    """What the first column of the section's tables names."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_what_the_readme_links_to_is_there():
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", README) if "://" not in link]
    assert len(links) > 20
    assert [link for link in links if not (FOLDER / link).exists()] == []


def test_means_over_seeds_are_those_of_a_kept_table():
    pattern = r"\d+\.\d ± \d+\.\d"
    kept = {number for path in TABLES.glob("*.md") for number in re.findall(pattern, path.read_text(encoding="utf-8"))}
    advance = re.findall(pattern, section("Tables of the paper, at this scale").replace("±\n", "± "))
    assert len(advance) > 100
    assert set(advance) - kept == set()


@pytest.mark.parametrize(
    ("title", "folder", "others"),
    [("Tables", "sweeps", {"search_rl"}), ("Rows", "experiments", set())],
)
def test_every_row_and_every_sweep_is_described(title, folder, others):
    there = {path.stem for path in (FOLDER / folder).glob("*.yaml")} - others
    assert there - named(section(title)) == set()


def test_every_table_that_is_kept_is_linked():
    assert {path.name for path in TABLES.glob("*.md")} - set(re.findall(r"tables/(\w+\.md)", README)) == set()
