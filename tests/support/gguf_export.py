"""A mini checkpoint as a GGUF file, which llama.cpp serves: a Llama with tied embeddings and our tokenizer enters.

llama.cpp's own converter is not packaged, and knows tokenizers by name only. Needs the package `gguf`.
"""

import json
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.torch import load_file

Quantisation = Literal["f32", "f16", "q8_0", "q4_1"]

# Splits nowhere that ours merges, but inside a word that follows an apostrophe (after "Ada'", "days" is "d" and "ays"):
# no merge of ours goes beyond a word, a digit or a mark with the blank before it, and these it keeps whole.
PRE_TOKENIZER = "gpt-2"
OF_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTSIDE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}


def export(folder: Path, path: Path, quantisation: Quantisation) -> None:
    """Write the checkpoint in `folder` to the file `path`.

    Args:
        quantisation: of the matrices; vectors stay in 32 bits, and a matrix whose rows are no multiple of a block of 32
            is written in f16 in place of a quantised form, as llama.cpp does.

    Raises:
        ValueError: the checkpoint is no Llama with tied embeddings and a byte-level BPE.
    """
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if config["model_type"] != "llama" or not config["tie_word_embeddings"] or tokenizer["model"]["type"] != "BPE":
        raise ValueError(
            f"{folder} is no Llama with tied embeddings and a byte-level BPE: this export writes no other."
        )
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads["q_proj"])
    writer.add_head_count_kv(heads["k_proj"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    _add_tokenizer(writer, tokenizer, config)
    kinds = {kind: GGMLQuantizationType[kind.upper()] for kind in ("f32", "f16", "q8_0", "q4_1")}
    for name, tensor in load_file(folder / "model.safetensors").items():
        weights = tensor.float().numpy()
        part = name.removesuffix(".weight").rpartition(".")[2]
        if part in heads:
            weights = _in_pairs(weights, heads[part])
        kind = kinds[quantisation] if weights.ndim > 1 else kinds["f32"]
        if kind in (kinds["q8_0"], kinds["q4_1"]) and weights.shape[-1] % 32:
            kind = kinds["f16"]
        writer.add_tensor(_name(name), quantize(np.ascontiguousarray(weights), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer, tokenizer: dict, config: dict) -> None:
    from gguf import TokenType

    special = {token["id"] for token in tokenizer["added_tokens"]}
    vocabulary = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(vocabulary)
    writer.add_token_types([TokenType.CONTROL if at in special else TokenType.NORMAL for at in range(len(vocabulary))])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)


def _in_pairs(weights: np.ndarray, heads: int) -> np.ndarray:
    """A query or key projection, (heads × D, H), its rows i and i + D/2 side by side: llama.cpp rotates neighbours."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, weights.shape[1])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def _name(name: str) -> str:
    """What llama.cpp calls a tensor."""
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{OF_LAYER[part]}.weight"
