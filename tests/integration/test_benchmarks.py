"""The benchmarks, which no test runs: their tables are those of their results, and they time calls that still exist."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu.world import SMOLLM2_135M, TINY, random_model, tokenizer_of

FOLDER = Path(__file__).parents[1] / "benchmarks"


def run(*arguments: str) -> str:
    """What Python prints in the folder of the benchmarks."""
    done = subprocess.run([sys.executable, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readme_shows_the_tables_of_the_results() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = [line for line in run("tables.py").splitlines() if line.startswith("|")]
    assert len(rows) > 50
    assert [row for row in rows if row not in readme] == []


def test_clock_leaves_out_the_warm_up() -> None:
    # Marks at 0, 5, 7 and 10 s; the first step is warm-up.
    marks = "[(0.0, 0.0), (5.0, 9.0), (7.0, 13.0), (10.0, 19.0)]"
    steps = run("-c", f"from common import Clock\nc = Clock()\nc.marks = {marks}\nprint(c.steps(warm_up=1))")
    assert steps.strip() == "{'seconds': [2.0, 3.0], 'processor_seconds': [4.0, 6.0]}"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_of_a_process_does_not_include_its_parents() -> None:
    peak = "from common import resident; print(resident('VmHWM'))"
    large = "held = bytearray(b'1' * 2**28)"  # 256 MB
    child = f"import subprocess, sys\n{large}\nsubprocess.run([sys.executable, '-c', {peak!r}], check=True)"
    assert int(run("-c", child)) < 2**27 < 2**28 < int(run("-c", f"{large}\n{peak}"))


def test_prompts_of_the_small_scale_have_45_to_60_tokens() -> None:
    prompts = json.loads(run("-c", "import json, rl_scales; print(json.dumps(rl_scales.small_prompts()))"))
    lengths = [len(row) for row in tokenizer_of(SMOLLM2_135M["vocab_size"])(prompts)["input_ids"]]
    assert (len(lengths), min(lengths), max(lengths)) == (32, 45, 60)


def test_reason_of_a_failed_trial_is_the_exception_and_not_the_launchers() -> None:
    stderr = "[rank1]: RuntimeError: no such cache\ntorch.ChildFailedError: \n====\nexitcode  : 1\n"
    assert run("-c", f"import rl; print(rl.reason({stderr!r}))").strip() == "RuntimeError: no such cache"


SCRIPTED = """
import json, rl

class Scripted(rl.Comparison):
    def trl(self, case, settings):
        calls.append(settings)
        if settings["cache"] == "static":
            raise RuntimeError("no static cache")
        seconds = settings["threads"] + 6 * (settings["attention"] == "eager")
        return {**found(seconds), "versions": {"trl": "1"}}

    def ours(self, case):
        return found(1)

def found(seconds):
    return {"seconds": [seconds, seconds + 2], "processor_seconds": [seconds], "peak_mb": 100 * seconds,
            "response_tokens": 9}

