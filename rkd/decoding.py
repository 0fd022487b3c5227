"""The decode loop: a causal model and padded prompts enter, sampled tokens leave.

The prompt is read once for all its samples, and finished rows leave the batch. Shapes: Q prompts of P tokens, B = Q × G
responses of at most T tokens, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from rkd.protocols import Sampling

# Rows are dropped once this share of the batch has finished: each drop copies the cache.
FINISHED_SHARE = 0.2


# Not inference_mode: its tensors cannot be saved for backward, and a policy is trained on what is sampled here.
@torch.no_grad()
def sample_tokens(
    model: PreTrainedModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    sampling: Sampling,
    *,
    uniforms: Tensor | None,
    eos_id: int,
    pad_id: int,
    stop_ids: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Decode `sampling.samples_per_query` responses for each prompt.

    Args:
        prompt_ids, prompt_mask: (Q, P), padded on the left.
        uniforms: noise in [0, 1) that chooses token t of row b, (B, T); None with temperature 0.
        stop_ids: tokens that end a row once it has written them in this order; none ends it at `eos_id` alone.

    Returns:
        The tokens, (B, longest), `pad_id` after a row's end, and their mask. A row's end-of-sequence token counts.
    """
    was_training = model.training
    model.eval()
    decoding = _Decoding(model, prompt_ids, prompt_mask, sampling, pad_id)
    for step in range(sampling.max_response_tokens):
        noise = None if uniforms is None else uniforms[decoding.row_of, step]
        decoding.write(choose(decoding.logits, sampling, noise))
        decoding.close(eos_id, stop_ids)
        if step + 1 == sampling.max_response_tokens or decoding.open_rows == 0:
            break
        decoding.drop_finished()
        decoding.advance()
    model.train(was_training)
    longest = max(1, int(decoding.mask.sum(1).max()))
    return decoding.tokens[:, :longest], decoding.mask[:, :longest]


class _Decoding:
    """Responses on their way: `tokens` and `mask` hold all B rows, the other tensors those that are still decoded.

    A row that has ended is closed, and stays among these until enough are closed to be worth dropping. `step` counts
    the tokens written to each.
    """

    def __init__(
        self, model: PreTrainedModel, prompt_ids: Tensor, prompt_mask: Tensor, sampling: Sampling, pad_id: int
    ) -> None:
        """Read each prompt once, for all its samples."""
        samples, limit = sampling.samples_per_query, sampling.max_response_tokens
        prefilled = DynamicCache()
        logits = model(
            input_ids=prompt_ids,
            attention_mask=prompt_mask.long(),
            position_ids=(prompt_mask.long().cumsum(1) - 1).clamp(min=0),
            past_key_values=prefilled,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        self.model, self.pad_id, self.prompt_width, self.step = model, pad_id, prompt_ids.shape[1], 0
        self.cache = _preallocated(prefilled, samples, limit)
        self.logits = logits.repeat_interleave(samples, 0)
        self.positions = prompt_mask.sum(1).repeat_interleave(samples, 0)
        rows, device = len(self.logits), prompt_ids.device
        self.row_of = torch.arange(rows, device=device)
        self.is_open = torch.ones(rows, dtype=torch.bool, device=device)
        self.open_rows = rows
        attention = prompt_mask.long().repeat_interleave(samples, 0)
        self.attention = torch.nn.functional.pad(attention, (0, limit), value=1)
        self.tokens = torch.full((rows, limit), pad_id, dtype=torch.long, device=device)
        self.mask = torch.zeros((rows, limit), dtype=torch.bool, device=device)

    def write(self, chosen: Tensor) -> None:
        """Put the next token of each row, (rows,), where the row is open."""
        self.chosen = chosen
        self.tokens[self.row_of, self.step] = torch.where(self.is_open, chosen, self.pad_id)
        self.mask[self.row_of, self.step] = self.is_open
        self.step += 1

    def close(self, eos_id: int, stop_ids: Sequence[int]) -> None:
        """Close the rows that have just ended."""
        self.is_open = self.is_open & (self.chosen != eos_id)
        if stop_ids and self.step >= len(stop_ids):
            written = self.tokens[self.row_of, self.step - len(stop_ids) : self.step]
            self.is_open = self.is_open & (written != torch.tensor(stop_ids, device=written.device)).any(1)
        self.open_rows = int(self.is_open.sum())

    def drop_finished(self) -> None:
        """Decode the closed rows no further, if they are many."""
        finished = len(self.is_open) - self.open_rows
        if finished < FINISHED_SHARE * len(self.is_open):
            return
        keep = self.is_open.nonzero().squeeze(1)
        self.row_of, self.chosen, self.is_open = self.row_of[keep], self.chosen[keep], self.is_open[keep]
        self.positions, self.attention = self.positions[keep], self.attention[keep]
        self.cache.batch_select_indices(keep)

    def advance(self) -> None:
        """Read the tokens just written, for the logits of the next ones."""
        self.logits = self.model(
            input_ids=self.chosen[:, None],
            attention_mask=self.attention[:, : self.prompt_width + self.step],
            position_ids=(self.positions + self.step - 1)[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]


def choose(logits: Tensor, sampling: Sampling, uniforms: Tensor | None) -> Tensor:
    """The next token of each row, (B,): the likeliest at temperature 0, else by inverting the distribution function."""
    if uniforms is None:
        return logits.argmax(-1)
    scaled = logits.float() / sampling.temperature
    if sampling.top_k:
        smallest_kept = scaled.topk(min(sampling.top_k, scaled.shape[-1])).values[:, -1:]
        scaled = scaled.masked_fill(scaled < smallest_kept, float("-inf"))
    if sampling.top_p < 1:
        ordered, index = scaled.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        scaled = scaled.scatter(1, index, ordered.masked_fill(before >= sampling.top_p, float("-inf")))
    cumulative = scaled.softmax(-1).cumsum(-1, dtype=torch.float64)
    # Scaled by the total, which rounding may leave beside 1, so that no token of probability 0 is reached at the end.
    threshold = uniforms[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


class _PreallocatedLayer(DynamicLayer):
    """Keys and values of one layer in buffers of full length, so that no step copies what is there."""

    def __init__(self, keys: Tensor, values: Tensor, room: int) -> None:
        super().__init__()
        self.dtype, self.device = keys.dtype, keys.device
        self.length = keys.shape[-2]
        shape = (*keys.shape[:-2], self.length + room, keys.shape[-1])
        self._keys, self._values = keys.new_empty(shape), values.new_empty((*shape[:-1], values.shape[-1]))
        self._keys[..., : self.length, :] = keys
        self._values[..., : self.length, :] = values
        self.keys, self.values = self._keys[..., : self.length, :], self._values[..., : self.length, :]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        end = self.length + key_states.shape[-2]
        self._keys[..., self.length : end, :] = key_states
        self._values[..., self.length : end, :] = value_states
        self.length = end
        self.keys, self.values = self._keys[..., :end, :], self._values[..., :end, :]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        self._keys, self._values = self._keys[indices], self._values[indices]
        self.keys, self.values = self._keys[..., : self.length, :], self._values[..., : self.length, :]


def _preallocated(prefilled: DynamicCache, samples: int, room: int) -> Cache:
    layers = []
    for layer in prefilled.layers:
        keys, values = layer.keys.repeat_interleave(samples, 0), layer.values.repeat_interleave(samples, 0)
        layers.append(_PreallocatedLayer(keys, values, room))
    return Cache(layers=layers)
