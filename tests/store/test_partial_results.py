"""What an unfinished stage has saved: the last of each name, whole or not at all."""

from pathlib import Path

import pytest

from rkd.store.partial_results import PartialResults


def save(partial: PartialResults, text: str) -> None:
    partial.save("half", lambda path: path.write_text(text))


def test_the_last_one_saved_is_found_by_another_process_and_older_ones_are_gone(tmp_path):
    for text in ("one", "two"):
        save(PartialResults(tmp_path), text)
    assert PartialResults(tmp_path).find("half").read_text() == "two"
    assert len(list(tmp_path.glob("half.*"))) == 1
    assert PartialResults(tmp_path).find("other") is None


def test_nothing_exists_before_something_is_saved(tmp_path):
    assert PartialResults(tmp_path / "progress").find("half") is None
    assert not (tmp_path / "progress").exists()


def test_a_file_that_was_cut_or_altered_is_not_found(tmp_path, caplog):
    partial = PartialResults(tmp_path)
    save(partial, "whole")
    partial.find("half").write_text("whol")
    assert partial.find("half") is None
    assert "was altered after it had been saved" in caplog.text


def test_saving_that_fails_keeps_what_was_saved_before(tmp_path):
    partial = PartialResults(tmp_path)
    save(partial, "one")
    with pytest.raises(OSError, match="No space left"):
        partial.save("half", lambda _: Path("/dev/full").write_text("two"))
    assert partial.find("half").read_text() == "one"


def test_the_time_of_earlier_attempts_counts_up_to_what_they_saved(tmp_path):
    save(PartialResults(tmp_path), "one")
    second = PartialResults(tmp_path)
    assert second.attempts == 2
    assert second.seconds() >= 0
    (tmp_path / "clock.json").write_text("{")
    assert PartialResults(tmp_path).attempts == 1


def test_what_killed_savings_left_is_removed_by_the_next(tmp_path):
    partial = PartialResults(tmp_path)
    (tmp_path / ".half.123").write_text("hal")
    save(partial, "whole")
    assert sorted(path.name[:5] for path in tmp_path.iterdir()) == ["clock", "half."]
