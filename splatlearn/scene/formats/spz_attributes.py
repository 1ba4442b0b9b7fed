"""Encode and decode SPZ's attributes, with the rotation between COLMAP's frame and SPZ's.

Frame: RUB (x right, y up, z backward), which is COLMAP's rotated by 180 degrees about x, harmonics included.
Position: 24-bit two's complement with the header's number of fractional bits. Scale: a byte, (log s + 10) 16.
Alpha: a byte, 255 sigmoid. Colour: a byte, 255 (0.15 sh0 + 1/2). Rotation from version 3 on: the largest of
(x, y, z, w) is made positive and omitted. Its index takes the upper 2 bits of a u32; below follow the others in order,
each a sign bit and 9 bits of |q| sqrt(2) 511. In version 2: three bytes 127.5 q + 127.5 of x, y, z with w >= 0.
Harmonics: a byte, 128 f + 128, channel innermost. Version 1 has positions of three float16.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.notices import warn
from splatlearn.scene.formats.checks import Arrays, logit, normalized_quats, sigmoid
from splatlearn.scene.formats.sh_rotation import HALF_TURN, rotate_scene

COLOR_SCALE = 0.15  # scale of sh0 in a colour byte
FRACTION, MAX_FRACTION = 12, 20  # fractional bits of a position: Niantic's choice, and the most that is ever needed
LARGEST = (1 << 23) - 1  # of a position's 24 bits
ROWS_AT_ONCE = 1 << 16
STEPS = 16  # positions are rounded to at most 1/STEPS of the median Gaussian's size, if the bits allow it


class Header(NamedTuple):
    """The fields of both headers."""

    version: int
    points: int
    degree: int
    fraction: int  # fractional bits of a position
    flags: int


def sizes(count: int, degree: int, version: int) -> list[int]:
    """Return the sizes in bytes of positions, alphas, colours, scales, rotations and harmonics."""
    position, rotation = 9 if version >= 2 else 6, 4 if version >= 3 else 3
    return [length * count for length in (position, 1, 3, 3, rotation, 3 * ((degree + 1) ** 2 - 1))]


def encode(arrays: Arrays, path: Path, sh_bits: tuple[int, int]) -> tuple[int, list[bytes]]:
    """Encode arrays in COLMAP's frame: the fractional bits and the six attributes of version 3 and up.

    Raises:
        SplatlearnError: a position does not fit into 24 bits.
    """
    rotated = rotate_scene(arrays, HALF_TURN)
    fraction = _fraction(rotated, path)
    fixed = np.rint(rotated["means"].astype(np.float64) * (1 << fraction)).astype("<i4")
    _warn_of_clipping(rotated, path)
    harmonics = 128 * np.clip(rotated["shN"], -2, 2) + 128  # in float32, as these are most of a scene
    harmonics[:, :3] = _quantized(harmonics[:, :3], sh_bits[0])
    harmonics[:, 3:] = _quantized(harmonics[:, 3:], sh_bits[1])
    streams = [
        fixed[..., None].view(np.uint8)[..., :3],
        _bytes(255 * sigmoid(rotated["opacities"])),
        _bytes(255 * (COLOR_SCALE * rotated["sh0"].astype(np.float64) + 0.5)),
        _bytes(16 * (rotated["scales"].astype(np.float64) + 10)),
        pack_quats(rotated["quats"]),
        _bytes(harmonics),
    ]
    return fraction, [stream.tobytes() for stream in streams]


def _warn_of_clipping(arrays: Arrays, path: Path) -> None:
    """Name values beyond the range of their byte, which are held at its end."""
    limits = {"scales": (-10 - 1 / 32, 255 / 16 - 10 + 1 / 32), "sh0": (-3.35, 3.35), "shN": (-1.004, 1.004)}
    for name, (low, high) in limits.items():
        values = arrays[name]
        beyond = ((values < low) | (values > high)).any(axis=tuple(range(1, values.ndim)))
        if many := int(beyond.sum()):
            warn(f"{path} holds {name} of {many:,} Gaussians at the limits of SPZ, {low:.3g} and {high:.3g}.")


def decode(streams: list[bytes], header: Header, matrix: np.ndarray) -> Arrays:
    """Decode the six attributes to arrays in COLMAP's frame, into which `matrix` [3,3] turns the stored coordinates."""
    count, bases = header.points, (header.degree + 1) ** 2
    parts = [np.frombuffer(stream, np.uint8).reshape(count, -1 if count else 0) for stream in streams]
    arrays = {
        "means": np.empty((count, 3), np.float32), "scales": np.empty((count, 3), np.float32),
        "quats": np.empty((count, 4), np.float32), "opacities": np.empty(count, np.float32),
        "sh0": np.empty((count, 1, 3), np.float32), "shN": np.empty((count, bases - 1, 3), np.float32),
    }  # fmt: skip
    for start in range(0, count, ROWS_AT_ONCE):  # in pieces, so that the float64 temporaries stay small
        rows = slice(start, start + ROWS_AT_ONCE)
        for name, values in _decoded([part[rows] for part in parts], header, matrix).items():
            arrays[name][rows] = values
    return arrays


