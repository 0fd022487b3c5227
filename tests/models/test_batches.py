"""Batches: a batch in parts is the batch, and the shares weigh what a loss is the mean over."""

import pytest
import torch

from rkd.models.batches import FILL, collate, decode, encode, encode_responses, in_parts, pad
from rkd.models.loading import load_tokenizer
from tests.support import tiny_world
from tests.support.float64_models import PAD
from tests.support.tiny_tokenizers import LAYOUTS, mistral, t5


@pytest.fixture
def batch():
    prompts = [[1], [1, 2], [1, 2, 3]]
    responses = [[5] * length for length in (1, 2, 4, 4, 1, 8)]  # two to each prompt
    return collate(prompts, responses, pad_id=0)


def test_parts_hold_each_prompt_once_and_weigh_their_tokens(batch):
    (first, even), (second, odd) = in_parts(batch, 2)
    assert [even.prompt_mask.sum(1).tolist(), odd.prompt_mask.sum(1).tolist()] == [[1, 3], [2]]
    assert [even.response_mask.sum(1).tolist(), odd.response_mask.sum(1).tolist()] == [[1, 2, 1, 8], [4, 4]]
    assert (first, second) == (12 / 20, 8 / 20)
    assert odd.response_ids.shape == (2, 4)  # padded no longer than it needs


def test_no_more_parts_than_prompts_and_one_part_is_the_batch_itself(batch):
    assert len(in_parts(batch, 8)) == 3
    assert in_parts(batch, 1) == [(1.0, batch)]


def test_weighted_means_of_the_parts_are_that_of_the_batch(batch):
    values = torch.arange(48.0).view(6, 8)
    total = float(values[batch.response_mask].mean())
    of_parts = 0.0
    for start, (share, part) in enumerate(in_parts(batch, 2)):
        rows = batch.rows_of(torch.arange(start, 3, 2))
        own = values[rows, : part.response_mask.shape[1]]
        of_parts += share * float(own[part.response_mask].mean())
    assert of_parts == pytest.approx(total)


def test_prompts_are_padded_on_the_left_and_responses_on_the_right():
    batch = collate([[5, 6], [7]], [[2], [3, 4]], PAD)
    assert batch.prompt_ids.tolist() == [[5, 6], [0, 7]]
    assert batch.response_ids.tolist() == [[2, 0], [3, 4]]
    assert batch.prompt_mask.tolist() == [[True, True], [False, True]]
    assert batch.response_mask.tolist() == [[True, False], [True, True]]


def test_responses_that_cannot_be_shared_out_to_prompts_are_refused():
    with pytest.raises(ValueError, match="3 responses cannot be shared out to 2 prompts"):
        collate([[5], [6]], [[2], [3], [4]], PAD)


def test_selected_prompts_come_with_their_responses_and_no_more_padding_than_these_need():
    batch = collate([[5, 6, 7], [8]], [[2], [3], [4], [9, 9]], PAD).select_prompts(torch.tensor([1]))
    assert batch.prompt_ids.tolist() == [[8]]
    assert batch.response_ids.tolist() == [[4, 0], [9, 9]]
    assert batch.group_size == 2


def test_only_a_finished_response_ends_with_the_end_token(tokenizer):
    finished, cut = encode_responses(tokenizer, ["4", "4"], [True, False])
    assert finished == [*cut, tokenizer.eos_token_id]


def test_a_special_token_spelled_out_in_a_response_does_not_end_it(tmp_path):
    tokenizer = load_tokenizer(tiny_world.random_model(tmp_path).folder)
    (tokens,) = encode_responses(tokenizer, [f"1{tokenizer.eos_token}2"], [True])
    assert tokens.count(tokenizer.eos_token_id) == 1
    assert tokens[-1] == tokenizer.eos_token_id


def test_padding_is_a_number_of_every_vocabulary_and_only_the_mask_tells_it_from_a_token():
    ids, mask = pad([[FILL, 5], [FILL]], left=True)
    assert ids.tolist() == [[FILL, 5], [FILL, FILL]]
    assert mask.tolist() == [[True, True], [False, True]]
    batch = collate([[FILL, 5], [7]], [[FILL], [FILL, FILL, 3]])
    assert batch.rows() == [[FILL, 5, FILL], [7, FILL, FILL, 3]]
    assert batch.response_rows() == [[FILL], [FILL, FILL, 3]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_encoded_as_a_response_is_read_back(layout):
    tokenizer = LAYOUTS[layout]()
    texts = ["3! is 6!", "!", "!!! ! 4 !", "4 - 2 = 2 ."]  # blanks before signs stay
    rows = encode_responses(tokenizer, texts, [True, False, True, False])
    assert decode(tokenizer, rows, [tokenizer.eos_token_id]) == texts


def test_a_row_is_read_up_to_its_end_whether_the_end_is_special_or_not(tokenizer):
    rows = encode_responses(tokenizer, ["4", "5"], [False, False])
    end = rows[1][0]
    assert decode(tokenizer, [rows[0] + [end] + rows[0], []], [end, 10**6]) == ["4", ""]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_prompt_does_not_end_with_an_end_of_sequence(layout):
    tokenizer = LAYOUTS[layout]()
    for text, row in zip(("2 + 2 =", ""), encode(tokenizer, ["2 + 2 =", ""]), strict=True):
        first = [tokenizer.bos_token_id] if layout in ("gemma", "llama3", "mistral") else []
        assert row == first + tokenizer(text, add_special_tokens=False)["input_ids"]
    assert encode(tokenizer, [""]) == [first]
    assert encode(tokenizer, []) == []


@pytest.mark.parametrize("make", [mistral, t5])
def test_the_tokenizer_itself_would_end_the_prompt(make):
    tokenizer = make()
    assert tokenizer("2 + 2 =")["input_ids"][-1] == tokenizer.eos_token_id
