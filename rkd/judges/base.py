"""What all judges have in common: the judge of a configuration, the judge with its model loaded, and its verdicts."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeGuard, TypeVar

from rkd.data.judge_prompts import VerdictPrompt
from rkd.data.prompts import PromptTemplate
from rkd.generation.endpoint_server import Advance, EndpointModel, no_advance
from rkd.protocols import Judge
from rkd.records import Checkpoint, Query, Response
from rkd.store.partial_results import PartialResults

REMEMBERED = 100_000  # verdicts: those of some hundred rollouts, in tens of megabytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """P(Yes) / (P(Yes) + P(No)), and how much of the next token's probability these two have together, `mass`.

    Of a judge that has no such token `score` is what it says instead, in [0, 1], and `mass` None.
    """

    score: float
    mass: float | None = None


class OpenJudge(Judge, Protocol):
    """A judge whose model is loaded."""

    def verdicts(self, queries: Sequence[Query], responses: Sequence[Response]) -> Sequence[Verdict | None]:
        """The verdict on each response, `queries[i]` being the query of `responses[i]`; None where it is unreadable."""
        ...


class ConfiguredJudge(Protocol):
    """The judge of a configuration, its model not loaded yet. What it says of itself here holds of most."""

    is_left_out: ClassVar[Literal[False]] = False
    asks_model: ClassVar[bool] = True
    """Whether a verdict costs anything."""
    shares_prompts: ClassVar[bool] = False
    """Whether responses to a query share the reading of their prompt."""
    is_single_token: ClassVar[bool] = False
    """Whether its verdict is one token; as an annotator it then compares two responses, others grade each."""
    annotates: ClassVar[bool] = False
    """Whether it can say which of two responses is better."""
    without_model: ClassVar[str] = "a program, no model is asked"
    """What an estimate says of a judge that asks no model."""
    threshold: float = 0.5
    """It calls a response right whose score is above."""

    name: str

    @property
    def is_remote(self) -> bool:
        """Whether its model is behind a server."""
        return False

    @property
    def reply_tokens(self) -> int:
        """Tokens that a verdict writes, at most."""
        return int(self.asks_model)

    def content(self) -> dict[str, Any]:
        """What decides its verdicts."""
        ...

    def open(self, advance: Advance = ...) -> OpenJudge:
        """The judge, its model loaded; `advance` is called with the number of responses just judged."""
        ...


class ModelJudge(ConfiguredJudge, Protocol):
    """A judge that asks a model."""

    @property
    def prompt(self) -> VerdictPrompt | PromptTemplate:
        """How it is asked; of a judge by likelihood, how the query is put to it."""
        ...

    def source(self) -> Checkpoint | EndpointModel:
        """Its model."""
        ...

    def weights(self) -> int:
        """How many weights work here."""
        ...


def asks_model(judge: "ConfiguredJudge | NoJudge") -> TypeGuard[ModelJudge]:
    """Whether it asks a model: there is a judge, and it does not know the answers itself."""
    return judge.asks_model


class RemoteJudge(ConfiguredJudge, Protocol):
    """A judge behind a server."""

    def open(self, advance: Advance = ..., partial: PartialResults | None = None) -> OpenJudge:
        """The judge; what it is answered is kept in `partial`, if there is that."""
        ...


def _is_remote(judge: ConfiguredJudge) -> TypeGuard[RemoteJudge]:
    return judge.is_remote


def open_judge(
    judge: "ConfiguredJudge | NoJudge", advance: Advance = no_advance, partial: PartialResults | None = None
) -> OpenJudge:
    """A judge, its model loaded; one behind a server keeps what it was answered in `partial`."""
    assert not isinstance(judge, NoJudge)  # a row that asks a judge has one
    return judge.open(advance, partial) if _is_remote(judge) else judge.open(advance)


Known = TypeVar("Known", bound=Verdict | None)


@dataclass(frozen=True)
class Remembered(Generic[Known]):
    """Verdicts by what was judged, the `limit` that were asked for last: a long training would fill the memory."""

    limit: int = REMEMBERED
    _known: dict[Hashable, Known] = field(default_factory=dict, repr=False)

    def recall(self, keys: Sequence[Hashable], read: Callable[[list[int]], Sequence[Known]]) -> list[Known]:
        """The verdict of each key; `read` is given the places of those that are not known, each once."""
        places = {key: place for place, key in reversed(list(enumerate(keys))) if key not in self._known}
        asked = sorted(places.values())
        found = dict(zip((keys[place] for place in asked), read(asked), strict=True))
        verdicts = {key: found[key] if key in found else self._known.pop(key) for key in dict.fromkeys(keys)}
        self._known.update(verdicts)  # behind all others: what comes first was not asked for the longest
        for key in list(islice(self._known, max(0, len(self._known) - self.limit))):
            del self._known[key]
        return [verdicts[key] for key in keys]


@dataclass(frozen=True)
class NoJudge:
    """No judge: pseudo-labels come from the vote, and rewards without verdicts."""

    is_left_out: ClassVar[Literal[True]] = True
    asks_model: ClassVar[Literal[False]] = False
    annotates: ClassVar[bool] = False
    is_single_token: ClassVar[bool] = False
    without_model: ClassVar[str] = "none in this row"

    def content(self) -> None:
        """There are no verdicts that anything could decide."""
