"""Validation of tensors, in one place, always on: one sentence with the tensor's name, the expected and the given."""

import math
from typing import Any

import torch

from splatlearn.errors import SplatlearnError
from splatlearn.ops import native

MAX_ROWS = 2**31 - 1  # of 2D Gaussians
MAX_CHANNELS = 1 << 20
FLOATS = (torch.float32, torch.float64)


def check_tensor(name: str, value: Any, shape: tuple[int | str, ...], like: torch.Tensor | None = None) -> torch.Tensor:
    """`value` as a tensor that native code may read, or an error.

    Args:
        shape: sizes to expect; a string stands for any size and names it in the message.
        like: a tensor whose dtype and device must be the same; without it float32 or float64, on the CPU or on CUDA.

    Raises:
        SplatlearnError: not a tensor, another shape, dtype or device, not dense, or on CUDA without a library for it.
    """
    if not isinstance(value, torch.Tensor):
        raise SplatlearnError(f"{name} must be a tensor, but is a {type(value).__name__}")
    if like is not None and value.shape == shape and value.dtype == like.dtype and value.device == like.device:
        if value.layout == torch.strided:  # all is well, as `like` has been checked: a step asks this fifty times
            return value.contiguous()
    fits = value.dim() == len(shape) and all(
        isinstance(want, str) or want == got for want, got in zip(shape, value.shape, strict=True)
    )
    if not fits:
        wanted = "[" + ", ".join(map(str, shape)) + "]"
        raise SplatlearnError(f"{name} must have shape {wanted}, but has {list(value.shape)}")
    if value.device.type not in ("cpu", "cuda"):
        raise SplatlearnError(f"{name} is on {value.device}, but splatlearn has kernels for the CPU and CUDA only")
    if value.is_cuda:
        native.library("cuda")  # says what is missing before anything else is done
    if like is not None and value.device != like.device:
        raise SplatlearnError(f"{name} is on {value.device}, but the other tensors are on {like.device}")
    wanted_types = FLOATS if like is None else (like.dtype,)
    if value.dtype not in wanted_types:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in wanted_types)
        raise SplatlearnError(f"{name} must be {names}, but is {str(value.dtype).removeprefix('torch.')}")
    if value.layout != torch.strided:
        raise SplatlearnError(f"{name} must be a dense tensor, but has layout {value.layout}")
    return value.contiguous()


def check_number(name: str, value: float, low: float, high: float = math.inf) -> None:
    """A number from `low` to `high`, both included."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        bounds = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        raise SplatlearnError(f"{name} must be a number of {bounds}, but is {value!r}")


def check_like(name: str, value: Any, dtype: torch.dtype, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """A contiguous tensor of exactly this dtype and shape on the device of `like`, such as integers beside floats."""
    if not isinstance(value, torch.Tensor):
        raise SplatlearnError(f"{name} must be a tensor, but is a {type(value).__name__}")
    if value.dtype != dtype or tuple(value.shape) != shape or value.device != like.device:
        kind, got = (str(t).removeprefix("torch.") for t in (dtype, value.dtype))
        raise SplatlearnError(
            f"{name} must be {kind} {list(shape)} on {like.device}, but is {got} {list(value.shape)} on {value.device}"
        )
    return value.contiguous()


def check_rows(means: Any, viewmats: Any) -> None:
    """At most 2^31 - 1 rows of 2D Gaussians, before anything of their size is copied or allocated."""
    if isinstance(means, torch.Tensor) and isinstance(viewmats, torch.Tensor) and means.dim() and viewmats.dim():
        rows = len(means) * len(viewmats)
        if rows > MAX_ROWS:
            raise SplatlearnError(
                f"means of {len(means):,} Gaussians in {len(viewmats):,} cameras make {rows:,} 2D Gaussians, "
                f"more than the {MAX_ROWS:,} that 32 bits can number"
            )


def check_size(width: int, height: int) -> None:
    """An image of at least one pixel and at most 2^24 on a side."""
    for name, value in (("width", width), ("height", height)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 24:
            raise SplatlearnError(f"{name} must be an integer from 1 to {1 << 24}, but is {value!r}")
