"""Win rates against the published leaderboard, and what is refused."""

import csv
import json
import math

import pytest

from rkd.evaluation.alpaca_eval import (
    INSTRUCTIONS,
    length_controlled_win_rate,
    read_annotations,
    read_difficulty,
    read_weights,
    win_rate,
    win_rate_table,
)
from rkd.evaluation.length_control import LengthControl

MODELS = ["FuseChat-Gemma-2-9B-Instruct", "claude-2.1", "gpt-3.5-turbo-1106", "alpaca-7b"]
ROW = {"index": 0, "generator_2": "m", "preference": 1.25, "len_1": 10, "len_2": 30}


@pytest.fixture(scope="module")
def alpaca(shared_data):
    return shared_data / "alpaca_eval"


@pytest.fixture(scope="module")
def leaderboard(alpaca):
    with (alpaca / "leaderboard.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def annotations_of(alpaca, model):
    return read_annotations(alpaca / f"annotations_{model}.jsonl")


def written(folder, *rows):
    path = folder / "annotations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("model", MODELS)
def test_the_published_win_rate_is_met_exactly(alpaca, leaderboard, model):
    rate, published = win_rate(annotations_of(alpaca, model)), leaderboard[model]
    assert rate.n == 805
    # The recorded preferences have ten decimals.
    assert 100 * rate.rate == pytest.approx(float(published["win_rate"]), abs=1e-7)
    assert 100 * rate.standard_error == pytest.approx(float(published["standard_error"]), abs=1e-7)


@pytest.mark.parametrize("model", MODELS)
def test_the_published_length_controlled_rate_is_met_with_published_and_with_fitted_weights(alpaca, leaderboard, model):
    annotations, difficulty = annotations_of(alpaca, model), read_difficulty(alpaca / "instruction_difficulty.csv")
    weights = read_weights(alpaca / "lc_glm_weights.csv")[model]
    published = float(leaderboard[model]["length_controlled_winrate"])
    given = length_controlled_win_rate(annotations, difficulty, weights)
    assert 100 * given.rate == pytest.approx(published, abs=1e-4)
    if leaderboard[model]["lc_standard_error"]:
        assert 100 * given.standard_error == pytest.approx(float(leaderboard[model]["lc_standard_error"]), abs=1e-4)
    fitted = length_controlled_win_rate(annotations, difficulty)
    assert 100 * fitted.rate == pytest.approx(published, abs=0.2)
    assert 100 * fitted.standard_error == pytest.approx(100 * given.standard_error, abs=0.02)


def test_the_rate_by_hand(tmp_path):
    annotations = read_annotations(written(tmp_path, ROW, ROW | {"index": 1, "preference": 0}))  # 0 is a draw
    rate = win_rate(annotations)
    assert (rate.rate, rate.n) == (0.375, 2)
    assert rate.standard_error == pytest.approx(0.125)
    controlled = length_controlled_win_rate(annotations, {0: 0.0, 1: 1.0}, LengthControl(9.0, math.log(3), 0.0))
    assert controlled.rate == pytest.approx((1 / 2 + 3 / 4) / 2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"preference": 2.5}, r"`preference` is 2.5, not in \[1, 2\]"),
        ({"preference": None}, "`preference` is None instead of a number"),
        ({"preference": math.nan}, r"`preference` is nan, not in"),
        ({"preference": "2"}, "`preference` is '2' instead of a number"),
        ({"preference": True}, "`preference` is True instead of a number"),
        ({"len_1": -1}, "`len_1` is -1 instead of a whole number, at least 0"),
        ({"len_1": 1.5}, "`len_1` is 1.5 instead of a whole number"),
        ({"len_1": math.inf}, "`len_1` is inf instead of a whole number"),
        ({"len_1": 10**400}, "`len_1` is 10+ instead of a whole number"),
        ({"len_2": "30"}, "`len_2` is '30' instead of a whole number"),
        ({"index": None}, "`index` is None instead of a whole number"),
        ({"generator_2": ""}, "`generator_2` is empty"),
    ],
)
def test_a_bad_annotation_is_refused_with_file_line_and_reason(tmp_path, change, reason):
    with pytest.raises(ValueError, match=rf"annotations\.jsonl, line 2: .*{reason}"):
        read_annotations(written(tmp_path, ROW, ROW | {"index": 1} | change))


@pytest.mark.parametrize("column", ["preference", "len_1", "len_2", "generator_2"])
def test_a_missing_column_is_named(tmp_path, column):
    row = {name: value for name, value in ROW.items() if name != column}
    with pytest.raises(ValueError, match=rf"line 1: `{column}` is missing \(present: index, "):
        read_annotations(written(tmp_path, row))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({}, "line 2: instruction 0 occurs a second time"),
        ({"index": 1, "generator_2": "n"}, r"annotations of 2 models \(m, n\)"),
        ({"index": 1, "generator_1": "b"}, r"annotations of 2 baselines \(a, b\)"),
        ({"index": 1, "annotator": "k"}, r"annotations of 2 judges \(j, k\)"),
    ],
)
def test_rows_that_do_not_belong_together_are_refused(tmp_path, other, reason):
    row = ROW | {"generator_1": "a", "annotator": "j"}
    with pytest.raises(ValueError, match=reason):
        read_annotations(written(tmp_path, row, row | other))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "holds no annotation"),
        ("\ufeff", "holds no annotation"),
        ("[]", "holds no annotation"),
        ("[1]", "entry 1: int instead of a JSON object"),
        ('[{"index": 0},', "no JSON array"),
        ("[" * 100_000, "no JSON array"),
        ("index,preference\n0,1\n", "line 1: no JSON object"),
        ('{"win_rate": 50}', "1 rows have no `index`, and are not AlpacaEval's 805"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content, reason):
    path = tmp_path / "annotations.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=reason):
        read_annotations(path)


