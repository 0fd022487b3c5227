"""The documents of the repository, and what they show: blocks of code, spans of code, commands, files."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    REPOSITORY / "tests" / "benchmarks" / "README.md",
]
EXTENDING = REPOSITORY / "docs" / "extending.md"
FENCE = re.compile(r"^(```|~~~)([\w-]*)[^\n]*\n(.*?)^\1[ ]*$", re.MULTILINE | re.DOTALL)
SHELL = ("", "sh", "bash")


@dataclass(frozen=True)
class Block:
    """A block of code: its language, its text, and the paragraph before it."""

    language: str
    text: str
    before: str


def name_of(path: Path) -> str:
    """A document's path within the repository."""
    return path.relative_to(REPOSITORY).as_posix()


def read(*parts: str) -> str:
    """A file of the repository."""
    return REPOSITORY.joinpath(*parts).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """A document without its blocks of code."""
    return FENCE.sub("", text)


def blocks(text: str) -> list[Block]:
    """The blocks of code of a document."""
    found = FENCE.finditer(text)
    return [Block(one[2], one[3], text[: one.start()].rstrip().rpartition("\n\n")[2]) for one in found]


def spans(text: str) -> list[str]:
    """What stands between backticks in a document, each on one line."""
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(text))]


def section(text: str, title: str) -> str:
    """The text under a heading of a document, down to the next one of its level or of a higher one."""
    head = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert head is not None, title
    behind = text[head.end() :]
    following = re.search(rf"^#{{1,{len(head[1])}}} ", behind, re.MULTILINE)
    return behind[: following.start()] if following else behind


def table_rows(text: str) -> list[list[str]]:
    """The cells of the tables of a text, row by row, without the heads of the tables."""
    tables = re.findall(r"^\|.*\n\|[ :|-]+\|\n((?:\|.*\n?)+)", text, re.MULTILINE)
    lines = [line for table in tables for line in table.splitlines()]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))] for line in lines]


def commands(start: str) -> list[tuple[str, str]]:
    """Document and text of every command that begins so, in blocks of code and between backticks.

    `…` stands for what a reader fills in, and `a|b` for a choice: such lines are no commands.
    """
    found = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        shown = [block.text.replace("\\\n", " ") for block in blocks(text) if block.language in SHELL]
        lines = [line.strip() for block in shown for line in block.splitlines()] + spans(text)
        found += [(name_of(path), line) for line in lines if line.startswith(start) and not set("…|") & set(line)]
    return list(dict.fromkeys(found))


def shown_files(document: Path) -> dict[str, str]:
    """The files that a document shows whole: a block of YAML or Python behind a paragraph that ends in a path."""
    files = {}
    for block in blocks(document.read_text(encoding="utf-8")):
        named = re.search(r"`([\w./-]+\.(?:yaml|py))`:$", block.before)
        if block.language in ("yaml", "python") and named:
            files[named[1]] = block.text
    return files


def write_extended(root: Path) -> Path:
    """Write conf/, experiments/, sweeps/ and the files that docs/extending.md shows to `root`."""
    shutil.copytree(REPOSITORY / "conf", root / "conf", symlinks=True)
    for folder in ("experiments", "sweeps"):
        shutil.copytree(REPOSITORY / folder, root / folder, ignore=shutil.ignore_patterns("results"))
    for name, text in shown_files(EXTENDING).items():
        assert not (REPOSITORY / name).exists(), f"{name} is a file of the repository"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root
