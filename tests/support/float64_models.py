"""Tiny random models in float64 of every family, prompts and responses for them, and how closely numbers must agree.

Token 0 is padding, token 1 ends a sequence.
"""

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from rkd.models.attention import PLAIN_FAMILIES
from tests.support import tiny_models

PAD, EOS, VOCABULARY = 0, 1, 23
PROMPTS = [[5, 6, 7], [8], [3, 4, 5, 6, 7, 9, 2], [2, 2], [10, 11]]
RESPONSES = [[4, 5, 1], [6], [7, 8, 9, 10], [3, 1], [12, 13, 14]]
END = {"pad_token_id": PAD, "eos_token_id": EOS}
SPECIAL = {**END, "initializer_range": 0.5}
Build = Callable[..., PreTrainedModel]


def llama(kind: type = LlamaForCausalLM, vocabulary: int = VOCABULARY, **options: object) -> PreTrainedModel:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return tiny_models.llama(kind, vocab_size=vocabulary, **heads, **SPECIAL, **options).double().eval()


def gpt2(kind: type = GPT2LMHeadModel, vocabulary: int = VOCABULARY, **options: object) -> PreTrainedModel:
    # Of the first seeds the one whose greedy responses differ in length.
    return tiny_models.gpt2(kind, seed=7, vocab_size=vocabulary, **SPECIAL, **options).double().eval()


def llama_reward_model() -> PreTrainedModel:
    return llama(LlamaForSequenceClassification, num_labels=1)


def gpt2_reward_model() -> PreTrainedModel:
    return gpt2(GPT2ForSequenceClassification, num_labels=1)


def opt() -> PreTrainedModel:
    return tiny_models.opt(vocab_size=VOCABULARY, **END, init_std=0.5).double().eval()


def codegen() -> PreTrainedModel:
    return tiny_models.codegen(seed=2, vocab_size=VOCABULARY, **SPECIAL).double().eval()


def qwen2() -> PreTrainedModel:
    return tiny_models.qwen2(seed=3, vocab_size=VOCABULARY, **SPECIAL).double().eval()


def of_family(model_type: str, **options: object) -> PreTrainedModel:
    options = {"sliding_window": None, **options} if model_type in ("mistral", "phi3") else options
    return tiny_models.of_family(model_type, seed=3, vocab_size=VOCABULARY, **SPECIAL, **options).double().eval()


OTHER_FAMILIES = sorted({*PLAIN_FAMILIES} - {"gpt2", "llama", "opt", "qwen2"})
PLAIN = [llama, gpt2, opt, qwen2, *(functools.partial(of_family, family) for family in OTHER_FAMILIES)]
SLIDING = functools.partial(of_family, "mistral", sliding_window=4)
NAMES = ["llama", "gpt2", "opt", "qwen2", *OTHER_FAMILIES]
both = pytest.mark.parametrize("build", [llama, gpt2])
families = pytest.mark.parametrize("build", [*PLAIN, codegen, SLIDING], ids=[*NAMES, "codegen", "sliding window"])
both_reward_models = pytest.mark.parametrize("build", [llama_reward_model, gpt2_reward_model])


def close(actual: Tensor, expected: object, tolerance: float = 1e-7) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=tolerance, atol=tolerance)
