"""Datasets: rows of the hub, of a local folder or of a generator enter, queries leave (paper D, section 4.1).

A training query carries no gold answer unless the row trains with labels. A file in a local folder has one JSON object
per line (UTF-8), is named after its split (`train.jsonl` or `train.jsonl.gz`) and has the fields of the hub's version.
A bad row stops the run with its file and line: a silently smaller dataset would change every number of a table.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from rkd.answers import canonical_number
from rkd.records import Query
from rkd.rows import Row, question_key, rows_of, text_in

HUB = "hub"


class QuerySource(Protocol):
    """Where the labelled queries of a split come from."""

    def queries(self) -> list[Query]:
        """All queries, in a fixed order, with their gold answers."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberColumns:
    """How a row of a word-problem dataset becomes a query: the names of its columns.

    Args:
        answer_marker: what stands before the number in the answer, as `####` in GSM8K; it must be there.
        unanswerable: the answer of rows that have none, as `None` in GSM-Plus; such rows are left out.
    """

    question: str
    answer: str
    id: str | None = None
    category: str | None = None
    answer_marker: str = ""
    unanswerable: str | None = None

    def query(self, row: Row, dataset: str, row_id: str) -> Query | None:
        """The query of one row, or None where the row has no answer by design.

        Raises:
            ValueError: the reason why the row is bad.
        """
        question, answer = text_in(row, self.question), text_in(row, self.answer)
        if answer == self.unanswerable:
            return None
        if self.answer_marker not in answer:
            raise ValueError(f"`{self.answer}` lacks the mark {self.answer_marker!r} before its number")
        number = answer.rpartition(self.answer_marker)[2] if self.answer_marker else answer
        gold_answer = canonical_number(number.strip())
        if gold_answer is None:
            raise ValueError(f"`{self.answer}` holds no number: {number.strip()[:60]!r}")
        return Query(
            id=f"{dataset}-{text_in(row, self.id) if self.id else row_id}",
            dataset=dataset,
            question=question,
            gold_answer=gold_answer,
            category=text_in(row, self.category) if self.category else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDataset:
    """Queries of a public dataset, from the hub or from a local folder.

    Args:
        name: the dataset, and the name of its subfolder.
        source: `hub`, or a folder: the one that holds the subfolder `name`, or the dataset's own.
        splits: names of the splits (and of their files without ending), read one after the other.
        columns: turns a row into a query.
        hub_path: the hub's name for it; None where the hub does not have it in this form.
        hub_config: the hub's configuration, if it has several.
    """

    name: str
    source: str
    splits: Sequence[str]
    columns: NumberColumns
    hub_path: str | None = None
    hub_config: str | None = None

    def queries(self) -> list[Query]:
        """The queries of all splits, in the order of the rows.

        Raises:
            FileNotFoundError: a split is not there; the message says what is.
            ValueError: a row is bad, an id occurs twice, or there is no row; the message says where.
        """
        rows = _hub_rows if self.source == HUB else _folder_rows
        queries: dict[str, Query] = {}
        for split in self.splits:
            for number, (place, row) in enumerate(rows(self, split)):
                try:
                    query = self.columns.query(row, self.name, f"{split}-{number}")
                except ValueError as error:
                    raise ValueError(f"{place}: {error}. Correct or remove this row.") from error
                if query is None:
                    continue
                if query.id in queries:
                    raise ValueError(f"{place}: the id {query.id!r} occurs a second time. Give each row its own id.")
                queries[query.id] = query
        if not queries:
            raise ValueError(
                f"dataset={self.name}, split {'+'.join(self.splits)}, has no questions in source={self.source}. "
                "Check that its files are complete, or set `dataset.source` to another folder or to `hub`."
            )
        return list(queries.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedDataset:
    """Queries of the generated world: `generator(split, size, seed)` makes them, each with its gold answer."""

    generator: Callable[[str, int, int], Iterable[Query]]
    split: str
    size: int
    seed: int

    def queries(self) -> list[Query]:
        """The `size` queries of the split.

        Raises:
            ValueError: the generator made another number of queries, or one id twice.
        """
        queries = list(self.generator(self.split, self.size, self.seed))
        distinct = len({query.id for query in queries})
        if not distinct == len(queries) == self.size > 0:
            raise ValueError(
                f"the generator of split {self.split!r} made {len(queries)} queries with {distinct} ids instead of "
                f"{self.size} (which must be above 0): ask for fewer, or mend the generator."
            )
        return queries


@dataclass(frozen=True, kw_only=True)
class Data:
    """The queries of one row of a table: training, validation and test.

    Args:
        name: the dataset as a table's column names it.
        training: divided into training and validation queries, unless `validation` is given.
        validation: the validation queries of a dataset that has such a split.
        tests: by the name of each test set, in the order of the report.
        source: where stored rows come from (`hub` or a folder); the parts refer to it.
        validation_fraction: share of the training rows, in (0, 1), that becomes validation.
        split_seed: draws that share, and the subsets below; it is no part of a run's seed, so all seeds share it.
        max_training_queries: at most so many, a random subset in the rows' order; None takes all.
    """

    name: str
    training: QuerySource
    tests: Mapping[str, QuerySource]
    validation: QuerySource | None = None
    source: str = HUB
    validation_fraction: float = 0.1
    split_seed: int = 0
    max_training_queries: int | None = None
    max_validation_queries: int | None = None
    max_test_queries: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"dataset.validation_fraction={self.validation_fraction}: must be between 0 and 1.")
        for which in ("max_training_queries", "max_validation_queries", "max_test_queries"):
            limit = getattr(self, which)
            if limit is not None and limit < 1:
                raise ValueError(f"dataset.{which}={limit}: must be at least 1, or null for all queries.")

    def training_queries(self, *, labelled: bool = False) -> list[Query]:
        """The queries to train on; without gold answers unless `labelled`."""
        return _labelled(_subset(self._split.training, self.max_training_queries, self.split_seed), labelled)

    def validation_queries(self, *, labelled: bool = False) -> list[Query]:
        """The queries to choose checkpoints by; without gold answers unless `labelled`."""
        return _labelled(_subset(self._split.validation, self.max_validation_queries, self.split_seed), labelled)

    def test_sets(self) -> dict[str, list[Query]]:
        """The queries of each test set, with gold answers; repeated questions stay, as in the published sets."""
        return {
            name: _subset(test.queries(), self.max_test_queries, self.split_seed) for name, test in self.tests.items()
        }

    @property
    def repeated_questions(self) -> int:
        """How many training rows were dropped because their question had occurred before."""
        return self._split.repeated

    @cached_property
    def _split(self) -> "_Split":
        queries = self.training.queries()
        first: dict[str, Query] = {}
        for query in queries:
            first.setdefault(question_key(query.question), query)
        distinct = list(first.values())
        repeated = len(queries) - len(distinct)
        if self.validation is not None:
            return _Split(distinct, self.validation.queries(), repeated)
        held_out = max(1, round(len(distinct) * self.validation_fraction))
        if held_out >= len(distinct):
            raise ValueError(
                f"dataset={self.name} has {len(distinct)} distinct training questions: too few to keep back "
                f"validation_fraction={self.validation_fraction}. Give it at least 2, or a smaller fraction."
            )
        order = np.random.default_rng(self.split_seed).permutation(len(distinct))
        return _Split(
            training=[distinct[i] for i in sorted(order[held_out:])],
            validation=[distinct[i] for i in sorted(order[:held_out])],
            repeated=repeated,
        )


@dataclass(frozen=True, slots=True)
class _Split:
    training: list[Query] = field(repr=False)
    validation: list[Query] = field(repr=False)
    repeated: int


def _subset(queries: list[Query], limit: int | None, seed: int) -> list[Query]:
    """At most `limit` queries in their order; a smaller subset lies within every larger one."""
    if limit is None or limit >= len(queries):
        return queries
    order = np.random.default_rng(seed).permutation(len(queries))
    return [queries[i] for i in sorted(order[:limit])]


def _labelled(queries: list[Query], labelled: bool) -> list[Query]:
    return list(queries) if labelled else [replace(query, gold_answer=None) for query in queries]


def _folder_rows(dataset: StoredDataset, split: str) -> Iterator[tuple[str, Row]]:
    """Each row with its place, from the one file of the split."""
    parent = Path(dataset.source).expanduser()
    folder = parent / dataset.name if (parent / dataset.name).is_dir() else parent
    files = [path for path in (folder / f"{split}.jsonl", folder / f"{split}.jsonl.gz") if path.is_file()]
    if not files:
        present = ", ".join(sorted(path.name for path in folder.glob("*.jsonl*"))) if folder.is_dir() else ""
        raise FileNotFoundError(
            f"dataset={dataset.name} found no {split}.jsonl or {split}.jsonl.gz in {folder} "
            f"(present: {present or 'none'}). Set `dataset.source` to the folder that holds {dataset.name}/, or to "
            "`hub` to fetch it."
        )
    yield from rows_of(files[0])


def _hub_rows(dataset: StoredDataset, split: str) -> Iterator[tuple[str, Row]]:
    """Each row with its place, from the hub or its local cache."""
    if dataset.hub_path is None:
        raise FileNotFoundError(
            f"dataset={dataset.name} is not on the hub in this form: set `dataset.source` to the folder that holds "
            f"{dataset.name}/{split}.jsonl."
        )
    from datasets import load_dataset  # seconds to import, and a local folder needs none of it

    place = f"hub {dataset.hub_path}, split {split}"
    try:
        rows = load_dataset(dataset.hub_path, dataset.hub_config, split=split)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"dataset={dataset.name} could not be loaded from the hub ({dataset.hub_path}, split {split}): {error}. "
            f"Connect to the network, or set `dataset.source` to a folder that holds {dataset.name}/{split}.jsonl."
        ) from error
    for number, row in enumerate(rows, start=1):
        yield f"{place}, row {number}", row
