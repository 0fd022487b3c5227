"""Language models of some thousand weights, random but for their seed, in memory or as a folder."""

from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    CodeGenConfig,
    CodeGenForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rkd.data.prompts import PromptTemplate
from rkd.mini.tokenizer import train_tokenizer
from rkd.models.loading import load_causal_lm
from rkd.records import Checkpoint

PROMPT = PromptTemplate(template="Q: {question}\nA:")


def llama(kind: type = LlamaForCausalLM, *, seed: int = 0, hidden: int = 16, **options: object) -> PreTrainedModel:
    """A Llama of two layers; `options` are further ones of `LlamaConfig`, as `vocab_size`."""
    config = LlamaConfig(
        hidden_size=hidden,
        **{
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "bos_token_id": None,
            **options,
        },
    )
    return _random(kind, config, seed)


def gpt2(kind: type = GPT2LMHeadModel, *, seed: int = 0, hidden: int = 16, **options: object) -> PreTrainedModel:
    """A GPT-2 of two layers, which has learned positions; `options` are further ones of `GPT2Config`."""
    config = GPT2Config(n_embd=hidden, n_layer=2, n_head=2, n_positions=96, **{"bos_token_id": None, **options})
    return _random(kind, config, seed)


def opt(*, seed: int = 0, hidden: int = 16, **options: object) -> PreTrainedModel:
    """An OPT of two layers, the family of Galactica; `options` are further ones of `OPTConfig`."""
    sizes = {"hidden_size": hidden, "word_embed_proj_dim": hidden, "ffn_dim": 2 * hidden, "max_position_embeddings": 96}
    config = OPTConfig(num_hidden_layers=2, num_attention_heads=2, **sizes, **{"bos_token_id": None, **options})
    return _random(OPTForCausalLM, config, seed)


def codegen(*, seed: int = 0, hidden: int = 16, **options: object) -> PreTrainedModel:
    """A CodeGen of two layers, with attention code of its own; `options` are further ones of `CodeGenConfig`."""
    sizes = {"n_embd": hidden, "n_layer": 2, "n_head": 4, "n_positions": 96, "rotary_dim": 4}
    return _random(CodeGenForCausalLM, CodeGenConfig(**sizes, **{"bos_token_id": None, **options}), seed)


def qwen2(*, seed: int = 0, hidden: int = 16, **options: object) -> PreTrainedModel:
    """A Qwen2 of two layers; `options` are further ones of `Qwen2Config`."""
    sizes = {"hidden_size": hidden, "intermediate_size": 2 * hidden, "num_key_value_heads": 1}
    config = Qwen2Config(num_hidden_layers=2, num_attention_heads=2, **sizes, **{"bos_token_id": None, **options})
    return _random(Qwen2ForCausalLM, config, seed)


def of_family(model_type: str, *, seed: int = 0, **options: object) -> PreTrainedModel:
    """A model of two layers of a family whose configuration names its sizes as most do."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CONFIG_MAPPING[model_type](**sizes, num_key_value_heads=2, head_dim=4, **{"bos_token_id": None, **options})
    return _random(AutoModelForCausalLM.from_config, config, seed)


def llama_folder(folder: Path, texts: Iterable[str], vocabulary_size: int, **options: object) -> Checkpoint:
    """A Llama with a tokenizer trained on the texts; `options` as for `llama`."""
    tokenizer = train_tokenizer(texts, vocabulary_size)
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    llama(vocab_size=len(tokenizer), **{**special, **options}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Checkpoint(folder, f"random-{options.get('seed', 0)}")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a model folder, by name."""
    return load_causal_lm(folder).state_dict()


def _random(kind: type, config: object, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config)
