"""Build PyTorch's optimizers and schedules from their names in a config, and save and load their state."""

import typing
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, StepLR

from splatlearn.checkpoint import require_tensors
from splatlearn.errors import SplatlearnError

OptimizerName = Literal["sgd", "momentum", "nesterov", "adam", "adamw"]
ScheduleName = Literal["constant", "step", "cosine", "warmup"]
LARGEST_RATE = 1e38  # as float32 holds it
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
        SplatlearnError: the name is unknown, the rate is not above 0 or too large, or the momentum is outside of 0..1.
    """
    if not 0 < rate <= LARGEST_RATE:
        raise SplatlearnError(f"'rate' must be above 0 and at most {LARGEST_RATE:g}, got {rate:g}")
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
        SplatlearnError: what the optimizer remembers is there in part, or does not fit its parameter.
    """
    named = list(named)
    if not any(name.startswith("optimizer.") for name in tensors):
        return  # of step 0
    for name, parameter in named:
        for key, like in _remembered(optimizer, parameter).items():
            full = f"optimizer.{name}.{key}"
            require_tensors("a line's checkpoint", tensors, {full: like})
            value = tensors[full]
            if key == "step" and not 0 <= value.item() < 2**24:
                raise SplatlearnError(f"a line's checkpoint must hold a count of steps as '{full}', got {value.item()}")
            if key == "exp_avg_sq" and (value < 0).any():
                raise SplatlearnError(f"a line's checkpoint must hold squares as '{full}', got a negative number")
            optimizer.state[parameter][key] = value.to(parameter.device) if value.dim() else value


def _remembered(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """What an optimizer remembers of a parameter after its first step."""
    if isinstance(optimizer, Adam):  # AdamW is one
        like = torch.zeros_like(parameter.detach())
        return {"step": torch.zeros(()), "exp_avg": like, "exp_avg_sq": like}
    return {"momentum_buffer": torch.zeros_like(parameter.detach())} if optimizer.defaults["momentum"] else {}