calls, tried, kept = [], [], []
"""
SEARCH = f"""{SCRIPTED}
comparison = Scripted(rl.SCALES["mini"], None, {{}}, None)
best = [comparison.search("grpo", tried, lambda: kept.append(len(tried))) for _ in range(2)]
print(json.dumps([calls, tried, kept, best]))
"""
COMPARE = f"""{SCRIPTED}
scale = rl.SCALES["small"]
fastest = {{**scale.defaults["grpo"], "precision": "bf16", "cache": "dynamic", "attention": "eager"}}
print(json.dumps([Scripted(scale, None, {{}}, None).compare(scale.cases[0], fastest), calls]))
"""


def test_search_varies_the_best_settings_so_far_and_repeats_no_trial() -> None:
    calls, tried, kept, best = json.loads(run("-c", SEARCH))
    start = {"processes": 1, "threads": 2, "attention": "sdpa", "cache": None}
    fastest = {**start, "processes": 2, "threads": 1}
    assert calls == [start, fastest, {**fastest, "attention": "eager"}, {**fastest, "cache": "static"}]
    assert [one["seconds"] for one in tried] == [3, 2, 8, None]  # medians of two iterations
    assert tried[-1]["error"] == "no static cache"
    assert (kept, best) == ([1, 2, 3, 4], [fastest, fastest])


def test_comparison_gives_times_and_memory_of_each_side_and_their_ratios() -> None:
    found, calls = json.loads(run("-c", COMPARE))
    # Ours takes 1 and 3 s, so 2, and 100 MB. TRL: eager, two threads: 8 and 10 s, so 9, and 800 MB.
    assert found["seconds_per_iteration"] == {"ours": 2, "trl": 9, "trl_mixed": 9}
    assert found["peak_mb"] == {"ours": 100, "trl": 800, "trl_mixed": 800}
    assert found["times_faster"]["trl"] == {"median": 4.5, "smallest": 4.5, "largest": 4.5}
    assert found["times_less_memory"]["trl_mixed"]["median"] == 8.0
    assert [(one["precision"], one["cache"]) for one in calls] == [("bf16", "dynamic"), ("bf16-mixed", None)] * 3


def test_a_scale_asks_for_the_python_of_each_algorithm() -> None:
    done = subprocess.run(
        [sys.executable, "rl.py", "--scale", "small", "one", "two"], cwd=FOLDER, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--scale small compares grpo: give one Python with TRL for each, in this order (2 given)" in done.stderr


def test_table_of_the_small_scale_shows_what_failed_and_each_side() -> None:
    ratio = {"median": 3.0, "smallest": 2.5, "largest": 3.5}
    sides = {"trl": ratio, "trl_mixed": ratio}
    of_sides = {"ours": 10.0, "trl": 30.0, "trl_mixed": 40.0}
    case = {
        "algorithm": "grpo", "tokens": 50, "versions": {"trl": "1"}, "times_faster": sides, "times_less_memory": sides,
        "times_fewer_processor_seconds": sides, "seconds_per_iteration": of_sides, "peak_mb": of_sides,
    }  # fmt: skip
    trials = [
        {"settings": {"rows": 64}, "seconds": 30.0, "processor_seconds": 50.0, "peak_mb": 700.0},
        {"settings": {"rows": 32}, "seconds": None, "error": "RuntimeError: no"},
    ]
    found = {"compared": [case], "tried_with_trl": {"grpo": trials}}
    lines = run("-c", f"import tables; print(tables.rl_small({found!r}))").splitlines()
    three = "**3.0** (2.5 to 3.5)"
    assert f"| GRPO, 50 tokens: TRL 1, bf16-mixed | 10.0 | 40.0 | {three} | {three} | 10 | 40 | {three} |" in lines
    assert {"| 64 | 30.0 | 50.0 | 700.0 |", "| 32 | fails | fails | fails |"} <= set(lines)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_our_side_of_the_rl_benchmark_samples_and_trains_what_the_job_says(algorithm: str, tmp_path: Path) -> None:
    model, tokenizer = random_model(TINY, torch.device("cpu"), torch.float32), tokenizer_of(TINY["vocab_size"])
    model.config.eos_token_id = model.generation_config.eos_token_id = TINY["vocab_size"]
    tokenizer.add_special_tokens({"eos_token": "<never>"})  # beyond the vocabulary: no response ends
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "endless")
    job = {
        "algorithm": algorithm, "epochs": 1, "tokens": 6, "samples": 2, "minibatches": 2, "temperature": 0.7,
        "learning_rate": 1e-5, "kl_coefficient": 0.02, "precision": "bf16-mixed", "small_models": False,
        "iterations": 3, "warm_up": 1, "folder": str(tmp_path / "endless"), "prompts": ["ab cd", "ef", "gh ij kl"],
    }  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(job), encoding="utf-8")
    run("rkd_rl.py", str(tmp_path / "job.json"), str(tmp_path / "result.json"))
    found = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert found["response_tokens"] == 3 * 2 * 6
    assert (len(found["seconds"]), len(found["processor_seconds"])) == (2, 2)
    assert min(found["seconds"]) > 0


@pytest.mark.slow
def test_benchmarks_find_what_they_import_and_the_calls_they_time() -> None:
    names = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "trl_rl")  # which needs TRL
    assert "shares" in names
    run("-c", f"import {', '.join(names)}\nfor owner, name in shares.PARTS: getattr(owner, name)")
