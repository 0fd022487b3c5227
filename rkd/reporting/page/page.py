"""The page of a report: folders of jobs enter, one HTML file that needs nothing else leaves.

    python -m rkd report outputs --html FOLDER

Texts of models and datasets reach the browser as packed data (`rkd.reporting.page.blocks`) and the document as text
nodes. The page's policy (Content-Security-Policy) allows its two scripts by their hashes and no request at all.
"""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from string import Template

from rkd.reporting.page.blocks import Blocks, packed_text

PAGE_FILE = "index.html"
SOURCES = Path(__file__).parent
SCRIPTS = ("data", "elements", "jobs", "cells", "curves", "responses", "main")  # in the order in which they are joined


def write_page(folders: Sequence[Path], folder: Path) -> Path:
    """Write `folder/index.html` from the jobs and tables in or below these folders; return its path.

    Raises:
        ModuleNotFoundError: plotly is not installed.
        UsageError: there is neither a job nor a table.
        ValueError: a result file is of another version.
    """
    figures = _plotly()
    from rkd.reporting.page.contents import overview  # loads PyTorch

    blocks = Blocks()
    blocks.add(overview(folders, blocks), "overview")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PAGE_FILE
    path.write_text(page_of(blocks, figures), encoding="utf-8")
    return path


def page_of(blocks: Blocks, figures: str) -> str:
    """The page around the blocks; `figures` is the script of Plotly, which runs when a figure is first drawn."""
    script = "\n".join(_source(f"{name}.js") for name in SCRIPTS)
    packed = {**blocks.packed, "plotly": packed_text(figures)}
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(f"'sha256-{_hash(one)}'" for one in (script, figures)),
        "style-src": "'unsafe-inline'",  # Plotly sets styles; none of them can make a request
        "img-src": "data: blob:",  # a figure that is saved
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return Template(_source("index.html")).substitute(
        policy="; ".join(map(" ".join, policy.items())),
        style=_source("style.css"),
        script=script,
        blocks="\n".join(f'<script type="text/plain" id="block-{name}">{one}</script>' for name, one in packed.items()),
    )


def _source(name: str) -> str:
    return (SOURCES / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the page draws with Plotly: `pip install -r requirements-html.txt`.") from error
    return str(get_plotlyjs())
