"""The `.splat` file: 32 bytes a Gaussian and no header, what small web viewers stream; colours of one direction only.

A record: position 3 x float32 | standard deviations 3 x float32 (linear) | red, green, blue, opacity 4 x uint8 |
quaternion wxyz 4 x uint8, each 128 q + 128. Little-endian. The frame is the trainer's own, COLMAP's here.
Lost: spherical harmonics above degree 0, colours outside 0..1, half a step of 1/255 in colour and opacity and of 1/128
in the quaternion.
"""

from pathlib import Path

import numpy as np
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.scene.formats.checks import (
    Arrays,
    Tensors,
    checked,
    finished,
    log_scale,
    logit,
    opened,
    sigmoid,
    size_of,
    unit,
)  # fmt: skip

RECORD = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])
SH0 = 0.28209479177387814  # the constant basis: colour = 1/2 + SH0 * sh0


def write_splat(path: Path | str, tensors: Tensors) -> None:
    """Writes Gaussians (tensors as for `write_ply`) as a `.splat` file, atomically, in their order.

    Raises SplatlearnError for tensors that do not fit together, and for a disk that refuses.
    """
    path = Path(path)
    arrays = checked(tensors, path)
    table = np.empty(len(arrays["means"]), RECORD)
    table["mean"], table["scale"] = arrays["means"], np.exp(np.minimum(arrays["scales"], 88))
    table["rgba"][:, :3] = _bytes(255 * (0.5 + SH0 * arrays["sh0"][:, 0].astype(np.float64)))
    table["rgba"][:, 3] = _bytes(255 * sigmoid(arrays["opacities"]))
    table["quat"] = _bytes(128 * unit(arrays["quats"]) + 128)
    with replacing(path) as temporary:
        table.tofile(temporary)


def read_splat(path: Path | str, drop: bool = False) -> dict[str, torch.Tensor]:
    """Reads a `.splat` file into float32 tensors as `read_ply` gives them, SH degree 0.

    Raises SplatlearnError for a size that is no multiple of 32 and, without `drop`, for values that are not finite
    (negative scales among them). A file without records, and bytes of another kind, cannot be told apart from a scene
    otherwise: the format has no header.
    """
    path = Path(path)
    with opened(path) as file:
        size = size_of(file)
        if size == 0 or size % RECORD.itemsize:
            raise SplatlearnError(
                f"{path} is not a .splat file, or was cut: its {size:,} bytes are no multiple of {RECORD.itemsize}."
            )
        table = np.fromfile(file, RECORD, size // RECORD.itemsize)
    arrays: Arrays = {
        "means": table["mean"],
        "scales": log_scale(table["scale"]),
        "quats": unit(table["quat"].astype(np.float32) - 128),
        "opacities": logit(table["rgba"][:, 3] / 255),
        "sh0": ((table["rgba"][:, :3] / 255 - 0.5) / SH0)[:, None],
        "shN": np.empty((len(table), 0, 3), np.float32),
    }
    return finished(arrays, path, drop)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
