"""Models and tokenizers from their folders: a folder and options enter, a model on its device leaves.

Weights are read from safetensors files only, and code that lies beside them is not run.
"""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from rkd.errors import ModelError
from rkd.models.lora import LoRA
from rkd.models.low_precision import cpu_prefers_bfloat16

# Names of tokens that no text holds.
RESERVED_FOR_PADDING = (
    "<|finetune_right_pad_id|>", "<|padding|>", "<|pad|>", "<pad>", "<PAD>", "[PAD]", "<｜▁pad▁｜>",
    "<|reserved_special_token_0|>",
)  # fmt: skip
_NAME_IN_BRACKETS = re.compile(r"[<\[{|｜]+\w.*[>\]}|｜]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """How the models of a role are loaded, placed and trained.

    Args:
        dtype: of the weights that sample, judge and score, and of those below adapters; "auto": bfloat16 on a GPU,
            and on a CPU for a model that is not small if the processor computes it (`rkd.models.low_precision`); else
            float32, as below adapters on a CPU. Weights that are trained are always loaded in float32, in which small
            updates last, and mixed with lower precision as `trainer.precision` says.
        attention: the implementation by its name in transformers ("sdpa", "eager", "flash_attention_2"); None takes
            the model's default.
        device: the device for sampling; "auto": a GPU if there is one; "spread": over all GPUs (needs accelerate);
            or a device by its name in torch. Training uses the device of `trainer.accelerator`.
        gradient_checkpointing: training keeps fewer activations in memory and computes them again.
        lora: adapters to train instead of all weights.
    """

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attention: str | None = None
    device: str = "auto"
    gradient_checkpointing: bool = False
    lora: LoRA | None = None

    def load(self, parameters: int, *, placed: bool) -> dict[str, Any]:
        """The options of `from_pretrained`: of a model that is `placed` to sample, or of one that is to be trained.

        Args:
            parameters: how many weights the model has.
        """
        on_gpu = self.device_of_samples.type == "cuda"
        in_16_bits = on_gpu or (placed and cpu_prefers_bfloat16(parameters))
        dtype = ("bfloat16" if in_16_bits else "float32") if self.dtype == "auto" else self.dtype
        named: dict[str, Any] = {"attn_implementation": self.attention} if self.attention else {}
        if placed and self.device == "spread":
            named["device_map"] = "auto"
        return {"dtype": getattr(torch, dtype if placed or self.lora else "float32"), **named}

    @property
    def device_of_samples(self) -> torch.device:
        """Where a model samples; one that is spread over several GPUs begins there."""
        if self.device in ("auto", "spread"):
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def place(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model on the device for sampling; one that is spread is there already.

        Raises:
            ValueError: torch does not find the GPU, or the model does not fit into all GPUs together.
        """
        device, found = self.device_of_samples, torch.cuda.device_count()
        if self.device == "spread":
            # accelerate keeps what does not fit in other memory, and copies it to a GPU again for each token.
            if found and {"cpu", "disk"} & set(map(str, getattr(model, "hf_device_map", {}).values())):
                raise ValueError(
                    f"options.device=spread: the weights do not fit into the memory of the {found} GPUs here. Take "
                    "more GPUs, a smaller model, or a server (teacher=endpoint, judge=endpoint)."
                )
            return model
        if device.type == "cuda" and (device.index or 0) >= found:
            raise ValueError(
                f"options.device={self.device}: torch finds {found} GPUs here. `options.device=auto` takes what there "
                "is."
            )
        return nn.Module.to(model, device)

    def prepare(self, model: PreTrainedModel, *, trained_whole: Sequence[str] = ()) -> PreTrainedModel:
        """The model, ready to be trained; `merge` turns it back into a plain model.

        Args:
            trained_whole: parts that are trained without adapters, such as the head of a reward model.
        """
        if self.lora is not None:
            self.lora.attach(model, trained_whole=trained_whole)
        if self.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        return model


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder, padding on the left.

    Nothing here reads its padding token: batches are filled with `rkd.models.batches.FILL`, and masks say where. It is
    set for programs that read a saved model. A tokenizer without one, or whose padding token is its end of sequence,
    gets one that its vocabulary reserves, as that of Llama 3 does, or else its unknown token or its end of sequence. A
    token of ordinary text, such as "!", is never padding: it would be missing in each text.

    Raises:
        FileNotFoundError: the folder is missing.
        ModelError: there is no end of sequence.
    """
    tokenizer = AutoTokenizer.from_pretrained(existing_model(folder), padding_side="left")
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {folder} has no end of sequence, so no response would end. Name the token that ends a "
            "text with `tokenizer.eos_token = ...`, and save the tokenizer beside the model with `save_pretrained`."
        )
    _take_text_from_padding(tokenizer)
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        vocabulary, eos = tokenizer.get_vocab(), tokenizer.eos_token
        reserved = (name for name in (*RESERVED_FOR_PADDING, tokenizer.unk_token) if name in vocabulary and name != eos)
        tokenizer.pad_token = next(reserved, eos)
    return tokenizer


def _take_text_from_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make the padding token an ordinary one if it is a part of text: no name in brackets, and without other role."""
    pad = tokenizer.pad_token
    if pad is None or _NAME_IN_BRACKETS.fullmatch(pad) or not isinstance(tokenizer, PreTrainedTokenizerFast):
        return
    has_other_role = any(token == pad for role, token in tokenizer.special_tokens_map.items() if role != "pad_token")
    if has_other_role or pad not in tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False):
        return
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    parts["added_tokens"] = [one for one in parts["added_tokens"] if one["content"] != pad]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(parts))
    tokenizer.pad_token = None


