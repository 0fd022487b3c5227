"""One iteration of reinforcement learning (collect and train), ours against TRL's PPO and GRPO, on a CPU (Linux).

    python -m venv .venv-trl-ppo && .venv-trl-ppo/bin/pip install -r tests/benchmarks/requirements-trl-ppo.txt
    python -m venv .venv-trl-grpo && .venv-trl-grpo/bin/pip install -r tests/benchmarks/requirements-trl-grpo.txt
    python tests/benchmarks/rl.py .venv-trl-ppo/bin/python .venv-trl-grpo/bin/python
    python tests/benchmarks/rl.py --scale small .venv-trl-grpo/bin/python

Both sides: the same model, the same prompts each iteration, 8 responses to each, four minibatches, the reference's KL
in reward (PPO) or loss (GRPO), a cheap reward, nothing logged, validated or saved. Each side runs in a process of its
own (`rkd_rl.py`, `trl_rl.py`), one after the other in turn; its first iteration is not counted. Peaks of memory are
those of whole processes. The forks that sample a small model on our side are not in them.

`mini`: `mini_1` (0.29 M weights), 64 queries, float32, PPO and GRPO. A response has 30 tokens, none of which can end
it, or ends by itself, after 120 tokens at most.

`small`: a random model of SmolLM2-135M's shape, 32 queries of 45 to 60 tokens, GRPO, 50 tokens at temperature 0.7; ours
in bf16-mixed as a job trains it. The responses to a prompt have nothing else in common.

TRL's settings are searched first, one after the other, on responses of fixed length; all that was tried is in the
result. What differs: TRL's PPO has a value model beside the policy, ours a value head on it, so its ratio is also
measured against a value model of 14 thousand weights (`trl_tiny_value`); TRL's PPO scores tokens, the others text. At
`small`, TRL may be fastest with weights in bfloat16, which lose small updates, so its ratio is also measured in the
precision in which ours trains (`trl_mixed`). Ours keeps the memory that it frees (`rkd.models.cpu_memory`); that TRL
does so too is one of the settings that are searched (`keeps_memory`).
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from common import FOLDER, LAYERS, ratio, write_result  # first: it makes rkd importable
from rl_scales import SCALES, Scale, World

from rkd.models.cpu_memory import MALLOPT
from rkd.store.provenance import code_revision

MEASURED = ("seconds", "processor_seconds", "peak_mb", "response_tokens")
KEEPS_MEMORY = {f"MALLOC_{name.removeprefix('M_')}_": str(keeping) for name, (_, keeping, _) in MALLOPT.items()}


@dataclass(frozen=True)
class Comparison:
    """Jobs on both sides, with the same prompts and models; a job's files are written to the folder."""

    scale: Scale
    world: World
    pythons: Mapping[str, str]
    folder: Path

    def ours(self, case: Mapping[str, Any]) -> dict[str, Any]:
        """What our side takes."""
        return self._run(sys.executable, "rkd_rl.py", case, {"processes": 1, "threads": os.cpu_count()})

    def trl(self, case: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
        """What TRL's side takes."""
        return self._run(self.pythons[case["algorithm"]], "trl_rl.py", case, settings)

    def _run(self, python: str, script: str, case: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
        """The result of a job in a process of its own, or in several."""
        job_file, result_file = self.folder / "job.json", self.folder / "result.json"
        model = str(self.world.models[case["natural_end"]])
        job = {**self.scale.job, **case, "folder": model, "prompts": self.world.prompts}
        job_file.write_text(json.dumps({**job, "settings": settings}), encoding="utf-8")
        several = settings["processes"] > 1
        launch = ["-m", "torch.distributed.run", f"--nproc_per_node={settings['processes']}"] if several else []
        keeps = KEEPS_MEMORY if settings.get("keeps_memory") else {}
        try:
            done = subprocess.run(
                [python, *launch, str(FOLDER / script), str(job_file), str(result_file)],
                env={**os.environ, **keeps, "OMP_NUM_THREADS": str(settings["threads"])},
                capture_output=True, text=True, timeout=self.scale.limit_seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"no result after {self.scale.limit_seconds} seconds") from None
        if done.returncode:
            raise RuntimeError(reason(done.stderr))
        return json.loads(result_file.read_text(encoding="utf-8"))

    def search(self, algorithm: str, tried: list[dict[str, Any]], keep: Callable[[], None]) -> Mapping[str, Any]:
        """The best of TRL's settings. Trials are added to `tried`, and kept, with the medians of their iterations."""
        best, walked = self.scale.defaults[algorithm], []
        case = next(one for one in self.scale.cases if one["algorithm"] == algorithm and not one["natural_end"])
        for choices in ([{}], *self.scale.varied[algorithm]):
            for setting in [{**best, **choice} for choice in choices]:
                trial = next((one for one in tried if one["settings"] == setting), None)
                if trial is None:
                    trial = self._trial({**case, **self.scale.searched}, setting)
                    tried.append(trial)
                    keep()
                walked.append(trial)
            best = min(walked, key=lambda one: one["seconds"] or float("inf"))["settings"]
        return best

    def _trial(self, case: Mapping[str, Any], setting: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return {"settings": setting, **medians(self.trl(case, setting))}
        except RuntimeError as error:
            return {"settings": setting, "seconds": None, "error": str(error)}

    def compare(self, case: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
        """Both sides in turn, and TRL with the settings of `Scale.beside` where no response ends by itself."""
        beside = {} if case["natural_end"] else self.scale.beside[case["algorithm"]]
        changed = {
            name: {**settings, **change} for name, change in beside.items() if not change.items() <= settings.items()
        }
        variants = {"trl": settings, **changed}
        job = {**case, **self.scale.compared}
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in ("ours", *variants)}
        for _ in range(self.scale.rounds):
            results["ours"].append(self.ours(job))
            for name, own in variants.items():
                results[name].append(self.trl(job, own))
        rounds = {name: [medians(one) for one in found] for name, found in results.items()}

        def of_rounds(name: str, kind: str) -> list[float]:
            return [one[kind] for one in rounds[name]]

        return {
            **case,
            "seconds_per_iteration": {name: median(of_rounds(name, "seconds")) for name in rounds},
            **{kind: {name: median(of_rounds(name, kind)) for name in rounds} for kind in MEASURED[1:]},
            **{
                key: {name: ratio(of_rounds("ours", kind), of_rounds(name, kind)) for name in variants}
                for key, kind in (
                    ("times_faster", "seconds"), ("times_fewer_processor_seconds", "processor_seconds"),
                    ("times_less_memory", "peak_mb"),
                )
            },
            "versions": results["trl"][0]["versions"],
        }  # fmt: skip


def medians(found: Mapping[str, Any]) -> dict[str, float]:
    """What a process measured, with the medians of its iterations."""
    return {kind: median(found[kind]) if isinstance(found[kind], list) else found[kind] for kind in MEASURED}


def reason(stderr: str) -> str:
    """The last exception with a message in what a process printed; of several processes each prints its own."""
    found = re.findall(r"^(?:\[rank\d+\]: )?([\w.]*(?:Error|Exception): \S.*)", stderr, re.MULTILINE)
    return (found or [stderr.strip()])[-1][-300:]


def main() -> None:
    """Search, compare, write; trials and cases that the result file holds already are taken from there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", choices=SCALES, default="mini")
    parser.add_argument(
        "--layers", type=int, default=LAYERS, help="of the random model; fewer write a file of their own"
    )
    parser.add_argument("pythons", nargs="+", metavar="PYTHON", help="one with TRL for each algorithm of the scale")
    asked = parser.parse_args()
    scale = SCALES[asked.scale]
    if len(asked.pythons) != len(scale.algorithms):
        parser.error(
            f"--scale {asked.scale} compares {' and '.join(scale.algorithms)}: give one Python with TRL for each, in "
            f"this order ({len(asked.pythons)} given)."
        )
    name = scale.result + ("" if asked.layers == LAYERS else f"_{asked.layers}_layers")
    file = FOLDER / "results" / f"{name}.json"
    measured: dict[str, Any] = {"compared": [], "trl_settings": {}, "tried_with_trl": {}}
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        measured = {key: before[key] for key in measured}
    settings = {**scale.job, **scale.compared, "rounds": scale.rounds}

    def keep() -> None:  # each time: a trial takes minutes
        write_result(name, settings, measured)

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        pythons = dict(zip(scale.algorithms, asked.pythons, strict=True))
        comparison = Comparison(scale, scale.world(folder, asked.layers), pythons, folder)
        for case in scale.cases:
            if any(case.items() <= done.items() for done in measured["compared"]):
                continue
            algorithm = case["algorithm"]
            if algorithm not in measured["trl_settings"]:
                tried = measured["tried_with_trl"].setdefault(algorithm, [])
                measured["trl_settings"][algorithm] = comparison.search(algorithm, tried, keep)
            compared = comparison.compare(case, measured["trl_settings"][algorithm])
            measured["compared"].append({**compared, "revision": code_revision()})
            keep()


if __name__ == "__main__":
    main()
