"""A recorded model that was asked each question with several prompts: files of answers enter, a teacher leaves.

The answers to the prompts vote on the label. It is a vote over prompts, not over samples of one prompt. A file has one
JSON object per line, one for each question:

    {"id": "asdiv_0", "question": "How many …?", "teachers": {"code-davinci-001": {
        "chain_of_thought": {"answer": "9", "response": "7 + 2 = 9. The answer is 9."}, "program": {"answer": "9"}}}}

A prompt without a response, as `program`, votes by the answer that was recorded, and teaches nothing. Programs are
never run. Other columns are ignored.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from rkd.data.answers import canonical_number, extract_answer
from rkd.data.jsonl import Row, id_in, question_key, rows_of, text_in, value_in
from rkd.data.recorded_responses import StoredTeacher
from rkd.io import writable
from rkd.protocols import Sampling
from rkd.records import Query, Response
from rkd.store.fingerprint import digest_of_files

FOLDER = "recorded_teachers"
PROMPTS = ("chain_of_thought", "least_to_most", "answer_only", "program", "commented_program")

_MARKS = str.maketrans("", "", "$,")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)")

_Recorded = tuple[str, str | None]
"""Text and `recorded_answer` of a `Response`."""


@dataclass(frozen=True, kw_only=True)
class RecordedModel:
    """A recorded model in the role of teacher: a `TextGenerator` over its files, which are read once.

    Args:
        name: recorded with each response and printed in tables.
        model: the name of the model in the files.
        path: the folder of the files (`*.jsonl` or `*.jsonl.gz`), or the folder that holds it as `recorded_teachers/`.
        voters: the prompts whose answers vote, each once, in the order of the votes.
        taught: those of them whose texts are taught, paired and judged.
        tested: the one of them whose answer is the model's answer in a test.
        exact_answers: True counts a recorded answer only if it is a number by itself: "9", "$9" and "1,200", but not
            "9 cents". False reads answers as those of the student are read.
    """

    is_remote: ClassVar[Literal[False]] = False
    is_recorded: ClassVar[Literal[True]] = True

    name: str
    model: str
    path: str
    voters: Sequence[str] = PROMPTS
    taught: Sequence[str] = PROMPTS[:2]
    tested: str = PROMPTS[0]
    exact_answers: bool = True

    prompt = None  # the responses were sampled elsewhere

    def __post_init__(self) -> None:
        if not self.voters or len(set(self.voters)) < len(self.voters):
            raise ValueError(f"teacher.voters={list(self.voters)}: name at least one prompt, each once.")
        others = [prompt for prompt in (*self.taught, self.tested) if prompt not in self.voters]
        if others:
            raise ValueError(
                f"teacher.taught={list(self.taught)} and teacher.tested={self.tested}: {others[0]} is none of "
                f"teacher.voters={list(self.voters)}. Add it there, or choose another."
            )

    def source(self) -> "RecordedModel":
        """Itself, in the place of a local model's checkpoint.

        Raises:
            FileNotFoundError: there are no such files.
        """
        self._files()
        return self

    def origin(self) -> str:
        """What its labels and answers are, as results and tables say it."""
        return (
            f"recorded answers; its label is a vote over {len(self.voters)} prompts, not over samples "
            f"({', '.join(self.voters)}); in tests it answers {self.tested}"
        )

    def size(self) -> str:
        """How many responses there are, in words."""
        return f"{self.source().count:,} recorded responses"

    def fingerprint(self) -> Mapping[str, Any]:
        """Its part in the fingerprint of a later stage: its content, not its path."""
        settings = {key: getattr(self, key) for key in ("name", "model", "voters", "taught", "tested", "exact_answers")}
        return {**settings, "digest": digest_of_files(self._files())}

    @property
    def count(self) -> int:
        """How many responses there are."""
        return sum(map(len, {id(own): own for own in self._rows.values()}.values()))  # each is there under two keys

    @property
    def matching(self) -> str:
        """How responses find their queries, for messages."""
        return "The columns `id` and `question` of its files must hold their ids or questions."

    def answered(self, queries: Sequence[Query]) -> int:
        """How many of the queries have a response."""
        return sum(bool(self._of(query)) for query in queries)

    def recorded(self, queries: Sequence[Query]) -> list[list[Response]]:
        """The response to each prompt that votes, for each query; an empty list if none was recorded."""
        return [
            [Response(query.id, self.name, index, text, True, None, answer) for index, (text, answer) in enumerate(own)]
            for query in queries
            for own in [self._of(query)]
        ]

    def generate(self, queries: Sequence[Query], sampling: Sampling, seed: int) -> list[list[Response]]:  # noqa: ARG002
        """The response to the prompt `tested`, for each query; temperature and seed have no effect.

        Raises:
            ValueError: a query has none, or several are wanted.
        """
        if sampling.samples_per_query > 1:
            raise ValueError(
                f"{sampling.samples_per_query} samples of {self.name} are wanted, but it was asked once with each "
                "prompt. Choose another teacher=."
            )
        place, responses = self.voters.index(self.tested), self.recorded(queries)
        if lacking := [query.id for query, own in zip(queries, responses, strict=True) if not own]:
            raise ValueError(
                f"{self.path} has no answer of {self.name} to {len(lacking)} of {len(queries)} queries (first: "
                f"{lacking[0]}). {self.matching}"
            )
        return [[own[place]] for own in responses]

    def _of(self, query: Query) -> Sequence[_Recorded]:
        """The responses in the row of the query's id or, without such a row, in that of its question."""
        names = (query.id, query.id.removeprefix(f"{query.dataset}-"), query.question)
        found = (self._rows.get(question_key(name)) for name in names)
        return next((own for own in found if own), ())

    @cached_property
    def _rows(self) -> Mapping[str, Sequence[_Recorded]]:
        """The responses of each row under the keys of its question and of its id; of equal questions, the first's."""
        rows: dict[str, Sequence[_Recorded]] = {}
        for file in self._files():
            for place, row in rows_of(file):
                try:
                    keys, own = (id_in(row, "id"), text_in(row, "question")), self._responses_in(row)
                except ValueError as error:
                    raise ValueError(
                        f"{place}: {error}. Correct or remove this row, or name another teacher.model or other "
                        "teacher.voters."
                    ) from error
                for key in keys:
                    rows.setdefault(question_key(key), own)
        return rows

    def _responses_in(self, row: Row) -> list[_Recorded]:
        """Text and recorded answer for each prompt that votes.

        Raises:
            ValueError: the model, or one of the prompts, is not in the row, or has no answer.
        """
        by_prompt = _object_in(_object_in(row, "teachers"), self.model)
        return [self._response(prompt, _object_in(by_prompt, prompt)) for prompt in self.voters]

    def _response(self, prompt: str, entry: Row) -> _Recorded:
        answer, text = value_in(entry, "answer"), entry.get("response") or ""
        if not isinstance(answer, str) or not isinstance(text, str):
            raise ValueError(f"`answer` or `response` of `{prompt}` is no text")
        text = writable(text)
        taught = text if prompt in self.taught else ""
        if self.exact_answers:
            bare = answer.translate(_MARKS).strip()
            return taught, (canonical_number(bare) if _NUMBER.fullmatch(bare) else None) or ""
        if taught:
            return taught, None
        return taught, (extract_answer(text, "") if text else canonical_number(answer)) or ""

    def _files(self) -> list[Path]:
        folder = Path(self.path).expanduser()
        folder = folder / FOLDER if (folder / FOLDER).is_dir() else folder
        files = sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")])
        if not files:
            raise FileNotFoundError(
                f"teacher.path={self.path} holds no recorded answers. Name the folder of asdiv.jsonl.gz, "
                f"multiarith.jsonl.gz and svamp.jsonl.gz, or the one with {FOLDER}/ (docs/datasets.md)."
            )
        return files


RecordedTeacher = StoredTeacher | RecordedModel


def _object_in(row: Row, column: str) -> Row:
    """The object in a column.

    Raises:
        ValueError: it is missing or no object.
    """
    # The name of a model may have dots, which `value_in` would take for a way into an object.
    if not isinstance(within := row.get(column), dict):
        raise ValueError(f"`{column}` is missing (present: {', '.join(map(str, row)) or 'nothing'})")
    return within
