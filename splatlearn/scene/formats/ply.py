"""The PLY file of the original 3DGS, read and written: the one format that every splat viewer opens.

Shapes: N Gaussians, K = (degree + 1)² spherical-harmonic coefficients, three colour channels.
Columns: x y z | nx ny nz | f_dc_0..2 | f_rest_0.. (3(K-1)) | opacity | scale_0..2 | rot_0..3, float32.
The values are raw, before activation: opacity is a logit, scale a logarithm, rot a wxyz quaternion of any
norm, and f_rest runs channel by channel (its index is channel·(K-1) + k). nx ny nz are zeros, for viewers
that want them. The frame is COLMAP's own; nothing is rotated.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.scene.formats.checks import (
    LARGEST_LOGIT,
    SMALLEST_LOG_SCALE,
    Tensors,
    checked_arrays,
    file_size,
    open_binary,
    to_tensors,
)

RENDER_MODES = ("default", "mip")  # classic, and antialiased (Mip-Splatting) rasterization
REST_COUNTS = {0: 1, 9: 4, 24: 9, 45: 16, 72: 25}  # f_rest columns -> K, for SH degree 0 to 4
HEADER_LIMIT = 1 << 16  # bytes: one of degree 4 has 2 KiB; without a limit a missing end reads a whole disk
ROWS_AT_ONCE = 1 << 17  # rows are packed in pieces, so that saving needs no second copy of the scene
TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
BYTE_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}


def write_ply(path: Path | str, tensors: Tensors, render_mode: str | None = None) -> None:
    """Write Gaussians as a 3DGS PLY, atomically.

    `tensors`: means [N,3], scales [N,3] (log), quats [N,4] (wxyz), opacities [N] (logit), sh0 [N,1,3],
    shN [N,K-1,3]; finite, any float dtype, any device; written as little-endian float32.
    `render_mode`: "default" or "mip" adds the comment that tells viewers whether it was trained antialiased.
    Raises SplatlearnError for a missing tensor, a wrong shape, a value not finite, or a disk that refuses.
    """
    path = Path(path)
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise SplatlearnError(f"render_mode must be one of {', '.join(RENDER_MODES)}, not {render_mode!r}.")
    arrays = checked_arrays(tensors, path)
    count, rest = len(arrays["means"]), 3 * arrays["shN"].shape[1]
    comments = [f"comment SplatRenderMode: {render_mode}"] if render_mode else []
    properties = [f"property float {name}" for name in _column_names(rest)]
    lines = ["ply", "format binary_little_endian 1.0", *comments, f"element vertex {count}", *properties]
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write("\n".join([*lines, "end_header\n"]).encode("ascii"))
        for start in range(0, count, ROWS_AT_ONCE):
            part = {key: array[start : start + ROWS_AT_ONCE] for key, array in arrays.items()}
            n = len(part["means"])
            columns = [
                part["means"], np.zeros((n, 3), np.float32), part["sh0"].reshape(n, 3),
                part["shN"].transpose(0, 2, 1).reshape(n, rest),
                part["opacities"][:, None], part["scales"], part["quats"],
            ]  # fmt: skip
            file.write(np.concatenate(columns, axis=1).astype("<f4", copy=False).tobytes())


def read_ply(path: Path | str, drop: bool = False) -> dict[str, torch.Tensor]:
    """Read a 3DGS PLY into float32 CPU tensors with exactly the keys, shapes and meaning of `write_ply`.

    Properties are found by name, in any order and of any numeric type; normals may be absent and unknown
    properties are passed over. Binary of either byte order and ascii are read. An opacity of ±Inf and a scale of
    -Inf, which tools write for wholly opaque, wholly transparent and flat, are held at ±`LARGEST_LOGIT` and
    `SMALLEST_LOG_SCALE`; `drop` leaves out Gaussians with any other value that is not finite. Raises SplatlearnError,
    one sentence naming the file, for whatever is not such a file and, without `drop`, for values that are not finite;
    nothing is allocated before the header's counts are checked against the file's size.
    """
    path = Path(path)
    with open_binary(path) as file:
        header = _read_header(file, path)
        if any(name.startswith("packed_") for name, _ in header.properties):
            raise SplatlearnError(
                f"{path} is a compressed PLY (SuperSplat's packed_position), which is not read: export it uncompressed."
            )
        column = _columns(file, header, path)
    rest = _rest_count(column, path)
    for name in _column_names(rest):
        if name not in column and name not in ("nx", "ny", "nz"):
            raise SplatlearnError(
                f"{path} has no property {name!r}: it is not a PLY of 3D Gaussians as 3DGS writes it."
            )

    def stack(*names: str) -> np.ndarray:
        out = np.empty((header.count, len(names)), np.float32)
        for index, name in enumerate(names):
            with np.errstate(over="ignore"):  # a double beyond float32 becomes inf and is reported just below
                out[:, index] = column[name]
            if name == "opacity":
                out[column[name] == np.inf], out[column[name] == -np.inf] = LARGEST_LOGIT, -LARGEST_LOGIT
            elif name.startswith("scale_"):
                out[column[name] == -np.inf, index] = SMALLEST_LOG_SCALE
            bad = np.flatnonzero(~np.isfinite(out[:, index]))
            if bad.size and not drop:
                raise SplatlearnError(
                    f"{path} has {bad.size} values that are not finite float32 numbers in property {name!r}, "
                    f"the first at vertex {bad[0]}; `splatlearn convert --drop-bad` leaves such out."
                )
        return out

    arrays = {
        "means": stack("x", "y", "z"),
        "scales": stack("scale_0", "scale_1", "scale_2"),
        "quats": stack("rot_0", "rot_1", "rot_2", "rot_3"),
        "opacities": stack("opacity")[:, 0],
        "sh0": stack("f_dc_0", "f_dc_1", "f_dc_2")[:, None, :],
        "shN": stack(*(f"f_rest_{i}" for i in range(rest))).reshape(header.count, 3, rest // 3).transpose(0, 2, 1),
    }
    return to_tensors(arrays, path, drop)


def read_render_mode(path: Path | str) -> str | None:
    """The file's `SplatRenderMode` comment: "default" or "mip", or None where there is no such comment."""
    path = Path(path)
    with open_binary(path) as file:
        mode = _read_header(file, path).render_mode
    return mode if mode in RENDER_MODES else None


