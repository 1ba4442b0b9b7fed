"""Stage adam: the update. One native pass over a parameter and its two moments, in the arithmetic of torch.optim.Adam."""

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.ops import native
from splatlearn.ops.checks import check_tensor


@torch.no_grad()
def adam_step(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-15,
) -> None:
    """Updates `parameter`, `exp_avg` and `exp_avg_sq` in place (Kingma & Ba 2015, with bias correction; eps outside the root).

    Args:
        parameter, gradient, exp_avg, exp_avg_sq: one shape, float32 or float64, contiguous.
        step: 1 for the first update.

    Raises:
        SplatlearnError: a tensor does not fit, is not contiguous, or step < 1.
    """
    if step < 1:
        raise SplatlearnError(f"step must be at least 1, but is {step}")
    check_tensor("parameter", parameter, tuple(parameter.shape))
    state = {"parameter": parameter, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    for name, tensor in state.items():
        check_tensor(name, tensor, tuple(parameter.shape), parameter)
        if not tensor.is_contiguous():
            raise SplatlearnError(f"{name} must be contiguous, for it is updated in place")
    gradient = check_tensor("gradient", gradient, tuple(parameter.shape), parameter)
    params = native.Adam(
        native.context(parameter),
        parameter.numel(),
        step,
        lr,
        *betas,
        eps,
        *map(native.pointer, [parameter, gradient, exp_avg, exp_avg_sq]),
    )
    native.call("adam", params)
