"""The common base of judges: the judge of a configuration, the judge with its model loaded, and its verdicts."""

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

REMEMBERED = 100_000  # verdicts: those of hundreds of rollouts, tens of megabytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """`score` is P(Yes) / (P(Yes) + P(No)) of the next token; `mass` is P(Yes) + P(No).

    For a judge without such a token, `score` is its own score in [0, 1], and `mass` is None.
    """

    score: float
    mass: float | None = None


class OpenJudge(Judge, Protocol):
    """A judge whose model is loaded."""

    def verdicts(self, queries: Sequence[Query], responses: Sequence[Response]) -> Sequence[Verdict | None]:
        """The verdict on each response; `queries[i]` is the query of `responses[i]`. None where it is unreadable."""
        ...


@dataclass(frozen=True)
class WithoutGaps:
    """A judge for a dry pass: an unreadable verdict counts as 0.5, so that no stage lacks its rewards."""

    judged: OpenJudge

    def judge(self, queries: Sequence[Query], responses: Sequence[Response]) -> list[float | None]:
        """See `Judge`."""
        return [0.5 if score is None else score for score in self.judged.judge(queries, responses)]

    def verdicts(self, queries: Sequence[Query], responses: Sequence[Response]) -> Sequence[Verdict | None]:
        """See `OpenJudge`."""
        return [one or Verdict(0.5) for one in self.judged.verdicts(queries, responses)]


class ConfiguredJudge(Protocol):
    """The judge of a configuration, its model not loaded yet. The values here hold for most judges."""

    is_left_out: ClassVar[Literal[False]] = False
    asks_model: ClassVar[bool] = True
    """Whether a verdict asks a model."""
    shares_prompts: ClassVar[bool] = False
    """Whether responses to a query share the reading of their prompt."""
    is_single_token: ClassVar[bool] = False
    """Whether its verdict is one token; as an annotator it then compares two responses, others grade each."""
    annotates: ClassVar[bool] = False
    """Whether it can say which of two responses is better."""
    without_model: ClassVar[str] = "a program, no model is asked"
    """What an estimate says of a judge that asks no model."""
    threshold: float = 0.5
    """The judge calls a response right if its score is above this."""

    name: str

    @property
    def is_remote(self) -> bool:
        """Whether its model is behind a server."""
        return False

    @property
    def reply_tokens(self) -> int:
        """The most tokens that the judge writes for a verdict."""
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
        """Its prompt; for a judge by likelihood, the prompt of the query alone."""
        ...

    def source(self) -> Checkpoint | EndpointModel:
        """Its model."""
        ...

    def weights(self) -> int:
        """How many weights it has on this machine."""
        ...


def asks_model(judge: "ConfiguredJudge | NoJudge") -> TypeGuard[ModelJudge]:
    """Whether it asks a model: there is a judge, and it is not one that knows the answers."""
    return judge.asks_model


class RemoteJudge(ConfiguredJudge, Protocol):
    """A judge behind a server."""

    def open(self, advance: Advance = ..., partial: PartialResults | None = None) -> OpenJudge:
        """The judge; the server's answers are kept in `partial`, if it is given."""
        ...


def _is_remote(judge: ConfiguredJudge) -> TypeGuard[RemoteJudge]:
    return judge.is_remote


def open_judge(
    judge: "ConfiguredJudge | NoJudge", advance: Advance = no_advance, partial: PartialResults | None = None
) -> OpenJudge:
    """A judge, its model loaded; a judge behind a server keeps the server's answers in `partial`."""
    assert not isinstance(judge, NoJudge)  # a row that asks a judge has one
    return judge.open(advance, partial) if _is_remote(judge) else judge.open(advance)


Known = TypeVar("Known", bound=Verdict | None)


@dataclass(frozen=True)
class Remembered(Generic[Known]):
    """A cache of the `limit` most recently used verdicts: without a limit, a long training would fill the memory."""

    limit: int = REMEMBERED
    _known: dict[Hashable, Known] = field(default_factory=dict, repr=False)

    def recall(self, keys: Sequence[Hashable], read: Callable[[list[int]], Sequence[Known]]) -> list[Known]:
        """The verdict of each key; `read` is given the places of the unknown keys, each key once."""
        places = {key: place for place, key in reversed(list(enumerate(keys))) if key not in self._known}
        asked = sorted(places.values())
        found = dict(zip((keys[place] for place in asked), read(asked), strict=True))
        verdicts = {key: found[key] if key in found else self._known.pop(key) for key in dict.fromkeys(keys)}
        self._known.update(verdicts)  # at the end: the first entries are the least recently used
        for key in list(islice(self._known, max(0, len(self._known) - self.limit))):
            del self._known[key]
        return [verdicts[key] for key in keys]


@dataclass(frozen=True)
class NoJudge:
    """No judge: pseudo-labels come from the vote, and rewards have no verdicts."""

    is_left_out: ClassVar[Literal[True]] = True
    asks_model: ClassVar[Literal[False]] = False
    annotates: ClassVar[bool] = False
    is_single_token: ClassVar[bool] = False
    without_model: ClassVar[str] = "none in this row"
    threshold: ClassVar[float] = 0.5

    def content(self) -> None:
        """None: there are no verdicts."""
