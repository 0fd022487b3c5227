"""Tokenizers of a few hundred tokens in the layouts of common model families: their special tokens and templates."""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rkd.records import Checkpoint
from tests.support.tiny_models import llama

TEXTS = ["What is 4! + 1? The answer is 5!", "3! is 6! and 2! is 2.", "0123456789 + - * / = ( )"] * 20

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# As in Llama 3.2: a date that is given, or else today's.
LLAMA3_TEMPLATE = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}'
    '{%- endif %}{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}'
    '{{- "Today Date: " + date_string + "\\n\\n<|eot_id|>" }}'
    "{%- for m in messages %}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' }}"
    "{{- m.content | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
INST_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)


def gpt2(**roles: str) -> PreTrainedTokenizerFast:
    """GPT-2's and CodeGen's layout: number 0 is "!", the end of sequence is the last, nothing is for padding."""
    backend = _byte_level([])
    backend.add_special_tokens(["<|endoftext|>"])
    return _fast(backend, **_same("<|endoftext|>", "bos_token", "eos_token", "unk_token"), **roles)


def neox(**roles: str) -> PreTrainedTokenizerFast:
    """GPT-NeoX's layout: `<|padding|>` is in the vocabulary and has no role."""
    backend = _byte_level(["<|endoftext|>", "<|padding|>"])
    return _fast(backend, **_same("<|endoftext|>", "bos_token", "eos_token", "unk_token"), **roles)


def llama3(**roles: str) -> PreTrainedTokenizerFast:
    """Llama 3's layout, with the dated template of Llama 3.2; the turn ends with another token than the text."""
    backend = _byte_level([])
    names = ["begin_of_text", "end_of_text", "finetune_right_pad_id", "start_header_id", "end_header_id", "eot_id"]
    backend.add_special_tokens([f"<|{name}|>" for name in names])
    backend.post_processor = _around("<|begin_of_text|> $A", backend)
    roles = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", **roles}
    return _fast(backend, **{"chat_template": LLAMA3_TEMPLATE, **roles})


def qwen(**roles: str) -> PreTrainedTokenizerFast:
    """Qwen's layout: padding and the end of sequence are one token, a turn ends with `<|im_end|>`."""
    backend = _byte_level([])
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return _fast(backend, **_same("<|endoftext|>", "eos_token", "pad_token"), **{"chat_template": CHATML, **roles})


def smollm2(**roles: str) -> PreTrainedTokenizerFast:
    """SmolLM2's layout: a turn, a text and padding have one token, the third of the vocabulary."""
    backend = _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    named = {"bos_token": "<|im_start|>", "unk_token": "<|endoftext|>", "chat_template": CHATML}
    return _fast(backend, **{**_same("<|im_end|>", "eos_token", "pad_token"), **named, **roles})


def gemma(**roles: str) -> PreTrainedTokenizerFast:
    """Gemma's layout: SentencePiece's BPE, and a turn ends with `<end_of_turn>`."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Replace("▁", " ")
    backend.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=150, special_tokens=special, show_progress=False))
    backend.post_processor = _around("<bos> $A", backend)
    named = {f"{token[1:-1]}_token": token for token in special[:4]}
    return _fast(backend, **{"chat_template": GEMMA_TEMPLATE, **named, **roles})


def t5(**roles: str) -> PreTrainedTokenizerFast:
    """T5's layout: SentencePiece's unigrams, the end of sequence put after each text, `<pad>` is number 0."""
    special = ["<pad>", "</s>", "<unk>"]
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=100, special_tokens=special, unk_token="<unk>", show_progress=False, max_piece_length=4
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.post_processor = _around("$A </s>", backend)
    return _fast(backend, **{"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", **roles})


def mistral(**roles: str) -> PreTrainedTokenizerFast:
    """Llama 2's and Mistral's layout with both switches on: each text begins with `<s>` and ends with `</s>`.

    The template prints `<s>` itself, and a blank before the end of a turn.
    """
    backend = _byte_level(["<unk>", "<s>", "</s>"])
    backend.post_processor = _around("<s> $A </s>", backend)
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **roles}
    return _fast(backend, **{"chat_template": INST_TEMPLATE, **roles})


LAYOUTS = {make.__name__: make for make in (gpt2, neox, llama3, qwen, smollm2, gemma, t5, mistral)}


def folder_of(tokenizer: PreTrainedTokenizerFast, folder: Path, **options: object) -> Checkpoint:
    """A random Llama with this tokenizer; `options` as for `llama`."""
    usual = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "max_position_embeddings": 256}
    llama(**{**usual, **options}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Checkpoint(folder, f"random-{folder.name}")


def _byte_level(special: list[str]) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    return backend


def _around(form: str, backend: Tokenizer) -> processors.TemplateProcessing:
    named = [(token, backend.token_to_id(token)) for token in form.split() if token != "$A"]
    return processors.TemplateProcessing(single=form, special_tokens=named)


def _same(token: str, *roles: str) -> dict[str, str]:
    return dict.fromkeys(roles, token)


def _fast(backend: Tokenizer, **roles: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


def added(content: str, *, special: bool) -> AddedToken:
    """A token for `add_tokens`."""
    return AddedToken(content, special=special)
