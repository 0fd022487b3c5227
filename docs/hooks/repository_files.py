"""Links to files of the repository outside docs/: as GitHub follows them, so does the site, which gets a copy of each.

A page links to `../experiments/...`. MkDocs knows the files below docs/ only, so what a page links to is added to the
site under `repository/`, and the link is turned there. A folder has no page on the site: its link becomes its text.
What is nowhere stays as it is, and `mkdocs build --strict` reports it.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
COPIES = "repository"
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
CODE = re.compile(r"^(```|~~~).*?^\1[ ]*$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add what pages link to, and what the Markdown files among it link to."""
    added: set[Path] = set()
    waiting = list(DOCS.rglob("*.md"))
    while waiting:
        page = waiting.pop()
        for _, _, target, _ in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
            path = _outside(page.parent, target)
            if path is not None and path.is_file() and path not in added:
                added.add(path)
                files.append(File.generated(config, _copy_of(path), abs_src_path=str(path)))
                if path.suffix == ".md":
                    waiting.append(path)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn the page's links to such files to their copies."""
    source = page.file.src_uri
    is_copy = source.startswith(f"{COPIES}/")
    folder = (ROOT / source.removeprefix(f"{COPIES}/") if is_copy else DOCS / source).parent

    def turned(match: re.Match[str]) -> str:
        mark, text, target, anchor = match.groups(default="")
        path = _outside(folder, target)
        if path is None:
            inside = None if "://" in target else (folder / target).resolve()
            if is_copy and inside is not None and inside.is_relative_to(DOCS) and inside.exists():
                return f"{mark}[{text}]({_relative(inside.relative_to(DOCS).as_posix(), source)}{anchor})"
            return match[0]
        if path.is_file():
            return f"{mark}[{text}]({_relative(_copy_of(path), source)}{anchor})"
        return text if path.is_dir() else match[0]

    kept: list[str] = []
    without_code = CODE.sub(lambda match: kept.append(match[0]) or f"\0{len(kept) - 1}\0", markdown)
    return re.sub(r"\0(\d+)\0", lambda match: kept[int(match[1])], LINK.sub(turned, without_code))


def _outside(folder: Path, target: str) -> Path | None:
    """The path of the repository that a link in this folder means; None where it is below docs/ or no path."""
    if "://" in target or target.startswith(("mailto:", "/")):
        return None
    path = (folder / target).resolve()
    return path if path.is_relative_to(ROOT) and not path.is_relative_to(DOCS) else None


def _copy_of(path: Path) -> str:
    return f"{COPIES}/{path.relative_to(ROOT).as_posix()}"


def _relative(target: str, source: str) -> str:
    return posixpath.relpath(target, posixpath.dirname(source) or ".")
