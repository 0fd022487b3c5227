"""Texts to padded tensors: prompts and responses enter, a `ResponseBatch` leaves.

Shapes: Q prompts of P tokens, padded on the left so that every prompt ends where its response begins; B = Q × G
responses of T tokens, padded on the right. Rows i·G … (i+1)·G − 1 answer prompt i. A mask is True where a token counts:
`response_mask` where a model reads one, `chosen_mask` where the policy chose it.

Only masks say what is padding. No token is reserved for it: `FILL` is an ordinary token of some vocabularies.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

FILL = 0
"""Stands where a mask is False: a number that every vocabulary has, and that is read nowhere."""


@dataclasses.dataclass(frozen=True, slots=True)
class ResponseBatch:
    """Prompts, and the responses on which a model is evaluated.

    `prompt_ids`, `prompt_mask` are (Q, P); `response_ids`, `response_mask`, `chosen_mask` (B, T). The end-of-sequence
    token of a finished response counts as one of its tokens. `chosen_mask` leaves out the tokens of a response that a
    calculator wrote: losses and log-probabilities are about the others. `sampler_logprobs`, (B, T), are the
    log-probabilities by which the tokens were drawn, from a sampler that tells them.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor
    chosen_mask: Tensor
    sampler_logprobs: Tensor | None = None

    @property
    def group_size(self) -> int:
        """G: responses per prompt."""
        return len(self.response_ids) // len(self.prompt_ids)

    @property
    def prompt_count(self) -> int:
        """Q: prompts."""
        return len(self.prompt_ids)

    @property
    def weight(self) -> int:
        """Number of tokens that the policy chose, over which a loss is a mean."""
        return int(self.chosen_mask.sum())

    @property
    def tokens(self) -> int:
        """Number of tokens of prompts and responses."""
        return int(self.prompt_mask.sum() + self.response_mask.sum())

    def to(self, device: torch.device) -> "ResponseBatch":
        """The same batch on another device."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        moved: dict[str, Any] = {name: None if one is None else one.to(device) for name, one in own.items()}
        return ResponseBatch(**moved)

    def rows(self) -> list[list[int]]:
        """For every response, the tokens of its prompt and then its own."""
        prompts = _counted(self.prompt_ids, self.prompt_mask)
        return [prompts[row // self.group_size] + response for row, response in enumerate(self.response_rows())]

    def response_rows(self) -> list[list[int]]:
        """The tokens of every response."""
        return _counted(self.response_ids, self.response_mask)

    def select_prompts(self, indices: Tensor) -> "ResponseBatch":
        """The prompts at `indices` and all their responses, with no more padding than they need."""
        rows = self.rows_of(indices)
        prompt_mask, response_mask = self.prompt_mask[indices], self.response_mask[rows]
        prompt_length = max(1, int(prompt_mask.sum(1).max()))
        response_length = max(1, int(response_mask.sum(1).max()))
        return ResponseBatch(
            self.prompt_ids[indices, -prompt_length:],
            prompt_mask[:, -prompt_length:],
            self.response_ids[rows, :response_length],
            response_mask[:, :response_length],
            self.chosen_mask[rows, :response_length],
            None if self.sampler_logprobs is None else self.sampler_logprobs[rows, :response_length],
        )

    def with_chosen(self, is_chosen: Sequence[Sequence[bool]]) -> "ResponseBatch":
        """The same batch; `is_chosen` says for each token of each response whether the policy chose it."""
        chosen_mask = pad(is_chosen, left=False)[0].bool().to(self.response_mask.device)
        return dataclasses.replace(self, chosen_mask=chosen_mask)

    def rows_of(self, indices: Tensor) -> Tensor:
        """The rows of the responses to the prompts at `indices`."""
        group = torch.arange(self.group_size, device=indices.device)
        return (indices[:, None] * self.group_size + group).flatten()


class TextTokenizer(Protocol):
    """The part of a Hugging Face tokenizer that turns texts into tokens."""

    def __call__(
        self, texts: list[str], /, *, add_special_tokens: bool = ..., return_special_tokens_mask: bool = ...
    ) -> Mapping[str, list[list[int]]]:
        """The tokens of each text as `input_ids`; `special_tokens_mask` is 1 for those that its text does not hold."""
        ...


class Divisible(Protocol):
    """Data that can be trained on in parts: a batch, or tensors that belong to one."""

    @property
    def prompt_count(self) -> int:
        """Q: prompts."""
        ...

    @property
    def weight(self) -> int:
        """Number of items that a loss is a mean over."""
        ...

    @property
    def tokens(self) -> int:
        """Number of tokens that a model reads."""
        ...

    def select_prompts(self, indices: Tensor) -> Self:
        """The part that belongs to the prompts at `indices`."""
        ...


Part = TypeVar("Part", bound=Divisible)


def in_parts(batch: Part, count: int) -> list[tuple[float, Part]]:
    """The batch in `count` parts, or fewer if it has fewer prompts, each with its share of the weight."""
    count = min(count, batch.prompt_count)
    if count < 2:
        return [(1.0, batch)]
    # Parts take prompts in turn: neighbours often have similar lengths, and the parts should take the same time.
    parts = [batch.select_prompts(torch.arange(start, batch.prompt_count, count)) for start in range(count)]
    total = sum(part.weight for part in parts)
    return [(part.weight / total, part) for part in parts]


def pad(rows: Sequence[Sequence[int]], pad_id: int = FILL, *, left: bool) -> tuple[Tensor, Tensor]:
    """Token rows as one tensor, filled up with `pad_id`, and its mask; (B, longest row) each."""
    width = max(1, max(map(len, rows), default=1))
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for row, tokens in enumerate(rows):
        span = slice(width - len(tokens), width) if left else slice(0, len(tokens))
        ids[row, span] = torch.as_tensor(tokens, dtype=torch.long)
        mask[row, span] = True
    return ids, mask


def _counted(ids: Tensor, mask: Tensor) -> list[list[int]]:
    """The tokens of each row where the mask is True."""
    return [own[counts].tolist() for own, counts in zip(ids.cpu().numpy(), mask.cpu().numpy(), strict=True)]


def join(batches: Sequence[ResponseBatch], pad_id: int = FILL) -> ResponseBatch:
    """Batches of one group size as a single batch, padded to the longest prompt and response."""

    def joined(field: str, value: int, *, left: bool) -> Tensor:
        rows = [getattr(batch, field) for batch in batches]
        width = max(own.shape[1] for own in rows)
        missing = [width - own.shape[1] for own in rows]
        sides = [(count, 0) if left else (0, count) for count in missing]
        padded = [torch.nn.functional.pad(own, side, value=value) for own, side in zip(rows, sides, strict=True)]
        return torch.cat(padded)

    return ResponseBatch(
        joined("prompt_ids", pad_id, left=True),
        joined("prompt_mask", False, left=True),
        joined("response_ids", pad_id, left=False),
        joined("response_mask", False, left=False),
        joined("chosen_mask", False, left=False),
        None if batches[0].sampler_logprobs is None else joined("sampler_logprobs", 0, left=False),
    )


def encode(tokenizer: TextTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text, with the special tokens that the tokenizer puts before a text.

    Those that it puts after a text, as with `add_eos_token`, are left out: a response follows.
    """
    if not texts:
        return []
    # One more text that is not empty: where nothing stands between, what stands before is counted as if it came after.
    encoded = tokenizer([*texts, "a"], return_special_tokens_mask=True)
    masks = encoded["special_tokens_mask"]
    after = min(len(list(itertools.takewhile(bool, reversed(is_added)))) for is_added in masks)
    return [row[: len(row) - after] for row in encoded["input_ids"][:-1]]


