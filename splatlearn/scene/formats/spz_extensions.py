"""The flags of SPZ and its extension records: type u32 | length u32 | content, one behind the other.

The upper half of a type is the vendor's number. A record that is not known here may change what the attributes mean, as
Adobe's coordinate system does, so the file is refused.
"""

import struct
from pathlib import Path

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.notices import warn
from splatlearn.scene.formats.sh_rotation import HALF_TURN

ANTIALIASED, EXTENSIONS = 1, 2  # flags of the header
RECORD = struct.Struct("<II")
MOST_BYTES = 1 << 16  # of all records together
SAFE_ORBIT, COORDINATES = 0xADBE0002, 0xADBE0003  # both Adobe's
# what x, y and z of the stored coordinates point at, by the value of COORDINATES: left or right, up or down, ...
SYSTEMS = (
    "", "LDB", "RDB", "LUB", "RUB", "LDF", "RDF", "LUF", "RUF", "LFD", "RFD", "LFU", "RFU", "LBD", "RBD", "LBU", "RBU",
)  # fmt: skip
AXES = {"R": (0, 1), "L": (0, -1), "D": (1, 1), "U": (1, -1), "F": (2, 1), "B": (2, -1)}  # in COLMAP's frame


def check_flags(flags: int, path: Path) -> None:
    """Refuse flags that are not known, by their number."""
    if unknown := flags & ~(ANTIALIASED | EXTENSIONS):
        raise SplatlearnError(f"{path} has the SPZ flags {unknown:#x}, which are not known, so it is not read.")


def frame(records: bytes, path: Path) -> np.ndarray:
    """Return the matrix [3,3] from the stored coordinates to COLMAP's, after a look at the extension records.

    Raises:
        SplatlearnError: a record is cut, its content is invalid, or its type is unknown.
    """
    matrix, at = HALF_TURN, 0
    while at < len(records):
        content = b""
        if at + RECORD.size <= len(records):
            kind, length = RECORD.unpack_from(records, at)
            content = records[at + RECORD.size : at + RECORD.size + length]
        if at + RECORD.size > len(records) or len(content) < length:
            raise SplatlearnError(f"{path} has an SPZ extension that is cut at byte {at} of {len(records):,}.")
        at += RECORD.size + length
        if kind == SAFE_ORBIT:
            warn(f"{path} limits the orbit of the camera (SPZ_ADOBE_safe_orbit_camera), which is not applied.")
        elif kind == COORDINATES:
            matrix = _axes(content, path)
        else:
            raise SplatlearnError(f"{path} has the SPZ extension {kind:#010x}, which is not known, so it is not read.")
    return matrix


def _axes(content: bytes, path: Path) -> np.ndarray:
    value = int.from_bytes(content, "little") if len(content) == 4 else len(SYSTEMS)
    if value >= len(SYSTEMS):
        raise SplatlearnError(f"{path} has a damaged SPZ extension SPZ_ADOBE_coordinate_system.")
    if not value:
        return HALF_TURN
    matrix = np.zeros((3, 3))
    for column, letter in enumerate(SYSTEMS[value]):
        row, sign = AXES[letter]
        matrix[row, column] = sign
    return matrix
