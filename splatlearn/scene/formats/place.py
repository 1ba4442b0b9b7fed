"""Where a scene lies that the numbers of a file cannot hold: the file has it at the origin and states the way back.

Float32 has 24 bits: of UTM coordinates it holds half a metre. A file whose positions would be rounded by more than
`TOLERANCE` of the scene's extent is written relative to an offset. PLY states it in its header and glTF in a node;
`.splat` and SPZ have no place for it, so that a file NAME.frame.json beside them does. Readers take it back in float64.
Without it a scene lies at the origin and is rendered without jitter.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.scene.formats.checks import Arrays
from splatlearn.scene.frame import Frame

TOLERANCE = 1e-6  # of the extent: what a file may round off the positions without a word
FAR = 16.0  # extents from the origin within which 24 bits hold a position to TOLERANCE
STRAY = 10.0  # extents from the middle beyond which a Gaussian does not decide for the others
LARGEST_FILE = 1 << 16  # bytes of a NAME.frame.json
FORMAT = {"format": "splatlearn frame", "version": 1}


def extent_of(means: np.ndarray) -> tuple[np.ndarray, float]:
    """The median [3] of positions [N, 3], and how far most of them lie from it."""
    middle = np.median(means, axis=0)
    return middle, float(np.percentile(np.abs(means - middle).max(axis=1), 90))


def is_rounded(means: np.ndarray, tolerance: float = TOLERANCE) -> bool:
    """Whether float32 rounds positions [N, 3] of float64 by more than `tolerance` of their extent.

    Those far away do not count, as their own distance is a measure for them.
    """
    means = means[np.isfinite(means).all(axis=1)]
    if not len(means):
        return False
    middle, extent = extent_of(means)
    near = means[np.abs(means - middle).max(axis=1) <= STRAY * extent]
    with np.errstate(over="ignore"):
        lost = float(np.abs(near.astype(np.float32).astype(np.float64) - near).max())
    return lost > tolerance * extent


def place_of(arrays: Arrays) -> Frame:
    """The frame in which float32 holds the positions: the identity, or one with an offset."""
    means = arrays["means"]
    if means.dtype != np.float64 or not is_rounded(means):
        return Frame()
    middle, extent = extent_of(means)
    return Frame(offset=offset_of(middle, extent or float(np.exp(np.clip(np.median(arrays["scales"]), -30, 30)))))


def offset_of(middle: np.ndarray, extent: float) -> tuple[float, float, float]:
    """A place near the middle whose numbers are short, as they are multiples of a power of two."""
    step = 2.0 ** math.floor(math.log2(extent))
    x, y, z = (float(value) + 0.0 for value in np.rint(middle / step) * step)
    return x, y, z


def at_origin(arrays: Arrays, place: Frame) -> Arrays:
    """The arrays in the frame of the file, means in float32."""
    means = arrays["means"]
    if place.moves:
        means = place.normalised_points(means)
    scales = arrays["scales"] - np.float32(math.log(place.scale))
    return {**arrays, "means": means.astype(np.float32, copy=False), "scales": scales}


def back(arrays: Arrays, place: Frame) -> Arrays:
    """The arrays in the frame of the capture; means in float64 where float32 would round them."""
    if not place.moves:
        return arrays
    scales = arrays["scales"] + np.float32(math.log(place.scale))
    return {**arrays, "means": compact(place.capture_points(arrays["means"])), "scales": scales}


def compact(means: np.ndarray) -> np.ndarray:
    """Positions as float32 if that holds them, otherwise as they are, in float64; infinite where float32 ends."""
    with np.errstate(over="ignore", invalid="ignore"):
        short = means.astype(np.float32)
        wide = means.dtype == np.float64 and is_rounded(means, TOLERANCE / 4)
        return np.where(np.isfinite(short), means, short) if wide else short


def sentence(place: Frame, path: Path) -> str:
    """What a user must know of a file that was moved; "" for one that was not."""
    if not place.moves:
        return ""
    x, y, z = place.offset
    scaled = f" and divided by {place.scale:.12g}" if place.scale != 1 else ""
    where = f"{beside(path).name} beside it" if beside(path).is_file() else "it"
    return (
        f"positions in {path} are relative to ({x:.12g}, {y:.12g}, {z:.12g}){scaled}, "
        f"as its numbers cannot hold them; {where} says so, and splatlearn reads them back"
    )


# ---- the file beside one that has no place for an offset ----


def beside(path: Path) -> Path:
    """The name of the file that holds the frame of another."""
    return path.with_name(f"{path.name}.frame.json")


def write_beside(path: Path, place: Frame) -> None:
    """Write the frame of a file that has been written, or remove that of an earlier one."""
    if not place.moves:
        beside(path).unlink(missing_ok=True)
        return
    record: dict[str, Any] = FORMAT | {"scale": place.scale, "offset": list(place.offset)}
    with replacing(beside(path)) as temporary:
        temporary.write_text(json.dumps(record) + "\n", encoding="utf-8")


def read_beside(path: Path) -> Frame:
    """Read the frame of a file; the identity where there is none.

    Raises:
        SplatlearnError: the file with the frame cannot be read or is damaged.
    """
    file = beside(path)
    if not file.is_file():
        return Frame()
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise ValueError(f"more than {LARGEST_FILE:,} bytes")
        record = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or {key: record.get(key) for key in FORMAT} != FORMAT:
            raise ValueError(f"it lacks {json.dumps(FORMAT)[1:-1]}")
    except (OSError, ValueError, RecursionError) as error:
        raise SplatlearnError(f"{file} does not say where {path.name} lies: {str(error)[:80]}.") from error
    return Frame.of_record(record, str(file))