def encode_responses(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], is_finished: Sequence[bool], end_id: int | None = None
) -> list[list[int]]:
    """The tokens of each response, ended by `end_id` where the response is finished.

    Args:
        end_id: the token that ends a response; None: the end of sequence.
    """
    # A special token that a text spells out is text: it must not end the response.
    options = {"add_special_tokens": False, "split_special_tokens": True}
    rows = tokenizer(list(texts), **options)["input_ids"] if texts else []
    end = tokenizer.eos_token_id if end_id is None else end_id
    return [row + [end] * done for row, done in zip(rows, is_finished, strict=True)]


def decode(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]], end_ids: Sequence[int]) -> list[str]:
    """The text of each row up to the first of `end_ids`, without special tokens; blanks stay as they were written."""
    ends = set(end_ids)
    texts = [list(itertools.takewhile(lambda token: token not in ends, row)) for row in rows]
    return tokenizer.batch_decode(texts, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def collate(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    pad_id: int = FILL,
    is_chosen: Sequence[Sequence[bool]] | None = None,
) -> ResponseBatch:
    """Token rows as a batch; the number of responses must be a multiple of the number of prompts.

    Args:
        is_chosen: for each token of each response, whether the policy chose it; None: it chose all.

    Raises:
        ValueError: it is no multiple.
    """
    if not prompts or len(responses) % len(prompts):
        raise ValueError(f"{len(responses)} responses cannot be shared out to {len(prompts)} prompts.")
    response_ids, response_mask = pad(responses, pad_id, left=False)
    batch = ResponseBatch(*pad(prompts, pad_id, left=True), response_ids, response_mask, response_mask)
    return batch if is_chosen is None else batch.with_chosen(is_chosen)
