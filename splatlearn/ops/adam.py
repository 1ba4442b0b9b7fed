"""Stage adam: one native pass over parameters and their moments, in the arithmetic of torch.optim.Adam."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.ops import native
from splatlearn.ops.checks import check_like, check_tensor


class Group(NamedTuple):
    """A parameter and what its update needs: contiguous tensors of one shape, float32 or float64."""

    parameter: Tensor
    gradient: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    lr: float


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
    skip: Tensor | None = None,
) -> None:
    """Update one parameter and its moments in place; arguments and errors are those of `adam_steps`."""
    adam_steps([Group(parameter, gradient, exp_avg, exp_avg_sq, lr)], step=step, betas=betas, eps=eps, skip=skip)


@torch.no_grad()
def adam_steps(
    groups: Sequence[Group],
    *,
    step: int,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-15,
    visible: Tensor | None = None,
    skip: Tensor | None = None,
    rates: Tensor | None = None,
) -> None:
    """Update each group's `parameter`, `exp_avg` and `exp_avg_sq` in place; on a CUDA device in one launch.

    Kingma & Ba 2015, with bias correction; eps is added to the square root of the second moment.

    Args:
        groups: parameters of one dtype on one device.
        step: 1 for the first update.
        betas: decay rates of the first and second moment, each below 1.
        eps: added to the square root of the second moment.
        visible: [N] bool, the rows (of the first dimension, which all parameters then share) to update. The other rows
            and their moments are not changed. None: all rows.
        skip: [1] int32, such as `splatlearn.ops.capacity.Capacity.overflow`: nothing is updated if it is not 0. The
            host does not wait for it on a CUDA device. None: update.
        rates: [groups, 2] of the parameters' dtype on their device, `step_rates` of each group, in place of `step` and
            each `lr`. For the CUDA kernels, which read them when they run, so that a recorded launch can be replayed in
            later steps. None: use `step` and `lr`.

    Raises:
        SplatlearnError: a tensor has another shape, dtype or device or is not contiguous, step < 1, or `rates` are
            given for parameters on the CPU.
    """
    if step < 1:
        raise SplatlearnError(f"step must be at least 1, but is {step}")
    if not groups:
        return
    checked = [_checked(group, groups[0].parameter) for group in groups]
    first = checked[0].parameter
    if visible is not None:
        for group in checked:
            check_like("visible", visible, torch.bool, tuple(group.parameter.shape[:1]), group.parameter)
        visible = visible.contiguous()
    if skip is not None:
        check_like("skip", skip, torch.int32, (1,), first)
    if rates is not None:
        rates = check_tensor("rates", rates, (len(groups), 2), first)
    if not native.runs_kernels(first):
        if rates is not None:
            raise SplatlearnError("rates are read by the CUDA kernels alone, but the parameters are on the CPU")
        for group in checked if skip is None or not skip.item() else []:
            _update_on_cpu(group, step, betas, eps, visible)
        return
    for begin in range(0, len(checked), native.ADAM_GROUPS_MAX):
        structs = [_struct(group, step, betas, eps) for group in checked[begin : begin + native.ADAM_GROUPS_MAX]]
        rows = 0 if visible is None else visible.numel()
        params = native.AdamGroups(
            context=native.context(first),
            n_groups=len(structs),
            groups=(native.Adam * len(structs))(*structs),
            n_rows=rows,
            visible=visible,
            skip=skip,
            rates=None if rates is None else rates[begin:],
        )
        native.call("adam_groups", params, first)


def step_rates(lr: float, step: int, betas: tuple[float, float] = (0.9, 0.999)) -> tuple[float, float]:
    """The numbers of an update that change with the step: lr / (1 - beta1^step) and sqrt(1 - beta2^step)."""
    return lr / (1 - _power(betas[0], step)), math.sqrt(1 - _power(betas[1], step))


def _power(base: float, exponent: int) -> float:
    """By squaring, as csrc/math/adam.h has it: `**` is rounded differently from machine to machine."""
    out = 1.0
    while exponent:
        if exponent % 2:
            out *= base
        exponent //= 2
        base *= base
    return out


def _checked(group: Group, like: Tensor) -> Group:
    """The group, after a check that native code may read and write its tensors."""
    check_tensor("parameter", like, tuple(like.shape) if isinstance(like, Tensor) else ())
    check_tensor("parameter", group.parameter, tuple(group.parameter.shape), like)
    shape = tuple(group.parameter.shape)
    for name in ("parameter", "exp_avg", "exp_avg_sq"):
        tensor = getattr(group, name)
        check_tensor(name, tensor, shape, group.parameter)
        if not tensor.is_contiguous():
            raise SplatlearnError(f"{name} must be contiguous, for it is updated in place")
    return group._replace(gradient=check_tensor("gradient", group.gradient, shape, group.parameter))


def _struct(group: Group, step: int, betas: tuple[float, float], eps: float) -> native.Adam:
    return native.Adam(
        context=native.context(group.parameter),
        count=group.parameter.numel(),
        step=step,
        learning_rate=group.lr,
        beta1=betas[0],
        beta2=betas[1],
        eps=eps,
        parameter=group.parameter,
        gradient=group.gradient,
        exp_avg=group.exp_avg,
        exp_avg_sq=group.exp_avg_sq,
    )


def _update_on_cpu(group: Group, step: int, betas: tuple[float, float], eps: float, visible: Tensor | None) -> None:
    if visible is None:
        native.call("adam", _struct(group, step, betas, eps), group.parameter)
        return
    tensors = group[:4]
    parameter, gradient, exp_avg, exp_avg_sq = (tensor[visible] for tensor in tensors)
    rows = Group(parameter, gradient, exp_avg, exp_avg_sq, group.lr)
    native.call("adam", _struct(rows, step, betas, eps), parameter)
    for tensor, values in zip(tensors, rows[:4], strict=True):
        tensor[visible] = values
