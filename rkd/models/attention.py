"""Which models attend plainly, so that tokens of several rows can be read side by side."""

from transformers import PretrainedConfig

# Families whose attention is the softmax over all earlier tokens, by a mask and a function that both can be replaced.
# Others (capped scores, sinks, recurrent layers, code of their own) read each row by itself.
PLAIN_FAMILIES = (
    "cohere", "gemma", "gpt2", "gpt_neox", "granite", "llama", "mistral", "olmo2", "opt", "phi", "phi3", "qwen2",
    "qwen3", "smollm3", "starcoder2",
)  # fmt: skip


def attends_plainly(config: PretrainedConfig) -> bool:
    """Whether every token of such a model attends to all before it, as tests hold for each of the families."""
    return config.model_type in PLAIN_FAMILIES and getattr(config, "sliding_window", None) is None


def takes_masks(config: PretrainedConfig) -> bool:
    """Whether its attention takes a mask with a row for each token, and at no cost but the mask: no scores are kept."""
    return attends_plainly(config) and config._attn_implementation == "sdpa"
