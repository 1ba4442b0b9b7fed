"""The PLY file of the original 3DGS, read and written: the one format that every splat viewer opens.

Shapes: N Gaussians, K = (degree + 1)² spherical-harmonic coefficients, three colour channels.
Columns: x y z | nx ny nz | f_dc_0..2 | f_rest_0.. (3(K-1)) | opacity | scale_0..2 | rot_0..3 | further parameters
of the schema, float32. The values are raw, before activation: opacity is a logit, scale a logarithm, rot a wxyz
quaternion of any norm, and f_rest runs channel by channel (its index is channel·(K-1) + k). nx ny nz are zeros, for
viewers that want them. The frame is COLMAP's own; nothing is rotated.
"""

import math
from collections.abc import Iterable, Mapping
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
from splatlearn.scene.schema import GAUSSIAN, SH_REST, Parameter, Schema

RENDER_MODES = ("default", "mip")  # classic, and antialiased (Mip-Splatting) rasterization
ORDER = ("means", "sh0", "shN", "opacities", "scales", "quats")  # of the columns in the files of 3DGS
NORMALS = ["nx", "ny", "nz"]  # stand behind the means
HEADER_LIMIT = 1 << 16  # bytes: one of degree 4 has 2 KiB; without a limit a missing end reads a whole disk
ROWS_AT_ONCE = 1 << 17  # rows are packed in pieces, so that saving needs no second copy of the scene
TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
BYTE_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}


def write_ply(path: Path | str, tensors: Tensors, render_mode: str | None = None, schema: Schema = GAUSSIAN) -> None:
    """Write Gaussians as a 3DGS PLY, atomically.

    Args:
        tensors: means [N,3], scales [N,3] (log), quats [N,4] (wxyz), opacities [N] (logit), sh0 [N,1,3], shN [N,K-1,3],
            and further parameters of the schema; finite, any float dtype, any device; written as little-endian float32.
        render_mode: "default" or "mip" adds the comment that tells viewers whether it was trained antialiased.

    Raises:
        SplatlearnError: a tensor is missing, has a wrong shape or a value that is not finite, or the disk refuses.
    """
    path = Path(path)
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise SplatlearnError(f"render_mode must be one of {', '.join(RENDER_MODES)}, not {render_mode!r}.")
    arrays = checked_arrays(tensors, path, schema)
    count = len(arrays["means"])
    comments = [f"comment SplatRenderMode: {render_mode}"] if render_mode else []
    sizes = {name: math.prod(array.shape[1:]) for name, array in arrays.items()}
    properties = [f"property float {name}" for name in _column_names(schema, sizes)]
    lines = ["ply", "format binary_little_endian 1.0", *comments, f"element vertex {count}", *properties]
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write("\n".join([*lines, "end_header\n"]).encode("ascii"))
        for start in range(0, count, ROWS_AT_ONCE):
            columns = []
            for parameter in _in_order(schema):
                part = arrays[parameter.name][start : start + ROWS_AT_ONCE]
                columns.append((part.transpose(0, 2, 1) if part.ndim == 3 else part).reshape(len(part), -1))
                if parameter.name == "means":
                    columns.append(np.zeros((len(part), len(NORMALS)), np.float32))
            file.write(np.concatenate(columns, axis=1).astype("<f4", copy=False).tobytes())


def read_ply(path: Path | str, drop: bool = False, schema: Schema = GAUSSIAN) -> dict[str, torch.Tensor]:
    """Read a 3DGS PLY into float32 CPU tensors with exactly the keys, shapes and meaning of `write_ply`.

    Properties are found by name, in any order and of any numeric type; normals may be absent and unknown properties
    are ignored. Binary of either byte order and ascii are read. An opacity of ±Inf and a scale of -Inf, which tools
    write for wholly opaque, wholly transparent and flat, are held at ±`LARGEST_LOGIT` and `SMALLEST_LOG_SCALE`.
    Nothing is allocated before the header's counts are checked against the file's size.

    Args:
        drop: leave out Gaussians with any other value that is not finite.
        schema: further parameters are read where the file has their first column, and are absent otherwise.

    Raises:
        SplatlearnError: the file is not such a PLY or, without `drop`, has values that are not finite.
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
    shapes: dict[str, tuple[int, ...]] = {}
    for parameter in schema:
        shape = tuple(rest // 3 if isinstance(size, tuple) else size for size in parameter.shape)
        names = parameter.column_names(math.prod(shape))
        if not parameter.rendered and names[0] not in column:
            continue
        shapes[parameter.name] = shape
    for parameter in _in_order(schema):
        if parameter.name not in shapes:
            continue
        for name in parameter.column_names(math.prod(shapes[parameter.name])):
            if name not in column:
                raise SplatlearnError(
                    f"{path} has no property {name!r}: it is not a PLY of 3D Gaussians as 3DGS writes it."
                )
    arrays = {}
    for name, shape in shapes.items():
        values = _stacked(path, column, schema[name].column_names(math.prod(shape)), header.count, drop)
        swapped = values.reshape(header.count, *shape[::-1])
        arrays[name] = swapped.transpose(0, 2, 1) if len(shape) == 2 else swapped
    return to_tensors(arrays, path, drop)


def _stacked(path: Path, column: dict[str, np.ndarray], names: list[str], count: int, drop: bool) -> np.ndarray:
    """[count, columns] float32 of the named columns."""
    out = np.empty((count, len(names)), np.float32)
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


def _in_order(schema: Schema) -> list[Parameter]:
    """The parameters in the order of their columns: that of 3DGS, then further ones."""
    return [*(schema[name] for name in ORDER), *(parameter for parameter in schema if parameter.name not in ORDER)]


def _column_names(schema: Schema, sizes: Mapping[str, int]) -> list[str]:
    """All properties in the order of the file, for parameters of so many columns each."""
    names = []
    for parameter in _in_order(schema):
        names += parameter.column_names(sizes[parameter.name])
        names += NORMALS if parameter.name == "means" else []
    return names


def _rest_count(names: Iterable[str], path: Path) -> int:
    """How many f_rest columns there are; it must be that of a whole SH degree."""
    rest = sum(name.startswith("f_rest_") for name in names)
    if rest not in (counts := [3 * bases for bases in SH_REST]):
        raise SplatlearnError(
            f"{path} has {rest} f_rest properties, expected one of {', '.join(map(str, counts))} (SH degree 0 to 4)."
        )
    return rest
