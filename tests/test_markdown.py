"""The one writer of Markdown tables."""

from rkd.markdown import markdown_table


def test_numbers_are_aligned_to_the_right_of_a_column_of_text():
    assert markdown_table(["model", "n"], [["Ours", 80], ["SFT", None]]).splitlines() == [
        "| model | n |",
        "| --- | ---: |",
        "| Ours | 80 |",
        "| SFT | None |",
    ]


def test_a_table_may_have_several_columns_of_text_and_no_row():
    assert markdown_table(["group", "row", "n"], [], text_columns=2) == "| group | row | n |\n| --- | --- | ---: |"
