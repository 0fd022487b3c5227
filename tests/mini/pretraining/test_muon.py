"""Muon: steps are nearly orthogonal, go downhill, and survive a checkpoint."""

from copy import deepcopy

import pytest
import torch

from rkd.mini.pretraining.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(24, 24), (40, 16), (16, 40)])
def test_singular_values_of_an_update_lie_in_the_known_band(shape):
    # Jordan et al. 2024: with these coefficients five iterations bring singular values to about [0.7, 1.2].
    # Only the smallest ones of a square random matrix may stay below.
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrices))
    assert values.max() < 1.25
    assert values.min() > (0.65 if shape[0] != shape[1] else 0.2)
    assert values.median() > 0.65


def test_orthogonalised_matrix_keeps_the_singular_vectors():
    # diag(3, 1) has U = V = 1, so U Vᵀ is the identity: the diagonal comes to the band, the rest stays 0.
    update = orthogonalize(torch.diag(torch.tensor([3.0, -1.0]))[None])[0]
    assert 0.65 < update[0, 0] < 1.25
    assert -1.25 < update[1, 1] < -0.65
    torch.testing.assert_close(update[0, 1], torch.tensor(0.0), atol=1e-6, rtol=0)


def test_first_step_has_the_size_of_the_learning_rate():
    # Gradient of sum(W) is all ones, rank 1: U Vᵀ = ones / sqrt(4 · 4). Step = lr · (about 1) · 1/4, no decay.
    weight = torch.nn.Parameter(torch.zeros(4, 4))
    optimizer = Muon([weight], lr=0.1, weight_decay=0.0)
    weight.sum().backward()
    optimizer.step()
    assert torch.all((-weight > 0.1 * 0.65 / 4) & (-weight < 0.1 * 1.25 / 4))


def test_quadratic_goes_down():
    target = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    weights = [torch.nn.Parameter(torch.zeros(6, 4)) for _ in range(2)]
    optimizer = Muon(weights, lr=0.02, weight_decay=0.0)
    for _ in range(300):
        optimizer.zero_grad()
        loss = optimizer.step(lambda: _backward(sum(((weight - target) ** 2).sum() for weight in weights)))
    assert loss < 0.05 * 2 * (target**2).sum()


def test_stacking_by_shape_changes_no_step():
    generator = torch.Generator().manual_seed(2)
    gradients = [torch.randn(shape, generator=generator) for shape in [(8, 4), (8, 4), (4, 8)]]
    together = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    alone = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameters, optimizers in [
        (together, [Muon(together, lr=0.1)]),
        (alone, [Muon([parameter], lr=0.1) for parameter in alone]),
    ]:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    for first, second in zip(together, alone, strict=True):
        torch.testing.assert_close(first, second)


def test_parameter_without_gradient_stays():
    still, moved = torch.nn.Parameter(torch.ones(3, 3)), torch.nn.Parameter(torch.ones(3, 3))
    optimizer = Muon([still, moved], lr=0.1)
    moved.sum().backward()
    optimizer.step()
    assert torch.equal(still, torch.ones(3, 3))
    assert not torch.equal(moved, torch.ones(3, 3))


def test_restored_state_continues_as_before():
    gradients = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(3))

    def steps(weight, optimizer, chosen):
        for gradient in chosen:
            weight.grad = gradient.clone()
            optimizer.step()

    whole = torch.nn.Parameter(torch.zeros(5, 3))
    optimizer = Muon([whole], lr=0.1)
    steps(whole, optimizer, gradients[:2])
    copy = torch.nn.Parameter(whole.detach().clone())
    restored = Muon([copy], lr=0.3)
    restored.load_state_dict(deepcopy(optimizer.state_dict()))
    steps(whole, optimizer, gradients[2:])
    steps(copy, restored, gradients[2:])
    assert torch.equal(whole, copy)


def test_vector_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\).*AdamW"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)


def _backward(loss):
    loss.backward()
    return loss
