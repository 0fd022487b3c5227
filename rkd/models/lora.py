"""Low-rank adapters: a model's matrices are frozen, and small ones beside them are trained (LoRA, arXiv:2106.09685).

`peft` is optional (`pip install -r requirements-lora.txt`). The adapters are put into the model in place, so that its
class does not change. With the adapters switched off, it is the model that the training started from. `merge` adds them
to the weights, so that a checkpoint is a plain model.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol, TypeGuard

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class LoRA:
    """The adapters of a model in training.

    Args:
        rank: of each pair of small matrices.
        alpha: their product is scaled by alpha / rank.
        dropout: of their input, in [0, 1); reinforcement learning keeps it off.
        target_modules: names of the layers that get adapters, or "all-linear" for all but the last one.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: Sequence[str] | str = "all-linear"

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"lora.rank={self.rank} must be at least 1, lora.alpha={self.alpha} above 0, "
                f"lora.dropout={self.dropout} in [0, 1)."
            )

    def attach(self, model: nn.Module, *, trained_whole: Sequence[str] = ()) -> None:
        """Put adapters into the model; afterwards only they and the parts `trained_whole` have gradients.

        Raises:
            ModuleNotFoundError: peft is not installed.
        """
        peft = _peft()
        targets = self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)
        config = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=targets,
            exclude_modules=list(trained_whole) or None,
        )
        peft.inject_adapter_in_model(config, model)
        for name in trained_whole:
            model.get_submodule(name).requires_grad_(True)
        for parameter in model.parameters():
            if parameter.requires_grad:  # small updates would vanish in bfloat16
                parameter.data = parameter.data.float()


def merge(model: nn.Module) -> None:
    """Add the adapters, if there are any, to the weights of their layers, and remove them.

    The sums are in float32: weights of 16 bits would round small changes away.
    """
    for name, layer in list(model.named_modules()):
        if _is_adapted(layer):
            layer.get_base_layer().float()
            layer.merge()
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, layer.get_base_layer())


def save_merged(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a trained model and its tokenizer to the folder, its adapters merged if it has any."""
    merge(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Switch the adapters of the model off within the block."""
    adapted = [layer for layer in model.modules() if _is_adapted(layer)]
    for layer in adapted:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in adapted:
            layer.enable_adapters(True)


class _AdaptedLayer(Protocol):
    """A layer to which peft has added adapters."""

    def merge(self) -> None: ...

    def get_base_layer(self) -> nn.Module: ...

    def enable_adapters(self, enabled: bool, /) -> None: ...


def _is_adapted(layer: nn.Module) -> TypeGuard[_AdaptedLayer]:
    return hasattr(layer, "lora_A") and hasattr(layer, "enable_adapters")


def _peft() -> ModuleType:
    try:
        import peft
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "LoRA needs peft: `pip install -r requirements-lora.txt`. `student.options.lora=null` does without."
        ) from error
    module: ModuleType = peft
    return module
