"""The single-token judge behind a server: queries and responses enter, the share of Yes in its next token leaves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from rkd.config import AT_LEAST_1, check_ranges
from rkd.data.judge_prompts import ComparePrompt, JudgePrompt
from rkd.data.prompts import without_control_tokens
from rkd.errors import EndpointError
from rkd.generation.endpoint_client import Kept, Task, ask
from rkd.generation.endpoint_replies import FILTERED, REFUSED, logprobs_of, text_of
from rkd.generation.endpoint_server import Advance, EndpointModel, no_advance
from rkd.judges.base import ConfiguredJudge, Remembered, Verdict
from rkd.judges.single_token import verdict_of
from rkd.records import Query, Response
from rkd.store.partial_results import PartialResults


@dataclass(frozen=True, kw_only=True)
class EndpointJudge(EndpointModel, ConfiguredJudge):
    """The judge, or annotator, of a configuration; see `EndpointModel`.

    Args:
        is_hard: a verdict is 1 where Yes is likelier than No, else 0.
        top_logprobs: how many of the likeliest tokens are listed; a word below them counts as 0.
    """

    annotates: ClassVar[bool] = True
    is_single_token: ClassVar[bool] = True

    prompt: JudgePrompt | ComparePrompt
    is_hard: bool = False
    top_logprobs: int = 20

    def __post_init__(self) -> None:
        EndpointModel.__post_init__(self)
        check_ranges("judge", self, {"top_logprobs": AT_LEAST_1})

    def fingerprint(self) -> Mapping[str, Any]:
        """Its part in a fingerprint: the model by its name, not the server."""
        return self.content()

    def content(self) -> dict[str, Any]:
        """What decides its verdicts."""
        own = {"prompt": self.prompt, "is_hard": self.is_hard, "top_logprobs": self.top_logprobs}
        return {"model": EndpointModel.content(self), **own}

    def open(self, advance: Advance = no_advance, partial: PartialResults | None = None) -> "EndpointYesNo":
        """The judge; the server's answers are kept in `partial`, if it is given."""
        return EndpointYesNo(self, Kept(self.server, partial), advance)


@dataclass(frozen=True)
class EndpointYesNo:
    """A `Judge` over a server, which writes one token and lists the likeliest tokens at its position.

    Args:
        advance: called with how many responses were just judged.
        remembered: the cache of verdicts.
    """

    is_single_token: ClassVar[Literal[True]] = True

    own: EndpointJudge
    kept: Kept
    advance: Advance = no_advance
    remembered: Remembered[Verdict | None] = field(default_factory=Remembered, repr=False)

    @property
    def prompt(self) -> JudgePrompt | ComparePrompt:
        """The prompt of its judge."""
        return self.own.prompt

    def with_prompt(self, prompt: JudgePrompt | ComparePrompt) -> "EndpointYesNo":
        """The same server with another prompt; the answers to both are kept together."""
        return replace(self, own=replace(self.own, prompt=prompt), remembered=Remembered())

    def judge(self, queries: Sequence[Query], responses: Sequence[Response]) -> list[float | None]:
        """See `rkd.protocols.Judge`."""
        return [None if verdict is None else verdict.score for verdict in self.verdicts(queries, responses)]

    def verdicts(self, queries: Sequence[Query], responses: Sequence[Response]) -> list[Verdict | None]:
        """The verdict on each response; `queries[i]` is the query of `responses[i]`.

        None where neither word is among the tokens listed, or the judge declined.

        Raises:
            EndpointError: the server lists no tokens; or as `rkd.generation.endpoint_client.ask`.
        """
        keys = [(query.question, response.text) for query, response in zip(queries, responses, strict=True)]

        def read(places: list[int]) -> list[Verdict | None]:
            self.advance(len(keys) - len(places))
            tasks = [self._task(queries[place], keys[place][1]) for place in places]
            found = ask(self.own, tasks, self._read, self.kept, lambda _, note: self.advance(1, note))
            return [None if verdict is None else Verdict(*verdict) for (verdict,) in found]

        verdicts = self.remembered.recall(keys, read)
        if not self.own.is_hard:
            return verdicts
        return [one if one is None else replace(one, score=float(one.score > 0.5)) for one in verdicts]

    def _task(self, query: Query, text: str) -> Task:
        prompt = self.own.prompt.render(query.rewritten(without_control_tokens), without_control_tokens(text))
        if self.own.requests == "chat":
            listed: dict[str, Any] = {"logprobs": True, "top_logprobs": self.own.top_logprobs}
            return Task(self.own.body([{"role": "user", "content": prompt}], 1, temperature=0.0, **listed))
        return Task(self.own.body(prompt, 1, temperature=0.0, logprobs=self.own.top_logprobs))

    def _read(self, choice: Mapping[str, Any]) -> list[float | None] | None:
        """A verdict's score and mass."""
        _, ending = text_of(choice)
        if (logprobs := logprobs_of(choice)) is not None:
            verdict = verdict_of(logprobs, self.own.prompt)
            return None if verdict is None else [verdict.score, verdict.mass]
        if ending in (REFUSED, FILTERED):
            return None
        raise EndpointError(
            f"{self.own.server.base_url} lists no log-probabilities of tokens (it ignores `logprobs`), which a verdict "
            "of one token is made of. Serve the judge with vLLM, SGLang or llama.cpp, take judge.requests=completion "
            "or =chat, whichever the server lists them for, let it write a score, `judge=endpoint_written`, or take a "
            "local judge, `judge=hf judge.name_or_path=FOLDER`."
        )
