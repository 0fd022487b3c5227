"""Peak memory of each stage against the sum of what it has to hold, and of log-probabilities over a large vocabulary.

    python tests/benchmarks/memory.py          # Linux: it reads and resets the peak in /proc/self

Each stage runs in a fresh process, on a random Llama of 9 M weights, so that tensors count and not the interpreter. The
peak of the resident set is given above its level once everything is imported and a tiny model has been trained. The
sum beside it: weights of each copy of the model, gradients, the optimiser's two moments, what autograd keeps for the
backward pass (counted by its hooks on a batch of that shape), and for sampling the cache of keys and values.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import checkpoint, mini_stages, resident, write_result

MB = 2**20
MODEL = {"hidden": 320, "num_hidden_layers": 8, "num_attention_heads": 8, "max_position_embeddings": 1024}
PROMPT_TOKENS, RESPONSE_TOKENS = 40, 30
SFT_BATCH, PAIRS, RL_QUERIES, SAMPLES = 128, 64, 32, 8
WIDE = {"vocab_size": 2**17, "hidden": 64, "batch": 8, "tokens": 512}
CHUNKS = {"one_piece": 2**40, "default": None, "2**24": 2**24}


class Peak:
    """The peak of the resident set while this is open, above the level before it."""

    def __enter__(self) -> "Peak":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self.before = resident("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = resident("VmHWM") - self.before


def model() -> Any:
    """A Llama of 9 M weights, its vocabulary that of the mini models."""
    from tests.support import tiny_models

    return tiny_models.llama(vocab_size=1536, pad_token_id=0, eos_token_id=1, **MODEL)


def batch(prompts: int, responses: int) -> Any:
    """Random tokens of fixed lengths."""
    import torch

    from rkd.models.batches import collate

    torch.manual_seed(0)
    asked = torch.randint(3, 1536, (prompts, PROMPT_TOKENS)).tolist()
    return collate(asked, torch.randint(3, 1536, (responses, RESPONSE_TOKENS)).tolist(), 0)


def kept_for_backward(run: Callable[[], Any], module: Any) -> int:
    """Bytes that autograd keeps of one forward pass, weights not counted."""
    import torch

    own, found = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}, {}

    def note(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = run()
    del result
    return sum(found.values())


def train(module: Any, loss: Callable[[Any], Any], parts: Any) -> None:
    """Three steps of AdamW, as SFT and the reward model make them."""
    import torch

    from rkd.models.batches import in_parts
    from rkd.models.cpu_workers import mean_loss, part_count

    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    for _ in range(3):
        value, _ = mean_loss(module, lambda part: (loss(part), {}), in_parts(parts, part_count(module, parts.tokens)))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


def training_sum(module: Any, kept: int, *, models: int = 1) -> dict[str, float]:
    """What training holds. Each worker has a gradient of its own, which are then added up and given to the weights."""
    from rkd.models.cpu_workers import worker_count

    size = sum(parameter.nbytes for parameter in module.parameters())
    return {
        "models": models * size,
        "gradients": (worker_count(module) + 2) * size,
        "optimizer": 2 * size,
        "kept_for_backward": kept,
    }


def sft() -> tuple[int, dict[str, float]]:
    """Steps on batches of 128 examples."""
    from rkd.losses import sft_loss
    from rkd.models.policy import Policy

    own = batch(SFT_BATCH, SFT_BATCH)
    with Peak() as peak:
        policy = Policy(model())
        train(policy, lambda part: sft_loss(policy(part).logprobs, part.response_mask), own)
    return peak.bytes, training_sum(policy, kept_for_backward(lambda: policy(own), policy))


def reward_model() -> tuple[int, dict[str, float]]:
    """Steps on batches of 64 pairs."""
    from transformers import LlamaForSequenceClassification

    from rkd.models.reward_model import RewardModel
    from tests.support import tiny_models

    own = batch(PAIRS, 2 * PAIRS)
    with Peak() as peak:
        kind = LlamaForSequenceClassification
        reward_model = RewardModel(tiny_models.llama(kind, vocab_size=1536, num_labels=1, pad_token_id=0, **MODEL))
        train(reward_model, lambda part: reward_model(part).mean(), own)
    return peak.bytes, training_sum(reward_model, kept_for_backward(lambda: reward_model(own), reward_model))


def sampling() -> tuple[int, dict[str, float]]:
    """256 responses to 32 prompts, in two batches on one core; on several cores each fork has as much."""
    from rkd.generation.local import LocalGenerator
    from rkd.models.cpu_workers import cores
    from rkd.models.loading import load_tokenizer
    from rkd.protocols import Sampling

    stages, tokenizer = mini_stages(), load_tokenizer(checkpoint("mini_1"))
    queries = stages.dataset.training_queries()[:RL_QUERIES]
    with cores(1, small_models=True), Peak() as peak:
        lm = model()
        generator = LocalGenerator("random", lm, tokenizer, stages.zero_shot, batch_responses=RL_QUERIES * SAMPLES // 2)
        sampled = generator.sample(queries, Sampling(1.0, SAMPLES, RESPONSE_TOKENS), 0)
    size = sum(parameter.nbytes for parameter in lm.parameters())
    places = len(queries) * sampled.prompt_ids.shape[1] + len(sampled.response_ids) * RESPONSE_TOKENS
    cache = 2 * MODEL["num_hidden_layers"] * MODEL["hidden"] * 4 * places
    return peak.bytes, {"models": size, "keys_and_values": cache / 2}


def rl() -> tuple[int, dict[str, float]]:
    """Two PPO iterations of 32 × 8 responses in four minibatches."""
    import copy

    import torch
    from torch.utils.data import DataLoader

    from rkd.models.cpu_workers import worker_count
    from rkd.models.loading import load_tokenizer
    from rkd.protocols import Rewards
    from rkd.rl.advantages import GAE
    from rkd.rl.kl_controller import FixedKL
    from rkd.rl.reward_mix import Term
    from rkd.rl.settings import KLPenalty, Optimisation, Rollouts
    from rkd.rl.stage import RL
    from rkd.training.trainer import Training

    stages, tokenizer = mini_stages(), load_tokenizer(checkpoint("mini_1"))
    queries = stages.dataset.training_queries()[:RL_QUERIES]
    stage = RL(
        rollouts=Rollouts(
            episodes=2 * RL_QUERIES * SAMPLES,
            queries_per_rollout=RL_QUERIES,
            responses_per_query=SAMPLES,
            max_response_tokens=RESPONSE_TOKENS,
        ),
        optimisation=Optimisation(learning_rate=1e-4, epochs_per_rollout=1, minibatches_per_epoch=4),
        kl=KLPenalty(controller=FixedKL(0.02)),
        advantages=GAE(),
    )

    def reward(_: Any, responses: Any) -> Rewards:
        lengths = torch.tensor([float(len(response.text)) for response in responses])
        return Rewards(lengths, {"length": lengths})

    terms = [Term(name="length", weight=1.0, queries=queries, reward=reward)]
    with Peak() as peak, tempfile.TemporaryDirectory() as folder:
        reference = model()
        sampler = stage.sampler(copy.deepcopy(reference), tokenizer, stages.zero_shot)
        module = stage.module(sampler, reference, terms, validate=None, seed=0)
        trainer = Training(accelerator="cpu").trainer(
            "rl", logger=False, folder=Path(folder), max_epochs=1, limit_val_batches=0
        )
        trainer.fit(module, DataLoader([[queries]] * 2, batch_size=None, collate_fn=lambda rows: rows))
    own = batch(RL_QUERIES // 4, RL_QUERIES // 4 * SAMPLES)
    kept = kept_for_backward(lambda: module.policy(own), module.policy)
    # The policy, its reference, and the workers' copies of the one that is at work.
    return peak.bytes, training_sum(module.policy, kept, models=2 + worker_count(module.policy))


def wide(chunk: str, *, gradient: bool) -> tuple[int, dict[str, float]]:
    """Log-probabilities of 8 × 512 tokens over 131,072 words, by a model of width 64."""
    import torch

    from rkd.models import policy as models
    from tests.support import tiny_models

    if CHUNKS[chunk]:
        models.CHUNK_ELEMENTS = CHUNKS[chunk]
    lm = tiny_models.llama(vocab_size=WIDE["vocab_size"], hidden=WIDE["hidden"], max_position_embeddings=1024)
    policy = models.Policy(lm)
    torch.manual_seed(0)
    tokens = torch.randint(3, WIDE["vocab_size"], (2, WIDE["batch"], WIDE["tokens"])).tolist()
    from rkd.models.batches import collate

    own = collate([row[:16] for row in tokens[0]], tokens[1], 0)
    with Peak() as peak, torch.set_grad_enabled(gradient):
        logprobs = policy(own).logprobs
        if gradient:
            logprobs.sum().backward()
    full = WIDE["batch"] * WIDE["tokens"] * WIDE["vocab_size"] * 4
    return peak.bytes, {"full_float32": full, "chunk_float32": min(full, models.CHUNK_ELEMENTS * 4)}


STAGES = {"sft": sft, "reward_model": reward_model, "rl": rl, "sampling": sampling}


def warm_up() -> None:
    """Import and touch what every stage does, so that the level before it holds the libraries."""
    import torch

    import rkd.generation.local
    import rkd.rl.stage
    import rkd.stages.reward_model
    import rkd.stages.sft  # noqa: F401
    from tests.support import tiny_models

    tiny = tiny_models.llama(vocab_size=32)
    tiny(torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    torch.optim.AdamW(tiny.parameters()).step()


def in_fresh_process(*arguments: str) -> dict[str, Any]:
    """The result of this file in a process of its own."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Every stage in a fresh process, or what a parent process asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--stage", choices=STAGES)
    parser.add_argument("--chunk", choices=CHUNKS)
    parser.add_argument("--gradient", action="store_true")
    asked = parser.parse_args()
    if asked.stage or asked.chunk:
        warm_up()
        peak, parts = STAGES[asked.stage]() if asked.stage else wide(asked.chunk, gradient=asked.gradient)
        print(json.dumps({"peak_mb": peak / MB, **{f"{name}_mb": size / MB for name, size in parts.items()}}))
        return
    stages = {}
    for name in STAGES:
        found = in_fresh_process("--stage", name)
        total = sum(found.values()) - found["peak_mb"]
        stages[name] = {**found, "sum_mb": total, "peak_over_sum": found["peak_mb"] / total}
    log_probabilities = {
        chunk: {
            "without_gradient": in_fresh_process("--chunk", chunk),
            "with_gradient": in_fresh_process("--chunk", chunk, "--gradient"),
        }
        for chunk in CHUNKS
    }
    settings = {
        "model": MODEL, "vocabulary": 1536, "prompt_tokens": PROMPT_TOKENS, "response_tokens": RESPONSE_TOKENS,
        "sft_batch": SFT_BATCH, "pairs": PAIRS, "rl_queries": RL_QUERIES, "samples_per_query": SAMPLES,
        "minibatches": 4, "wide": WIDE,
    }  # fmt: skip
    write_result("memory", settings, {"stages": stages, "log_probabilities": log_probabilities})


if __name__ == "__main__":
    main()
