"""Language models as policies: a loaded model enters, a module over `ResponseBatch` leaves.

Shapes: Q prompts, B = Q × G responses of T tokens, D hidden width, V vocabulary. "State t" is the hidden vector that
predicts response token t: state 0 stands on the prompt's last token, state T on the response's last one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rkd.losses import in_chunks, kl_from_uniform, token_entropy, token_logprobs
from rkd.models.batches import ResponseBatch
from rkd.models.half_logits import half_choices
from rkd.models.hidden_states import head_values, response_states
from rkd.models.lora import adapters_off
from rkd.models.own_forward import own_logits, state_width

# The most logits that exist at a time (256 MB in float32), in the backward pass as well; twice as many in half
# precision.
CHUNK_ELEMENTS = 2**26
HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class PolicyOutput:
    """log π(y_t) of the chosen tokens in nats, the values of their states, and the entropies; (B, T) each."""

    logprobs: Tensor
    values: Tensor | None
    entropy: Tensor | None


class Policy(nn.Module):
    """A causal language model with `value_heads` value heads on its states, one for each reward of its training.

    The heads start at zero: random ones would add noise to the first advantages. The logits are divided by
    `temperature`, so that the policy is the one that is sampled from at this temperature.

    Raises:
        ModelError: its log-probabilities would differ from those of the model's own forward.
    """

    def __init__(self, lm: PreTrainedModel, *, value_heads: int = 0, temperature: float = 1.0) -> None:
        super().__init__()
        self.lm, self.temperature = lm, temperature
        width = state_width(lm)
        self.value_head = nn.Linear(width, value_heads) if value_heads else None
        if self.value_head is not None:
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)

    def forward(self, batch: ResponseBatch, *, value_head: int = 0, with_entropy: bool = False) -> PolicyOutput:
        """Log-probabilities, values of one head and entropies of the batch's responses."""
        states, mask = response_states(self.lm.base_model, batch)[:, :-1], batch.chosen_mask
        values = None if self.value_head is None else head_values(self.value_head, states)[..., value_head]
        # Only chosen tokens get logits: the logits are the largest tensor, and half of them would be padding.
        counted, tokens = states[mask][None], batch.response_ids[mask][None]
        elements = CHUNK_ELEMENTS * (2 if self._has_half_logits(states) else 1)
        chunk = max(1, elements // self.lm.config.get_text_config().vocab_size)
        chosen = in_chunks(partial(self._choices, with_entropy=with_entropy), chunk, counted, tokens)
        logprobs, *entropy = (_unpacked(row, mask) for row in chosen)
        return PolicyOutput(logprobs, values, entropy[0].detach() if with_entropy else None)

    def divergence(
        self, batch: ResponseBatch, teacher: "Policy", function: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """A divergence of this policy from a teacher at the chosen tokens, (B, T), 0 elsewhere.

        Args:
            teacher: has the same tokens; no gradient flows through it.
            function: gives the divergence of each token from the logits of both, (1, T, V) each.
        """
        mask = batch.chosen_mask
        own = response_states(self.lm.base_model, batch)[:, :-1][mask][None]
        with torch.no_grad():
            others = response_states(teacher.lm.base_model, batch)[:, :-1][mask][None]

        def of_chunk(states: Tensor, teacher_states: Tensor) -> Tensor:
            with torch.no_grad():
                teacher_logits = own_logits(teacher.lm, teacher_states[0])[None]
            return function(own_logits(self.lm, states[0])[None], teacher_logits)

        chunk = max(1, CHUNK_ELEMENTS // self.lm.config.get_text_config().vocab_size)
        return _unpacked(in_chunks(of_chunk, chunk, own, others)[0], mask)

    @torch.no_grad()
    def confidence(self, batch: ResponseBatch) -> Tensor:
        """Mean over the chosen tokens of each response of KL(uniform ‖ π), (B,), in nats, without gradient."""
        states, mask = response_states(self.lm.base_model, batch)[:, :-1], batch.chosen_mask
        chunk = max(1, CHUNK_ELEMENTS // self.lm.config.get_text_config().vocab_size)
        of_tokens = in_chunks(self._confidence, chunk, states[mask][None])
        return _unpacked(of_tokens[0], mask).sum(1) / mask.sum(1)

    def _confidence(self, states: Tensor) -> Tensor:
        """KL(uniform ‖ π) from states (1, T, D), as (1, T)."""
        return kl_from_uniform(own_logits(self.lm, states[0])[None] / self.temperature)

    def _has_half_logits(self, states: Tensor) -> bool:
        return torch.is_autocast_enabled(states.device.type) or self.lm.dtype in HALF

    def _choices(self, states: Tensor, tokens: Tensor, *, with_entropy: bool) -> Tensor:
        """log π(y_t) from states (1, T, D), as (1, T); `with_entropy` adds the entropy as a second row, (2, T)."""
        made = own_logits(self.lm, states[0])
        if made.dtype in HALF:
            return half_choices(made, tokens[0], self.temperature, with_entropy=with_entropy)
        logits = made[None]
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
    """A policy without its adapters: the policy that training started from, without a second copy of the weights."""

    def forward(self, batch: ResponseBatch, **options: Any) -> PolicyOutput:
        """See `Policy`."""
        with adapters_off(self.lm):
            return super().forward(batch, **options)


def without_dropout(model: nn.Module) -> None:
    """Set every dropout to zero, for a model in training mode that has to be the same in each pass."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010, a plain attribute: `Module` declares none but tensors
