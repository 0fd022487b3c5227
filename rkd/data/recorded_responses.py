"""Recorded responses as a teacher: a file of texts enters, a `TextGenerator` over them leaves.

Responses that a model behind an endpoint or another tool gave, or that a public record has, teach as those of a local
model do: through labels, SFT and the later stages. The file has one JSON object per line, one for each response:

    {"query": "How many …?", "response": "Step 1: …\\nThe answer is 5.", "is_finished": true}

`query` is the question's text, or its id with or without the dataset's name before it ("svamp-chal-7", "chal-7", 7);
`is_finished` may be missing, and is false where the text was cut at a length limit. A server's `finish_reason` is read
as from a server: only a known word for an end is one. A response that is empty or null, was cut or withheld is kept,
counted, and never taught. Several responses to one query are its samples, in the order of the file; the first is used
as its greedy one. Other columns are ignored.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from rkd.data.jsonl import Row, id_in, question_key, rows_of, value_in
from rkd.io import writable
from rkd.protocols import Sampling
from rkd.records import Query, Response, ending_of
from rkd.store.fingerprint import digest_of_files

Rewrite = Callable[[str], str | None]

_Recorded = tuple[str, bool, str | None]
"""Text, `is_finished` and `withheld` of a `Response`."""


@dataclass(frozen=True, kw_only=True)
class StoredTeacher:
    """A file of responses in the role of teacher: a `TextGenerator` over the file, which is read once.

    Args:
        name: recorded with each response and printed in tables.
        path: the file.
        query_column: the column that says which query a response belongs to.
        response_column: the column of the text; or several if a row holds the texts of several models, which are then
            its query's samples. A dot enters a column of objects, `model.text`.
        rewrite: turns a response into the text that is taught, or into None to leave it out; None takes it as it is.
    """

    is_remote: ClassVar[Literal[False]] = False
    is_recorded: ClassVar[Literal[True]] = True

    name: str
    path: str
    query_column: str = "query"
    response_column: str | Sequence[str] = "response"
    rewrite: Rewrite | None = None

    prompt = None  # the responses were sampled elsewhere

    def __post_init__(self) -> None:
        if not self._columns:
            raise ValueError("teacher.response_column=[] names no column: give one, or the list of several.")

    def source(self) -> "StoredTeacher":
        """Itself, in the place of a local model's checkpoint.

        Raises:
            FileNotFoundError: there is no such file.
        """
        self._file()
        return self

    def size(self) -> str:
        """How many responses there are, in words."""
        return f"{self.source().count:,} recorded responses"

    def fingerprint(self) -> Mapping[str, Any]:
        """Its part in the fingerprint of a later stage: its content, not its path."""
        columns = {"query_column": self.query_column, "response_column": self._columns}
        return {"name": self.name, "digest": digest_of_files([self._file()]), **columns, "rewrite": self.rewrite}

    @property
    def count(self) -> int:
        """How many responses there are."""
        return sum(map(len, self._texts.values()))

    @property
    def matching(self) -> str:
        """How responses find their queries, for messages."""
        return (
            f"Its column `{self.query_column}` must hold their ids or questions; name another with "
            "`teacher.query_column`."
        )

    def answered(self, queries: Sequence[Query]) -> int:
        """How many of the queries have a response."""
        return sum(bool(self._of(query)) for query in queries)

    def recorded(self, queries: Sequence[Query]) -> list[list[Response]]:
        """All responses to each query; an empty list if none was recorded."""
        return [
            [Response(query.id, self.name, index, *text) for index, text in enumerate(self._of(query))]
            for query in queries
        ]

    def generate(self, queries: Sequence[Query], sampling: Sampling, seed: int) -> list[list[Response]]:  # noqa: ARG002
        """The first `sampling.samples_per_query` responses to each query; temperature and seed have no effect.

        Raises:
            ValueError: a query has fewer.
        """
        wanted, responses = sampling.samples_per_query, self.recorded(queries)
        lacking = [query.id for query, own in zip(queries, responses, strict=True) if len(own) < wanted]
        if lacking:
            raise ValueError(
                f"{self.path} has fewer than {wanted} responses to {len(lacking)} of {len(queries)} queries "
                f"(first: {lacking[0]})."
            )
        return [own[:wanted] for own in responses]

    def _of(self, query: Query) -> Sequence[_Recorded]:
        names = (query.question, query.id, query.id.removeprefix(f"{query.dataset}-"))
        return [text for key in dict.fromkeys(map(question_key, names)) for text in self._texts.get(key, ())]

    @cached_property
    def _texts(self) -> Mapping[str, Sequence[_Recorded]]:
        """The responses by the key of their query."""
        texts: dict[str, list[_Recorded]] = {}
        for place, row in rows_of(self._file()):
            try:
                query = id_in(row, self.query_column)
                responses, ended = [_response_in(row, one) for one in self._columns], _ended(row)
            except ValueError as error:
                raise ValueError(f"{place}: {error}. Correct or remove this row, or name its columns.") from error
            for response in responses:
                if (taught := self.rewrite(response) if self.rewrite else response) is not None:
                    texts.setdefault(question_key(query), []).append((taught, *ended))
        return texts

    @property
    def _columns(self) -> list[str]:
        return [self.response_column] if isinstance(self.response_column, str) else list(self.response_column)

    def _file(self) -> Path:
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"teacher.path={self.path} is no file. Name the JSONL file of the recorded responses; "
                "the head of rkd/data/recorded_responses.py describes it."
            )
        return path


def _response_in(row: Row, column: str) -> str:
    """The response in a column, "" for null; half a surrogate pair is replaced.

    Raises:
        ValueError: the column is missing or holds no text.
    """
    text = value_in(row, column)
    if text is not None and not isinstance(text, str):
        raise ValueError(f"`{column}` is {type(text).__name__} instead of text")
    return writable(text or "")


def _ended(row: Row) -> tuple[bool, str | None]:
    """`is_finished` and `withheld` of a row's responses.

    Raises:
        ValueError: `is_finished` is neither true nor false.
    """
    ending = ending_of(row["finish_reason"]) if "finish_reason" in row else "stop"
    is_finished = row.get("is_finished", ending == "stop")
    if not isinstance(is_finished, bool):
        raise ValueError(f"`is_finished` is {is_finished!r} instead of true or false")
    return is_finished and ending == "stop", None if ending in ("stop", "length") else ending
