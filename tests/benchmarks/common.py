"""What the benchmarks share: the repository's modules and models, clocks, two things measured in turn, results as JSON.

It imports the standard library alone, so that TRL's own Python can import it.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

FOLDER = Path(__file__).resolve().parent
REPOSITORY = FOLDER.parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

PACKAGES = ("numpy", "pytorch-lightning", "tokenizers", "torch", "transformers")
LAYERS = 30  # of SmolLM2-135M


def checkpoint(name: str) -> Path:
    """The folder of a mini model."""
    return REPOSITORY / "rkd" / "mini" / "checkpoints" / name


def mini_stages(*overrides: str) -> Any:
    """`Stages` of the default job, with these settings."""
    from hydra import compose, initialize_config_dir

    from rkd.pipeline.pipeline import build_stages

    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        return build_stages(compose("config", overrides=list(overrides)))


def smollm2_shape(layers: int = LAYERS) -> dict[str, int]:
    """The shape of SmolLM2-135M, as arguments of `LlamaConfig`; with fewer layers to try a benchmark."""
    from tests.gpu.world import SMOLLM2_135M

    return {**SMOLLM2_135M, "num_hidden_layers": layers}


def random_smollm2(layers: int = LAYERS, dtype: str = "float32") -> Any:
    """A random Llama of that shape; no token ends what it generates."""
    import torch

    from tests.gpu.world import random_model

    model = random_model(smollm2_shape(layers), torch.device("cpu"), getattr(torch, dtype))
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    return model


class Clock:
    """Seconds of the wall clock and of the processor between marks; those of processes that ended are included."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def mark(self, *_: object) -> None:
        """Note the time."""
        self.marks.append((time.perf_counter(), sum(os.times()[:4])))

    def steps(self, *, warm_up: int) -> dict[str, list[float]]:
        """The time from each mark to the next, without the first `warm_up` of them."""
        pairs = list(zip(self.marks, self.marks[1:], strict=False))[warm_up:]
        kinds = ("seconds", "processor_seconds")
        return {kind: [after[place] - before[place] for before, after in pairs] for place, kind in enumerate(kinds)}


def resident(field: str) -> int:
    """Bytes that this process holds (`VmRSS`), or has held at most (`VmHWM`); Linux.

    `resource.getrusage` would not do: its peak includes that of the process which started this one.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def in_turn(
    measures: Mapping[str, Callable[[], float]], rounds: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """What each measure says in each round. All are called in turn, so that a slow minute of the machine meets all."""
    if warm_up:
        for measure in measures.values():
            measure()
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
    return found


def ratio(ours: list[float], other: list[float]) -> dict[str, Any]:
    """other / ours, round by round: median, smallest and largest. For seconds: how many times faster ours is."""
    ratios = [b / a for a, b in zip(ours, other, strict=True)]
    return {"median": round(median(ratios), 2), "smallest": round(min(ratios), 2), "largest": round(max(ratios), 2)}


def rounded(value: Any, digits: int = 4) -> Any:
    """Floats of nested lists and mappings to so many significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, Mapping):
        return {key: rounded(item, digits) for key, item in value.items()}
    return [rounded(item, digits) for item in value] if isinstance(value, list | tuple) else value


def write_result(name: str, settings: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
    """Write `results/NAME.json`: what was measured, under what settings, with which code on what machine."""
    from rkd.store.provenance import code_revision

    result = {
        "revision": code_revision(),
        "versions": {"python": platform.python_version(), **{one: metadata.version(one) for one in PACKAGES}},
        "machine": {"cores": os.cpu_count(), "architecture": platform.machine()},
        "settings": settings,
        **rounded(measured),
    }
    (FOLDER / "results").mkdir(exist_ok=True)
    text = json.dumps(result, indent=1, ensure_ascii=False)
    (FOLDER / "results" / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(text)
