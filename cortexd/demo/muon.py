"""Muon, the optimiser of the big matrices: momentum whose singular values are all brought near one.

PyTorch has one too, but it computes in bf16, which many CPUs only imitate: 7 s a step here where this takes 0.2 s.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOMENTUM = 0.95
ITERATIONS = 5


def orthogonalise(g: Tensor) -> Tensor:
    """The near-orthogonal matrix with the singular vectors of g `[B, rows, columns]`, by Newton-Schulz.

    Five turns of x ← a·x + (b·xxᵀ + c·(xxᵀ)²)·x with Jordan's coefficients leave singular values between 0.7 and 1.2.
    """
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    x = F.normalize(x.flatten(-2), dim=-1).reshape(x.shape)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, at the step size that AdamW would take; weight decay is decoupled."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Moves every parameter once; matrices of one shape are orthogonalised together."""
        assert closure is None
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in shapes.items():
                updates = orthogonalise(torch.stack([self._momentum(p) for p in parameters]))
                size = group["lr"] * 0.2 * max(shape) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=size)

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        gradient = parameter.grad
        assert gradient is not None
        average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
        average.lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(average, MOMENTUM)
