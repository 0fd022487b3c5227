"""Log-probabilities and entropies from half-precision logits: those of float64, a few tokens at a time."""

import pytest
import torch

from rkd.models import half_logits
from rkd.models.half_logits import half_choices

TEMPERATURE = 0.7
T, V = 5, 37


@pytest.mark.parametrize("at_once", [1, 2 * V, 2**22])
def test_values_and_gradients_are_those_of_float64(at_once: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(half_logits, "ELEMENTS_AT_ONCE", at_once)
    torch.manual_seed(0)
    logits = (3 * torch.randn(T, V)).bfloat16().requires_grad_()
    tokens, weights = torch.randint(V, (T,)), torch.randn(T)
    exact = logits.detach().double().requires_grad_()
    expected = (exact / TEMPERATURE).log_softmax(-1)
    logprobs, entropy = half_choices(logits, tokens, TEMPERATURE, with_entropy=True)
    torch.testing.assert_close(logprobs.double(), expected[torch.arange(T), tokens], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy.double(), -(expected.exp() * expected).sum(-1), rtol=1e-5, atol=1e-5)
    ((logprobs * weights).sum() + entropy.sum()).backward()  # the entropy adds no gradient
    (expected[torch.arange(T), tokens] * weights).sum().backward()
    torch.testing.assert_close(logits.grad, exact.grad.bfloat16(), rtol=0.01, atol=1e-5)  # one step of bfloat16: 0.8 %


def test_a_forbidden_token_has_probability_0():
    # Two tokens of equal logits are left: log ½ for each, and an entropy of log 2.
    logits = torch.tensor([[1.0, 1.0, -torch.inf]], dtype=torch.bfloat16, requires_grad=True)
    logprobs, entropy = half_choices(logits, torch.tensor([0]), 1.0, with_entropy=True)
    logprobs.sum().backward()
    assert logprobs.item() == pytest.approx(-0.693147, abs=1e-5)
    assert entropy.item() == pytest.approx(0.693147, abs=1e-5)
    assert logits.grad.tolist() == [[0.5, -0.5, 0]]
