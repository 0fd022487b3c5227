"""Engines sample from a model: a checkpoint enters, a `TextGenerator` leaves. `generation=` selects one:

    local   the decode loop of `rkd.generation.decoding`: each (query, sample) draws noise of its own, small models
            use all cores
    hf      `generate` of transformers, for comparison and for models that the loop does not know
    vllm    the vLLM engine, in an environment of its own (`rkd.generation.vllm_engine`, requirements-vllm.txt)

A policy in training is sampled by the loop, unless the engine takes over its weights after each update.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rkd.config import AT_LEAST_1, check_ranges
from rkd.data.prompts import PromptTemplate
from rkd.generation.local import LocalGenerator, end_ids, open_generator, seed_of
from rkd.models.batches import decode, pad
from rkd.models.loading import ModelOptions, load_causal_lm, load_tokenizer
from rkd.protocols import Sampling, TextGenerator
from rkd.records import Checkpoint, Query, Response

Advance = Callable[[int], None]
"""A callback that is told how many queries have just been answered."""

Drawn = tuple[str, bool]
"""A generated text, and whether the model has ended it."""


class LocalTextGenerator(TextGenerator, Protocol):
    """A generator over a model on this machine."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of its model."""
        ...


class Engine(Protocol):
    """A way of sampling from a model folder; `batches_decide`: whether samples depend on the others in their batch."""

    batches_decide: ClassVar[bool]
    is_measured: ClassVar[bool]
    """Whether the estimate of a job's time measures it."""
    takes_calculator: ClassVar[bool]
    """Whether a calculator can write into the responses."""

    @property
    def samples_policy(self) -> bool:
        """Whether it samples the rollouts of a policy in training, and tells the log-probabilities of its tokens."""
        ...

    def check(self) -> None:
        """Refuse what cannot be used here, before a job begins."""
        ...

    def open(
        self, model: Checkpoint, prompt: PromptTemplate, name: str, advance: Advance, options: ModelOptions
    ) -> LocalTextGenerator:
        """A generator over the model; `name` is recorded with each response."""
        ...

    def over(self, policy: LocalGenerator) -> AbstractContextManager[LocalGenerator]:
        """The generator of a policy in training, by this engine if it `samples_policy`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEngine:
    """The repository's own loop (`LocalGenerator`).

    Args:
        batch_responses: the most responses decoded in one batch, for a device with little memory; None:
            `rkd.generation.local.BATCH_RESPONSES`.
    """

    batches_decide: ClassVar[bool] = False
    is_measured: ClassVar[bool] = True
    takes_calculator: ClassVar[bool] = True
    samples_policy: ClassVar[bool] = False

    batch_responses: int | None = None

    def __post_init__(self) -> None:
        check_ranges("generation", self, {"batch_responses": AT_LEAST_1})

    def fingerprint(self) -> dict[str, Any]:
        """Return no settings: a sample does not depend on its batch."""
        return {}

    def check(self) -> None:
        """It can be used everywhere."""

    def open(
        self, model: Checkpoint, prompt: PromptTemplate, name: str, advance: Advance, options: ModelOptions
    ) -> LocalGenerator:
        """See `Engine`."""
        return replace(open_generator(model, prompt, name, advance, options), batch_responses=self.batch_responses)

    def over(self, policy: LocalGenerator) -> AbstractContextManager[LocalGenerator]:
        """See `Engine`."""
        return nullcontext(policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class HFEngine:
    """`generate` of transformers.

    Args:
        batch_responses: responses in a batch, which share their noise: another number gives other samples.
    """

    batches_decide: ClassVar[bool] = True
    is_measured: ClassVar[bool] = False
    takes_calculator: ClassVar[bool] = False
    samples_policy: ClassVar[bool] = False

    batch_responses: int = 256

    def __post_init__(self) -> None:
        check_ranges("generation", self, {"batch_responses": AT_LEAST_1})

    def check(self) -> None:
        """It can be used everywhere."""

    def open(
        self, model: Checkpoint, prompt: PromptTemplate, name: str, advance: Advance, options: ModelOptions
    ) -> "HFGenerator":
        """See `Engine`."""
        lm = load_causal_lm(model.folder, options, placed=True)
        return HFGenerator(name, load_tokenizer(model.folder), prompt, advance, lm, self.batch_responses)

    def over(self, policy: LocalGenerator) -> AbstractContextManager[LocalGenerator]:
        """See `Engine`."""
        return nullcontext(policy)


@dataclass(frozen=True)
class ByTemperature(ABC):
    """A `TextGenerator` over an engine that draws at one temperature at a time; its fields are `LocalGenerator`'s."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    prompt: PromptTemplate
    advance: Advance

    def generate(self, queries: Sequence[Query], sampling: Sampling, seed: int) -> list[list[Response]]:
        """See `TextGenerator`."""
        prompts = self.prompt.encode(queries, self.tokenizer)
        drawn = {}
        for temperature, count in Counter(sampling.temperatures).items():
            own = replace(sampling, temperature=temperature, samples_per_query=count)
            # Each temperature draws noise of its own: samples with the same would be alike, and their vote worth less.
            drawn[temperature] = self.draw(queries, prompts, own, seed, sampling.temperatures.index(temperature))
        responses = []
        for place, query in enumerate(queries):
            of_query = {temperature: iter(own[place]) for temperature, own in drawn.items()}
            in_turn = [next(of_query[temperature]) for temperature in sampling.temperatures]
            responses.append([self._response(query, index, *one) for index, one in enumerate(in_turn)])
        self.advance(len(queries))
        return responses

    @abstractmethod
    def draw(
        self, queries: Sequence[Query], prompts: Sequence[list[int]], sampling: Sampling, seed: int, first: int
    ) -> list[list[Drawn]]:
        """The samples of each query; `sampling` has one temperature, `first` is the index of its first sample."""

    def _response(self, query: Query, index: int, generated: str, is_finished: bool) -> Response:
        # A response that goes on to the next question is complete, even if that question was cut.
        is_complete = is_finished or (self.prompt.stop != "" and self.prompt.stop in generated)
        return Response(query.id, self.name, index, self.prompt.response_text(generated), is_complete)


