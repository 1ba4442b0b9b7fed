"""Read and write `.splat`: 32 bytes per Gaussian without a header, streamed by small web viewers; SH degree 0 only.

A record: position 3 x float32 | standard deviations 3 x float32 (linear) | red, green, blue, opacity 4 x uint8 |
quaternion wxyz 4 x uint8, each 128 q + 128. Little-endian. The frame is the trainer's own, here COLMAP's.
Writing loses spherical harmonics above degree 0 and colours outside 0..1. It rounds colour and opacity to steps of
1/255 and the quaternion to steps of 1/128.
"""

from pathlib import Path

import numpy as np
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.notices import warn
from splatlearn.scene.formats.checks import (
    Arrays,
    Tensors,
    checked_arrays,
    file_size,
    log_scale,
    logit,
    normalized_quats,
    open_binary,
    sigmoid,
    to_tensors,
)  # fmt: skip
from splatlearn.scene.formats.place import at_origin, back, place_of, read_beside, write_beside
from splatlearn.scene.frame import Frame

RECORD = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])
SH0 = 0.28209479177387814  # the basis function of degree 0: colour = 1/2 + SH0 * sh0


def write_splat(path: Path | str, tensors: Tensors) -> Frame:
    """Write a scene (tensors as for `write_ply`) as a `.splat` file, atomically, in the Gaussians' order.

    Returns:
        The frame of the file, which a NAME.frame.json beside it holds unless it is the identity.

    Raises:
        SplatlearnError: the tensors do not fit together, or the file cannot be written.
    """
    path = Path(path)
    arrays = checked_arrays(tensors, path)
    place = place_of(arrays)
    arrays = at_origin(arrays, place)
    table = np.empty(len(arrays["means"]), RECORD)
    table["mean"], table["scale"] = arrays["means"], np.exp(np.minimum(arrays["scales"], 88))
    colors = 255 * (0.5 + SH0 * arrays["sh0"][:, 0].astype(np.float64))
    if many := int(((colors < -0.5) | (colors > 255.5)).any(axis=1).sum()):
        warn(f"{path} holds the colours of {many:,} Gaussians at the limits of .splat, 0 and 1.")
    table["rgba"][:, :3] = _bytes(colors)
    table["rgba"][:, 3] = _bytes(255 * sigmoid(arrays["opacities"]))
    table["quat"] = _bytes(128 * normalized_quats(arrays["quats"]) + 128)
    with replacing(path) as temporary:
        table.tofile(temporary)
    write_beside(path, place)
    return place


def read_splat(path: Path | str, drop: bool = False) -> dict[str, torch.Tensor]:
    """Read a `.splat` file into float32 tensors as `read_ply` returns them, with SH degree 0.

    The format has no header, so other data whose size is a multiple of 32 bytes cannot be detected.

    Args:
        path: the file.
        drop: leave out Gaussians with values that are not finite or with negative scales.

    Raises:
        SplatlearnError: the size is zero or not a multiple of 32, or, without `drop`, a value is invalid.
    """
    path = Path(path)
    with open_binary(path) as file:
        size = file_size(file)
        if size == 0 or size % RECORD.itemsize:
            raise SplatlearnError(
                f"{path} is not a .splat file, or was cut: its {size:,} bytes are no multiple of {RECORD.itemsize}."
            )
        table = np.fromfile(file, RECORD, size // RECORD.itemsize)
    arrays: Arrays = {
        "means": table["mean"],
        "scales": log_scale(table["scale"]),
        "quats": normalized_quats(table["quat"].astype(np.float32) - 128),
        "opacities": logit(table["rgba"][:, 3] / 255),
        "sh0": ((table["rgba"][:, :3] / 255 - 0.5) / SH0)[:, None],
        "shN": np.empty((len(table), 0, 3), np.float32),
    }
    return to_tensors(back(arrays, read_beside(path)), path, drop)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
