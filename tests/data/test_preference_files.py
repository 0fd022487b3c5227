"""Pairs as the files of other tools: what is written comes back, what others wrote is read, bad rows are named."""

import json

import pytest

from rkd.data.preference_files import read_pairs, write_pairs
from rkd.data.prompts import PromptTemplate
from rkd.records import PreferencePair, Query
from rkd.stages.preferences import StoredPairs
from tests.support.fakes import query, says, scored

PROMPT = PromptTemplate(template="Q: {question}\nA:")
PLAIN = {"prompt": "What is 1 + 1?", "chosen": says(2), "rejected": says(3)}


def written(folder, *rows):
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pair_of(query_id):
    right, wrong = scored(query_id, ("none", 5.0), ("of them", None))
    return PreferencePair(query(query_id), right, wrong)


def test_what_is_written_comes_back_and_has_the_usual_columns(tmp_path):
    pairs = [pair_of("q"), pair_of("r")]
    write_pairs(tmp_path / "pairs.jsonl", pairs, PROMPT)
    assert read_pairs(tmp_path / "pairs.jsonl", "other") == pairs
    row = json.loads((tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert {name: row[name] for name in ("prompt", "chosen", "rejected")} == {
        "prompt": "Q: What is q?\nA:", "chosen": "none", "rejected": "of them"
    }  # fmt: skip


def test_three_columns_are_enough(tmp_path):
    (pair,) = read_pairs(written(tmp_path, PLAIN), "gsm8k")
    assert pair.query == Query("pairs-0", "gsm8k", "What is 1 + 1?")
    assert (pair.chosen.answer, pair.chosen.score) == ("2", 1.0)
    assert (pair.rejected.answer, pair.rejected.score) == ("3", 0.0)


def test_conversations_are_read_as_other_tools_write_them(tmp_path):
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1 + 1?"}]
    row = {"prompt": asked} | {
        side: [*asked, {"role": "assistant", "content": PLAIN[side]}] for side in ("chosen", "rejected")
    }
    assert read_pairs(written(tmp_path, row), "gsm8k") == read_pairs(written(tmp_path, PLAIN), "gsm8k")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt": None}, "`prompt` is NoneType instead of text"),
        ({"chosen": ""}, "`chosen` is empty"),
        (
            {"rejected": [{"role": "user", "content": "?"}]},
            "`rejected` is a conversation without a turn of the assistant",
        ),
        ({"chosen_score": "5"}, "`chosen_score` is '5' instead of a number"),
        ({"chosen_score": 1, "rejected_score": 2}, "`chosen_score` 1.0 is below `rejected_score` 2.0"),
        ({"chosen_is_finished": 1}, "`chosen_is_finished` must be true or false"),
    ],
)
def test_a_bad_row_is_refused_with_file_line_and_reason(tmp_path, change, reason):
    with pytest.raises(ValueError, match=rf"pairs\.jsonl, line 2: {reason}"):
        read_pairs(written(tmp_path, PLAIN, PLAIN | change), "gsm8k")


def test_a_file_of_pairs_is_used_for_the_queries_it_asks(tmp_path):
    path = written(tmp_path, PLAIN | {"prompt": "what is  Q?"}, PLAIN | {"prompt": "What is unasked?"})
    stage = StoredPairs(path=str(path))
    (pair,) = stage.pair([query("q"), query("r")], (), (), 0, PROMPT)
    assert pair.query == query("q")
    assert (pair.chosen.response.query_id, pair.chosen.response.text) == ("q", says(2))
    assert stage.pair([query("r")], (), (), 0, PROMPT) == []
    with pytest.raises(FileNotFoundError, match=r"pairs\.path=.* is no file"):
        StoredPairs(path=str(tmp_path / "absent.jsonl")).pair([query("q")], (), (), 0, PROMPT)


def test_the_usual_columns_of_our_own_file_find_their_queries_again(tmp_path):
    write_pairs(tmp_path / "all.jsonl", [pair_of("q")], PROMPT)
    row = json.loads((tmp_path / "all.jsonl").read_text(encoding="utf-8"))
    path = written(tmp_path, {name: row[name] for name in ("prompt", "chosen", "rejected")})
    (pair,) = StoredPairs(path=str(path)).pair([query("q")], (), (), 0, PROMPT)
    assert pair.query == query("q")
