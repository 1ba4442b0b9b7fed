"""Where SPZ can hold a scene, as its positions have 24 bits and its sizes a byte."""

import math
from pathlib import Path

import numpy as np

from splatlearn.notices import warn
from splatlearn.scene.formats.checks import Arrays
from splatlearn.scene.formats.place import FAR, extent_of, offset_of
from splatlearn.scene.frame import Frame

SIZES = (-8.0, 3.0)  # of the median logarithmic scale, within which a byte, from -10 to 5.9, holds the others
MIDDLE = -1.0  # what the median becomes where it is outside
REACH = 8000.0  # extents within which 24 bits leave a thousandth of the extent


def spz_place(arrays: Arrays) -> Frame:
    """The frame in which SPZ holds a scene: the identity, or one with an offset, a scale, or both."""
    if not len(arrays["means"]):
        return Frame()
    middle, extent = extent_of(arrays["means"].astype(np.float64))
    size = float(np.median(arrays["scales"]))
    extent = extent or math.exp(min(max(size, -30.0), 30.0))
    scale = 1.0 if SIZES[0] <= size <= SIZES[1] else 2.0 ** round((size - MIDDLE) / math.log(2))
    moved = bool(np.abs(middle).max() > FAR * extent)
    return Frame(scale, offset_of(middle, extent)) if moved else Frame(scale)


def pulled_in(arrays: Arrays, path: Path) -> Arrays:
    """Gaussians beyond REACH come nearer and become smaller alike, as else all positions would be rounded for them.

    Seen from within the scene they look the same. A warning counts them.
    """
    if not len(arrays["means"]):
        return arrays
    middle, extent = extent_of(arrays["means"].astype(np.float64))
    away = arrays["means"] - middle
    distance = np.abs(away).max(axis=1)
    far = distance > REACH * extent
    if not extent or not far.any():
        return arrays
    warn(
        f"{path}: {int(far.sum()):,} of {len(far):,} Gaussians lie more than {REACH:,.0f} times as far out as most; "
        "they are moved nearer and made smaller alike, as SPZ would round all others for them."
    )
    factor = np.where(far, REACH * extent / np.maximum(distance, 1e-300), 1.0)
    means = np.where(far[:, None], middle + away * factor[:, None], arrays["means"]).astype(np.float32)
    scales = (arrays["scales"] + np.log(factor)[:, None]).astype(np.float32)
    return {**arrays, "means": means, "scales": scales}