@dataclass(frozen=True)
class HFGenerator(ByTemperature):
    """A `TextGenerator` over `model.generate`."""

    model: PreTrainedModel
    batch_responses: int

    def draw(
        self, queries: Sequence[Query], prompts: Sequence[list[int]], sampling: Sampling, seed: int, first: int
    ) -> list[list[Drawn]]:
        """See `ByTemperature`."""
        order = sorted(range(len(queries)), key=lambda index: len(prompts[index]))
        per_batch = max(1, self.batch_responses // sampling.samples_per_query)
        drawn: list[list[Drawn]] = [[] for _ in queries]
        for start in range(0, len(order), per_batch):
            chosen = order[start : start + per_batch]
            own = self._batch([prompts[i] for i in chosen], sampling, seed_of(seed, queries[chosen[0]].id, first))
            for place, texts in zip(chosen, own, strict=True):
                drawn[place] = texts
        return drawn

    def _batch(self, prompts: Sequence[list[int]], sampling: Sampling, seed: int) -> list[list[Drawn]]:
        ids, mask = pad(prompts, left=True)
        ends = end_ids(self.prompt, self.tokenizer, self.model.generation_config)
        temperature, samples = sampling.temperatures[0], sampling.samples_per_query
        drawn_alike = samples if temperature == 0 else 1  # greedy samples are equal
        how = {"do_sample": True, "temperature": temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        stop = {"stop_strings": self.prompt.stop, "tokenizer": self.tokenizer} if self.prompt.stop else {}
        generate: object = self.model.generate
        assert callable(generate)  # every causal language model has it
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            rows: Tensor = generate(
                input_ids=ids.to(self.model.device),
                attention_mask=mask.to(self.model.device).long(),
                num_return_sequences=samples // drawn_alike,
                max_new_tokens=sampling.max_response_tokens,
                eos_token_id=ends,
                pad_token_id=ends[0],  # what follows an end is not read
                **(how if temperature else {"do_sample": False}),
                **stop,
            )
        rows = rows[:, ids.shape[1] :]
        finished = torch.isin(rows, torch.tensor(ends, device=rows.device)).any(1).tolist()
        texts = list(zip(decode(self.tokenizer, rows.tolist(), ends), finished, strict=True))
        per_prompt = samples // drawn_alike
        return [texts[at : at + per_prompt] * drawn_alike for at in range(0, len(texts), per_prompt)]
