"""Checks that all formats share: tensors before writing, values after reading, a file's actual size.

Tensors are those of `Gaussians`: means [N,3], scales [N,3] (log), quats [N,4] (wxyz), opacities [N] (logit),
sh0 [N,1,3], shN [N,K-1,3], float32, in COLMAP's frame.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.scene.schema import GAUSSIAN, Schema

KEYS = GAUSSIAN.names
SMALLEST_LOG_SCALE = -30.0  # stands for a linear scale of zero: 1e-13, far below a pixel
LARGEST_LOGIT = 16.0  # stands for an opacity of one: 1 - 1e-7, above the rasterizer's clamp of 0.999

Arrays = dict[str, np.ndarray]
Tensors = Mapping[str, torch.Tensor | np.ndarray]


def open_binary(path: Path) -> BinaryIO:
    """Open a regular file for reading; raises SplatlearnError if that fails, also for a pipe or a device.

    Opening a pipe would wait for a writer, and a device may have no end.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise SplatlearnError(f"{path} could not be read ({getattr(error, 'strerror', None) or error}).") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SplatlearnError(f"{path} could not be read (it is not a regular file).")
    return open(descriptor, "rb")


def file_size(file: BinaryIO) -> int:
    """Return the actual size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def checked_arrays(tensors: Tensors, path: Path, schema: Schema = GAUSSIAN) -> Arrays:
    """Convert the tensors of the schema to float32 arrays, before they are written to `path`.

    Means of float64 stay so: where float32 would round them, the file is written relative to an offset (`place`).

    Raises:
        SplatlearnError: a tensor is missing, has a wrong shape, or has a value that is not finite.
    """
    arrays = {}
    for key in schema.names:
        if key in tensors:
            value = tensors[key]
            array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
            with np.errstate(over="ignore"):
                wide = key == "means" and array.dtype == np.float64
                arrays[key] = array if wide else array.astype(np.float32, copy=False)
    if problem := schema.problem({key: array.shape for key, array in arrays.items()}):
        raise SplatlearnError(f"{path} cannot be written: {problem}.")
    for key, array in arrays.items():
        with np.errstate(over="ignore"):
            finite = np.isfinite(array.astype(np.float32, copy=False)).all()
        if not finite:
            raise SplatlearnError(f"{path} cannot be written: {key} has values that are not finite.")
    return arrays


def to_tensors(arrays: Arrays, path: Path, drop: bool) -> dict[str, torch.Tensor]:
    """Convert a reader's arrays to contiguous float32 tensors in their order, every value finite.

    Means of float64 stay so.

    Args:
        arrays: one array per key.
        path: the file, for messages.
        drop: leave out Gaussians with a value that is not finite.

    Raises:
        SplatlearnError: without `drop`, for a value that is not finite.
    """
    good = np.ones(len(arrays["means"]), bool)
    for key in arrays:
        good &= np.isfinite(arrays[key]).all(axis=tuple(range(1, arrays[key].ndim)))
    bad = np.flatnonzero(~good)
    if bad.size and not drop:
        names = ", ".join(key for key in arrays if not np.isfinite(arrays[key][bad]).all())
        raise SplatlearnError(
            f"{path} has {bad.size:,} of {len(good):,} Gaussians with values that are not finite ({names}), "
            f"the first at {bad[0]}; `splatlearn convert --drop-bad` leaves them out."
        )
    kept = arrays if not bad.size else {key: array[good] for key, array in arrays.items()}
    kinds = {key: np.float64 if key == "means" and arrays[key].dtype == np.float64 else np.float32 for key in arrays}
    return {key: torch.from_numpy(np.ascontiguousarray(kept[key], kinds[key])) for key in arrays}


def normalized_quats(quats: np.ndarray) -> np.ndarray:
    """Normalize quaternions [N,4] (wxyz); a zero quaternion becomes the identity."""
    norms = np.linalg.norm(quats.astype(np.float64), axis=1, keepdims=True)
    safe = np.where(norms > 0, quats / np.where(norms > 0, norms, 1), np.array([1.0, 0, 0, 0]))
    return np.asarray(safe, np.float32)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Compute 1 / (1 + exp(-x)) in float64 without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64))))


def logit(alphas: np.ndarray) -> np.ndarray:
    """Compute the inverse of `sigmoid`, clamped to ±`LARGEST_LOGIT`; NaN outside of 0..1."""
    values = alphas.astype(np.float64)
    values = np.where((values >= 0) & (values <= 1), values, np.nan)
    with np.errstate(divide="ignore"):
        logits = np.log(values) - np.log1p(-values)
    return np.asarray(np.clip(logits, -LARGEST_LOGIT, LARGEST_LOGIT), np.float32)


def log_scale(scales: np.ndarray) -> np.ndarray:
    """Compute the logarithm of linear scales, clamped to `SMALLEST_LOG_SCALE`; NaN for negative scales."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.maximum(np.log(scales.astype(np.float64)), SMALLEST_LOG_SCALE), np.float32)
