"""The decode loop: a causal model and padded prompts enter, sampled tokens leave.

No token is read twice: the common beginning of all prompts is read once, a prompt once for all its samples, and samples
with equal tokens so far are one row until they differ. Finished rows leave the batch.
Shapes: Q prompts of P tokens, B = Q × G responses of at most T tokens, V vocabulary.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from rkd.generation.forced_tokens import ForcedTokens
from rkd.models.attention import attends_plainly
from rkd.models.batches import FILL
from rkd.protocols import Sampling

# Rows are dropped once this share of them has finished, or when samples differ: each change of rows copies the cache.
FINISHED_SHARE = 0.2

# A shorter common beginning of the prompts is read with each prompt.
SMALLEST_BEGINNING = 16

# Logits from which tokens are chosen at a time on a CPU: what is computed from them should stay in its cache.
CACHED_LOGITS = 2**20

# A vocabulary of more tokens is searched in two levels: for the block of this many tokens, then within this block.
LARGEST_SEARCHED_VOCABULARY = 2**14
BLOCK = 256
BELOW_ONE = math.nextafter(1, 0)

SHARED_PREFIX = "rkd_shared_prefix"


# Not inference_mode: its tensors cannot be saved for backward, and a policy is trained on what is sampled here.
@torch.no_grad()
def sample_tokens(
    model: PreTrainedModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    sampling: Sampling,
    *,
    uniforms: Tensor | None,
    eos_ids: Sequence[int],
    pad_id: int = FILL,
    stop_ids: Sequence[int] = (),
    forced: ForcedTokens | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode `sampling.samples_per_query` responses for each prompt.

    Args:
        prompt_ids, prompt_mask: (Q, P), padded on the left.
        uniforms: noise in [0, 1) that chooses token t of row b, (B, T); None if all temperatures are 0.
        eos_ids: tokens, each of which ends a row.
        stop_ids: tokens that end a row once it has written them in this order; without any, only `eos_ids` end it.
        forced: tokens that are written in place of those that the model chooses.

    Returns:
        The tokens, (B, longest), and their mask; `pad_id` stands after a row's end. The token that ends a row counts.
    """
    was_training = model.training
    model.eval()
    ends = torch.tensor(list(eos_ids), device=prompt_ids.device)
    decoding = _Decoding(model, prompt_ids, prompt_mask, sampling, pad_id)
    temperatures = torch.tensor(sampling.temperatures, device=prompt_ids.device).repeat(len(prompt_ids))
    with decoding.context.attention_of(model):
        for step in range(sampling.max_response_tokens):
            noise = None if uniforms is None else uniforms[decoding.open, step]
            chosen = decoding.chosen_tokens(sampling, noise, temperatures[decoding.open])
            if forced is not None:
                chosen = forced.replace(chosen, decoding.open, decoding.tokens[decoding.open, :step])
            decoding.write(chosen)
            decoding.close(ends, stop_ids)
            if step + 1 == sampling.max_response_tokens or not len(decoding.open):
                break
            decoding.branch()
            decoding.advance()
    model.train(was_training)
    longest = max(1, int(decoding.mask.sum(1).max()))
    return decoding.tokens[:, :longest], decoding.mask[:, :longest]


