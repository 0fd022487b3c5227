"""What the GPU check works on: models with random weights, a tokenizer of any size, questions with answers."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

from rkd.data.prompts import PromptTemplate
from rkd.records import Query

SMOLLM2_135M = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49_152, "max_position_embeddings": 8192,
}  # fmt: skip
LLAMA_3_2_1B = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128_256, "max_position_embeddings": 8192,
}  # fmt: skip
TINY = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 1024, "max_position_embeddings": 512,
}  # fmt: skip

PROMPT = PromptTemplate(template="Q: {question}\nA:", is_chat=False)
EOS, PAD = "<|end|>", "<|pad|>"
WORDS = (" Yes", " No")  # a judge's answers are single tokens
LETTERS = "Ġeatoinshrdlucmfwypvbgkqjxz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # Ġ: the blank of byte-level tokens
NAMES = ("Ada", "Ben", "Eva", "Max", "Nina", "Olga", "Paul", "Tom")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured.

    Args:
        student: shape of the model of all stages, unless a checkpoint is given.
        large: name and shape of a second model, which samples and trains.
        queries: prompts of a rollout, and of the comparison with `generate`.
        samples: responses to each.
        response_tokens: their limit.
        batch: examples of a training step.
        steps: training steps that are timed; one more comes before.
        rollouts: of PPO and of GRPO; the first is not timed.
        rounds: how often each side of a comparison is measured.
    """

    student: Mapping[str, int]
    large: tuple[str, Mapping[str, int]]
    queries: int
    samples: int
    response_tokens: int
    batch: int
    steps: int
    rollouts: int
    rounds: int


SIZES = {
    "tiny": Size(
        student=TINY, large=("random, tiny", TINY), queries=4, samples=4, response_tokens=6, batch=4, steps=2,
        rollouts=2, rounds=1,
    ),
    "full": Size(
        student=SMOLLM2_135M, large=("random, shape of Llama-3.2-1B", LLAMA_3_2_1B), queries=32, samples=8,
        response_tokens=128, batch=32, steps=8, rollouts=4, rounds=3,
    ),
}  # fmt: skip


def random_model(shape: Mapping[str, int], device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """A Llama of this shape, its weights drawn on the device."""
    special = {"bos_token_id": None, "pad_token_id": shape["vocab_size"] - 2, "eos_token_id": shape["vocab_size"] - 1}
    config = LlamaConfig(**shape, **special, tie_word_embeddings=True)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def random_folder(folder: Path, shape: Mapping[str, int], device: torch.device) -> Path:
    """A checkpoint folder with a random model and a tokenizer of its vocabulary."""
    random_model(shape, device, torch.float32).save_pretrained(folder)
    tokenizer_of(shape["vocab_size"]).save_pretrained(folder)
    return folder


def tokenizer_of(size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `size` tokens: whatever a random model samples is text of about as many tokens."""
    vocabulary = {letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    words = [word.replace(" ", "Ġ") for word in WORDS]
    pairs = [(one, other) for one in LETTERS for other in LETTERS]
    for first, second in [
        *((word[:end], word[end]) for word in words for end in range(1, len(word))),
        *pairs,
        *((one + other, third) for one, other in pairs for third in LETTERS),
    ]:
        if len(vocabulary) == size - 2:
            break
        if first + second not in vocabulary:
            vocabulary[first + second] = len(vocabulary)
            merges.append((first, second))
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.add_special_tokens([PAD, EOS])  # in the order of `random_model`
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=PAD, eos_token=EOS)


def questions(count: int) -> list[tuple[Query, str]]:
    """Word problems of one to three sentences, each with a right response."""
    rng = random.Random(0)
    made = []
    for place in range(count):
        name, total = rng.choice(NAMES), rng.randrange(10, 100)
        story, steps = [f"{name} has {total} apples."], []
        for _ in range(1 + place % 3):
            more = rng.randrange(2, 90)
            story.append(f"Then {rng.choice(NAMES)} gives {name} {more} more.")
            steps.append(f"{total} + {more} = {total + more}.")
            total += more
        text = " ".join([*story, f"How many apples has {name} now?"])
        made.append((Query(f"q{place}", "svamp", text, str(total)), " ".join([*steps, f"The answer is {total}."])))
    return made