def test_an_array_without_index_is_read_as_alpaca_eval_writes_it(tmp_path):
    row = {"generator_1": "b", "generator_2": "m", "output_1": "ab\u0301", "output_2": "", "preference": 1.5}
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps([row] * INSTRUCTIONS, indent=2), encoding="utf-8")
    annotations = read_annotations(path)
    assert [one.index for one in annotations] == list(range(805))
    assert (annotations[0].baseline_characters, annotations[0].model_characters) == (3, 0)


def test_rows_of_an_array_that_lacks_instructions_need_an_index(tmp_path):
    # Their places would give every row after the gap the difficulty of another instruction.
    row = {"generator_2": "m", "output_1": "a", "output_2": "b", "preference": 1.5}
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps([row] * 804), encoding="utf-8")
    with pytest.raises(ValueError, match="its 804 rows have no `index`"):
        read_annotations(path)


def test_counted_wins_are_not_taken_for_draws_and_defeats(tmp_path):
    rows = [ROW | {"index": index, "preference": index % 2} for index in range(4)]
    with pytest.raises(ValueError, match=r"every `preference` is 0 or 1.*add 1 to each"):
        read_annotations(written(tmp_path, *rows))


def test_whole_numbers_may_be_written_as_a_table_with_gaps_writes_them(tmp_path):
    (one,) = read_annotations(written(tmp_path, ROW | {"index": 3.0, "len_1": 10.0}))
    assert (one.index, one.baseline_characters) == (3, 10)


def test_instructions_without_difficulty_are_counted(tmp_path):
    with pytest.raises(ValueError, match=r"1 of 1 instructions have no difficulty \(first: index 0\)"):
        length_controlled_win_rate(read_annotations(written(tmp_path, ROW)), {})


@pytest.mark.parametrize("heading", ["index,instruction_difficulty", ",instruction_difficulty"])
def test_difficulties_are_read_with_or_without_the_name_of_the_first_column(tmp_path, heading):
    path = tmp_path / "difficulty.csv"
    path.write_bytes(f"\ufeff{heading}\r\n0,0.5\r\n7,-1e-3\r\n\r\n".encode())
    assert read_difficulty(path) == {0: 0.5, 7: -0.001}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"no column 'index' \(present: none\)"),
        (b"index;instruction_difficulty\n0;1\n", "no column 'index'"),
        (b"index,instruction_difficulty\n0\n", "'instruction_difficulty' is '' instead of a number"),
        (b"index,instruction_difficulty\n0,nan\n", "'instruction_difficulty' is 'nan' instead of a number"),
        (b"index,instruction_difficulty\n0,1\n0,2\n", "index 0 is not whole or occurs twice"),
        (b"index,instruction_difficulty\n0.5,1\n", "index 0.5 is not whole or occurs twice"),
        (b"index,instruction_difficulty\n0,\xff\n", "no CSV file in UTF-8"),
    ],
)
def test_bad_difficulties_are_refused(tmp_path, content, reason):
    path = tmp_path / "difficulty.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"difficulty\.csv.*{reason}"):
        read_difficulty(path)


@pytest.mark.parametrize(
    ("rows", "win_rate_shown", "controlled"),
    [
        ([ROW | {"preference": 2}], "100.00", (50, 100)),
        ([ROW | {"index": index, "preference": 2} for index in range(9)], "100.00 ± 0.00", (50, 100)),
        ([ROW | {"index": index, "preference": 1} for index in range(9)], "0.00 ± 0.00", (0, 50)),
        ([ROW | {"index": index, "preference": 0} for index in range(9)], "50.00 ± 0.00", (49.9, 50.1)),
        (
            [ROW | {"index": index, "len_1": 30, "preference": 1 + index % 2} for index in range(8)],
            "50.00 ± 18.90",
            (40, 60),
        ),
    ],
    ids=["one row", "all wins", "all defeats", "all draws", "all of equal length"],
)
def test_extreme_files_have_a_line_in_the_table(tmp_path, rows, win_rate_shown, controlled):
    difficulty = tmp_path / "difficulty.csv"
    difficulty.write_text("index,instruction_difficulty\n" + "".join(f"{index},0\n" for index in range(9)))
    line = win_rate_table([written(tmp_path, *rows)], difficulty, None).splitlines()[-1]
    name, n, shown, shown_controlled, coefficients = (cell.strip() for cell in line.strip("|").split("|"))
    assert (name, n, shown, coefficients) == ("m", str(len(rows)), win_rate_shown, "fitted")
    assert controlled[0] <= float(shown_controlled.split()[0]) <= controlled[1]
    assert "nan" not in line
