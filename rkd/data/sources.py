"""Where queries come from: rows of the hub, of a local folder or of a generator enter, labelled queries leave.

A local folder holds one JSONL file for each split (`train.jsonl` or `train.jsonl.gz`, rows as in `rkd.data.jsonl`), the
output of `save_to_disk` (a `DatasetDict`, or one `Dataset` for each split), or files that `datasets` reads: Parquet,
Arrow, CSV, JSON, or a copy of the hub's repository. The columns are the hub's. A bad row stops the run and is named: a
silently smaller dataset would change every number of a table.
"""

import csv
import errno
import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from rkd.data.columns import Columns
from rkd.data.jsonl import Row, rows_of
from rkd.records import Query

HUB = "hub"
READ_BY_DATASETS = (".parquet", ".arrow", ".csv", ".tsv", ".json", ".jsonl", ".json.gz", ".jsonl.gz", ".jsonl.zst")
SHOWN_FILES = 10  # in an error message
WHERE = "docs/datasets.md says where it comes from"  # of a dataset that the hub lacks
STORAGE_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR)


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


def _folder_rows(dataset: StoredDataset, split: str) -> Iterable[tuple[str, Row]]:
    """Each row with its place, from the split's own file or from what `datasets` finds in the folder."""
    parent = Path(dataset.source).expanduser()
    folder = parent / dataset.name if (parent / dataset.name).is_dir() else parent
    files = [path for path in (folder / f"{split}.jsonl", folder / f"{split}.jsonl.gz") if path.is_file()]
    if files:
        return rows_of(files[0])
    if (table := folder / f"{split}.csv").is_file():
        return _rows_of_csv(table)
    if not folder.is_dir():
        raise _not_found(dataset, split, folder, "is a file" if folder.exists() else "does not exist")
    try:
        rows = _rows_in(folder, split, dataset)
    except Exception as error:  # the readers of `datasets` raise errors of many libraries
        raise _not_found(dataset, split, folder, f"cannot be read as a dataset ({_first_line(error)})") from error
    return _placed(rows, str(folder), split)


def _rows_of_csv(path: Path) -> Iterator[tuple[str, Row]]:
    """Each row of a CSV file with its place; all values are text, since an answer of 007 is not 7.

    Raises:
        ValueError: a row has another number of columns than the first line, or the file is no CSV file in UTF-8.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    columns = len(reader.fieldnames or ())
                    raise ValueError(f"another number of columns than the {columns} of the first line")
                yield f"{path}, line {reader.line_num}", row
        except (csv.Error, ValueError) as error:
            raise ValueError(
                f"{path}, line {reader.line_num}: {error}. Save it as CSV in UTF-8, with commas."
            ) from error


def _rows_in(folder: Path, split: str, dataset: StoredDataset) -> Iterable[Row]:
    """The rows of a split in a folder that `datasets` reads."""
    from datasets import load_dataset, load_from_disk  # takes seconds to import, and JSONL files do not need it

    if (folder / "dataset_dict.json").is_file():
        splits = load_from_disk(str(folder))
        if split not in splits:
            raise ValueError(f"it is a DatasetDict without this split; it has {', '.join(splits)}")
        return cast(Iterable[Row], splits[split])
    for saved in (folder / split, folder):
        if (saved / "state.json").is_file():
            rows = load_from_disk(str(saved))
            # A Dataset that was not loaded as a split does not know its name.
            if saved == folder and (name := str(rows.split or "train")) != split:
                raise ValueError(
                    f"it is one Dataset, of the split {name}; save each split in a folder of its own, as "
                    f"`dataset.save_to_disk({str(folder / split)!r})`, or all in a DatasetDict"
                )
            return cast(Iterable[Row], rows)
    # Streamed, so that no copy of the rows is made, and without the cache in the home folder.
    streamed: dict[str, Any] = {"streaming": True, "cache_dir": _scratch().name}
    if split in dataset.hub_files and (folder / dataset.hub_files[split]).is_file():
        file = str(folder / dataset.hub_files[split])
        return cast(Iterable[Row], load_dataset("json", data_files=file, split="train", **streamed))
    if not any(path.is_file() for ending in READ_BY_DATASETS for path in folder.glob(f"**/*{ending}")):
        raise ValueError("it holds no file of a known form")
    config = dataset.hub_config if (folder / "README.md").is_file() else None  # which names the configurations
    return cast(Iterable[Row], load_dataset(str(folder), config, split=split, **streamed))


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for the lock files of `datasets`, removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="rkd-")


def _not_found(dataset: StoredDataset, split: str, folder: Path, why: str) -> FileNotFoundError:
    """The error for a source without a split: what it is, what it holds, and which forms are read."""
    present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    shown = ", ".join([*present[:SHOWN_FILES], *(["…"] if len(present) > SHOWN_FILES else [])])
    return FileNotFoundError(
        f"dataset={dataset.name}, split {split}: dataset.source={folder} {why}"
        f"{f'; present: {shown}' if shown else ''}. Give the folder that holds {split}.jsonl, {split}.jsonl.gz, "
        f"{split}.parquet or {split}.csv, the output of `save_to_disk`, or {dataset.name}/ with one of them. "
        f"{'`dataset.source=hub` fetches the dataset' if dataset.hub_path else WHERE}, and `splits` in "
        "conf/dataset/queries names other splits."
    )


def _hub_rows(dataset: StoredDataset, split: str) -> Iterable[tuple[str, Row]]:
    """Each row with its place, from the hub or its local cache."""
    if dataset.hub_path is None:
        raise FileNotFoundError(
            f"dataset={dataset.name} is not on the hub in this form: set `dataset.source` to the folder that holds "
            f"{dataset.name}/{split}.jsonl or {split}.jsonl.gz. {WHERE}."
        )
    from datasets import load_dataset

    place = f"the hub ({dataset.hub_path})"
    try:
        if split in dataset.hub_files:
            file = f"hf://datasets/{dataset.hub_path}/{dataset.hub_files[split]}"
            rows = load_dataset("json", data_files=file, split="train")
        else:
            rows = load_dataset(dataset.hub_path, dataset.hub_config, split=split)
    except Exception as error:  # of `datasets`, of the network and of file systems
        is_storage = isinstance(error, OSError) and error.errno in STORAGE_ERRORS
        way_out = "Set HF_HOME to a folder that can be written" if is_storage else "Connect to the network"
        raise FileNotFoundError(
            f"dataset={dataset.name} could not be loaded from {place}, split {split}: {_first_line(error)}. {way_out}, "
            f"or set `dataset.source` to a folder that holds {dataset.name}/{split}.jsonl."
        ) from error
    return _placed(rows, place, split)


def _placed(rows: Iterable[Row], place: str, split: str) -> Iterator[tuple[str, Row]]:
    """The rows with their places.

    Raises:
        ValueError: a file is damaged; the message says after which row.
    """
    number = 0
    try:
        for number, row in enumerate(rows, start=1):
            yield f"{place}, split {split}, row {number}", row
    except Exception as error:  # streamed files are read here
        raise ValueError(
            f"{place}, split {split}: what follows row {number} cannot be read ({_first_line(error)}). Copy the file "
            "again."
        ) from error


def _first_line(error: Exception) -> str:
    """The first line of an error's message, or of its cause's, since `datasets` hides some causes."""
    cause = error.__cause__ or error
    return (str(cause) or type(cause).__name__).splitlines()[0].rstrip(".")
