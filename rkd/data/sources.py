"""Where queries come from: rows of the hub, of a local folder or of a generator enter, labelled queries leave.

A local folder holds one JSONL file for each split (`train.jsonl` or `train.jsonl.gz`, rows as in `rkd.data.jsonl`), or
a form that `datasets` reads: a copy of the hub's repository, or the output of `save_to_disk`. The columns are the
hub's. A bad row stops the run and is named: a silently smaller dataset would change every number of a table.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rkd.data.columns import Columns
from rkd.data.jsonl import Row, rows_of
from rkd.records import Query

HUB = "hub"


class QuerySource(Protocol):
    """Where the labelled queries of a split come from."""

    def queries(self) -> list[Query]:
        """All queries, in a fixed order, with their gold answers."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDataset:
    """Queries of a public dataset, from the hub or from a local folder.

    Args:
        name: the dataset, and the name of its subfolder.
        source: `hub`, or a folder: the one that holds the subfolder `name`, or the dataset's own.
        splits: names of the splits (and of their files without ending), read one after the other.
        columns: turns a row into a query.
        hub_path: its name on the hub; None if the hub does not have it in this form.
        hub_config: the hub's configuration, if it has several.
        hub_files: the file of each split, if the hub's repository does not name it.
    """

    name: str
    source: str
    splits: Sequence[str]
    columns: Columns
    hub_path: str | None = None
    hub_config: str | None = None
    hub_files: Mapping[str, str] = field(default_factory=dict)

    def queries(self) -> list[Query]:
        """The queries of all splits, in the order of the rows.

        Raises:
            FileNotFoundError: a split is not there; the message says which are.
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


def _folder_rows(dataset: StoredDataset, split: str) -> Iterator[tuple[str, Row]]:
    """Each row with its place, from the split's own file or from what `datasets` finds in the folder."""
    parent = Path(dataset.source).expanduser()
    folder = parent / dataset.name if (parent / dataset.name).is_dir() else parent
    files = [path for path in (folder / f"{split}.jsonl", folder / f"{split}.jsonl.gz") if path.is_file()]
    if files:
        return rows_of(files[0])
    of_datasets = ("README.md", dataset.hub_files.get(split, "README.md"), "**/*.parquet", "**/*.arrow")
    if any(path.is_file() for pattern in of_datasets for path in folder.glob(pattern)):
        return _rows_of_datasets(dataset, split, folder)
    present = ", ".join(sorted(path.name for path in folder.glob("*.jsonl*"))) if folder.is_dir() else ""
    raise FileNotFoundError(
        f"dataset={dataset.name} found no {split}.jsonl or {split}.jsonl.gz in {folder} "
        f"(present: {present or 'none'}). Set `dataset.source` to the folder that holds {dataset.name}/, or to "
        "`hub` to fetch it; the keys `splits` in conf/dataset/queries name other splits."
    )


def _hub_rows(dataset: StoredDataset, split: str) -> Iterator[tuple[str, Row]]:
    """Each row with its place, from the hub or its local cache."""
    if dataset.hub_path is None:
        raise FileNotFoundError(
            f"dataset={dataset.name} is not on the hub in this form: set `dataset.source` to the folder that holds "
            f"{dataset.name}/{split}.jsonl."
        )
    return _rows_of_datasets(dataset, split, None)


def _rows_of_datasets(dataset: StoredDataset, split: str, folder: Path | None) -> Iterator[tuple[str, Row]]:
    """Each row with its place, read by the library `datasets`; from the hub if there is no folder."""
    from datasets import load_dataset, load_from_disk  # takes seconds to import, and JSONL files do not need it

    place = f"the hub ({dataset.hub_path})" if folder is None else str(folder)
    try:
        if folder is not None and (folder / "dataset_dict.json").is_file():
            rows = load_from_disk(str(folder))[split]
        elif split in dataset.hub_files:
            root = f"hf://datasets/{dataset.hub_path}" if folder is None else folder
            rows = load_dataset("json", data_files=f"{root}/{dataset.hub_files[split]}", split="train")
        else:
            rows = load_dataset(dataset.hub_path if folder is None else str(folder), dataset.hub_config, split=split)
    except (OSError, ValueError, KeyError) as error:
        raise FileNotFoundError(
            f"dataset={dataset.name} could not be loaded from {place}, split {split}: {error}. Connect to the "
            f"network, or set `dataset.source` to a folder that holds {dataset.name}/{split}.jsonl."
        ) from error
    for number, row in enumerate(rows, start=1):
        yield f"{place}, split {split}, row {number}", row
