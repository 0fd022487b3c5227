"""Copies of 16 bits for reading."""

import pytest
import torch

from rkd.models.low_precision import converted_once
from tests.support.tiny_models import llama

IDS = torch.arange(3, 13)[None]


def test_under_autocast_a_model_is_read_as_a_copy_in_its_format():
    model = llama(vocab_size=32).eval()
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(input_ids=IDS).logits
        with converted_once(model) as copied:
            assert not torch.is_autocast_enabled("cpu")
            assert {weight.dtype for weight in copied.parameters()} == {torch.bfloat16}
            assert not any(weight.requires_grad for weight in copied.parameters())
            logits = copied(input_ids=IDS).logits
        assert torch.is_autocast_enabled("cpu")
    # Bfloat16 has 8 bits: the sums of autocast are rounded at other places.
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_weights_that_need_no_conversion_are_shared():
    model = llama(vocab_size=32).bfloat16()
    with torch.autocast("cpu", torch.bfloat16), converted_once(model) as copied:
        pairs = zip(model.parameters(), copied.parameters(), strict=True)
        assert all(own.data_ptr() == other.data_ptr() for own, other in pairs)


def test_tied_weights_stay_tied():
    model = llama(vocab_size=32, tie_word_embeddings=True)
    with torch.autocast("cpu", torch.bfloat16), converted_once(model) as copied:
        assert copied.lm_head.weight is copied.model.embed_tokens.weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_autocast_it_is_the_model_itself(dtype: torch.dtype):
    model = llama(vocab_size=32).to(dtype)
    with converted_once(model) as read:
        assert read is model
