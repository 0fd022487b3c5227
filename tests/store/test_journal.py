"""The journal: whatever ended a process, whole rows come back and nothing else."""

import multiprocessing

import pytest

from rkd.store.journal import Journal
from rkd.store.partial_results import PartialResults

ROWS = [{"key": "a", "text": "ü\n\u2028"}, {"key": "b", "text": ""}]


def test_rows_come_back_in_order_and_a_file_comes_with_the_first(tmp_path):
    journal = Journal(tmp_path / "new" / "rows")
    assert journal.rows() == []
    assert not journal.path.exists()
    for row in ROWS:
        journal.append(row)
    assert Journal(journal.path).rows() == ROWS


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_row_that_was_cut_is_dropped_and_later_ones_are_not_joined_to_it(tmp_path, cut):
    journal = Journal(tmp_path / "rows")
    for row in ROWS:
        journal.append(row)
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-cut])
    kept = [row for row in ROWS if row in journal.rows()]
    assert kept == ROWS[: whole[:-cut].count(b"}")]
    journal.append({"key": "c"})
    assert journal.rows() == [*kept, {"key": "c"}]


def _append(path, name):
    for number in range(200):
        Journal(path).append({"key": f"{name}-{number}", "text": "x" * 5000})


def test_processes_do_not_cut_each_others_rows(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_append, args=(tmp_path / "rows", name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len({row["key"] for row in Journal(tmp_path / "rows").rows()}) == 400


def test_a_stages_journal_goes_with_its_progress_and_its_clock_is_kept(tmp_path):
    partial = PartialResults(tmp_path / "stage")
    partial.journal("requests").append(ROWS[0])
    partial.keep_clock()
    again = PartialResults(tmp_path / "stage")
    assert again.attempts == 2
    assert again.journal("requests").rows() == ROWS[:1]
    again.remove()
    assert not (tmp_path / "stage").exists()
