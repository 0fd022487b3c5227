"""Models with plain attention, for which tokens of several rows can be read side by side."""

from transformers import PretrainedConfig

# Families whose attention is the softmax over all earlier tokens, with a replaceable mask and attention function.
# Other families (capped scores, attention sinks, recurrent layers, custom code) read each row by itself.
PLAIN_FAMILIES = (
    "cohere", "gemma", "gpt2", "gpt_neox", "granite", "llama", "mistral", "olmo2", "opt", "phi", "phi3", "qwen2",
    "qwen3", "smollm3", "starcoder2",
)  # fmt: skip


def attends_plainly(config: PretrainedConfig) -> bool:
    """Whether every token attends to all earlier tokens; tests check this for each of the families."""
    return config.model_type in PLAIN_FAMILIES and getattr(config, "sliding_window", None) is None


def takes_masks(config: PretrainedConfig) -> bool:
    """Whether attention takes a mask with a row for each token, and needs memory for the mask only, not for scores."""
    return attends_plainly(config) and config._attn_implementation == "sdpa"
