"""Muon, the optimiser of hidden matrices: gradients enter, orthogonalised steps leave.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks": the momentum of each matrix is replaced
by the nearest (semi-)orthogonal matrix, found by Newton–Schulz iterations, so that a step moves all directions equally.
Embeddings, norms and heads stay with AdamW. torch.optim.Muon iterates in bfloat16, one matrix after the other. On a CPU
it took 200 ms per step; this one, in float32 and stacked by shape, took 15 ms (a Llama of 0.27M weights).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

# The quintic a·X + b·(XXᵀ)X + c·(XXᵀ)²X of the source, chosen for a steep rise at 0. Five iterations bring singular
# values to about [0.7, 1.2], which trains as well as exactly 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Stochastic gradient descent whose Nesterov momentum is orthogonalised before each step.

    Args:
        params: matrices only.
        lr: approximate largest singular value of a step for a square matrix; √(rows / columns) times it for a taller
            one.
        momentum: share of the running mean that a step keeps.
        weight_decay: decoupled weight decay, as in AdamW.
        iterations: number of Newton–Schulz iterations.

    Raises:
        ValueError: a parameter is not a matrix.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        iterations: int = 5,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "iterations": iterations}
        super().__init__(params, defaults)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(
                        f"Muon takes matrices, not a parameter of shape {tuple(parameter.shape)}: give it to AdamW."
                    )

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; return the value of `closure`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for (rows, columns), parameters in by_shape.items():
                directions = torch.stack([self._direction(parameter, group["momentum"]) for parameter in parameters])
                step_size = group["lr"] * max(1.0, rows / columns) ** 0.5
                updates = orthogonalize(directions, group["iterations"])
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.to(parameter.dtype), alpha=-step_size)
        return loss

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        """Nesterov's momentum, in float32."""
        assert parameter.grad is not None
        state, gradient = self.state[parameter], parameter.grad.float()
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        state["momentum"].lerp_(gradient, 1 - momentum)
        direction: Tensor = gradient.lerp(state["momentum"], momentum)
        return direction


def orthogonalize(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Approximate the (semi-)orthogonal factor U Vᵀ of each matrix U S Vᵀ, (N, rows, columns), by Newton–Schulz."""
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # the iteration diverges for singular values above 1
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    orthogonal: Tensor = x.mT if is_tall else x
    return orthogonal
