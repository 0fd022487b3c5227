"""What sampling and training cost: tokens per second over batch, samples per query, length and size of the model.

    python tests/benchmarks/cost.py

Each rate is the better of two passes after a warm-up, the responses as long as they may be (their end is beyond the
vocabulary). The machine is saturated at the smallest batch with 90 % of the best rate; a series ends early where a pass
takes longer than `LIMIT` seconds.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from common import checkpoint, mini_stages, write_result  # first: it makes rkd importable
from transformers import PreTrainedModel

from rkd.generation.decoding import sample_tokens
from rkd.generation.local import BATCH_RESPONSES
from rkd.losses import sft_loss
from rkd.models.batches import ResponseBatch, in_parts, pad
from rkd.models.cpu_workers import cores, map_over_forks, mean_loss, part_count
from rkd.models.loading import load_causal_lm, load_tokenizer
from rkd.models.policy import Policy
from rkd.protocols import Sampling
from tests.support.tiny_models import llama

LIMIT, NEVER = 20.0, 1_000_000  # seconds; an end-of-sequence token that no model has
BATCHES = [2**power for power in range(11)]
SAMPLES, LENGTHS, TOKENS = [1, 2, 4, 8, 16, 32], [15, 30, 60, 120, 240], 30
AT_ONCE = 512  # responses of a series over samples or lengths


def models() -> dict[str, PreTrainedModel]:
    """Two mini models and a random Llama of 10 M weights."""
    sizes = {"num_hidden_layers": 8, "num_attention_heads": 8, "max_position_embeddings": 1024}
    random = llama(vocab_size=1536, hidden=336, pad_token_id=0, eos_token_id=1, **sizes)
    return {**{name: load_causal_lm(checkpoint(name)) for name in ("mini_1", "mini_large")}, "random_10m": random}


class Cost:
    """Rates of one model on prompts of real queries."""

    def __init__(self, model: PreTrainedModel, prompts: list[list[int]]) -> None:
        self.model, self.prompts = model, prompts

    def sampling(self, prompts: int, samples: int, tokens: int) -> float:
        """Tokens per second, the prompts shared out to the cores."""
        ids, mask = pad(self.prompts[:prompts], 0, left=True)
        setting = Sampling(1.0, samples, tokens)
        per_batch = max(1, min(BATCH_RESPONSES[True] // samples, -(-prompts // part_count(self.model))))

        def decode(model: PreTrainedModel, own: torch.Tensor) -> int:
            uniforms = torch.rand(len(own) * samples, tokens, dtype=torch.float64)
            _, written = sample_tokens(
                model, ids[own], mask[own], setting, uniforms=uniforms, eos_ids=[NEVER], pad_id=0
            )
            return int(written.sum())

        return rate(lambda: sum(map_over_forks(decode, self.model, torch.arange(prompts).split(per_batch))))

    def training(self, responses: int, tokens: int) -> float:
        """Response tokens per second of forward and backward, each response with a prompt of its own."""
        ids, mask = pad(self.prompts[:responses], 0, left=True)
        written = torch.randint(3, 1536, (responses, tokens))
        counted = torch.ones_like(written, dtype=torch.bool)
        batch, policy = ResponseBatch(ids, mask, written, counted, counted), Policy(self.model)

        def loss(part: ResponseBatch) -> Any:
            return sft_loss(policy(part).logprobs, part.chosen_mask), {}

        def step() -> int:
            policy.zero_grad()
            mean_loss(policy, loss, in_parts(batch, part_count(policy)))[0].backward()
            return responses * tokens

        return rate(step)


def rate(work: Callable[[], int]) -> float:
    """Tokens per second: the better of two passes after a warm-up, of the warm-up alone where that took too long."""
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        tokens = work()
        seconds = time.perf_counter() - start
        rates.append(tokens / seconds)
        if seconds > LIMIT:
            break
    return max(rates[1:] or rates)


def series(points: Iterable[int], measure: Callable[[int], float]) -> dict[str, float]:
    """The rate at each point, until one takes too long."""
    found = {}
    for point in points:
        start = time.perf_counter()
        found[str(point)] = measure(point)
        if time.perf_counter() - start > LIMIT:
            break
    return found


def saturated(rates: dict[str, float]) -> int:
    """The smallest point with 90 % of the best rate."""
    return next(int(point) for point, found in rates.items() if found >= 0.9 * max(rates.values()))


def main() -> None:
    """Measure all series of all models, write."""
    stages, measured = mini_stages(), {}
    queries = stages.dataset.training_queries()[: max(BATCHES)]
    prompts = stages.zero_shot.encode(queries, load_tokenizer(checkpoint("mini_1")))
    with cores(None, small_models=True):
        for name, model in models().items():
            cost = Cost(model, prompts)
            of_model = {
                "sampling_by_batch": series(BATCHES, lambda batch, cost=cost: cost.sampling(batch, 1, TOKENS)),
                "training_by_batch": series(BATCHES, lambda batch, cost=cost: cost.training(batch, TOKENS)),
                "sampling_by_samples": series(
                    SAMPLES, lambda samples, cost=cost: cost.sampling(AT_ONCE // samples, samples, TOKENS)
                ),
                "sampling_by_length": series(LENGTHS, lambda length, cost=cost: cost.sampling(64, 8, length)),
                "training_by_length": series(LENGTHS, lambda length, cost=cost: cost.training(64, length)),
            }
            saturation = {kind: saturated(of_model[f"{kind}_by_batch"]) for kind in ("sampling", "training")}
            measured[name] = {"weights": model.num_parameters(), **of_model, "saturated_at_batch": saturation}
            print(name, measured[name], flush=True)
    settings = {"tokens": TOKENS, "responses_by_samples": AT_ONCE, "prompts": "mini_math, without examples"}
    write_result("cost", settings, {"tokens_per_second": measured})


if __name__ == "__main__":
    main()
