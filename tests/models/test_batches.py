"""Batches: a batch in parts is the batch, and the shares weigh what a loss is the mean over."""

import pytest
import torch

from rkd.models.batches import collate, in_parts


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
