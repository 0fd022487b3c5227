"""The hidden states of a model's backbone: batches of responses enter, hidden vectors leave.

Shapes: B responses of T tokens, D hidden width. "State t" is the hidden vector that predicts response token t: state 0
stands on the prompt's last token, state T on the response's last one.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from rkd.models.attention import takes_masks
from rkd.models.batches import ResponseBatch
from rkd.models.cpu_workers import is_small
from rkd.models.packed_rows import lines, read_line, reads_lines
from rkd.models.prefix_trees import passes

# Most tokens in a pass of several rows. On a CPU, the outputs of a small model's layer for more tokens do not stay in
# the cache, while each pass of a large model converts all its weights and adds to all their gradients.
CPU_PASS_TOKENS, LARGE_CPU_PASS_TOKENS, PASS_TOKENS = 2**10, 2**12, 2**14

# Pairs of tokens whose attention takes as long as reading a token, as multiples of the width D. A layer has about
# 12 D² products for a token and 2 D for a pair (SmolLM2 of 135 M weights: 10.7 D²). On a CPU, a product for a pair was
# seen to take 1.25 times as long in float32, and 3 times in bfloat16, which speeds up large matrices alone.
PAIRS_PER_WIDTH, PAIRS_PER_WIDTH_16_BITS = 6, 2


def response_states(backbone: nn.Module, batch: ResponseBatch) -> Tensor:
    """States 0 to T of every response, (B, T + 1, D); 0 after a response's last state.

    A common beginning of rows, above all the prompt of several responses, is read once, gradients included. Rows of
    similar length are read together, without the padding of the others.
    """
    rows = batch.rows()
    states: list[Tensor] = []
    ways: list[list[int]] = [[]] * len(rows)
    count = 0
    for own, ways_of_pass in _read(backbone, rows):
        for row, way in ways_of_pass.items():
            ways[row] = [count + place for place in way]
        states.append(own)
        count += len(own)
    nothing = states[0].new_zeros(1, states[0].shape[1])  # the row at index `count`
    width = batch.response_ids.shape[1] + 1
    lengths = batch.response_mask.sum(1).tolist()
    places = [way[-length - 1 :] + [count] * (width - length - 1) for way, length in zip(ways, lengths, strict=True)]
    return torch.cat([*states, nothing])[torch.tensor(places, device=nothing.device)]


def last_states(backbone: nn.Module, rows: Sequence[Sequence[int]]) -> Tensor:
    """The state of the last token of each row, (B, D), read as in `response_states`; other states are not kept."""
    order: list[int] = []
    last: list[Tensor] = []
    for states, ways in _read(backbone, rows):
        order += ways
        last.append(states[torch.tensor([way[-1] for way in ways.values()], device=states.device)])
    return torch.cat(last)[torch.tensor(order).argsort().to(last[0].device)]


def head_values(head: nn.Linear, states: Tensor) -> Tensor:
    """The values of a linear head on the states, (…, D) to (…, heads), in float32 also where the model is in 16 bits.

    Bfloat16 has 8 bits: it would round a reward between 2 and 4 to a multiple of 1/64, so that close ones would tie.
    """
    dtype = torch.promote_types(head.weight.dtype, torch.float32)
    own = {name: weight.to(dtype) for name, weight in head.named_parameters()}
    with torch.autocast(states.device.type, enabled=False):
        return nn.functional.linear(states.to(dtype), own["weight"], own.get("bias"))


def _read(backbone: nn.Module, rows: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, dict[int, list[int]]]]:
    """States of the tokens in each pass over the rows, (K · N, D), and the places of each row's tokens in them."""
    weight = next(backbone.parameters())
    assert isinstance(backbone, PreTrainedModel)
    if reads_lines(backbone):
        for line in lines(rows, LARGE_CPU_PASS_TOKENS):
            yield read_line(backbone, line), line.ways
        return
    config = backbone.config
    token_pairs = _pairs_per_width(weight) * config.hidden_size if takes_masks(config) else None
    most_tokens: int | None = PASS_TOKENS
    if isinstance(weight, DTensor):  # all processes gather weights together in each pass
        most_tokens = None
    elif weight.device.type == "cpu":
        is_read_small = is_small(sum(parameter.numel() for parameter in backbone.parameters()))
        most_tokens = CPU_PASS_TOKENS if is_read_small else LARGE_CPU_PASS_TOKENS
    for own in passes(rows, token_pairs, most_tokens):
        asked = {"input_ids": own.ids.to(weight.device)}
        if own.attended is not None and own.positions is not None:
            bias = torch.zeros(own.attended.shape, dtype=weight.dtype, device=weight.device)
            bias.masked_fill_(~own.attended.to(weight.device), torch.finfo(weight.dtype).min)
            asked |= {"attention_mask": bias, "position_ids": own.positions.to(weight.device)}
        yield backbone(**asked, use_cache=False).last_hidden_state.flatten(0, 1), own.ways


def _pairs_per_width(weight: Tensor) -> int:
    """As many pairs for each unit of the width as the format asks for in which products are computed."""
    device = weight.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    return PAIRS_PER_WIDTH_16_BITS if dtype.itemsize == 2 else PAIRS_PER_WIDTH
