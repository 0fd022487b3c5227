"""Sampling and judging by a random model of SmolLM2-135M's shape, against `generate` and against one call each.

    python tests/benchmarks/small_scale.py [--tokens 32] [--rounds 2] [--dtypes bfloat16 float32] [--threads 1]

One thread is measured by the time of the processor, which other processes on the machine hardly change; several by the
wall clock.

Sampling: 8 responses of a fixed number of tokens to each of 32 prompts of 45 to 60 tokens, with the weights in the same
format on both sides. `generate` has the fastest of three batch sizes, found first. Judging: 8 responses of 20 to 60
tokens to each of 8 prompts, read in one call against one call each, the logits of the last token included. How many
tokens are read on either side is part of the result, since a ratio of times follows that of the tokens.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from common import in_turn, random_smollm2, ratio, smollm2_shape, write_result  # first: it makes rkd importable
from torch import Tensor
from transformers import PreTrainedModel

from rkd.generation.decoding import sample_tokens
from rkd.models.batches import pad
from rkd.models.hidden_states import last_states
from rkd.models.own_forward import own_logits
from rkd.models.prefix_trees import passes
from rkd.protocols import Sampling

PROMPTS, SAMPLES, PROMPT_TOKENS = 32, 8, (45, 60)
BATCHES = (32, 128, 256)  # responses, for `generate`
JUDGED_PROMPTS, JUDGED_PROMPT_TOKENS, JUDGED_TOKENS = 8, (80, 180), (20, 60)


def random_rows(count: int, lengths: tuple[int, int], seed: int) -> list[list[int]]:
    """Rows of random tokens."""
    draws, vocabulary = torch.Generator().manual_seed(seed), smollm2_shape()["vocab_size"]
    sizes = torch.randint(lengths[0], lengths[1] + 1, (count,), generator=draws).tolist()
    return [torch.randint(10, vocabulary, (size,), generator=draws).tolist() for size in sizes]


def seconds(work: Callable[[], object]) -> float:
    """The time of one call: the processor's for one thread, else the wall clock's."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    with torch.no_grad():
        work()
    return clock() - start


def ours(model: PreTrainedModel, prompts: list[list[int]], tokens: int) -> None:
    """All responses, by the decode loop."""
    ids, mask = pad(prompts, left=True)
    noise = torch.rand(len(prompts) * SAMPLES, tokens, dtype=torch.float64)
    sampled, _ = sample_tokens(model, ids, mask, Sampling(1.0, SAMPLES, tokens), uniforms=noise, eos_ids=[-1])
    assert sampled.shape == (len(prompts) * SAMPLES, tokens)


def generate(model: PreTrainedModel, prompts: list[list[int]], tokens: int, *, rows: int) -> None:
    """All responses, by `generate` on so many rows at a time, prompts of alike length together."""
    ordered, at_once = sorted(prompts, key=len), rows // SAMPLES
    for start in range(0, len(ordered), at_once):
        ids, mask = pad(ordered[start : start + at_once], left=True)
        model.generate(
            input_ids=ids, attention_mask=mask.long(), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            max_new_tokens=tokens, num_return_sequences=SAMPLES, pad_token_id=0,
        )  # fmt: skip


def sampling(model: PreTrainedModel, tokens: int, rounds: int) -> dict[str, object]:
    """Ours and the fastest `generate` in turn."""
    prompts = random_rows(PROMPTS, PROMPT_TOKENS, 1)
    ours(model, prompts[:2], 2)
    tried = {rows: seconds(partial(generate, model, prompts, tokens, rows=rows)) for rows in BATCHES}
    best = min(tried, key=lambda rows: tried[rows])
    measures = {
        "ours": lambda: seconds(lambda: ours(model, prompts, tokens)),
        "generate": lambda: seconds(lambda: generate(model, prompts, tokens, rows=best)),
    }
    taken = in_turn(measures, rounds, warm_up=False)
    written = PROMPTS * SAMPLES * tokens
    return {
        "tokens_per_second": {name: written / median(times) for name, times in taken.items()},
        "times_faster": ratio(taken["ours"], taken["generate"]),
        "generate_by_batch": {rows: written / time for rows, time in tried.items()},
    }


def judging(model: PreTrainedModel, prompt_tokens: int, rounds: int) -> dict[str, object]:
    """Rows read together and one by one, in turn."""
    prompts = random_rows(JUDGED_PROMPTS, (prompt_tokens, prompt_tokens), 2)
    answers = random_rows(JUDGED_PROMPTS * SAMPLES, JUDGED_TOKENS, 3)
    rows = [prompts[place // SAMPLES] + answer for place, answer in enumerate(answers)]

    def read(own: list[list[int]]) -> Tensor:
        return own_logits(model, last_states(model.base_model, own))

    measures = {
        "together": lambda: seconds(lambda: read(rows)),
        "one_by_one": lambda: seconds(lambda: [read([row]) for row in rows]),
    }
    taken = in_turn(measures, rounds, warm_up=False)
    together = sum(one.ids.numel() for one in passes(rows, 10**6, None))
    return {
        "seconds": {name: median(times) for name, times in taken.items()},
        "times_faster": ratio(taken["together"], taken["one_by_one"]),
        "times_fewer_tokens": sum(map(len, rows)) / together,
    }


def main() -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    settings = {
        "prompts": PROMPTS, "samples_per_prompt": SAMPLES, "prompt_tokens": PROMPT_TOKENS, **vars(asked),
        "judged_prompts": JUDGED_PROMPTS, "judged_tokens": JUDGED_TOKENS, "model": smollm2_shape(),
    }  # fmt: skip
    measured: dict[str, dict[str, object]] = {}
    for name in asked.dtypes:
        model = random_smollm2(dtype=name)
        by_prompt = {f"prompt_{size}": judging(model, size, asked.rounds) for size in JUDGED_PROMPT_TOKENS}
        measured[name] = {"judging": by_prompt, "sampling": sampling(model, asked.tokens, asked.rounds)}
        write_result("small_scale", settings, measured)


if __name__ == "__main__":
    main()
