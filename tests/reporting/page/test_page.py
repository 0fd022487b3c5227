"""The page as a file: one file, its policy, and what the command says."""

import base64
import hashlib
import re
import sys

import pytest

from rkd.reporting.page.blocks import Blocks
from rkd.reporting.page.page import page_of
from tests.support.made_up_jobs import answered, result, rollout, write_job
from tests.support.rkd_command import rkd_command

HOSTILE = "</script><script>window.ran = 1</script><!-- <b>"


def test_the_policy_allows_two_scripts_by_their_hashes_and_no_request():
    text = page_of(Blocks(), "figures()")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"  # so connect-src and font-src too
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in (script, "figures()")]
    assert rules["script-src"] == " ".join(f"'sha256-{one}'" for one in hashes)
    assert (rules["base-uri"], rules["form-action"]) == ("'none'", "'none'")


def test_the_page_names_no_other_file_and_builds_nothing_from_html():
    text = page_of(Blocks(), "")
    assert re.findall(r'(?:src|href)=(?!"#)', text) == []
    assert re.findall(r"https?://", text) == []
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text) == []


def test_no_text_of_a_model_or_a_dataset_stands_in_the_page(tmp_path):
    pytest.importorskip("plotly")
    made = result(HOSTILE.replace("/", ""), 0, answered([HOSTILE], [HOSTILE]))
    write_job(tmp_path / "outputs", made, [rollout(HOSTILE, HOSTILE)])
    done = rkd_command("report", str(tmp_path / "outputs"), "--html", str(tmp_path / "page"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Written to {tmp_path / 'page' / 'index.html'}; open it in a browser.\n"
    assert "window.ran" not in (tmp_path / "page" / "index.html").read_text(encoding="utf-8")


def test_without_plotly_the_command_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    done = rkd_command("report", str(tmp_path), "--html", str(tmp_path / "page"))
    assert done.returncode == 1
    assert "`pip install -r requirements-html.txt`" in done.stderr


def test_a_page_and_a_markdown_file_are_not_written_at_once(tmp_path):
    done = rkd_command("report", str(tmp_path), "--html", "page", "--output", "report.md")
    assert done.returncode == 2
    assert "not allowed with argument" in done.stderr


def test_without_jobs_no_page_is_written(tmp_path):
    pytest.importorskip("plotly")
    done = rkd_command("report", str(tmp_path), "--html", str(tmp_path / "page"))
    assert done.returncode == 2
    assert "no result.json and no NAME.jobs.json under" in done.stderr
    assert not (tmp_path / "page").exists()