def _decoded(parts: list[np.ndarray], header: Header, matrix: np.ndarray) -> Arrays:
    positions, alphas, colors, scales, rotations, harmonics = parts
    count = len(positions)
    means: np.ndarray
    if header.version == 1:
        means = np.ascontiguousarray(positions).view("<f2").astype(np.float32)
    else:
        wide = np.zeros((count, 3, 4), np.uint8)
        wide[..., 1:] = positions.reshape(count, 3, 3)
        means = (wide.view("<i4")[..., 0] >> 8).astype(np.float32) / (1 << header.fraction)
    arrays: Arrays = {
        "means": means,
        "opacities": logit(alphas[:, 0] / 255),
        "sh0": ((colors.reshape(count, 1, 3) / 255 - 0.5) / COLOR_SCALE).astype(np.float32),
        "scales": scales.astype(np.float32) / 16 - 10,
        "quats": _unpack_quats(rotations),
        "shN": (harmonics.reshape(count, (header.degree + 1) ** 2 - 1, 3).astype(np.float32) - 128) / 128,
    }
    return rotate_scene(arrays, matrix)


def _fraction(arrays: Arrays, path: Path) -> int:
    """Choose the fractional bits: 12, fewer if the scene would not fit, more if its Gaussians are small."""
    if not len(arrays["means"]):
        return FRACTION
    size = float(np.exp(np.median(arrays["scales"].astype(np.float64))))
    wanted = max(FRACTION, min(MAX_FRACTION, math.ceil(-math.log2(size / STEPS))))
    reach = float(np.abs(arrays["means"]).max())
    fits = math.floor(math.log2((LARGEST - 0.5) / reach)) if reach > 0 else wanted
    if fits < 0:
        raise SplatlearnError(f"{path} cannot be written: a position of {reach:g} is beyond SPZ's ±{LARGEST:,}.")
    return min(wanted, fits)


def pack_quats(quats: np.ndarray) -> np.ndarray:
    """Encode quaternions [N,4] wxyz as [N,4] bytes."""
    q = np.roll(normalized_quats(quats), -1, axis=1).astype(np.float64)  # xyzw
    largest = np.abs(q).argmax(axis=1)
    q *= np.where(np.take_along_axis(q, largest[:, None], 1) < 0, -1, 1)
    packed = largest.astype(np.uint32)
    for axis in range(4):
        magnitude = np.clip(np.rint(511 * math.sqrt(2) * np.abs(q[:, axis])), 0, 511).astype(np.uint32)
        coded = (packed << 10) | ((q[:, axis] < 0).astype(np.uint32) << 9) | magnitude
        packed = np.where(largest == axis, packed, coded)
    return packed.astype("<u4")[:, None].view(np.uint8)


def _unpack_quats(raw: np.ndarray) -> np.ndarray:
    """Decode bytes [N,4], or [N,3] of version 2, to unit quaternions [N,4] wxyz."""
    q = np.zeros((len(raw), 4))  # xyzw
    if raw.shape[1] == 3:
        q[:, :3] = raw / 127.5 - 1
        q[:, 3] = np.sqrt(np.maximum(0, 1 - (q**2).sum(axis=1)))
        return np.roll(normalized_quats(q.astype(np.float32)), 1, axis=1)
    packed = np.ascontiguousarray(raw).view("<u4")[:, 0].copy()
    largest = packed >> 30
    for axis in (3, 2, 1, 0):
        value = (packed & 511) / (511 * math.sqrt(2)) * np.where(packed & 512, -1, 1)
        stored = largest != axis
        q[stored, axis] = value[stored]
        packed[stored] >>= 10
    rest = np.sqrt(np.maximum(0, 1 - (q**2).sum(axis=1)))
    np.put_along_axis(q, largest[:, None].astype(np.int64), rest[:, None], 1)
    return np.roll(normalized_quats(q.astype(np.float32)), 1, axis=1)


def _quantized(values: np.ndarray, bits: int) -> np.ndarray:
    """Round values 0..255 to the nearest of 2^bits levels, one of which is 128 (a coefficient of 0)."""
    width = 1 << (8 - bits)
    return np.rint(values / width) * width


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
