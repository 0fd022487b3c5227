"""The results of a calculator in the tokens of several tokenizers."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rkd.data.calculator import Equations
from rkd.data.calculator_tokens import CalculatorTokens, chosen_tokens
from rkd.models.batches import encode_responses
from tests.support.tiny_tokenizers import LAYOUTS

BEGINNINGS = [" So 71 - 14 =", "So 71-14=", " $12 × 3 =", "It is\n12 / 8 =", " 1,200 + 300 ="]
RESULTS = [" 57", "57", " $36", " 1.5", " 1,500"]


def of_layout(name: str) -> CalculatorTokens:
    return CalculatorTokens(Equations(), LAYOUTS[name]())


def encoded(own: CalculatorTokens, text: str) -> list[int]:
    return encode_responses(own.tokenizer, [text], [False])[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_result_has_the_tokens_that_the_whole_text_has(layout: str):
    own = of_layout(layout)
    for beginning, result in zip(BEGINNINGS, RESULTS, strict=True):
        row = encoded(own, beginning)
        if own.tokenizer.unk_token_id in row:  # of a small vocabulary without this sign
            continue
        after = own.after(row)
        assert row + after == encoded(own, beginning + result)
        assert after


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_student_has_not_chosen_what_the_calculator_writes(layout: str):
    own = of_layout(layout)
    row = encoded(own, "So 71 - 14 = 57 and 57 - 7 = 50.")
    chosen = own.is_chosen(row)
    written = [token for token, is_chosen in zip(row, chosen, strict=True) if not is_chosen]
    assert own.tokenizer.decode(written).replace(" ", "") == "5750"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_student_has_chosen_a_wrong_result_and_all_without_calculations(layout: str):
    own = of_layout(layout)
    for text in ("So 71 - 14 = 55.", "x = 57", "There are 57."):
        assert all(own.is_chosen(encoded(own, text)))


def test_a_result_that_the_length_limit_cut_is_the_calculators():
    own = of_layout("gpt2")
    row = encoded(own, "71 - 14 = 57")
    places = own.is_chosen(row).index(False)
    assert own.is_chosen(row[: places + 1]) == [True] * places + [False]


def test_a_cut_result_inside_a_response_is_the_students():
    own = of_layout("gpt2")
    assert all(own.is_chosen([*encoded(own, "71 - 14 = 5"), own.tokenizer.eos_token_id]))


def test_where_the_result_changes_the_tokens_before_it_the_student_goes_on():
    # "= 5" is one token of this vocabulary: behind "=" there is no place for a result that begins with it.
    backend = Tokenizer(models.BPE({"1": 0, "+": 1, "4": 2, "=": 3, "5": 4, "=5": 5, "e": 6}, [("=", "5")]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Split(" ", "removed"), decoders.Fuse()
    own = CalculatorTokens(Equations(), PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="e"))
    assert own.after([0, 1, 2, 3]) == []
    assert own.after([0, 1, 0, 3]) == [] or own.tokenizer.decode(own.after([0, 1, 0, 3])) == "2"
    assert own.is_chosen([0, 1, 2, 5]) == [True] * 4


def test_without_a_calculator_nothing_is_marked():
    assert chosen_tokens(None, [[1, 2]]) is None
