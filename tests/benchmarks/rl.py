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
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from string import ascii_lowercase
from typing import Any

from common import (  # first: it makes rkd importable
    FOLDER,
    LAYERS,
    checkpoint,
    mini_stages,
    random_smollm2,
    ratio,
    rounded,
    smollm2_shape,
    write_result,
)

from rkd.models.cpu_memory import MALLOPT
from rkd.store.provenance import code_revision

MEASURED = ("seconds", "processor_seconds", "peak_mb", "response_tokens")
KEEPS_MEMORY = {f"MALLOC_{name.removeprefix('M_')}_": str(keeping) for name, (_, keeping, _) in MALLOPT.items()}
FIXED, NATURAL = {"tokens": 30, "natural_end": False}, {"tokens": 120, "natural_end": True}


@dataclass(frozen=True)
class World:
    """Prompts, and the folder of the model with these prompts by whether its responses can end."""

    prompts: list[str]
    models: dict[bool, Path]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What is compared, and which settings of TRL are tried.

    Args:
        result: the name of its result file.
        algorithms: those of TRL, in the order of their Pythons.
        world: makes it in a folder, with so many layers if the model is random.
        job: what every job says.
        compared: iterations of a comparison, and how many of them are not counted.
        searched: the same of a trial of settings.
        rounds: of a comparison.
        limit_seconds: for one process.
        defaults: TRL's settings by algorithm, from which the search starts.
        varied: choices by algorithm, in the order of their variation.
        beside: changes of the best settings that are compared too, by algorithm and name.
    """

    result: str
    algorithms: Sequence[str]
    world: Callable[[Path, int], World]
    job: Mapping[str, Any]
    compared: Mapping[str, int]
    searched: Mapping[str, int]
    rounds: int
    limit_seconds: int
    defaults: Mapping[str, Mapping[str, Any]]
    varied: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]
    beside: Mapping[str, Mapping[str, Mapping[str, Any]]]
    cases: Sequence[Mapping[str, Any]]


def mini_world(folder: Path, _: int) -> World:
    """`mini_1`, and questions of the mini world."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stages, whole = mini_stages(), checkpoint("mini_1")
    prompts = [stages.zero_shot.render(query) for query in stages.dataset.training_queries()[:64]]
    model, tokenizer = (kind.from_pretrained(whole) for kind in (AutoModelForCausalLM, AutoTokenizer))
    return World(prompts, {True: whole, False: without_end(model, tokenizer, folder / "endless")})


def small_world(folder: Path, layers: int) -> World:
    """A random model of SmolLM2-135M's shape, and prompts of random words of one token."""
    from tests.gpu.world import tokenizer_of

    tokenizer = tokenizer_of(smollm2_shape()["vocab_size"])
    return World(small_prompts(), {False: without_end(random_smollm2(layers), tokenizer, folder / "endless")})


def small_prompts() -> list[str]:
    """32 prompts of 45 to 60 random words; any two letters behind a blank are a token of `tokenizer_of`."""
    draw = random.Random(0)
    words = [["".join(draw.choices(ascii_lowercase, k=2)) for _ in range(draw.randint(45, 60))] for _ in range(32)]
    return [" ".join(own) for own in words]


