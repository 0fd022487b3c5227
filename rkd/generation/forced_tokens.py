"""Tokens that a decode loop writes in place of the model's, such as the results of a calculator."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


class ForcedTokens:
    """The tokens that are still to be written to the samples of one batch.

    Args:
        after: the tokens that must follow a row of tokens; none where the model goes on.
        triggers: the only tokens behind which `after` gives any.
    """

    def __init__(self, after: Callable[[Sequence[int]], Sequence[int]], triggers: Iterable[int]) -> None:
        self.after = after
        self.triggers = torch.tensor(sorted(triggers))
        self.waiting: dict[int, list[int]] = {}  # by sample, the next token last

    def replace(self, chosen: Tensor, samples: Tensor, written: Tensor) -> Tensor:
        """The next token of each sample, (samples,): `chosen`, which the model has chosen, or a forced one.

        Args:
            samples: the number of each sample, (samples,).
            written: its tokens so far, (samples, T).
        """
        if not written.shape[1]:
            return chosen
        for place in torch.isin(written[:, -1], self.triggers.to(written.device)).nonzero()[:, 0].tolist():
            if forced := self.after(written[place].tolist()):
                self.waiting[int(samples[place])] = list(reversed(forced))
        if not self.waiting:
            return chosen
        chosen = chosen.clone()
        for place, sample in enumerate(samples.tolist()):
            if waiting := self.waiting.get(sample):
                chosen[place] = waiting.pop()
        self.waiting = {sample: waiting for sample, waiting in self.waiting.items() if waiting}
        return chosen
