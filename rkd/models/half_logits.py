"""Log-probabilities from logits in bfloat16 or float16: computed in float32 a few tokens at a time.

The backward pass computes the probabilities again from the logits, so that nothing as large as the logits exists in
float32. Shapes: T tokens, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

ELEMENTS_AT_ONCE = 2**22  # in float32: 16 MB, which a processor's cache holds


def half_choices(logits: Tensor, tokens: Tensor, temperature: float, *, with_entropy: bool) -> Tensor:
    """log π(y_t), (1, T) in float32, for π = softmax(z / temperature); `with_entropy` adds its entropy, (2, T).

    Only the log-probabilities carry a gradient.

    Args:
        logits: z, (T, V).
        tokens: y, (T,).
    """
    logprobs, entropy = _Choices.apply(logits, tokens, temperature, with_entropy)
    return torch.stack([logprobs, entropy] if with_entropy else [logprobs])


class _Choices(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, tokens: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        logprobs, entropy, normalizer = logits.new_empty(3, len(logits), dtype=torch.float32)
        for rows in _slices(logits):
            scaled = _scaled(logits[rows], temperature)
            normalizer[rows] = scaled.logsumexp(-1)
            logprobs[rows] = scaled.gather(-1, tokens[rows, None])[:, 0] - normalizer[rows]
            if with_entropy:
                probabilities = (scaled - normalizer[rows, None]).exp_()
                # A forbidden token has the logit −∞, and 0 · −∞ would be NaN.
                mean = probabilities.mul_(scaled.clamp_(min=torch.finfo(torch.float32).min)).sum(-1)
                entropy[rows] = normalizer[rows] - mean
        ctx.save_for_backward(logits, tokens, normalizer)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        logits, tokens, normalizer = ctx.saved_tensors
        of_logits = torch.empty_like(logits)
        factors = gradient / ctx.temperature
        for rows in _slices(logits):
            # dlog π(y) / dz_v = 1[v = y] − π(v)
            own = _scaled(logits[rows], ctx.temperature).sub_(normalizer[rows, None]).exp_()
            own.mul_(-factors[rows, None]).scatter_add_(-1, tokens[rows, None], factors[rows, None])
            of_logits[rows] = own
        return of_logits, None, None, None


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    return logits.to(torch.float32, copy=True).div_(temperature)


def _slices(logits: Tensor) -> Iterator[slice]:
    size = max(1, ELEMENTS_AT_ONCE // logits.shape[1])
    return (slice(start, start + size) for start in range(0, len(logits), size))
