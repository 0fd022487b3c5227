"""Language models as policies and as reward models: loaded models enter, modules over `ResponseBatch` leave.

Shapes: Q prompts, B = Q × G responses of T tokens, D hidden width, V vocabulary. "State t" is the hidden vector that
predicts response token t: state 0 stands on the prompt's last token, state T on the response's last one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import DynamicCache, PreTrainedModel

from rkd.batches import ResponseBatch
from rkd.loading import ModelOptions, load_classifier
from rkd.lora import adapters_off
from rkd.losses import in_chunks, token_entropy, token_logprobs

# So many logits exist at a time (256 MB in float32), in the backward pass as well, never those of all tokens.
CHUNK_ELEMENTS = 2**26

# Rows are read together while the shortest has more than this share of the longest's tokens, in passes that are not too
# small: responses to math problems have 34 tokens on average, and one in 500 runs on to the limit of 120.
ALIKE = 0.75
SMALLEST_PASS_TOKENS = 256

Pooling = Literal["last", "mean"]
"""Which states of a response a reward is read from."""


def response_states(backbone: nn.Module, batch: ResponseBatch) -> Tensor:
    """States 0 to T of every response, (B, T + 1, D); what stands behind a response's last state is 0.

    With several responses per prompt the prompt is read once and its keys and values are shared, gradients included;
    with one, prompt and response are read in one pass. Rows of alike length are read together, without the padding of
    the others.
    """
    groups, states = zip(*_read(backbone, batch), strict=True)
    if len(groups) == 1:
        return states[0]
    width = batch.response_ids.shape[1] + 1
    padded = [nn.functional.pad(own, (0, 0, 0, width - own.shape[1])) for own in states]
    return torch.cat(padded)[torch.cat(groups).argsort()]


def last_states(backbone: nn.Module, batch: ResponseBatch) -> Tensor:
    """State T of every response, (B, D), read as `response_states` reads all, of which no other is kept."""
    groups, last = [], []
    for rows, states in _read(backbone, batch):
        groups.append(rows)
        last.append(states[torch.arange(len(rows), device=rows.device), batch.response_mask[rows].sum(1)])
    return torch.cat(last)[torch.cat(groups).argsort()]


def _read(backbone: nn.Module, batch: ResponseBatch) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows of the batch in groups of alike length, and their states."""
    if backbone.is_activation_checkpointing and backbone.training:  # which keeps no cache that prompts could share
        batch = batch.with_own_prompts()
    lengths = batch.response_mask.sum(1)
    if batch.group_size == 1:
        for rows in _alike_in_length(lengths + batch.prompt_mask.sum(1), backbone):
            yield rows, _read_in_one_pass(backbone, batch.select_prompts(rows))
    else:
        prompt_states, cache = _read_prompts(backbone, batch)
        for rows in _alike_in_length(lengths, backbone):
            yield rows, _read_responses(backbone, batch, prompt_states, cache, rows)


def _alike_in_length(lengths: Tensor, backbone: nn.Module) -> list[Tensor]:
    """Indices of the rows in groups of alike `lengths` (B,), the longest first."""
    rows = torch.arange(len(lengths), device=lengths.device)
    if isinstance(next(backbone.parameters()), DTensor):  # its processes gather weights together, pass by pass
        return [rows]
    order = lengths.argsort(descending=True, stable=True)
    longest_first, starts = lengths[order].tolist(), [0]
    for row, length in enumerate(longest_first):
        longest = longest_first[starts[-1]]
        if length <= ALIKE * longest and (row - starts[-1]) * longest >= SMALLEST_PASS_TOKENS:
            starts.append(row)
    return [rows] if len(starts) == 1 else list(order.tensor_split(starts[1:]))


def _read_in_one_pass(backbone: nn.Module, batch: ResponseBatch) -> Tensor:
    """States of responses that have a prompt each."""
    positions, lengths = _positions(batch.prompt_mask), batch.prompt_mask.sum(1, keepdim=True)
    following = lengths + torch.arange(batch.response_ids.shape[1], device=lengths.device)
    hidden = backbone(
        input_ids=torch.cat([batch.prompt_ids, batch.response_ids], 1),
        attention_mask=torch.cat([batch.prompt_mask, batch.response_mask], 1).long(),
        position_ids=torch.cat([positions, following], 1),
        use_cache=False,
    ).last_hidden_state
    return hidden[:, batch.prompt_ids.shape[1] - 1 :]


