"""How a row of a dataset becomes a query: the names of its columns, by kind of task.

A task asks for a number (`NumberColumns`) or an option (`ChoiceColumns`), or it is an instruction, which has no answer
to compare with (`InstructionColumns`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rkd.data.answers import LETTERS, canonical_gold_answer, canonical_number
from rkd.data.jsonl import Row, id_in, text_in, value_in
from rkd.records import Query


class Columns(Protocol):
    """How a row becomes a query."""

    def query(self, row: Row, dataset: str, row_id: str) -> Query | None:
        """The query of one row, or None if the row is left out by design; `row_id` names a row without an id.

        Raises:
            ValueError: the row is bad; the message says why.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberColumns:
    """A word problem. An answer that is no single number, as "4, 10", is kept as a whole, and compared so.

    Args:
        answer_marker: the text before the number in the answer, as `####` in GSM8K; it must be there.
        unanswerable: the answer of rows that have none, as `None` in GSM-Plus; such rows are left out.
        id: columns whose values make a row's id; without any, the rows are numbered.
        cluster: the column of the problem that a question is a variant of, as `seed_question` in GSM-Plus. A row
            without this column stands alone.
        single: True leaves out rows whose answer is no single number, as ['5', '15'].
    """

    question: str
    answer: str
    id: Sequence[str] = ()
    category: str | None = None
    cluster: str | None = None
    answer_marker: str = ""
    unanswerable: str | None = None
    single: bool = False

    def query(self, row: Row, dataset: str, row_id: str) -> Query | None:
        """See `Columns`."""
        question, answer = text_in(row, self.question), text_in(row, self.answer)
        if answer == self.unanswerable:
            return None
        if self.answer_marker not in answer:
            raise ValueError(f"`{self.answer}` lacks the mark {self.answer_marker!r} before its number")
        number = answer.rpartition(self.answer_marker)[2] if self.answer_marker else answer
        gold_answer = canonical_gold_answer(number.strip())
        if gold_answer is None:
            raise ValueError(f"`{self.answer}` holds no number: {number.strip()[:60]!r}")
        if self.single and canonical_number(number.strip()) is None:
            return None
        category = text_in(row, self.category) if self.category else None
        cluster = id_in(row, self.cluster) if self.cluster is not None and self.cluster in row else None
        return Query(_id(row, self.id, dataset, row_id), dataset, question, gold_answer, category, cluster)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceColumns:
    """A question with lettered options; its text ends with "Options:" and a line for each, "(A) …"."""

    question: str
    options: str
    answer: str
    id: Sequence[str] = ()
    category: str | None = None

    def query(self, row: Row, dataset: str, row_id: str) -> Query:
        """See `Columns`."""
        options = value_in(row, self.options)
        if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
            raise ValueError(f"`{self.options}` is no list of texts")
        if not 2 <= len(options) <= len(LETTERS):
            raise ValueError(f"`{self.options}` has {len(options)} entries instead of 2 to {len(LETTERS)}")
        answer = text_in(row, self.answer).strip()
        if len(answer) != 1 or answer not in LETTERS[: len(options)]:
            raise ValueError(f"`{self.answer}` is {answer[:60]!r}, no letter of the {len(options)} options")
        lines = [f"({letter}) {option.strip()}" for letter, option in zip(LETTERS, options, strict=False)]
        question = "\n".join([text_in(row, self.question).strip(), "Options:", *lines])
        category = text_in(row, self.category) if self.category else None
        return Query(_id(row, self.id, dataset, row_id), dataset, question, answer, category)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionColumns:
    """An instruction for an open-ended task.

    Args:
        rated: the column of the list of rated responses; a row with an empty list is left out. None takes all rows.
        reference: the column of the response that others are compared with; None: there is none.
    """

    question: str
    id: Sequence[str] = ()
    category: str | None = None
    rated: str | None = None
    reference: str | None = None

    def query(self, row: Row, dataset: str, row_id: str) -> Query | None:
        """See `Columns`."""
        if self.rated and not value_in(row, self.rated):
            return None
        category = text_in(row, self.category) if self.category else None
        reference = text_in(row, self.reference) if self.reference else None
        return Query(_id(row, self.id, dataset, row_id), dataset, text_in(row, self.question), reference, category)


def _id(row: Row, columns: Sequence[str], dataset: str, row_id: str) -> str:
    own = "-".join(id_in(row, column) for column in columns) if columns else row_id
    return f"{dataset}-{own}"
