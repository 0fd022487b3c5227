"""The tokenizer of the mini models: digits alone, any text, the same from the same texts."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rkd.mini.corpus import CHOICE_KINDS, KINDS, OPEN_KINDS, stream
from rkd.mini.tokenizer import EOS_TOKEN, PAD_TOKEN, train_tokenizer


def texts():
    settled = [kind for kind in KINDS if kind not in CHOICE_KINDS | OPEN_KINDS]
    documents = itertools.islice(stream(dict.fromkeys(settled, 1.0), 0), 300)
    return [(document.question or "") + (document.judged or "") + document.text for document in documents]


TOKENIZER = train_tokenizer(texts(), 600)


@given(st.text())
@settings(deadline=None)
def test_any_text_survives(text):
    ids = TOKENIZER(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == text


def test_every_digit_is_its_own_token():
    vocabulary = TOKENIZER.get_vocab()
    for token in vocabulary:
        assert sum(character.isdigit() and character.isascii() for character in token) <= 1, token
    ids = TOKENIZER("12345 678.90")["input_ids"]
    assert TOKENIZER.convert_ids_to_tokens(ids) == ["1", "2", "3", "4", "5", "Ġ6", "7", "8", ".", "9", "0"]


def test_common_words_are_one_token():
    for word in (" has", " answer", "Step", " Yes", " No"):
        assert len(TOKENIZER(word)["input_ids"]) == 1


def test_operators_and_line_breaks_are_one_token():
    for symbol in (" +", " -", " ×", " =", "\n"):
        assert len(TOKENIZER(symbol)["input_ids"]) == 1


def test_same_texts_give_the_same_tokenizer():
    again = train_tokenizer(texts(), 600)
    assert again.get_vocab() == TOKENIZER.get_vocab()
    sample = "Ada has 12 apples. How many?"
    assert again(sample)["input_ids"] == TOKENIZER(sample)["input_ids"]


def test_vocabulary_has_the_size_asked_for():
    assert len(TOKENIZER) == 600


def test_padding_and_end_are_two_tokens():
    assert TOKENIZER.pad_token_id != TOKENIZER.eos_token_id
    assert TOKENIZER.padding_side == "left"


@pytest.mark.parametrize("token", [EOS_TOKEN, PAD_TOKEN])
def test_special_tokens_are_left_out_of_decoded_text(token):
    ids = [*TOKENIZER("7")["input_ids"], TOKENIZER.convert_tokens_to_ids(token)]
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "7"


def test_saved_tokenizer_is_the_same(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    sample = "Mia pays $2.50 for 4 rolls — très bien.\nStep 1: 4 × 2.50 = 10."
    assert loaded(sample)["input_ids"] == TOKENIZER(sample)["input_ids"]
    assert (loaded.eos_token, loaded.pad_token) == (EOS_TOKEN, PAD_TOKEN)
