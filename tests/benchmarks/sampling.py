"""Sampling 8 responses to each of 64 queries: `LocalGenerator.sample` against `model.generate` with its best settings.

    python tests/benchmarks/sampling.py

The best settings of `generate` are searched for each model: from its defaults, one setting after the other is varied
and the fastest value kept; the table of all that was tried is part of the result. Then ours and the fastest two are
measured in turn. Both stop a response at the end-of-sequence token, or after 120 tokens; only tokens up to the
end-of-sequence token, itself included, count. The prompts are tokens already for `generate`, texts for ours.
"""

import itertools
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import median
from typing import Any

import torch
from common import checkpoint, in_turn, mini_stages, ratio, write_result  # first: it makes rkd importable
from transformers import AutoModelForCausalLM, CompileConfig

from rkd.generation.local import LocalGenerator
from rkd.models.batches import pad
from rkd.models.loading import load_causal_lm, load_tokenizer
from rkd.protocols import Sampling

QUERIES, SAMPLES, MAX_TOKENS = 64, 8, 120
ROUNDS = 4
MODELS = {"mini_1": (1.0, 0.7, 0.6), "mini_large": (1.0, 0.7)}  # temperatures; those below 1 are our configs'

DEFAULTS = {"processes": 1, "threads": 2, "rows": 512, "attention": "sdpa", "cache": "dynamic", "expanded": False}
# In the order of their variation. `rows`: responses in a batch; `expanded`: prompts repeated by the caller, not by
# `num_return_sequences`; several processes share out the batches; "compiled" is the static cache with torch.compile.
VARIED = (
    [{"processes": 2, "threads": 1, "rows": 256}, {"processes": 1, "threads": 1}],
    [{"rows": rows} for rows in (32, 64, 128, 256)],
    [{"attention": "eager"}],
    [{"expanded": True}],
    [{"cache": "static"}, {"cache": "compiled"}],
)
SETTINGS = {
    "queries": QUERIES, "samples_per_query": SAMPLES, "max_response_tokens": MAX_TOKENS, "rounds": ROUNDS,
    "dataset": "mini_math, first training queries", "prompt": "without examples", "precision": "float32",
}  # fmt: skip
LIMIT_SECONDS = 300  # for one trial: a compilation may take long

_models: dict[str, Any] = {}  # of a worker process


def generate(name: str, attention: str, threads: int, batches: Sequence[Any], options: dict[str, Any]) -> int:
    """Counted tokens of `model.generate` on batches of prompts; runs in a worker process."""
    torch.set_num_threads(threads)
    if name not in _models:
        _models[name] = AutoModelForCausalLM.from_pretrained(checkpoint(name), dtype=torch.float32).eval()
    model = _models[name]
    model.set_attn_implementation(attention)
    if options.pop("compiled", False):
        options["compile_config"] = CompileConfig(mode="default")
        options["compile_config"]._compile_all_devices = True
    end, tokens = options["eos_token_id"], 0
    with torch.inference_mode():
        for ids, mask in batches:
            out = model.generate(input_ids=ids, attention_mask=mask, **options)[:, ids.shape[1] :]
            is_end = out == end
            tokens += int(((is_end.cumsum(1) - is_end.long()) == 0).sum())
    return tokens


