"""Build PyTorch's optimizers and schedules from their names in a config, and save and load their state."""

import typing
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, StepLR

from splatlearn.errors import SplatlearnError

OptimizerName = Literal["sgd", "momentum", "nesterov", "adam", "adamw"]
ScheduleName = Literal["constant", "step", "cosine", "warmup"]
OPTIMIZERS: tuple[str, ...] = typing.get_args(OptimizerName)
SCHEDULES: tuple[str, ...] = typing.get_args(ScheduleName)


def make_optimizer(name: str, parameters: Iterable[Tensor], rate: float, momentum: float = 0.9) -> Optimizer:
    """Build the optimizer ``name`` with PyTorch's defaults.

    Args:
        name: one of OPTIMIZERS.
        parameters: the tensors to optimize.
        rate: the learning rate.
        momentum: for "momentum" and "nesterov".

    Raises:
        SplatlearnError: the name is unknown, the rate is not above 0, or the momentum is outside of 0..1.
    """
    if not 0 < rate < float("inf"):
        raise SplatlearnError(f"'rate' must be above 0 and finite, got {rate}")
    if not 0 <= momentum < 1:
        raise SplatlearnError(f"'momentum' must be at least 0 and below 1, got {momentum}")
    if name in ("sgd", "momentum", "nesterov"):
        nesterov = name == "nesterov" and momentum > 0  # PyTorch rejects Nesterov without momentum
        return SGD(parameters, lr=rate, momentum=0.0 if name == "sgd" else momentum, nesterov=nesterov)
    if name not in OPTIMIZERS:
        raise SplatlearnError(f"'optimizer' must be one of {', '.join(OPTIMIZERS)}, got {name!r}")
    return Adam(parameters, lr=rate) if name == "adam" else AdamW(parameters, lr=rate)


def make_schedule(name: str, optimizer: Optimizer, steps: int, warmup: int = 20) -> LRScheduler:
    """Build the learning rate schedule ``name``; call its ``step()`` after the optimizer's.

    Args:
        name: "constant", "step" (a tenth after each third of the steps), "cosine" (down to 0 at the last step) or
            "warmup" (linearly from 1/``warmup`` of the rate).
        optimizer: the optimizer whose rate changes.
        steps: of the whole run.
        warmup: steps of the warm-up.

    Raises:
        SplatlearnError: the name is unknown.
    """
    if name == "constant":
        return ConstantLR(optimizer, factor=1.0, total_iters=0)
    if name == "step":
        return StepLR(optimizer, step_size=max(1, -(-steps // 3)), gamma=0.1)
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=max(1, steps))
    if name == "warmup":
        return LinearLR(optimizer, start_factor=1 / max(1, warmup), total_iters=max(0, warmup - 1))
    raise SplatlearnError(f"'schedule' must be one of {', '.join(SCHEDULES)}, got {name!r}")


def optimizer_tensors(optimizer: Optimizer, named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Return the optimizer's state tensors of each named parameter, as ``optimizer.NAME.KEY``."""
    return {
        f"optimizer.{name}.{key}": value
        for name, parameter in named
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


def load_optimizer(optimizer: Optimizer, named: Iterable[tuple[str, Tensor]], tensors: dict[str, Tensor]) -> None:
    """Restore the state from `optimizer_tensors` on each parameter's device; step counts stay on the CPU.

    Raises:
        SplatlearnError: a tensor does not have its parameter's shape.
    """
    for name, parameter in named:
        prefix = f"optimizer.{name}."
        found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        for key, value in found.items():
            if value.dim() and value.shape != parameter.shape:
                expected, got = list(parameter.shape), list(value.shape)
                raise SplatlearnError(f"a checkpoint must hold '{prefix}{key}' as {expected}, got {got}")
            optimizer.state[parameter][key] = value.to(parameter.device) if value.dim() else value
