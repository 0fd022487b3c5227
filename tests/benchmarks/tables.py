"""Print the tables of README.md from the result files.

python tests/benchmarks/tables.py
"""

import json
from collections.abc import Iterable
from typing import Any

from common import FOLDER  # first: it makes rkd importable

from rkd.markdown import markdown_table

RESULTS = FOLDER / "results"
MEASURED = ("seconds", "processor_seconds", "peak_mb")


def table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table, its first column text, the others numbers."""
    return markdown_table([*header], [[*row] for row in rows]) + "\n"


def times(ratio: dict[str, float]) -> str:
    """A ratio with its range."""
    return f"**{ratio['median']}** ({ratio['smallest']} to {ratio['largest']})"


def sampling(found: dict[str, Any]) -> str:
    """Ours against `generate`."""
    return table(
        ("model, temperature", "ours, tokens/s", "`generate`, tokens/s", "times faster"),
        (
            (
                f"{one['model']}, {one['temperature']}",
                f"{one['ours_tokens_per_second']:,.0f}",
                f"{one['generate_tokens_per_second']:,.0f}",
                times(one["times_faster"]),
            )
            for one in found["compared"]
        ),
    )


def rl(found: dict[str, Any]) -> str:
    """Ours against TRL."""
    rows = []
    for one in found["compared"]:
        length = "natural end" if one["natural_end"] else f"{one['tokens']} tokens"
        length += {1: "", 4: ", four epochs"}[one["epochs"]]
        for name, ratio in one["times_faster"].items():
            side = f"TRL {one['versions']['trl']}" + (", value model of 14 k weights" if name.endswith("value") else "")
            seconds = one["seconds_per_iteration"]
            rows.append((f"{one['algorithm'].upper()}, {length}: {side}", seconds["ours"], seconds[name], times(ratio)))
    return table(("iteration", "ours, s", "TRL, s", "times faster"), rows)


def rl_small(found: dict[str, Any]) -> str:
    """Ours against TRL at SmolLM2's size: time, memory, and TRL's settings that were tried."""
    rows = []
    for one in found["compared"]:
        for name, ratio in one["times_faster"].items():
            side = f"TRL {one['versions']['trl']}" + {"trl": "", "trl_mixed": ", bf16-mixed"}[name]
            seconds, peaks = one["seconds_per_iteration"], one["peak_mb"]
            rows.append((
                f"{one['algorithm'].upper()}, {one['tokens']} tokens: {side}",
                seconds["ours"], seconds[name], times(ratio), times(one["times_fewer_processor_seconds"][name]),
                round(peaks["ours"]), round(peaks[name]), times(one["times_less_memory"][name]),
            ))  # fmt: skip
    header = ("iteration", "ours, s", "TRL, s", "times faster", "times fewer seconds of the processor")
    compared = table((*header, "ours, MB", "TRL, MB", "times less memory"), rows)
    tried = [one for trials in found["tried_with_trl"].values() for one in trials]
    names = {name: None for one in tried for name in one["settings"]}
    measured = [
        (*(str(one["settings"][name]) for name in names), *(one.get(kind) or "fails" for kind in MEASURED))
        for one in tried
    ]
    return f"{compared}\n{table((*names, 's', 's of the processor', 'MB'), measured)}"


def judging(found: dict[str, Any]) -> str:
    """All responses at once against one call each."""
    shown = {"one_by_one": "one core, as in a job", "one_by_one_all_cores": "all cores"}
    together, seconds, faster = found["seconds"]["together"], found["seconds"], found["times_faster"]
    return table(
        ("each operation of a single call on", "together, s", "one by one, s", "times faster"),
        [(cores, together, seconds[name], times(faster[name])) for name, cores in shown.items()],
    )


def memory(found: dict[str, Any]) -> str:
    """Peaks and sums of the stages, and the peaks over a large vocabulary."""
    stages = table(
        ("stage", "peak, MB", "sum, MB", "peak / sum"),
        (
            (name, round(one["peak_mb"]), round(one["sum_mb"]), f"{one['peak_over_sum']:.2f}")
            for name, one in found["stages"].items()
        ),
    )
    chunks = table(
        ("logits at a time", "peak without gradient, MB", "peak with gradient, MB", "B × T × V × 4 bytes, MB"),
        (
            (name, *(round(one[kind]["peak_mb"]) for kind in one), round(one["with_gradient"]["full_float32_mb"]))
            for name, one in found["log_probabilities"].items()
        ),
    )
    return f"{stages}\n{chunks}"


def shares(found: dict[str, Any]) -> str:
    """Shares of the job, and of RL."""
    parts = (
        table((of, "share"), ((name, f"{share:.1%}") for name, share in found[key].items()))
        for of, key in (("stage", "stages"), ("part of RL", "rl"))
    )
    return "\n".join(parts)


def cost(found: dict[str, Any]) -> str:
    """Rates over the batch, and where the machine is saturated."""
    models = found["tokens_per_second"]
    text = []
    for series in ("by_batch", "by_samples", "by_length"):
        for kind in ("sampling", "training"):
            name = f"{kind}_{series}"
            if name not in next(iter(models.values())):
                continue
            points = max((one[name] for one in models.values()), key=len)
            rows = (
                (model, *(f"{one[name][point]:,.0f}" if point in one[name] else "–" for point in points))
                for model, one in models.items()
            )
            text.append(table((name.replace("_", " "), *points), rows))
    saturation = ((model, *one["saturated_at_batch"].values()) for model, one in models.items())
    return "\n".join([*text, table(("saturated at a batch of", "sampling", "training"), saturation)])


def false_positives(found: dict[str, Any]) -> str:
    """Percent of false positives by the deviation over training seeds."""
    percent = found["percent"]
    return table(("deviation over training seeds, points", *percent), [("false positives, %", *percent.values())])


if __name__ == "__main__":
    for show in (sampling, rl, rl_small, judging, memory, shares, cost, false_positives):
        path = RESULTS / f"{show.__name__}.json"
        if path.exists():
            print(f"{show.__name__}\n\n{show(json.loads(path.read_text(encoding='utf-8')))}")
