"""The check of a GPU, tried on the CPU with models of some thousand weights."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu.check import Report
from tests.gpu.comparisons import Equality
from tests.gpu.world import EOS, PAD, tokenizer_of

SCRIPT = Path(__file__).with_name("check.py")


@pytest.mark.slow
def test_the_check_passes_on_a_cpu_and_writes_its_figures(tmp_path):
    output = tmp_path / "check.json"
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--size", "tiny", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(output.read_text(encoding="utf-8"))
    assert result["failures"] == []
    assert list(result["jobs"]) == ["SFT", "student samples", "reward model", "PPO", "GRPO", "judge"]
    assert len(result["equalities"]) == 7
    assert [sorted(sides) for sides in result["compared"].values()] == [["ours", "plain"]] * 4
    assert "beside plain transformers" in done.stdout


def test_a_stage_that_fails_is_named_and_the_next_one_runs():
    report = Report(torch.device("cpu"))
    assert report.attempt("PPO", lambda: 1 / 0)[0] is None
    assert report.attempt("GRPO", lambda: 5)[0] == 5
    assert report.failures == ["PPO: ZeroDivisionError: division by zero"]


@pytest.mark.parametrize(("difference", "holds"), [(1e-3, True), (2e-3, False), (math.nan, False)])
def test_an_equality_holds_up_to_its_bound_and_never_for_nan(difference, holds):
    assert Equality("logits", difference, at_most=1e-3).holds is holds


def test_the_tokenizer_has_the_size_that_is_asked_for_and_reads_back_what_it_wrote():
    tokenizer = tokenizer_of(1024)
    assert len(tokenizer) == 1024
    assert (tokenizer.pad_token, tokenizer.eos_token) == (PAD, EOS)
    assert tokenizer.convert_tokens_to_ids([PAD, EOS]) == [1022, 1023]
    text = "Tom has 12 apples.\nThe answer is 12."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer(" Yes")["input_ids"]) == 1
