"""The linear neuron, y = x Wᵀ + b, and its loss with both gradients derived by hand.

Shapes: n points, I inputs, O outputs. The mean squared error is L = 1/(nO) Σ r² with the residual r = (x Wᵀ + b) - y.
Only r depends on the parameters: ∂r/∂W is x, ∂r/∂b is 1, and ∂r²/∂r is 2r. So, by the chain rule,

    ∂L/∂W = 2/(nO) rᵀ x          one input, one output: ∂L/∂w = (2/n) Σ ((w·x + b) - y)·x
    ∂L/∂b = 2/(nO) Σ r                                  ∂L/∂b = (2/n) Σ ((w·x + b) - y)
"""

from typing import Any

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError


class LinearNeuron(torch.nn.Module):
    """A linear layer with zero initialization: ``weight`` [out_features, in_features], ``bias`` [out_features]."""

    def __init__(self, in_features: int = 1, out_features: int = 1) -> None:
        super().__init__()
        if in_features < 1 or out_features < 1:
            raise SplatlearnError(f"a neuron needs inputs and outputs, got {in_features} and {out_features}")
        self.weight = torch.nn.Parameter(torch.zeros(out_features, in_features))
        self.bias = torch.nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [..., in_features] to y [..., out_features]."""
        return x @ self.weight.T + self.bias


def squared_error(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Compute the mean squared error of a linear neuron with the hand-written gradients above.

    Args:
        weight: [O, I]; bias: [O]; x: [n, I]; y: [n, O]; all of one floating dtype.

    Returns:
        A scalar. It is twice differentiable in weight and bias, as Hessians need; x and y get no gradient.

    Raises:
        SplatlearnError: shapes do not fit, or n is 0.
    """
    shapes = [list(t.shape) for t in (weight, bias, x, y)]
    fits = weight.dim() == x.dim() == y.dim() == 2 and len(x) == len(y) > 0
    if not fits or [*bias.shape, x.shape[1], y.shape[1]] != [len(weight), weight.shape[1], len(weight)]:
        raise SplatlearnError(
            "squared_error needs weight [O,I], bias [O], x [n,I], y [n,O] with n of at least 1, got "
            f"{', '.join(map(str, shapes))}"
        )
    return _SquaredError.apply(weight, bias, x, y)  # type: ignore[no-untyped-call, no-any-return]


class _SquaredError(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(weight, bias, x, y)
        return (x @ weight.T + bias - y).square().mean()

    @staticmethod
    def backward(ctx: Any, v_loss: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        weight, bias, x, y = ctx.saved_tensors
        v_residual = (2 / y.numel()) * (x @ weight.T + bias - y) * v_loss
        return v_residual.T @ x, v_residual.sum(dim=0), None, None
