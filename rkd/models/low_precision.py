"""Weights of 16 bits for reading: a model enters, a copy that shares what need not be converted leaves.

Training keeps its weights in float32 and converts them for each operation (autocast). Sampling reads all weights for
each token, so that they are converted once, before the first.
"""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from rkd.models.cpu_workers import is_small

BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")  # as torch names the capabilities of a processor


def cpu_prefers_bfloat16(parameters: int) -> bool:
    """Whether this processor reads a model with this number of parameters faster in bfloat16 than in float32.

    It needs instructions for products of bfloat16: others emulate them. Small models keep float32.
    """
    capabilities = torch.cpu.get_capabilities()
    return not is_small(parameters) and any(capabilities.get(name, False) for name in BFLOAT16_INSTRUCTIONS)


@contextlib.contextmanager
def converted_once(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Under autocast: a copy whose weights are in autocast's format, without autocast; otherwise the model itself.

    Within the block the model must not be trained: the copy does not follow it. A shard of a model is not copied.
    """
    device = model.device.type
    if not torch.is_autocast_enabled(device) or any(isinstance(weight, DTensor) for weight in model.parameters()):
        yield model
        return
    dtype = torch.get_autocast_dtype(device)
    # `deepcopy` takes what `memo` has for an object, so that no float32 copy of a weight is made.
    memo = {id(weight): nn.Parameter(weight.detach().to(dtype), requires_grad=False) for weight in model.parameters()}
    with torch.autocast(device, enabled=False):
        yield copy.deepcopy(model, memo)
