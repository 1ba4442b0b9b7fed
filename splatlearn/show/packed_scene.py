"""The packed scene that a page of `viewer_page` holds: some 20 to 65 bytes a Gaussian, before compression by gzip.

N Gaussians, along a Z-order curve so that neighbours are alike, one array after the other, little-endian:

- places: for x, y and z each three planes of N bytes, low to high: 24 bits between `low` and `high`
- rotations: N u32, smallest three as in SPZ (`scene/formats/spz_attributes.py`)
- N u32: three bytes of the logarithmic scales, `scales[0] + scales[1] b`, and the opacity in 255ths
- N u32: three times 10 bits of sh0, `colors[0] + colors[1] v`
- for each coefficient above the constant and each channel a plane of N bytes: `reach[degree - 1] (b - 128) / 127`

Gaussians that are nowhere above the alpha cut-off of 1/255 are left out. Frame: that of `Frame`, normalised.
"""

import gzip
from typing import Any

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.ops import native
from splatlearn.scene.formats.checks import Arrays, sigmoid
from splatlearn.scene.formats.spz_attributes import pack_quats

LARGEST_COLOR = 9.0  # of sh0: colours from -2 to 3; beyond is clipped
SCALES = 14.0  # of the logarithm, below the largest: what is smaller is a speck all the same


def seen(arrays: Arrays, limit: int | None) -> Arrays:
    """The Gaussians that can be seen at all, and of these the most important, in their order."""
    alphas = sigmoid(arrays["opacities"])
    kept = np.flatnonzero(alphas >= native.ALPHA_THRESHOLD)
    if not len(kept):
        raise SplatlearnError(
            f"none of the {len(alphas):,} Gaussians is opaque enough to be seen: there is no page to write"
        )
    if limit is not None and len(kept) > limit:
        largest = np.sort(arrays["scales"][kept].astype(np.float64), axis=1)[:, 1:].sum(axis=1)  # log of the area
        weight = np.log(alphas[kept]) + largest
        kept = np.sort(kept[np.argpartition(-weight, limit - 1)[:limit]])
    return {key: array[kept] for key, array in arrays.items()}


def packed(arrays: Arrays, degree: int) -> tuple[dict[str, Any], bytes]:
    """The parameters of the coding for the page, and the coded scene, compressed."""
    means = arrays["means"].astype(np.float64)
    low, high = means.min(axis=0), means.max(axis=0)
    fixed = np.rint((means - low) / np.where(high > low, high - low, 1) * 0xFFFFFF).astype(np.uint32)
    order = np.argsort(_z_order(fixed >> 14), kind="stable")
    fixed = fixed[order]
    planes = [(fixed[:, axis] >> shift & 255).astype(np.uint8) for axis in range(3) for shift in (0, 8, 16)]
    logs = arrays["scales"][order]
    scales, span = _bytes_between(np.maximum(logs, logs.max() - SCALES), 255)
    alphas = np.clip(np.rint(255 * sigmoid(arrays["opacities"][order])), 1, 255).astype(np.uint32)
    clipped = np.clip(arrays["sh0"][order, 0], -LARGEST_COLOR, LARGEST_COLOR)
    colors, shades = _bytes_between(clipped, 1023)
    words = [
        pack_quats(arrays["quats"][order]),
        (scales[:, 0] | scales[:, 1] << 8 | scales[:, 2] << 16 | alphas << 24).astype("<u4"),
        (colors[:, 0] | colors[:, 1] << 10 | colors[:, 2] << 20).astype("<u4"),
    ]
    reach, harmonics = [], []
    for d in range(1, degree + 1):
        rows = arrays["shN"][order, d * d - 1 : (d + 1) ** 2 - 1].astype(np.float64)
        reach.append(float(np.abs(rows).max()) or 1.0)
        coded = np.rint(rows / reach[-1] * 127 + 128).astype(np.uint8)
        harmonics.append(np.ascontiguousarray(coded.reshape(len(order), -1).T))
    told = {
        "count": len(order), "degree": degree, "low": low.tolist(), "high": high.tolist(),
        "scales": span, "colors": shades, "reach": (reach + [1.0] * 3)[:3],
    }  # fmt: skip
    return told, gzip.compress(b"".join(part.tobytes() for part in [*planes, *words, *harmonics]), 6, mtime=0)


def _bytes_between(values: np.ndarray, steps: int) -> tuple[np.ndarray, list[float]]:
    """Values as integers 0..steps, and the [first, step] that decode them."""
    low = float(values.min())
    step = (float(values.max()) - low) / steps or 1.0
    return np.rint((values.astype(np.float64) - low) / step).astype(np.uint32), [low, step]


def _z_order(cells: np.ndarray) -> np.ndarray:
    """Places along the Z-order curve of cells [N,3] of 10 bits: the bits of x, y and z in turn."""
    key = np.zeros(len(cells), np.uint32)
    for bit in range(10):
        for axis in range(3):
            key |= (cells[:, axis] >> bit & 1) << np.uint32(3 * bit + axis)
    return key