def without_end(model: Any, tokenizer: Any, folder: Path) -> Path:
    """The folder, with an end-of-sequence token beyond the model's vocabulary, so that no response ends by itself."""
    tokenizer.add_special_tokens({"eos_token": "<never>"})
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# Several processes share out the responses, one thread each.
SCALES = {
    "mini": Scale(
        result="rl",
        algorithms=("ppo", "grpo"),
        world=mini_world,
        job={
            "model": "mini_1", "queries": 64, "samples": 8, "minibatches": 4, "temperature": 1.0, "learning_rate": 1e-4,
            "kl_coefficient": 0.02, "precision": "32-true", "small_models": True,
        },
        compared={"iterations": 3, "warm_up": 1},
        searched={"iterations": 3, "warm_up": 1},
        rounds=3,
        limit_seconds=600,
        defaults={
            "ppo": {"processes": 1, "threads": 2, "rows": 512, "attention": "sdpa", "tiny_value": False},
            "grpo": {"processes": 1, "threads": 2, "attention": "sdpa", "cache": None},
        },
        varied={
            "ppo": ([{"processes": 2, "threads": 1}], [{"rows": 64}], [{"attention": "eager"}]),
            "grpo": ([{"processes": 2, "threads": 1}], [{"attention": "eager"}], [{"cache": "static"}]),
        },
        beside={"ppo": {"trl_tiny_value": {"tiny_value": True}}, "grpo": {}},
        cases=(
            {"algorithm": "ppo", "epochs": 1, **FIXED},
            {"algorithm": "grpo", "epochs": 1, **FIXED},
            {"algorithm": "ppo", "epochs": 1, **NATURAL},
            {"algorithm": "grpo", "epochs": 1, **NATURAL},
            {"algorithm": "ppo", "epochs": 4, **FIXED},
        ),
    ),
    "small": Scale(
        result="rl_small",
        algorithms=("grpo",),
        world=small_world,
        job={
            "model": "random, shape of SmolLM2-135M", "queries": 32, "prompt_tokens": (45, 60), "samples": 8,
            "minibatches": 4, "temperature": 0.7, "learning_rate": 1e-5, "kl_coefficient": 0.02,
            "precision": "bf16-mixed", "small_models": False,
        },
        compared={"iterations": 2, "warm_up": 1},
        searched={"iterations": 1, "warm_up": 0},  # a warm-up is a small part of minutes
        rounds=3,
        limit_seconds=3600,
        defaults={
            "grpo": {
                "processes": 1, "threads": 2, "precision": "bf16-mixed", "rows": 64, "attention": "sdpa", "cache": None,
                "keeps_memory": False,
            },
        },
        varied={
            "grpo": (
                [{"precision": "bf16"}, {"precision": "32"}],
                [{"processes": 2, "threads": 1}],
                [{"rows": 32}, {"rows": 16}],
                [{"cache": "static"}],
                [{"attention": "eager"}],
                [{"keeps_memory": True}],
            ),
        },
        beside={"grpo": {"trl_mixed": {"precision": "bf16-mixed"}}},
        cases=({"algorithm": "grpo", "epochs": 1, "tokens": 50, "natural_end": False},),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Jobs on both sides, with the same prompts and models; a job's files are written to the folder."""

    scale: Scale
    world: World
    pythons: Mapping[str, str]
    folder: Path

    def ours(self, case: Mapping[str, Any], lengths: Mapping[str, int]) -> dict[str, Any]:
        """What our side takes."""
        return self._run(sys.executable, "rkd_rl.py", case, lengths, {"processes": 1, "threads": os.cpu_count()})

    def trl(self, case: Mapping[str, Any], lengths: Mapping[str, int], settings: Mapping[str, Any]) -> dict[str, Any]:
        """What TRL's side takes."""
        return self._run(self.pythons[case["algorithm"]], "trl_rl.py", case, lengths, settings)

    def _run(
        self,
        python: str,
        script: str,
        case: Mapping[str, Any],
        lengths: Mapping[str, int],
        settings: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The result of a job in a process of its own, or in several."""
        job_file, result_file = self.folder / "job.json", self.folder / "result.json"
        model = str(self.world.models[case["natural_end"]])
        job = {**self.scale.job, **case, **lengths, "folder": model, "prompts": self.world.prompts}
        job_file.write_text(json.dumps({**job, "settings": settings}), encoding="utf-8")
        several = settings["processes"] > 1
        launch = ["-m", "torch.distributed.run", f"--nproc_per_node={settings['processes']}"] if several else []
        keeps = KEEPS_MEMORY if settings.get("keeps_memory") else {}
        done = subprocess.run(
            [python, *launch, str(FOLDER / script), str(job_file), str(result_file)],
            env={**os.environ, **keeps, "OMP_NUM_THREADS": str(settings["threads"])},
            capture_output=True, text=True, timeout=self.scale.limit_seconds, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(reason(done.stderr))
        return json.loads(result_file.read_text(encoding="utf-8"))

    def search(self, algorithm: str) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
        """TRL's settings that were tried, with the medians of their iterations, and the best."""
        best, tried = self.scale.defaults[algorithm], []
        case = next(one for one in self.scale.cases if one["algorithm"] == algorithm and not one["natural_end"])
        for choices in ([{}], *self.scale.varied[algorithm]):
            for choice in choices:
                setting = {**best, **choice}
                try:
                    found = medians(self.trl(case, self.scale.searched, setting))
                    tried.append({"settings": setting, **found})
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    tried.append({"settings": setting, "seconds": None, "error": str(error)})
                print(json.dumps(rounded(tried[-1])), flush=True)
            best = min(tried, key=lambda one: one["seconds"] or float("inf"))["settings"]
        return tried, best

    def compare(self, case: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
        """Both sides in turn, and TRL with the settings of `Scale.beside` where no response ends by itself."""
        beside = {} if case["natural_end"] else self.scale.beside[case["algorithm"]]
        changed = {
            name: {**settings, **change} for name, change in beside.items() if not change.items() <= settings.items()
        }
        variants = {"trl": settings, **changed}
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in ("ours", *variants)}
        for _ in range(self.scale.rounds):
            results["ours"].append(self.ours(case, self.scale.compared))
            for name, own in variants.items():
                results[name].append(self.trl(case, self.scale.compared, own))
        rounds = {name: [medians(one) for one in found] for name, found in results.items()}

        def of_rounds(name: str, kind: str) -> list[float]:
            return [one[kind] for one in rounds[name]]

        found = {
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
        print(json.dumps(rounded(found)), flush=True)
        return found


def medians(found: Mapping[str, Any]) -> dict[str, float]:
    """What a process measured, with the medians of its iterations."""
    return {kind: median(found[kind]) if isinstance(found[kind], list) else found[kind] for kind in MEASURED}


def reason(stderr: str) -> str:
    """The last exception with a message in what a process printed; of several processes each prints its own."""
    found = re.findall(r"^(?:\[rank\d+\]: )?([\w.]*(?:Error|Exception): \S.*)", stderr, re.MULTILINE)
    return (found or [stderr.strip()])[-1][-300:]


def main() -> None:
    """Search, compare, write; cases and settings that the result file holds already are taken from there."""
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
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        pythons = dict(zip(scale.algorithms, asked.pythons, strict=True))
        comparison = Comparison(scale, scale.world(folder, asked.layers), pythons, folder)
        for case in scale.cases:
            if any(case.items() <= done.items() for done in measured["compared"]):
                continue
            algorithm = case["algorithm"]
            if algorithm not in measured["trl_settings"]:
                tried, best = comparison.search(algorithm)
                measured["trl_settings"][algorithm], measured["tried_with_trl"][algorithm] = best, tried
                write_result(name, settings, measured)  # each time: a search or a comparison takes minutes
            compared = comparison.compare(case, measured["trl_settings"][algorithm])
            measured["compared"].append({**compared, "revision": code_revision()})
            write_result(name, settings, measured)


if __name__ == "__main__":
    main()
