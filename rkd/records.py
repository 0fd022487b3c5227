"""The records that stages hand to each other, and their JSONL form.

A stage takes records and returns records (or a `Checkpoint`); nothing else passes between stages. Every record is
frozen, and a file of records is one JSON object per line in UTF-8, written in order.
"""

import dataclasses
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rkd.decoding import decode

FINISHED_REASONS = ("stop", "eos", "eos_token", "end_turn", "stop_sequence")
CUT_REASONS = ("length", "max_tokens", "model_length")


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """One question put to a model: q in both papers.

    `question` is the bare question; `rkd.data.prompts` makes the text that a model sees. `gold_answer` is None in every
    label-free training split, so that no stage can read it. In an open-ended test it is the reference that responses
    are compared with. `cluster` names the problem that the question is a variant of; only statistics use it, and it is
    None for a question that stands alone.
    """

    id: str
    dataset: str
    question: str
    gold_answer: str | None = None
    category: str | None = None
    cluster: str | None = None

    def rewritten(self, rewrite: Callable[[str], str]) -> "Query":
        """The query with its texts rewritten."""
        gold = None if self.gold_answer is None else rewrite(self.gold_answer)
        return dataclasses.replace(self, question=rewrite(self.question), gold_answer=gold)


@dataclasses.dataclass(frozen=True, slots=True)
class Response:
    """One sampled text: a in paper D.

    `is_finished` is False when the text was cut before its end-of-sequence token, mostly at the length limit.
    `withheld` says why a server gave no answer: the model declined ("refusal"), a filter removed the text or a part of
    it ("content_filter"), there was no text ("empty"), or another reason that the server named (`ending_of`).
    `recorded_answer` is the answer that was recorded beside the text, "" if that is no number. The response votes and
    is tested by it. None: nothing was recorded, and the text is read.
    """

    query_id: str
    generator: str
    sample_index: int
    text: str
    is_finished: bool
    withheld: str | None = None
    recorded_answer: str | None = None

    @property
    def only_votes(self) -> bool:
        """Whether there is a recorded answer without a text: nothing can be taught, paired or judged."""
        return self.recorded_answer is not None and is_blank(self.text)

    @property
    def defect(self) -> str | None:
        """Why the text must not be taught: `withheld`, "empty", or "length" if it was cut; None for a whole text."""
        if self.withheld is not None:
            return self.withheld
        return "empty" if is_blank(self.text) else None if self.is_finished else "length"


@dataclasses.dataclass(frozen=True, slots=True)
class ScoredResponse:
    """A response with its extracted answer y and its score ℓ; `score` is None where there was no verdict."""

    response: Response
    answer: str | None
    score: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class PseudoLabel:
    """The teacher's label of one query: y* and p* of Eq. 1; `answer` is None where p* stayed below the threshold."""

    query_id: str
    answer: str | None
    consensus: float


@dataclasses.dataclass(frozen=True, slots=True)
class PreferencePair:
    """One pair of P(q), Eq. 6: the teacher scores `chosen` above `rejected`, or prefers its own text (T⁺ over S⁺)."""

    query: Query
    chosen: ScoredResponse
    rejected: ScoredResponse


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder in `save_pretrained` form, and the digest of what made it."""

    folder: Path
    digest: str

    def fingerprint(self) -> dict[str, str]:
        """Its part in the fingerprint of a later stage: its content, not its path."""
        return {"digest": self.digest}


def ending_of(reason: object) -> str:
    """Why a text ended: "stop" by itself, "length" at the limit, else the reason's name; "null" where there is none.

    Servers have several words for the first two. A text with any other reason is not finished.
    """
    if not isinstance(reason, str):
        return "null" if reason is None else type(reason).__name__
    name = re.sub(r"\W+", "_", reason[:40]).strip("_").lower() or "null"
    return "stop" if name in FINISHED_REASONS else "length" if name in CUT_REASONS else name


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: it has only white space, control characters and replaced characters."""
    return all(character == "\ufffd" or unicodedata.category(character)[0] in "ZC" for character in text)


LATER_FIELDS = ("withheld", "cluster", "recorded_answer")

Record = TypeVar("Record", Query, Response, ScoredResponse, PseudoLabel, PreferencePair)


def to_json_line(record: Record) -> str:
    """One record as one line of JSON, without the line break."""
    return json.dumps(dataclasses.asdict(record, dict_factory=_fields), ensure_ascii=False)


def _fields_of_digest(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The fields that decide what a stage makes of a record: all but `cluster`."""
    return {name: value for name, value in _fields(pairs).items() if name != "cluster"}


def _fields(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The fields without None in those that came later, so that digests of older records stay the same."""
    return {name: value for name, value in pairs if name not in LATER_FIELDS or value is not None}


def write_jsonl(path: Path, records: Iterable[Record]) -> None:
    """Write records to `path`, one line each; the folder must exist."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(to_json_line(record) + "\n" for record in records)


def read_jsonl(path: Path, record_type: type[Record]) -> list[Record]:
    """Read records in file order.

    Raises:
        ValueError: a line is no JSON object with this record's fields; the message names file and line.
    """
    records = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                records.append(decode(record_type, json.loads(line)))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}, is no {record_type.__name__}: {error}") from error
    return records


def digest_of(records: Sequence[Record]) -> str:
    """SHA-256 of the records' JSONL form without clusters, as 16 hexadecimal digits."""
    sha = hashlib.sha256()
    for record in records:
        line = json.dumps(dataclasses.asdict(record, dict_factory=_fields_of_digest), ensure_ascii=False)
        sha.update(line.encode() + b"\n")
    return sha.hexdigest()[:16]
