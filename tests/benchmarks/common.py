"""What the benchmarks share: the repository's modules and data, two things measured in turn, results as JSON."""

import json
import os
import platform
import sys
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


def checkpoint(name: str) -> Path:
    """The folder of a mini model."""
    return REPOSITORY / "rkd" / "mini" / "checkpoints" / name


def mini_stages(*overrides: str) -> Any:
    """`Stages` of the default job, with these settings."""
    from hydra import compose, initialize_config_dir

    from rkd.pipeline.pipeline import build_stages

    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        return build_stages(compose("config", overrides=list(overrides)))


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