@dataclass
class _Header:
    """What the text at the top of a PLY says: where the vertex records lie, how many, and what is in one."""

    order: str | None = None  # a numpy byte order, "" for ascii
    render_mode: str | None = None
    skip: int = 0  # bytes (ascii: lines) of the elements before the vertices
    count: int = -1
    properties: list[tuple[str, str]] = field(default_factory=list)  # (name, numpy type) of a vertex

    @property
    def stride(self) -> int:
        """Bytes a vertex takes, in ascii at least: a digit and a separator a value."""
        return sum(int(kind[1:]) if self.order else 2 for _, kind in self.properties)


def _read_header(file: BinaryIO, path: Path) -> _Header:
    """Parse the header and leave `file` at the first byte after it."""
    header, element, elements_done, records = _Header(), "", False, 0
    if file.readline(HEADER_LIMIT).strip() != b"ply":
        raise SplatlearnError(f"{path} is not a PLY file: it does not begin with 'ply'.")
    while True:
        if file.tell() > HEADER_LIMIT or not (line := file.readline(HEADER_LIMIT)).endswith(b"\n"):
            raise SplatlearnError(f"{path} has a PLY header without end_header in its first {HEADER_LIMIT} bytes.")
        words = line.decode("utf-8", "replace").split()
        match words:
            case ["end_header"]:
                break
            case [] | ["obj_info", *_]:
                continue
            case ["comment", *text]:
                if text[:1] == ["SplatRenderMode:"] and len(text) == 2:
                    header.render_mode = text[1]
            case ["format", name, _] if name in BYTE_ORDERS:
                header.order = BYTE_ORDERS[name]
            case ["element", name, digits] if _is_count(digits) and header.order is not None:
                elements_done = elements_done or element == "vertex"  # what follows the vertices is not read
                element, records = name, int(digits)
                if element == "vertex" and header.count < 0:
                    header.count = records
                elif not elements_done and header.order == "":
                    header.skip += records
            case ["property", "list", *_] if element and elements_done:
                continue
            case ["property", kind, name] if kind in TYPES and element:
                if element == "vertex" and not elements_done:
                    header.properties.append((name, TYPES[kind]))
                elif not elements_done and header.order:
                    header.skip += records * int(TYPES[kind][1:])
            case ["property", "list", *_]:
                raise SplatlearnError(
                    f"{path} has a list property in element {element!r}, which 3DGS files never have."
                )
            case _:
                shown = " ".join(words)[:60]
                raise SplatlearnError(f"{path} has a PLY header line that cannot be understood: {shown!r}.")
    if header.order is None or header.count < 0:
        raise SplatlearnError(
            f"{path} has a PLY header without a {'format' if header.order is None else 'vertex element'}."
        )
    names = [name for name, _ in header.properties]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SplatlearnError(f"{path} has the property {twice!r} twice.")
    return header


def _is_count(digits: str) -> bool:
    return digits.isascii() and digits.isdigit() and len(digits) < 19


def _columns(file: BinaryIO, header: _Header, path: Path) -> dict[str, np.ndarray]:
    """The vertex values by property name, after checking that the file is long enough to hold them."""
    start = file.tell() + (header.skip if header.order else 0)
    size = file_size(file)
    needed = start + header.count * header.stride - (0 if header.order else 1)  # the last newline may be missing
    if header.count and needed > size:
        raise SplatlearnError(
            f"{path} is too short: its header promises {header.count} vertices of {header.stride} bytes, "
            f"{needed} bytes in all, but the file has {size}."
        )
    names = [name for name, _ in header.properties]
    if not names or not header.count:
        return {name: np.empty(0, np.float32) for name in names}
    if header.order:
        file.seek(start)
        table = np.fromfile(file, [(name, header.order + kind) for name, kind in header.properties], header.count)
        return {name: table[name] for name in names}
    try:
        rows = np.loadtxt(file, np.float64, comments=None, skiprows=header.skip, max_rows=header.count, ndmin=2)
    except ValueError as error:
        raise SplatlearnError(f"{path} has text among its vertices that is not a table of numbers.") from error
    if rows.shape != (header.count, len(names)):
        raise SplatlearnError(
            f"{path} has {rows.shape[0]} rows of {rows.shape[1]} numbers, "
            f"its header promises {header.count} of {len(names)}."
        )
    return dict(zip(names, rows.T, strict=True))


def _column_names(rest: int) -> list[str]:
    """The properties in the order of 3DGS, with `rest` columns of higher SH coefficients."""
    return [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(rest)),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]  # fmt: skip


def _rest_count(names: Iterable[str], path: Path) -> int:
    """How many f_rest columns there are; it must be that of a whole SH degree."""
    rest = sum(name.startswith("f_rest_") for name in names)
    if rest not in REST_COUNTS:
        counts = ", ".join(map(str, REST_COUNTS))
        raise SplatlearnError(f"{path} has {rest} f_rest properties, expected one of {counts} (SH degree 0 to 4).")
    return rest
