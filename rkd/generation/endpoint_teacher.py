"""A teacher behind a server: queries enter, its responses leave, as from a local model (`rkd.stages.teacher`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rkd.data.prompts import PromptTemplate, without_control_tokens
from rkd.generation.endpoint_client import Kept, Task, ask
from rkd.generation.endpoint_replies import CUT, REFUSED, text_of
from rkd.generation.endpoint_server import Advance, EndpointModel, no_advance
from rkd.generation.local import seed_of
from rkd.protocols import Sampling
from rkd.records import Query, Response, is_blank
from rkd.store.partial_results import PartialResults


@dataclass(frozen=True, kw_only=True)
class EndpointTeacher(EndpointModel):
    """The teacher of a configuration; see `EndpointModel`.

    Args:
        prompt: how queries are put to it; a chat request shows its examples as earlier turns.
    """

    prompt: PromptTemplate

    def fingerprint(self) -> Mapping[str, Any]:
        """Its part in the fingerprint of a stage: the model by its name, not the server."""
        return {**self.content(), "prompt": self.prompt}

    def open(self, name: str, partial: PartialResults, advance: Advance = no_advance) -> "EndpointGenerator":
        """A generator that keeps the server's answers in `partial`; `name` is recorded with each response."""
        return EndpointGenerator(name, self, self.prompt, partial, Kept(self.server, partial), advance)


@dataclass(frozen=True)
class EndpointGenerator:
    """A `TextGenerator` over a server.

    Samples of a query at one temperature are requested together. Each request has a seed of its own, but servers need
    not be deterministic: two servers, or one under another load, may give different texts.

    Args:
        name: recorded with each response.
        model: which one is asked, where and how.
        prompt: how queries are put to it.
        partial: of the stage, which also counts the tokens; None: they are not counted.
        advance: called for each query that has all its responses.
    """

    name: str
    model: EndpointModel
    prompt: PromptTemplate
    partial: PartialResults | None
    kept: Kept
    advance: Advance = no_advance

    def generate(self, queries: Sequence[Query], sampling: Sampling, seed: int) -> list[list[Response]]:
        """See `TextGenerator`."""
        groups = [(place, indices) for place in range(len(queries)) for indices in _by_temperature(sampling)]
        tasks = [self._task(queries[place], sampling, indices, seed) for place, indices in groups]
        left = [len(_by_temperature(sampling))] * len(queries)

        def tell(place: int, note: str) -> None:
            query = place // len(_by_temperature(sampling))
            left[query] -= 1
            if left[query] == 0:
                self.advance(1, note)

        answers = ask(self.model, tasks, text_of, self.kept, tell)
        responses: list[dict[int, Response]] = [{} for _ in queries]  # by place: a judge asks one query several times
        for (place, indices), own in zip(groups, answers, strict=True):
            for at, index in enumerate(indices):
                text, ending = own[min(at, len(own) - 1)]  # greedy samples are equal
                responses[place][index] = self._response(queries[place], index, text, ending)
        if self.partial is not None:
            self.partial.tokens += sum(self.kept.written[key] for key in {task.key for task in tasks})
        return [[own[index] for index in sorted(own)] for own in responses]

    def _task(self, query: Query, sampling: Sampling, indices: Sequence[int], seed: int) -> Task:
        temperature, prompt = sampling.temperatures[indices[0]], self.prompt
        asked = replace(query, question=without_control_tokens(query.question))
        body = self.model.body(
            prompt.turns(asked) if self.model.requests == "chat" else prompt.render(asked),
            sampling.max_response_tokens,
            temperature=temperature,
            top_p=sampling.top_p,  # always: a server may have another default
            **({"top_k": sampling.top_k} if sampling.top_k else {}),
            **({"stop": [prompt.stop]} if prompt.stop else {}),
        )
        return Task(body, len(indices) if temperature else 1, lambda at: seed_of(seed, query.id, indices[at]))

    def _response(self, query: Query, index: int, generated: str, ending: str) -> Response:
        prompt = self.prompt
        # A response that goes on to the next question is complete, even if that question was cut.
        text, goes_on = prompt.response_text(generated), prompt.stop != "" and prompt.stop in generated
        withheld = "empty" if is_blank(text) else None
        if ending not in ("stop", CUT):
            withheld = ending
        return Response(query.id, self.name, index, text, goes_on or ending in ("stop", REFUSED), withheld)


def _by_temperature(sampling: Sampling) -> list[list[int]]:
    """The indices of a query's samples at each temperature."""
    groups: dict[float, list[int]] = {}
    for index, temperature in enumerate(sampling.temperatures):
        groups.setdefault(temperature, []).append(index)
    return list(groups.values())
