"""Tiny random models in float64 of many families, with scales, caps and multipliers that change their logits."""

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from rkd.models.attention import PLAIN_FAMILIES
from tests.support.float64_models import END, VOCABULARY

SIZES = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 96, "vocab_size": VOCABULARY,
    "initializer_range": 0.5, "bos_token_id": 2,
}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2, "experts_implementation": "eager"}
MULTIPLIERS = {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3}
GRANITE = {"logits_scaling": 8.0, **MULTIPLIERS}

# Families that change logits after the output embedding, with settings by which each of them changes a verdict.
SCALED = {
    "bert": {"is_decoder": True},
    "cohere": {"logit_scale": 0.0625},
    "cohere2": {"logit_scale": 4.0},
    "electra": {"is_decoder": True, "embedding_size": 8},
    "falcon_h1": {"lm_head_multiplier": 0.3, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8},
    "gemma2": {"final_logit_softcapping": 1.5, "attn_logit_softcapping": 2.0, "sliding_window": 3},
    "gemma3_text": {"final_logit_softcapping": 1.5, "sliding_window": 3},
    "granite": GRANITE,
    "granitemoe": {**GRANITE, **EXPERTS, "num_local_experts": 4},
    "hyperclovax": GRANITE,
    "nanochat": {"final_logit_softcapping": 1.5},
    "recurrent_gemma": {"logits_soft_cap": 1.5, "lru_width": 16, "attention_window_size": 8},
    "vaultgemma": {"final_logit_softcapping": 1.5},
}
# Other families: those that share the reading of a prompt, and others of different architectures.
FAMILIES = {
    **{family: {} for family in PLAIN_FAMILIES},
    "bloom": {},
    "codegen": {"rotary_dim": 4},
    "falcon": {},
    "gpt_oss": {**EXPERTS, "num_local_experts": 4, "sliding_window": 3},
    "gptj": {"rotary_dim": 4},
    "lfm2": {},
    "mamba": {"state_size": 4},
    "mistral": {"sliding_window": 3},
    "mixtral": {**EXPERTS, "num_local_experts": 4, "sliding_window": None},
    "mpt": {"logit_scale": 0.0625},
    "olmo3": {"sliding_window": 3},
    "opt": {"word_embed_proj_dim": 12, "ffn_dim": 32},
    "phi3": {"sliding_window": None},
    "qwen2_moe": {**EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {**EXPERTS, "num_experts": 4},
    "stablelm": {},
    **SCALED,
}


def of_settings(family: str, *, auto: type = AutoModelForCausalLM, **options: object) -> PreTrainedModel:
    """A model of the family; every weight is random, biases and norms included. `options` replace its settings."""
    kind = CONFIG_MAPPING[family]
    settings = {**SIZES, **END, **FAMILIES.get(family, {}), **options}
    computed = {name for name in settings if isinstance(own := getattr(kind, name, None), property) and not own.fset}
    config = kind(**{name: value for name, value in settings.items() if name not in computed})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model: PreTrainedModel = auto.from_config(config)
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model.double().eval()
