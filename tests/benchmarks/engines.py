"""Sampling by `generation=local`, `hf` and `vllm`: tokens a second by the number of responses, with random models.

    python tests/benchmarks/engines.py VLLM_PYTHON

VLLM_PYTHON is a Python with vLLM (`tests/engines/vllm.sh`). A query has 8 responses of 64 tokens; their ends count as
tokens like others, since random models seldom end. The small model has the weights of `mini_1` in heads of 32, because
vLLM reads no smaller ones on a processor. All three get questions as texts and give texts. vLLM compiles its model.
"""

import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch
from common import in_turn, ratio, smollm2_shape, write_result  # first: it makes rkd importable

from rkd.generation.engines import HFEngine, LocalEngine
from rkd.generation.vllm_engine import VLLMEngine
from rkd.models.loading import ModelOptions
from rkd.models.low_precision import cpu_prefers_bfloat16
from rkd.protocols import Sampling
from rkd.records import Checkpoint
from tests.gpu.world import PROMPT, questions, random_folder

MINI_1 = {
    "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 1536, "max_position_embeddings": 1024,
}  # fmt: skip
SHAPES = {"shape of mini_1": MINI_1, "shape of SmolLM2-135M": smollm2_shape()}
RESPONSES, SAMPLES, TOKENS, ROUNDS = (8, 32, 128, 256), 8, 64, 3


def main() -> None:
    """Measure the engines in turn, for each model and number of responses."""
    engines = {
        "local": LocalEngine(), "hf": HFEngine(), "vllm": VLLMEngine(python=sys.argv[1], kv_cache_gb=2),
    }  # fmt: skip
    compared = []
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            model = Checkpoint(random_folder(Path(folder), shape, torch.device("cpu")), name)
            options = ModelOptions(device="cpu")
            opened = {
                engine: own.open(model, PROMPT, engine, lambda _: None, options) for engine, own in engines.items()
            }
            for responses in RESPONSES:
                queries = [query for query, _ in questions(responses // SAMPLES)]
                sampling = Sampling(1.0, SAMPLES, TOKENS)

                def seconds(engine: str, queries=queries, sampling=sampling, opened=opened) -> float:
                    start = time.perf_counter()
                    opened[engine].generate(queries, sampling, time.monotonic_ns() % 2**31)
                    return time.perf_counter() - start

                taken = in_turn({engine: partial(seconds, engine) for engine in engines}, ROUNDS)
                compared.append({
                    "model": name,
                    "responses": responses,
                    "tokens_per_second": {
                        engine: responses * TOKENS / median(own) for engine, own in taken.items()
                    },
                    "local_times_faster": {one: ratio(taken["local"], taken[one]) for one in ("hf", "vllm")},
                })  # fmt: skip
                precision = "bfloat16" if cpu_prefers_bfloat16(135_000_000) else "float32"
                settings = {
                    "samples_per_query": SAMPLES, "response_tokens": TOKENS, "rounds": ROUNDS,
                    "precision": f"float32 for mini_1, {precision} for SmolLM2",
                }  # fmt: skip
                write_result("engines", settings, {"compared": compared})  # each time


if __name__ == "__main__":
    main()