def _read_prompts(backbone: nn.Module, batch: ResponseBatch) -> tuple[Tensor, DynamicCache]:
    """The last state of each prompt, (Q, 1, D), and the prompts' keys and values."""
    cache = DynamicCache()
    hidden = backbone(
        input_ids=batch.prompt_ids,
        attention_mask=batch.prompt_mask.long(),
        position_ids=_positions(batch.prompt_mask),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return hidden[:, -1:], cache


def _read_responses(
    backbone: nn.Module, batch: ResponseBatch, prompt_states: Tensor, cache: DynamicCache, rows: Tensor
) -> Tensor:
    """States of the responses at `rows`, behind prompts that have been read."""
    prompts = rows // batch.group_size
    width = max(1, int(batch.response_mask[rows].sum(1).max()))
    prompt_mask = batch.prompt_mask[prompts]
    following = prompt_mask.sum(1, keepdim=True) + torch.arange(width, device=rows.device)
    hidden = backbone(
        input_ids=batch.response_ids[rows, :width],
        attention_mask=torch.cat([prompt_mask, batch.response_mask[rows, :width]], 1).long(),
        position_ids=following,
        past_key_values=DynamicCache([(layer.keys[prompts], layer.values[prompts]) for layer in cache.layers]),
        use_cache=True,
    ).last_hidden_state
    return torch.cat([prompt_states[prompts], hidden], 1)


def _positions(prompt_mask: Tensor) -> Tensor:
    return (prompt_mask.long().cumsum(1) - 1).clamp(min=0)


@dataclass(frozen=True, slots=True)
class PolicyOutput:
    """log π(y_t) of the response tokens, (B, T) in nats; V of the states they were chosen in; entropy of the choice."""

    logprobs: Tensor
    values: Tensor | None
    entropy: Tensor | None


class Policy(nn.Module):
    """A causal language model, with so many value heads on its states, one for each reward that it is trained under.

    They start at zero: random ones would feed noise into the first advantages. The logits are divided by
    `temperature`, so that the policy is the one that is sampled from at this temperature.
    """

    def __init__(self, lm: PreTrainedModel, *, value_heads: int = 0, temperature: float = 1.0) -> None:
        super().__init__()
        self.lm, self.temperature = lm, temperature
        self.value_head = nn.Linear(lm.config.hidden_size, value_heads) if value_heads else None
        if self.value_head is not None:
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)

    def forward(self, batch: ResponseBatch, *, value_head: int = 0, with_entropy: bool = False) -> PolicyOutput:
        """Log-probabilities, values of one head and entropies of the batch's responses."""
        states, mask = response_states(self.lm.base_model, batch)[:, :-1], batch.response_mask
        values = None if self.value_head is None else self.value_head(states.float())[..., value_head]
        # Only tokens that count get logits: padding would be half of them, and they are the largest tensor.
        counted, tokens = states[mask][None], batch.response_ids[mask][None]
        chunk = max(1, CHUNK_ELEMENTS // self.lm.config.vocab_size)
        chosen = in_chunks(partial(self._choices, with_entropy=with_entropy), chunk, counted, tokens)
        logprobs, *entropy = (_unpacked(row, mask) for row in chosen)
        return PolicyOutput(logprobs, values, entropy[0].detach() if with_entropy else None)

    def _choices(self, states: Tensor, tokens: Tensor, *, with_entropy: bool) -> Tensor:
        """log π(y_t) in states (1, T, D), (1, T); `with_entropy` (2, T), below it the entropy."""
        logits = self.lm.get_output_embeddings()(states)
        if self.temperature != 1:
            logits = logits / self.temperature
        logprobs = token_logprobs(logits, tokens)
        if not with_entropy:
            return logprobs
        return torch.cat([logprobs, token_entropy(logits.detach())])


def _unpacked(values: Tensor, mask: Tensor) -> Tensor:
    """Values of the tokens that count, laid out as (B, T) with 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


class AdaptersOff(Policy):
    """A policy without its adapters: the one that its training started from, without a second copy of the weights."""

    def forward(self, batch: ResponseBatch, **options: Any) -> PolicyOutput:
        """See `Policy`."""
        with adapters_off(self.lm):
            return super().forward(batch, **options)


def without_dropout(model: nn.Module) -> None:
    """Set every dropout to zero, for a model that has to be in training mode and yet the same in each pass."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


class Scorer(nn.Module):
    """A backbone and one linear head on a response's states (METHOD 2.6); a batch to (B,).

    Args:
        model: an `AutoModelForSequenceClassification`, whose configuration says as `reward_pooling` what is read: the
            state of the "last" token, as other libraries do, or the "mean" over all tokens of the response.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: ResponseBatch) -> Tensor:
        """R(q, a) of each response, (B,), never read at padding."""
        if getattr(self.model.config, "reward_pooling", "last") == "mean":
            states, mask = response_states(self.model.base_model, batch)[:, 1:], batch.response_mask
            pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        else:
            pooled = last_states(self.model.base_model, batch)
        return self.model.score(pooled.to(self.model.score.weight.dtype)).float().squeeze(-1)

    def save_pretrained(self, folder: Path) -> None:
        """Write it as a plain `AutoModelForSequenceClassification`."""
        self.model.save_pretrained(folder)


def load_scorer(folder: str | Path, options: ModelOptions = ModelOptions(), *, placed: bool = False) -> "Scorer":
    """A reward model saved by `Scorer.save_pretrained`, or a backbone that gets a new head."""
    return Scorer(load_classifier(folder, options, placed=placed))


def new_scorer(student_folder: str | Path, pooling: Pooling = "last", options: ModelOptions = ModelOptions()) -> Scorer:
    """A reward model on the student's backbone, its head at zero: all responses start at R = 0."""
    scorer = load_scorer(student_folder, options)
    scorer.model.config.reward_pooling = pooling
    nn.init.zeros_(scorer.model.score.weight)
    return scorer