def load_causal_lm(
    folder: str | Path, options: ModelOptions = ModelOptions(), *, placed: bool = False
) -> PreTrainedModel:
    """A causal language model in evaluation mode: `placed` to sample, on the options' device, or to be trained.

    Raises:
        FileNotFoundError: the folder, or its safetensors file, is missing.
        ValueError: the weights are truncated or belong to another architecture, or an option does not fit them.
    """
    return _load(AutoModelForCausalLM, folder, options, placed=placed)


def load_classifier(
    folder: str | Path, options: ModelOptions = ModelOptions(), *, placed: bool = False
) -> PreTrainedModel:
    """A model with one score; its head is new if the folder holds a language model.

    Raises:
        ModelError: transformers has no classifier of its family. Other errors as `load_causal_lm`.
    """
    if (refusal := classifier_refusal(folder)) is not None:
        raise ModelError(refusal)
    return _load(AutoModelForSequenceClassification, folder, options, placed=placed, num_labels=1)


def classifier_refusal(folder: str | Path) -> str | None:
    """Why no reward model can be trained on the model in the folder; None if one can, as its configuration says."""
    config = AutoConfig.from_pretrained(existing_model(folder))
    if type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return None
    return (
        f"No reward model can be trained on {folder}: transformers has no sequence classifier of the family "
        f"{config.model_type}. Choose a model of another family, or a row without a reward model, such as "
        "dpo, sft or vr."
    )


def load_teacher(folder: Path, student: Path, options: ModelOptions = ModelOptions()) -> PreTrainedModel:
    """The frozen teacher whose probabilities of the student's tokens are read, on the options' device.

    Raises:
        ModelError: its vocabulary is not the student's. Other errors as `load_causal_lm`.
    """
    if (refusal := vocabulary_refusal(student, folder)) is not None:
        raise ModelError(refusal)
    return load_causal_lm(folder, options, placed=True)


def vocabulary_refusal(student: Path, teacher: Path) -> str | None:
    """Why the teacher cannot read the student's tokens; None if both have the same tokens with the same numbers.

    The teacher may have more embeddings than tokens, as larger models of a family often have.
    """
    vocabularies = [load_tokenizer(folder).get_vocab() for folder in (student, teacher)]
    sizes = [AutoConfig.from_pretrained(folder).get_text_config().vocab_size for folder in (student, teacher)]
    if vocabularies[0] == vocabularies[1] and sizes[0] <= sizes[1]:
        return None
    return (
        f"The teacher {teacher} cannot read the tokens of the student {student}: their tokenizers have {sizes[1]:,} "
        f"and {sizes[0]:,} tokens, and these or their numbers differ. Distillation from probabilities needs two models "
        "of one family. Take such a teacher, or a row that learns from its texts, such as sft or ours."
    )


def copy_model(folder: Path, into: Path) -> None:
    """Copy a model without the other files that its stage kept beside it."""
    shutil.copytree(
        folder,
        into,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("manifest.json", "origin.json", "*report.json", "*.jsonl"),
    )


def count_weights(folder: Path) -> int:
    """How many weights are stored in a model folder, from the headers of its safetensors files.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: one is truncated or altered.
    """
    files = sorted(existing_model(folder).glob("model*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no safetensors file: weights in other formats are not loaded.")
    count = 0
    for path in files:
        try:
            with safe_open(path, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118, it is no mapping
                    size = 1
                    for length in weights.get_slice(name).get_shape():
                        size *= length
                    count += size
        except SafetensorError as error:
            raise ValueError(
                f"the weights in {path} are truncated or altered ({error}). Copy the file again; the mini models are "
                "remade with `python -m rkd pretrain`."
            ) from error
    return count


def existing_model(folder: str | Path) -> Path:
    """The folder as a path.

    Raises:
        FileNotFoundError: it holds no model.
    """
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise FileNotFoundError(
            f"{path} holds no model (no config.json). Give a folder written by `save_pretrained`; "
            "the mini models are remade with `python -m rkd pretrain`."
        )
    return path


def _load(
    auto_class: type[_BaseAutoModelClass], folder: str | Path, options: ModelOptions, *, placed: bool, **more: object
) -> PreTrainedModel:
    path = existing_model(folder)
    if not any(path.glob("*.safetensors")):
        raise FileNotFoundError(f"{path} holds no safetensors file: weights in other formats are not loaded.")
    try:
        how = {**options.load(count_weights(path), placed=placed), **more}
        model: PreTrainedModel = auto_class.from_pretrained(path, use_safetensors=True, **how)
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise ValueError(
            f"the model in {path} cannot be loaded: it may be truncated, or `options` do not fit it: {error}"
        ) from error
    except Exception as error:  # safetensors raises a class of its own, which derives from Exception alone
        if type(error).__module__.startswith("safetensors"):
            raise ValueError(f"the weights in {path} are truncated or altered ({error}). Make them anew.") from error
        raise
    model.eval()
    return options.place(model) if placed else model
