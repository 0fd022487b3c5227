"""Sampling from a local model: prompts enter, tokens or `Response`s leave.

One decode loop for any causal model: the prompt is read once for all its samples, finished rows leave the batch, and
each (query, sample) draws its noise from a seed of its own, so a response does not depend on its neighbours. Shapes:
Q prompts of P tokens, B = Q × G responses of at most T tokens, V vocabulary.
"""

import hashlib
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from rkd.batches import ResponseBatch, encode, pad
from rkd.models import existing_model, load_causal_lm, load_tokenizer
from rkd.prompts import PromptTemplate
from rkd.protocols import Sampling
from rkd.records import Checkpoint, Query, Response

REPOSITORY = Path(__file__).resolve().parents[1]

# Rows are dropped once this share of the batch has finished: each drop copies the cache.
FINISHED_SHARE = 0.2


@dataclass(frozen=True)
class LocalGenerator:
    """A `TextGenerator` over a model in memory.

    Args:
        name: recorded with each response.
        model: any causal language model; it is used in evaluation mode.
        tokenizer: its tokenizer, with a padding token of its own.
        prompt: how queries are put to it.
        batch_responses: responses decoded side by side.
        progress: called with the number of queries just finished.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompt: PromptTemplate
    batch_responses: int = 512
    progress: Callable[[int], None] = lambda _: None

    def generate(self, queries: Sequence[Query], sampling: Sampling, seed: int) -> list[list[Response]]:
        """See `TextGenerator`."""
        prompts = encode(self.tokenizer, [self.prompt.render(query) for query in queries])
        # Alike lengths side by side waste the least padding; the responses return in the order of the queries.
        order = sorted(range(len(queries)), key=lambda index: len(prompts[index]))
        per_batch = max(1, self.batch_responses // sampling.samples_per_query)
        stop_ids = self.tokenizer(self.prompt.stop, add_special_tokens=False)["input_ids"] if self.prompt.stop else []
        responses: list[list[Response]] = [[] for _ in queries]
        for start in range(0, len(order), per_batch):
            chosen = order[start : start + per_batch]
            batch = self.sample(
                [queries[i] for i in chosen], [prompts[i] for i in chosen], sampling, seed, stop_ids=stop_ids
            )
            finished = self.is_finished(batch)
            for row, generated in enumerate(self._decoded(batch)):
                index, sample_index = chosen[row // sampling.samples_per_query], row % sampling.samples_per_query
                text = self.prompt.response_text(generated)
                # A response that goes on to the next question is complete, whether or not that was cut.
                is_finished = finished[row] or (self.prompt.stop != "" and self.prompt.stop in generated)
                responses[index].append(Response(queries[index].id, self.name, sample_index, text, is_finished))
            self.progress(len(chosen))
        return responses

    def sample(
        self,
        queries: Sequence[Query],
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seed: int,
        *,
        stop_ids: Sequence[int] = (),
    ) -> ResponseBatch:
        """The sampled tokens of all queries in one batch, in order; `prompts` are their encoded prompts.

        A row ends at the end-of-sequence token, or after `stop_ids`, which a policy in training does not get: it has
        to learn to end by itself.
        """
        device = self.model.device
        prompt_ids, prompt_mask = pad(prompts, self.tokenizer.pad_token_id, left=True)
        uniforms = None
        if sampling.temperature > 0:
            rows = [
                _uniforms(seed, query.id, index, sampling.max_response_tokens)
                for query in queries
                for index in range(sampling.samples_per_query)
            ]
            uniforms = torch.from_numpy(np.stack(rows)).to(device)
        response_ids, response_mask = sample_tokens(
            self.model,
            prompt_ids.to(device),
            prompt_mask.to(device),
            sampling,
            uniforms=uniforms,
            eos_id=self.tokenizer.eos_token_id,
            pad_id=self.tokenizer.pad_token_id,
            stop_ids=stop_ids,
        )
        return ResponseBatch(prompt_ids.to(device), prompt_mask.to(device), response_ids, response_mask)

    def texts(self, batch: ResponseBatch) -> list[str]:
        """The decoded responses, cut where the next question would begin."""
        return [self.prompt.response_text(generated) for generated in self._decoded(batch)]

    def is_finished(self, batch: ResponseBatch) -> list[bool]:
        """Whether each response came to its end-of-sequence token."""
        eos = (batch.response_ids == self.tokenizer.eos_token_id) & batch.response_mask
        return eos.any(1).tolist()

    def _decoded(self, batch: ResponseBatch) -> list[str]:
        return self.tokenizer.batch_decode(batch.response_ids, skip_special_tokens=True)


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
    samples = sampling.samples_per_query
    rows, limit = len(prompt_ids) * samples, sampling.max_response_tokens
    lengths = prompt_mask.sum(1)
    prefilled = DynamicCache()
    logits = model(
        input_ids=prompt_ids,
        attention_mask=prompt_mask.long(),
        position_ids=(prompt_mask.long().cumsum(1) - 1).clamp(min=0),
        past_key_values=prefilled,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    cache = _preallocated(prefilled, samples, limit)
    logits = logits.repeat_interleave(samples, 0)
    positions = lengths.repeat_interleave(samples, 0)
    prompt_width = prompt_ids.shape[1]
    attention = torch.ones((rows, prompt_width + limit), dtype=torch.long, device=prompt_ids.device)
    attention[:, :prompt_width] = prompt_mask.repeat_interleave(samples, 0)
    tokens = torch.full((rows, limit), pad_id, dtype=torch.long, device=prompt_ids.device)
    mask = torch.zeros((rows, limit), dtype=torch.bool, device=prompt_ids.device)
    row_of = torch.arange(rows, device=prompt_ids.device)
    is_open = torch.ones(rows, dtype=torch.bool, device=prompt_ids.device)
    for step in range(limit):
        noise = None if uniforms is None else uniforms[row_of, step]
        chosen = choose(logits, sampling, noise)
        tokens[row_of, step] = torch.where(is_open, chosen, pad_id)
        mask[row_of, step] = is_open
        is_open = is_open & (chosen != eos_id)
        if stop_ids and step + 1 >= len(stop_ids):
            written = tokens[row_of, step + 1 - len(stop_ids) : step + 1]
            is_open = is_open & (written != torch.tensor(stop_ids, device=written.device)).any(1)
        finished = len(is_open) - int(is_open.sum())
        if step + 1 == limit or finished == len(is_open):
            break
        if finished >= FINISHED_SHARE * len(is_open):
            keep = is_open.nonzero().squeeze(1)
            row_of, chosen, positions, attention = row_of[keep], chosen[keep], positions[keep], attention[keep]
            is_open = is_open[keep]
            cache.batch_select_indices(keep)
        logits = model(
            input_ids=chosen[:, None],
            attention_mask=attention[:, : prompt_width + step + 1],
            position_ids=(positions + step)[:, None],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
    model.train(was_training)
    longest = max(1, int(mask.sum(1).max()))
    return tokens[:, :longest], mask[:, :longest]


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


def _uniforms(seed: int, query_id: str, sample_index: int, count: int) -> np.ndarray:
    """The noise of one (query, sample): a Philox stream keyed by both and the seed."""
    key = np.random.SeedSequence([seed, zlib.crc32(query_id.encode()), sample_index])
    return np.random.Generator(np.random.Philox(key)).random(count)


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """A model folder to sample from: the role of teacher or student in a config.

    Args:
        name: recorded with each response and printed in tables.
        name_or_path: a folder in `save_pretrained` form, given from the current folder or from the repository's, or
            else a name on the Hugging Face hub.
        prompt: how queries are put to it.
    """

    name: str
    name_or_path: str
    prompt: PromptTemplate

    def checkpoint(self) -> Checkpoint:
        """The folder, and a digest of its weights and vocabulary."""
        folder = self._folder()
        sha = hashlib.sha256()
        for file in sorted(folder.glob("*")):
            if file.suffix in (".safetensors", ".json"):
                sha.update(file.name.encode() + file.read_bytes())
        return Checkpoint(folder, sha.hexdigest()[:16])

    def _folder(self) -> Path:
        for folder in (Path(self.name_or_path), REPOSITORY / self.name_or_path):
            if folder.is_dir():
                return existing_model(folder)
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.name_or_path):
            raise FileNotFoundError(
                f"model {self.name}: there is no folder {self.name_or_path}. The mini models are made by "
                "`python -m rkd.pretrain`; name a folder of yours with student.name_or_path= or teacher.name_or_path=."
            )
        try:
            return Path(
                snapshot_download(self.name_or_path, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"])
            )
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"model {self.name}: {self.name_or_path} is no folder here and cannot be had from the hub ({error}). "
                "Check the name, the network and your access to it."
            ) from error


def open_generator(
    checkpoint: Checkpoint, prompt: PromptTemplate, name: str, progress: Callable[[int], None] = lambda _: None
) -> LocalGenerator:
    """A generator over the model of a checkpoint."""
    model = load_causal_lm(checkpoint.folder)
    return LocalGenerator(name, model, load_tokenizer(checkpoint.folder), prompt, progress=progress)
