"""Files that are written as a whole, and texts that are safe to show."""

import json

import pytest

from rkd.io import json_line, read_rows, readable, write_rows

# An escape sequence, C1's start of one, a line separator, and a mark that turns the direction of text.
STEERING = "a\x1b[31mb\x9b0mc\u2028d\u202ee\x7f\x85f"


def test_a_text_to_read_has_no_character_that_steers_a_terminal():
    assert readable(STEERING, 100) == r"a\x1b[31mb\x9b0mc\u2028d\u202ee\x7f\x85f"
    assert readable("two\nlines\tand été 数", 100) == "two\nlines\tand été 数"


@pytest.mark.parametrize(("text", "shown"), [("12345", "12345"), ("123456", "12345… [1 more characters]")])
def test_a_long_text_is_cut_at_its_limit(text, shown):
    assert readable(text, 5) == shown


def test_a_line_of_json_holds_the_same_text_without_such_characters():
    line = json_line({"text": STEERING + "\né"})
    assert line.isprintable() is False  # its line break
    assert line[:-1].isprintable()
    assert "é" in line
    assert json.loads(line) == {"text": STEERING + "\né"}


def test_rows_come_back_whatever_line_separators_their_texts_have(tmp_path):
    rows = [{"text": STEERING}, {"text": "b"}]
    write_rows(tmp_path / "rows", rows)
    assert read_rows(tmp_path / "rows") == rows
    # Files of a time before such characters were escaped.
    (tmp_path / "older").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    assert read_rows(tmp_path / "older") == rows
