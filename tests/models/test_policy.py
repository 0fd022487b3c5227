"""Policies: log-probabilities, gradients, chunks of logits, entropy and value heads."""

import math

import pytest
import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
)

from rkd.models import policy as models
from rkd.models.batches import collate
from rkd.models.policy import Policy
from tests.support.float64_models import PAD, PROMPTS, RESPONSES, VOCABULARY, Build, both, close, llama


def expected_logprobs(model: PreTrainedModel, prompt: list[int], response: list[int]) -> Tensor:
    """log π of one response without any padding, from the model's own logits."""
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(response)), response]


@both
def test_left_padded_prompts_give_the_log_probabilities_of_unpadded_ones(build: Build):
    model = build()
    logprobs = Policy(model)(collate(PROMPTS, RESPONSES, PAD)).logprobs
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        close(logprobs[row, : len(response)], expected_logprobs(model, prompt, response))


@pytest.mark.usefixtures("passes")
@both
def test_padding_changes_no_gradient(build: Build):
    model = build()
    batch = collate(PROMPTS, RESPONSES, PAD)
    (Policy(model)(batch).logprobs * batch.response_mask).sum().backward()
    padded = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        expected_logprobs(model, prompt, response).sum().backward()
    for actual, parameter in zip(padded, model.parameters(), strict=True):
        close(actual, parameter.grad)


@pytest.mark.parametrize("chunk", [1, 2, 3, 12])
@both
def test_chunks_of_logits_change_no_value_and_no_gradient(build: Build, chunk: int, monkeypatch: pytest.MonkeyPatch):
    policy, batch = Policy(build(), temperature=0.7), collate(PROMPTS, RESPONSES, PAD)
    outputs, gradients = [], []
    for elements in (models.CHUNK_ELEMENTS, chunk * VOCABULARY):
        monkeypatch.setattr(models, "CHUNK_ELEMENTS", elements)
        policy.zero_grad()
        output = policy(batch, with_entropy=True)
        output.logprobs.pow(2).sum().backward()
        outputs.append(output)
        gradients.append([parameter.grad.clone() for parameter in policy.parameters()])
    assert not output.entropy.requires_grad
    close(outputs[0].logprobs, outputs[1].logprobs)
    close(outputs[0].entropy, outputs[1].entropy)
    for whole, chunked in zip(*gradients, strict=True):
        close(whole, chunked)


@pytest.mark.parametrize(("chunk", "most"), [(20, 20), (1000, 4 * 13)])
def test_no_more_logits_than_a_chunk_are_made_or_kept(chunk: int, most: int, monkeypatch: pytest.MonkeyPatch):
    """Of all tensors of a policy with a vocabulary of 499, in both passes, logits are the largest."""

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                self.elements = max(self.elements, result.numel())
            return result

    kept = []
    monkeypatch.setattr(models, "CHUNK_ELEMENTS", chunk * 499)
    policy, batch = Policy(llama(vocabulary=499), temperature=0.7), collate(PROMPTS, RESPONSES * 4, PAD)
    with Largest() as made, torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        policy(batch, with_entropy=True).logprobs.sum().backward()
    assert made.elements == most * 499
    assert any(tensor.shape[-1] == 499 and tensor.shape[-2] == most for tensor in kept) == (chunk == 1000)


def test_entropy_is_that_of_the_distribution_a_token_was_chosen_from():
    model = llama()
    policy = Policy(model)
    output = policy(collate(PROMPTS[:1], RESPONSES[:1], PAD), with_entropy=True)
    logits = model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1]
    close(output.entropy[0, 0], -(logits.softmax(-1) * logits.log_softmax(-1)).sum())


def test_the_value_head_starts_at_zero():
    policy = Policy(llama().float(), value_heads=1)
    values = policy(collate(PROMPTS, RESPONSES, PAD)).values
    assert values.shape == (5, 4)
    assert (values == 0).all()


@pytest.mark.parametrize("chunk", [1, 1000])
def test_logits_of_half_precision_are_read_as_their_float32_copies(chunk: int, monkeypatch: pytest.MonkeyPatch):
    policy, batch = Policy(llama().float()), collate(PROMPTS, RESPONSES, PAD)
    outputs, gradients = [], []
    for half, elements in (((), 2**26), (models.HALF, chunk * VOCABULARY)):
        monkeypatch.setattr(models, "HALF", half)  # without it, all logits are converted as a whole
        monkeypatch.setattr(models, "CHUNK_ELEMENTS", elements)
        policy.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            output = policy(batch, with_entropy=True)
        output.logprobs.sum().backward()
        outputs.append(output)
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in policy.parameters()]))
    torch.testing.assert_close(outputs[1].logprobs, outputs[0].logprobs, rtol=0, atol=1e-5)
    torch.testing.assert_close(outputs[1].entropy, outputs[0].entropy, rtol=0, atol=1e-5)
    # Gradients are rounded to bfloat16, chunk by chunk.
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.9999


@both
def test_confidence_is_the_mean_kl_from_uniform_over_the_tokens_of_a_response_in_any_chunks(
    build: Build, monkeypatch: pytest.MonkeyPatch
):
    model = build()
    policy, batch = Policy(model, temperature=0.7), collate(PROMPTS, RESPONSES, PAD)
    expected = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / 0.7
        expected.append((-math.log(VOCABULARY) - logits.log_softmax(-1).mean(-1)).mean())
    close(policy.confidence(batch), torch.stack(expected).detach())
    monkeypatch.setattr(models, "CHUNK_ELEMENTS", 2 * VOCABULARY)
    close(policy.confidence(batch), torch.stack(expected).detach())