class Generate:
    """`model.generate` on the encoded prompts of all queries, in worker processes that keep the model."""

    def __init__(self, name: str, prompts: list[list[int]], tokenizer: Any) -> None:
        self.name, self.prompts, self.tokenizer = name, sorted(prompts, key=len), tokenizer
        self.pools = [ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) for _ in range(2)]

    def tokens_per_second(self, setting: dict[str, Any], temperature: float) -> float:
        """One pass over all queries."""
        batches = self._batches(setting)
        options = {
            "do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0, "max_new_tokens": MAX_TOKENS,
            "eos_token_id": self.tokenizer.eos_token_id, "pad_token_id": self.tokenizer.pad_token_id,
            "num_return_sequences": 1 if setting["expanded"] else SAMPLES,
        }  # fmt: skip
        if setting["cache"] != "dynamic":
            options |= {"cache_implementation": "static", "compiled": setting["cache"] == "compiled"}
        count = setting["processes"]
        start = time.perf_counter()
        futures = [
            pool.submit(generate, self.name, setting["attention"], setting["threads"], batches[place::count], options)
            for place, pool in enumerate(self.pools[:count])
        ]
        tokens = sum(future.result(LIMIT_SECONDS) for future in futures)
        return tokens / (time.perf_counter() - start)

    def _batches(self, setting: dict[str, Any]) -> list[Any]:
        """Prompts of alike length side by side; all of one width for torch.compile, which compiles for each shape."""
        per_batch = max(1, setting["rows"] // SAMPLES)
        pad_id, batches = self.tokenizer.pad_token_id, []
        for start in range(0, len(self.prompts), per_batch):
            own = self.prompts[start : start + per_batch]
            widest = [self.prompts[-1]] if setting["cache"] == "compiled" else []
            ids, mask = pad([*own, *widest], pad_id, left=True)
            ids, mask = ids[: len(own)], mask[: len(own)].long()
            if setting["expanded"]:
                ids, mask = ids.repeat_interleave(SAMPLES, 0), mask.repeat_interleave(SAMPLES, 0)
            batches.append((ids, mask))
        return batches

    def search(self, temperature: float, passes: int = 1) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """What was tried, with the fastest of its passes after a warm-up, and the two fastest settings."""
        best, tried = dict(DEFAULTS), []
        for choices in ([{}], *VARIED):
            for choice in choices:
                setting = {**best, **choice}
                if any(setting == one["setting"] for one in tried):
                    continue
                try:
                    self.tokens_per_second(setting, temperature)
                    speed = max(self.tokens_per_second(setting, temperature) for _ in range(passes))
                    tried.append({"setting": setting, "tokens_per_second": speed})
                except Exception as error:  # what a setting raises is part of the table
                    tried.append({"setting": setting, "tokens_per_second": 0.0, "error": f"{type(error).__name__}"})
                print(tried[-1], flush=True)
            best = max(tried, key=lambda one: one["tokens_per_second"])["setting"]
        tried.sort(key=lambda one: -one["tokens_per_second"])
        return tried, [one["setting"] for one in tried[:2]]


def compare(ours: LocalGenerator, theirs: Generate, queries: Any, temperature: float, fastest: list[Any]) -> Any:
    """Ours and the fastest settings of `generate`, in turn, at one temperature."""
    seeds = itertools.count()

    def our_speed() -> float:
        start = time.perf_counter()
        batch = ours.sample(queries, Sampling(temperature, SAMPLES, MAX_TOKENS), next(seeds))
        return int(batch.response_mask.sum()) / (time.perf_counter() - start)

    measures = {
        str(place): partial(theirs.tokens_per_second, setting, temperature) for place, setting in enumerate(fastest)
    }
    speeds = in_turn({"ours": our_speed, **measures}, ROUNDS)
    best = max(measures, key=lambda place: median(speeds[place]))
    return {
        "model": ours.name,
        "temperature": temperature,
        "ours_tokens_per_second": median(speeds["ours"]),
        "generate_tokens_per_second": median(speeds[best]),
        "times_faster": ratio(speeds[best], speeds["ours"]),
        "generate": fastest[int(best)],
    }


def main() -> None:
    """Search, compare, write."""
    stages = mini_stages()
    queries = stages.dataset.training_queries()[:QUERIES]
    compared, searched = [], {}
    for name, temperatures in MODELS.items():
        model, tokenizer = load_causal_lm(checkpoint(name)), load_tokenizer(checkpoint(name))
        ours = LocalGenerator(name, model, tokenizer, stages.zero_shot)
        theirs = Generate(name, stages.zero_shot.encode(queries, tokenizer), tokenizer)
        searched[name], fastest = theirs.search(temperatures[0])
        for temperature in temperatures:
            compared.append(compare(ours, theirs, queries, temperature, fastest))
            write_result("sampling", SETTINGS, {"compared": compared, "tried_with_generate": searched})  # each time
        for pool in theirs.pools:
            pool.shutdown()


if __name__ == "__main__":
    main()
