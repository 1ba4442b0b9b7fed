"""The linear map y = x Wᵀ + b, whose three float32 products run in oneDNN on a CPU: twice as fast as PyTorch's choice.

PyTorch hands float32 products to MKL, which uses registers of half the width on processors of another maker: 105
against 240 GFLOP/s on one core of an AVX-512 machine. oneDNN, which PyTorch carries along for its compiler, does not
look at the maker. Everything else (float64, bfloat16, CUDA, compiled graphs) is ``torch.nn.functional.linear``.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class Linear(torch.nn.Linear):
    """``torch.nn.Linear``: ``weight`` [O, I] and ``bias`` [O] or None; x [..., I] to y [..., O]."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x`` [..., I], ``weight`` [O, I], ``bias`` [O] or None to [..., O]; differentiable any number of times."""
    if not _served(x, weight):
        return F.linear(x, weight, bias)
    y: Tensor = _Product.apply(x.reshape(-1, x.shape[-1]), weight, bias)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], len(weight))


def _served(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN takes this product."""
    if not (x.dtype == weight.dtype == torch.float32 and x.is_cpu and weight.is_cpu and x.numel() > 0):
        return False
    return _AVAILABLE and not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu")


def _find() -> bool:
    try:
        _onednn(torch.ones(2, 3), torch.ones(4, 3), None)
    except (AttributeError, RuntimeError):  # another build of PyTorch
        return False
    return True


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x`` [N, I] and ``weight`` [O, I] of any strides to a contiguous [N, O]."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]


class _Product(torch.autograd.Function):
    """Forward is one product; so is each half of backward, and they are made by the same function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, v_y: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        v_x = _Product.apply(v_y, weight.T, None) if ctx.needs_input_grad[0] else None  # type: ignore[no-untyped-call]
        v_weight = _Product.apply(v_y.T, x.T, None) if ctx.needs_input_grad[1] else None  # type: ignore[no-untyped-call]
        v_bias = v_y.sum(dim=0) if ctx.needs_input_grad[2] else None
        return v_x, v_weight, v_bias


_AVAILABLE = _find()
