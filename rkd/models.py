"""Language models as policies and as reward models: loaded models enter, modules over `ResponseBatch` leave.

Shapes: Q prompts, B = Q × G responses of T tokens, D hidden width, V vocabulary. "State t" is the hidden vector that
predicts response token t: state 0 stands on the prompt's last token, state T on the response's last one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from rkd.attention import takes_masks
from rkd.batches import ResponseBatch
from rkd.loading import ModelOptions, load_classifier
from rkd.lora import adapters_off
from rkd.losses import in_chunks, token_entropy, token_logprobs
from rkd.trees import passes

# So many logits exist at a time (256 MB in float32), in the backward pass as well, never those of all tokens.
CHUNK_ELEMENTS = 2**26

# Tokens in a pass of several rows, at most: on a CPU what a layer makes of more does not stay in the cache.
CPU_PASS_TOKENS, PASS_TOKENS = 2**10, 2**14

Pooling = Literal["last", "mean"]
"""Which states of a response a reward is read from."""


def response_states(backbone: nn.Module, batch: ResponseBatch) -> Tensor:
    """States 0 to T of every response, (B, T + 1, D); what stands behind a response's last state is 0.

    What rows begin with alike, above all the prompt of several responses, is read once, gradients included; rows of
    alike length are read together, without the padding of the others.
    """
    rows = batch.rows()
    states, ways, count = [], [[]] * len(rows), 0
    for own, ways_of_pass in _read(backbone, rows):
        for row, way in ways_of_pass.items():
            ways[row] = [count + place for place in way]
        states.append(own)
        count += len(own)
    nothing = states[0].new_zeros(1, states[0].shape[1])  # at `count`
    width = batch.response_ids.shape[1] + 1
    lengths = batch.response_mask.sum(1).tolist()
    places = [way[-length - 1 :] + [count] * (width - length - 1) for way, length in zip(ways, lengths, strict=True)]
    return torch.cat([*states, nothing])[torch.tensor(places, device=nothing.device)]


def last_states(backbone: nn.Module, rows: Sequence[Sequence[int]]) -> Tensor:
    """The state of the last of each row's tokens, (B, D), read as `response_states` reads all; no other is kept."""
    order, last = [], []
    for states, ways in _read(backbone, rows):
        order += ways
        last.append(states[torch.tensor([way[-1] for way in ways.values()], device=states.device)])
    return torch.cat(last)[torch.tensor(order).argsort().to(last[0].device)]


def _read(backbone: nn.Module, rows: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, dict[int, list[int]]]]:
    """States of the tokens in each pass over the rows, (K · N, D), and where in them those of a row are."""
    weight = next(backbone.parameters())
    width = backbone.config.hidden_size if takes_masks(backbone.config) else None
    most_tokens = CPU_PASS_TOKENS if weight.device.type == "cpu" else PASS_TOKENS
    if isinstance(weight, DTensor):  # its processes gather weights together, pass by pass
        most_tokens = None
    for own in passes(rows, width, most_tokens):
        asked = {"input_ids": own.ids.to(weight.device)}
        if own.attended is not None:
            bias = torch.zeros(own.attended.shape, dtype=weight.dtype, device=weight.device)
            bias.masked_fill_(~own.attended.to(weight.device), torch.finfo(weight.dtype).min)
            asked |= {"attention_mask": bias, "position_ids": own.positions.to(weight.device)}
        yield backbone(**asked, use_cache=False).last_hidden_state.flatten(0, 1), own.ways


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
            pooled = last_states(self.model.base_model, batch.rows())
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