class _Decoding:
    """The state of the loop: `tokens` and `mask` hold all B responses, `open` (samples,) names those still decoded.

    Open samples of a prompt with equal tokens so far are one branch, which is read once. `branch_of` (samples,) names
    the branch of each sample; `logits` and `positions` have a row for each branch. A finished branch stays until
    enough branches have finished to be worth dropping. `step` counts the tokens written to each sample.
    """

    def __init__(
        self, model: PreTrainedModel, prompt_ids: Tensor, prompt_mask: Tensor, sampling: Sampling, pad_id: int
    ) -> None:
        """Read each prompt once, for all its samples."""
        samples, limit = sampling.samples_per_query, sampling.max_response_tokens
        is_plain = attends_plainly(model.config)
        beginning = common_beginning(prompt_ids, prompt_mask) if is_plain else 0
        prefilled, prompt_mask, self.logits = _read_prompts(model, prompt_ids, prompt_mask, beginning)
        self.model, self.pad_id, self.step = model, pad_id, 0
        self.context: _SharedPrompts | _CopiedPrompts
        if is_plain and (samples > 1 or beginning):
            self.context = _SharedPrompts(prefilled, prompt_mask, limit, beginning)
        else:
            self.context = _CopiedPrompts(prefilled, prompt_mask, limit)
        self.positions = prompt_mask.sum(1)
        prompts, device = len(prompt_ids), prompt_ids.device
        self.branch_of = torch.arange(prompts, device=device).repeat_interleave(samples)
        self.open = torch.arange(prompts * samples, device=device)
        self.tokens = torch.full((prompts * samples, limit), pad_id, dtype=torch.long, device=device)
        self.mask = torch.zeros((prompts * samples, limit), dtype=torch.bool, device=device)

    def chosen_tokens(self, sampling: Sampling, uniforms: Tensor | None, temperatures: Tensor) -> Tensor:
        """The next token of each open sample, (samples,); arguments as those of `choose`, for these samples."""
        on_cpu = self.logits.device.type == "cpu"
        rows = max(1, CACHED_LOGITS // self.logits.shape[-1]) if on_cpu else max(1, len(self.open))
        noise = [None] * len(self.open) if uniforms is None else uniforms.split(rows)
        parts = zip(self.branch_of.split(rows), noise, temperatures.split(rows), strict=False)
        return torch.cat([choose(self.logits[branches], sampling, *of_rows) for branches, *of_rows in parts])

    def write(self, chosen: Tensor) -> None:
        """Append the next token of each open sample, (samples,)."""
        self.tokens[self.open, self.step] = chosen
        self.mask[self.open, self.step] = True
        self.step += 1

    def close(self, eos_ids: Tensor, stop_ids: Sequence[int]) -> None:
        """Close the samples that have just ended."""
        is_open = ~torch.isin(self.tokens[self.open, self.step - 1], eos_ids)
        if stop_ids and self.step >= len(stop_ids):
            written = self.tokens[self.open, self.step - len(stop_ids) : self.step]
            is_open &= (written != torch.tensor(stop_ids, device=written.device)).any(1)
        self.open, self.branch_of = self.open[is_open], self.branch_of[is_open]

    def branch(self) -> None:
        """Separate samples whose last tokens differ, and drop branches without open samples if they are many."""
        vocabulary, branches = self.logits.shape[-1], len(self.logits)
        said = self.branch_of * vocabulary + self.tokens[self.open, self.step - 1]
        said, branch_of = said.unique(return_inverse=True)  # sorted, so that those of a prompt stay together
        parents, chosen = said // vocabulary, said % vocabulary
        parts = bool((parents[1:] == parents[:-1]).any())
        if parts or len(parents) <= (1 - FINISHED_SHARE) * branches:
            self.branch_of, self.chosen, self.positions = branch_of, chosen, self.positions[parents]
            self.context.select(parents)
        else:
            self.branch_of = parents[branch_of]
            self.chosen = torch.full((branches,), self.pad_id, device=chosen.device).index_copy(0, parents, chosen)

    def advance(self) -> None:
        """Read the tokens just written, for the logits of the next ones."""
        self.logits = self.context.read(
            self.model, self.chosen[:, None], (self.positions + self.step - 1)[:, None], self.step
        )


def common_beginning(prompt_ids: Tensor, prompt_mask: Tensor) -> int:
    """How many common first tokens of all prompts, such as examples, are read once; 0 if it would not pay."""
    if len(prompt_ids) < 2:
        return 0
    shortest = int(prompt_mask.sum(1).min())
    starts = prompt_mask.shape[1] - prompt_mask.sum(1, keepdim=True)
    firsts = prompt_ids.gather(1, starts + torch.arange(shortest, device=prompt_ids.device))
    differs = (firsts != firsts[:1]).any(0)
    common = int(differs.float().argmax()) if differs.any() else shortest
    common = min(common, shortest - 1)  # one token must be left to read, for its logits
    return common if common >= SMALLEST_BEGINNING else 0


def _read_prompts(
    model: PreTrainedModel, prompt_ids: Tensor, prompt_mask: Tensor, beginning: int
) -> tuple[DynamicCache, Tensor, Tensor]:
    """Keys and values of the prompts, the mask (Q, P) of their places, and the logits after each, (Q, V).

    The first `beginning` tokens, equal in all prompts, are read once; they then stand before the padding.
    """
    cache = DynamicCache()
    padding = prompt_mask.shape[1] - prompt_mask.sum(1, keepdim=True)
    if beginning:
        shared = prompt_ids[:1, int(padding[0]) :][:, :beginning]
        model(input_ids=shared, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(len(prompt_ids))
    # The remaining columns hold the rest of each prompt, aligned to the right: the padding keeps its width.
    rest = torch.arange(prompt_mask.shape[1] - beginning, device=prompt_ids.device) >= padding
    mask = torch.cat([rest.new_ones(len(rest), beginning), rest], 1)
    with _states_side_by_side(model):
        logits = model(
            input_ids=prompt_ids[:, beginning:],
            attention_mask=mask.long(),
            position_ids=(mask.long().cumsum(1) - 1).clamp(min=0)[:, beginning:],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
    return cache, mask, logits


@contextlib.contextmanager
def _states_side_by_side(model: PreTrainedModel) -> Iterator[None]:
    """Let the output layer read the last states of the prompts from memory of their own.

    Where the weights are frozen, a CPU multiplies a slice of states of 16 bits by a copy of them for each prompt.
    With 49,152 tokens and states of 576 numbers, that is 56 MB and 0.2 s of one core for a prompt.
    """
    head = model.get_output_embeddings()
    if head is None:
        yield
        return
    hook = head.register_forward_pre_hook(lambda _, states: tuple(one.contiguous() for one in states))
    try:
        yield
    finally:
        hook.remove()


def choose(logits: Tensor, sampling: Sampling, uniforms: Tensor | None, temperatures: Tensor) -> Tensor:
    """The next token of each row, (B,): the likeliest at temperature 0, else by inverting the distribution function.

    Args:
        logits: (B, V).
        uniforms: noise in [0, 1), (B,); None if all temperatures are 0.
        temperatures: of each row, (B,).
    """
    if uniforms is None:
        return _likeliest(logits)
    is_sampled = temperatures > 0
    scaled = logits.float() / torch.where(is_sampled, temperatures, 1.0)[:, None]
    if sampling.top_k:
        smallest_kept = scaled.topk(min(sampling.top_k, scaled.shape[-1])).values[:, -1:]
        scaled = scaled.masked_fill(scaled < smallest_kept, float("-inf"))
    if sampling.top_p < 1:
        ordered, index = scaled.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        scaled = scaled.scatter(1, index, ordered.masked_fill(before >= sampling.top_p, float("-inf")))
    sampled = _inverted(scaled.softmax(-1), uniforms[:, None])
    return sampled if all(sampling.temperatures) else torch.where(is_sampled, sampled, _likeliest(logits))


def _likeliest(logits: Tensor) -> Tensor:
    """The first of the largest logits of each row, (B,); a CPU compares float32 faster than bfloat16."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).argmax(-1)


def _inverted(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The token at which the distribution function, from probabilities (B, V), passes the noise (B, 1); (B,)."""
    vocabulary = probabilities.shape[-1]
    if vocabulary <= LARGEST_SEARCHED_VOCABULARY:
        return _passed(probabilities, uniforms)[0].squeeze(1)
    blocks = nn.functional.pad(probabilities, (0, -vocabulary % BLOCK)).unflatten(-1, (-1, BLOCK))
    block, share = _passed(blocks.sum(-1), uniforms)
    within, _ = _passed(blocks.gather(1, block[..., None].expand(-1, -1, BLOCK)).squeeze(1), share)
    return (block * BLOCK + within).squeeze(1).clamp(max=vocabulary - 1)


def _passed(probabilities: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Where the distribution function passes the noise, and which share of that step lies below it, (B, 1) each.

    Args:
        probabilities: of the steps, (B, N); they need not sum to 1.
        uniforms: noise in [0, 1), (B, 1).
    """
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    # Scaled by the total, which may differ from 1 by rounding, so that no step of probability 0 is reached at the end.
    threshold = uniforms * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, threshold, right=True).clamp(max=probabilities.shape[-1] - 1)
    end, step = cumulative.gather(1, place), probabilities.gather(1, place).double()
    return place, (1 - (end - threshold) / step).clamp(0, BELOW_ONE)


class _CopiedPrompts:
    """The cache of what every row has read: a copy of its prompt, and its own tokens. At first, one row per prompt."""

    def __init__(self, prefilled: DynamicCache, prompt_mask: Tensor, room: int) -> None:
        self.cache = _preallocated(_keys_and_values(prefilled), room)
        self.prompt_width = prompt_mask.shape[1]
        self.attention = torch.nn.functional.pad(prompt_mask.long(), (0, room), value=1)

    def attention_of(self, model: PreTrainedModel) -> contextlib.AbstractContextManager[None]:  # noqa: ARG002
        """The attention of the model is unchanged."""
        return contextlib.nullcontext()

    def select(self, rows: Tensor) -> None:
        """Go on with copies of the rows at these indices."""
        self.attention = self.attention[rows]
        self.cache.batch_select_indices(rows)

    def read(self, model: PreTrainedModel, ids: Tensor, positions: Tensor, step: int) -> Tensor:
        """Read token `step` of each row, (rows, 1); the logits after it, (rows, V)."""
        logits: Tensor = model(
            input_ids=ids,
            attention_mask=self.attention[:, : self.prompt_width + step],
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        return logits[:, -1]


class _SharedPrompts:
    """The cache of what every row has read: its own tokens, and a prompt stored once for all its rows.

    At first, each prompt has one row. The common beginning of all prompts, C tokens, is stored once. A row is a
    (prompt, slot), `prompt_of` and `slot_of` (rows,); `slots` is the most rows that a prompt has. Keys have H heads of
    width D.
    """

    def __init__(self, prefilled: DynamicCache, prompt_mask: Tensor, room: int, beginning: int) -> None:
        read = _keys_and_values(prefilled)
        self.cache = _preallocated([(keys[:, :, :0], values[:, :, :0]) for keys, values in read], room)
        self.beginning = beginning
        # Keys and values of each layer: of the beginning, (H, D, C) and (H, C, D), and of what follows it in each
        # prompt, (Q, H, D, P − C) and (Q, H, P − C, D).
        self.common = [
            (keys[0, :, :beginning].transpose(-1, -2).contiguous(), values[0, :, :beginning].contiguous())
            for keys, values in read
        ]
        self.layers = [
            (keys[:, :, beginning:].transpose(-1, -2).contiguous(), values[:, :, beginning:].contiguous())
            for keys, values in read
        ]
        prompt_mask = prompt_mask[:, beginning:]
        hidden = torch.zeros(prompt_mask.shape, dtype=self.layers[0][0].dtype, device=prompt_mask.device)
        self.bias = hidden.masked_fill(~prompt_mask.bool(), float("-inf"))[:, None, None]
        self.prompt_of, self.slots = torch.arange(len(prompt_mask), device=prompt_mask.device), 1
        self.slot_of = torch.zeros_like(self.prompt_of)

    @contextlib.contextmanager
    def attention_of(self, model: PreTrainedModel) -> Iterator[None]:
        """Let the model attend to the shared prompts."""
        before = model.config._attn_implementation
        model.set_attn_implementation(SHARED_PREFIX)
        try:
            yield
        finally:
            model.set_attn_implementation(before)

    def select(self, rows: Tensor) -> None:
        """Go on with copies of the rows at these indices, in ascending order, and the prompts that still have a row."""
        self.cache.batch_select_indices(rows)
        prompts, self.prompt_of, counts = self.prompt_of[rows].unique_consecutive(
            return_inverse=True, return_counts=True
        )
        if len(prompts) < len(self.bias):
            self.layers = [(keys[prompts], values[prompts]) for keys, values in self.layers]
            self.bias = self.bias[prompts]
        first = counts.cumsum(0) - counts
        self.slot_of = torch.arange(len(rows), device=rows.device) - first[self.prompt_of]
        self.slots = int(counts.max())

    def read(self, model: PreTrainedModel, ids: Tensor, positions: Tensor, step: int) -> Tensor:  # noqa: ARG002
        """Read a token of each row, (rows, 1); the logits after it, (rows, V)."""
        logits: Tensor = model(
            input_ids=ids, position_ids=positions, past_key_values=self.cache, use_cache=True, shared_prompts=self
        ).logits
        return logits[:, -1]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention over the common beginning, the prompt and the t own tokens.

        Args:
            query: scaled queries, R for each head of keys, (rows, H, R, D).
            key, value: of the own tokens, (rows, H, t, D).
        """
        per_head = query.shape[2]
        prompt_keys, prompt_values = self.layers[layer]
        of_prompt = self._by_row(self._by_prompt(query) @ prompt_keys + self.bias, per_head)
        scores = [of_prompt, query @ key.transpose(-1, -2)]
        common_keys, common_values = self.common[layer]
        if self.beginning:
            scores.append(_for_all_rows(query, common_keys))
        sizes = [own.shape[-1] for own in scores]
        # A CPU takes half the time for the exponentials of 16 bits in float32; float32 and float64 stay as they are.
        dtype = torch.promote_types(query.dtype, torch.float32)
        attention = torch.cat(scores, -1).softmax(-1, dtype=dtype).to(query.dtype)
        on_prompt, on_own, *on_common = attention.split(sizes, -1)
        attended: Tensor = self._by_row(self._by_prompt(on_prompt) @ prompt_values, per_head) + on_own @ value
        return attended + _for_all_rows(on_common[0], common_values) if self.beginning else attended

    def _by_prompt(self, rows: Tensor) -> Tensor:
        """(rows, H, R, X) as (Q, H, slots × R, X), zeros where a slot is empty."""
        slots = rows.new_zeros((len(self.bias), self.slots, *rows.shape[1:]))
        slots[self.prompt_of, self.slot_of] = rows
        by_prompt: Tensor = slots.transpose(1, 2).flatten(2, 3)
        return by_prompt

    def _by_row(self, prompts: Tensor, per_head: int) -> Tensor:
        """(Q, H, slots × R, X) as (rows, H, R, X)."""
        by_slot: Tensor = prompts.unflatten(2, (self.slots, per_head)).transpose(1, 2)
        return by_slot[self.prompt_of, self.slot_of]


def _for_all_rows(rows: Tensor, matrices: Tensor) -> Tensor:
    """(rows, H, R, X) times (H, X, Y), which all rows share, as one product for each head: (rows, H, R, Y)."""
    count, _heads, per_head, _width = rows.shape
    products: Tensor = (rows.transpose(0, 1).flatten(1, 2) @ matrices).unflatten(1, (count, per_head))
    return products.transpose(0, 1)


def _shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001
    *,
    shared_prompts: _SharedPrompts,
    scaling: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """The attention of one new token a row, (rows, heads, 1, D), as transformers calls it; (rows, 1, heads, D)."""
    rows, heads, _one, width = query.shape
    scaling = width**-0.5 if scaling is None else scaling
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], width) * scaling
    layer: object = module.layer_idx
    assert isinstance(layer, int)
    attended = shared_prompts.attend(layer, grouped, key, value)
    return attended.reshape(rows, 1, heads, width), None


AttentionInterface.register(SHARED_PREFIX, _shared_prefix_attention)


class _PreallocatedLayer(DynamicLayer):
    """Keys and values of one layer in buffers of full length, so that no step copies earlier ones."""

    def __init__(self, keys: Tensor, values: Tensor, room: int) -> None:
        super().__init__()
        self.dtype, self.device = keys.dtype, keys.device
        self.length = keys.shape[-2]
        self.room = self.length + room
        self._keys, self._values = self._buffer(keys), self._buffer(values)
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
        assert self.keys is not None
        assert self.values is not None
        self._keys, self._values = self._buffer(self.keys[indices]), self._buffer(self.values[indices])
        self.keys, self.values = self._keys[..., : self.length, :], self._values[..., : self.length, :]

    def _buffer(self, states: Tensor) -> Tensor:
        """A buffer for all tokens, filled with the states of the first ones."""
        buffer = states.new_empty((*states.shape[:-2], self.room, states.shape[-1]))
        buffer[..., : self.length, :] = states
        return buffer


def _keys_and_values(cache: DynamicCache) -> list[tuple[Tensor, Tensor]]:
    """The keys and values of each layer, (rows, H, t, D) each."""
    pairs = []
    for layer in cache.layers:
        assert isinstance(layer, CacheLayerMixin)
        assert layer.keys is not None
        assert layer.values is not None
        pairs.append((layer.keys, layer.values))
    return pairs


def _preallocated(layers: Sequence[tuple[Tensor, Tensor]], room: int) -> Cache:
    """A cache that begins with these keys and values, (rows, H, t, D) each, and has room for `room` more tokens."""
    return Cache(layers=[_PreallocatedLayer(keys, values, room) for keys, values in layers])
