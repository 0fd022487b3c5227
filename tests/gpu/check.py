"""Check this repository on one GPU: every stage in bfloat16, equal numbers, speed and memory beside transformers.

    python tests/gpu/check.py                            # random models; about five minutes
    python tests/gpu/check.py --checkpoint FOLDER        # the student of that folder
    python tests/gpu/check.py --device cpu --size tiny   # what the tests run, in seconds

It needs no network and no data. The figures are printed as a table and written to a JSON file. The exit code is 1 if a
stage fails or a number is not equal; the others are measured all the same.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from rkd.jobs.work_plan import aligned
from rkd.models.loading import ModelOptions, load_causal_lm, load_tokenizer
from rkd.store.provenance import code_revision, package_versions
from tests.gpu import comparisons
from tests.gpu.stages import Jobs
from tests.gpu.world import SIZES, Size, random_folder, random_model, tokenizer_of

Result = TypeVar("Result")


class Report:
    """What was measured, and what failed."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.failures: list[str] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.compared: dict[str, dict[str, dict[str, Any]]] = {}
        self.equalities: dict[str, dict[str, Any]] = {}

    def attempt(self, name: str, work: Callable[[], Result]) -> tuple[Result | None, comparisons.Peak]:
        """The result of the work, or None with the reason among the failures."""
        print(f"{name} …", flush=True)
        peak = comparisons.Peak(self.device)
        try:
            with peak:
                return work(), peak
        except Exception as error:  # whatever a stage raises: the others are still measured
            self.failures.append(f"{name}: {type(error).__name__}: {error}")
            return None, peak

    def as_json(self) -> dict[str, Any]:
        """All of it, with the versions and the device."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.processor()
        return {
            "revision": code_revision(),
            "versions": {**package_versions(), "cuda": torch.version.cuda},
            "device": name or platform.machine(),
            "jobs": self.jobs,
            "compared": self.compared,
            "equalities": self.equalities,
            "failures": self.failures,
        }

    def lines(self) -> list[str]:
        """The table."""
        jobs = [("stage, bf16", "seconds", "peak GB", "figures")]
        for name, own in self.jobs.items():
            figures = ", ".join(f"{key} {value:.4g}" for key, value in own["figures"].items())
            jobs.append((name, f"{own['seconds']:.1f}", _gb(own["peak_gb"]), figures))
        speeds = [("beside plain transformers", "tokens/s", "plain", "times", "peak GB", "plain")]
        for name, sides in self.compared.items():
            ours, plain = sides["ours"], sides["plain"]
            speed, other = ours["tokens_per_second"], plain["tokens_per_second"]
            memory = (_gb(ours["peak_gb"]), _gb(plain["peak_gb"]))
            speeds.append((name, f"{speed:,.0f}", f"{other:,.0f}", f"{speed / other:.2f}", *memory))
        equal = [("equal", "difference", "at most", "")]
        for name, one in self.equalities.items():
            equal.append((name, f"{one['difference']:.2g}", f"{one['at_most']:.2g}", "" if one["holds"] else "FAILED"))
        return [*aligned(jobs, left=4), "", *aligned(speeds, left=1), "", *aligned(equal, left=1)]


def _gb(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def check(device: torch.device, size: Size, checkpoint: Path | None, folder: Path) -> Report:
    """Run all parts; `folder` gets the models."""
    report = Report(device)
    student = checkpoint or random_folder(folder / "student", size.student, device)
    for name, job in Jobs(student, folder, size, device).all.items():
        figures, peak = report.attempt(name, job)
        if figures is not None:
            report.jobs[name] = {"seconds": peak.seconds, "peak_gb": peak.gb, "figures": figures}
    _equalities(report, student, size)
    _compare(report, student.name, load_tokenizer(student), size, partial(_load, student, device))
    name, shape = size.large
    _compare(report, name, tokenizer_of(shape["vocab_size"]), size, partial(random_model, shape, device))
    return report


def _equalities(report: Report, student: Path, size: Size) -> None:
    lm, _ = report.attempt("loading in float32", lambda: _load(student, report.device, torch.float32))
    if lm is None:
        return
    for measure in comparisons.equalities(student, lm, load_tokenizer(student), size.response_tokens):
        one, _ = report.attempt("equality", measure)
        if one is None:
            continue
        report.equalities[one.name] = {"difference": one.difference, "at_most": one.at_most, "holds": one.holds}
        if not one.holds:
            report.failures.append(f"{one.name}: differs by {one.difference:.3g}, at most {one.at_most:.3g} is right")


def _compare(
    report: Report, name: str, tokenizer: PreTrainedTokenizerBase, size: Size, load: Callable[[torch.dtype], Any]
) -> None:
    """Sampling and training of a model, `load(dtype)`, beside plain transformers."""
    work = {
        f"sampling, {name}": lambda: comparisons.sampling(load(torch.bfloat16), tokenizer, size),
        f"training, {name}": lambda: comparisons.training(load(torch.float32), tokenizer, size),
    }
    for row, measure in work.items():
        sides, _ = report.attempt(row, measure)
        if sides is not None:
            report.compared[row] = sides


def _load(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    options = ModelOptions(dtype=str(dtype).removeprefix("torch."), device=str(device))
    return load_causal_lm(folder, options, placed=True)


def main(arguments: list[str] | None = None) -> int:
    """Check, print, write; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu, …")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--checkpoint", type=Path, help="a model folder in `save_pretrained` form")
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu_check.json"), help="the JSON file")
    asked = parser.parse_args(arguments)
    device = torch.device(asked.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("torch finds no GPU here: `--device cpu --size tiny` tries the check itself.", file=sys.stderr)
        return 2
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = check(device, SIZES[asked.size], asked.checkpoint, Path(folder))
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    result = {**report.as_json(), "size": asked.size, "seconds": time.perf_counter() - started}
    asked.output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print("\n" + "\n".join(report.lines()))
    print(f"\n{result['device']}, torch {result['versions']['torch']}, {result['seconds']:.0f} s; {asked.output}")
    for failure in report.failures:
        print(f"FAILED {failure}", file=sys.stderr)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
