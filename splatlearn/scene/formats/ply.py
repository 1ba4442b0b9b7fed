"""The PLY file of the original 3DGS, read and written: the one format that every splat viewer opens.

Shapes: N Gaussians, K = (degree + 1)² spherical-harmonic coefficients, three colour channels.
Columns: x y z | nx ny nz | f_dc_0..2 | f_rest_0.. (3(K-1)) | opacity | scale_0..2 | rot_0..3 | further parameters
of the schema, float32. The values are raw, before activation: opacity is a logit, scale a logarithm, rot a wxyz
quaternion of any norm, and f_rest runs channel by channel (its index is channel·(K-1) + k). nx ny nz are zeros, for
viewers that want them. The frame is COLMAP's own; nothing is rotated.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from splatlearn.errors import SplatlearnError, listed, shown
from splatlearn.files import replacing
from splatlearn.notices import warn
from splatlearn.scene.formats.checks import (
    LARGEST_LOGIT,
    SMALLEST_LOG_SCALE,
    Tensors,
    checked_arrays,
    logit,
    open_binary,
    sigmoid,
    to_tensors,
)
from splatlearn.scene.formats.place import at_origin, back, compact, place_of
from splatlearn.scene.formats.ply_header import Header, antialiased, read_header, splat_offset
from splatlearn.scene.formats.ply_rows import check_color_space, check_size, pieces
from splatlearn.scene.frame import Frame
from splatlearn.scene.schema import GAUSSIAN, SH_REST, Parameter, Schema

RENDER_MODES = ("default", "mip")  # classic, and antialiased (Mip-Splatting) rasterization
ORDER = ("means", "sh0", "shN", "opacities", "scales", "quats")  # of the columns in the files of 3DGS
NORMALS = ["nx", "ny", "nz"]  # stand behind the means
ROWS_AT_ONCE = 1 << 17  # rows are packed in pieces, so that saving needs no second copy of the scene
FILTERS = ("filter_3d", "filter3d")  # names of the column of Mip-Splatting in lower case


def write_ply(path: Path | str, tensors: Tensors, render_mode: str | None = None, schema: Schema = GAUSSIAN) -> Frame:
    """Write Gaussians as a 3DGS PLY, atomically.

    Args:
        tensors: means [N,3], scales [N,3] (log), quats [N,4] (wxyz), opacities [N] (logit), sh0 [N,1,3], shN [N,K-1,3],
            and further parameters of the schema; finite, any float dtype, any device; written as little-endian float32.
            Means of float64 that float32 cannot hold are written relative to the comment `SplatOffset: X Y Z`.
        render_mode: "default" or "mip" adds the comment that tells viewers whether it was trained antialiased.

    Returns:
        The frame of the file: the identity, or one with that offset.

    Raises:
        SplatlearnError: a tensor is missing, has a wrong shape or a value that is not finite, or the disk refuses.
    """
    path = Path(path)
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise SplatlearnError(f"render_mode must be one of {', '.join(RENDER_MODES)}, not {render_mode!r}.")
    arrays = checked_arrays(tensors, path, schema)
    count, place = len(arrays["means"]), place_of(arrays)
    arrays = at_origin(arrays, place)
    comments = [f"comment SplatRenderMode: {render_mode}"] if render_mode else []
    comments += ["comment SplatOffset: {!r} {!r} {!r}".format(*place.offset)] if place.moves else []
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
    return place


def read_ply(path: Path | str, drop: bool = False, schema: Schema = GAUSSIAN) -> dict[str, torch.Tensor]:
    """Read a 3DGS PLY into float32 CPU tensors with exactly the keys, shapes and meaning of `write_ply`.

    Properties are found by name, in any order and of any numeric type; normals may be absent. Binary of either byte
    order and ascii are read. A warning names properties and elements that are not used. An opacity of ±Inf and a scale
    of -Inf, which tools write for wholly opaque, wholly transparent and flat, are held at ±`LARGEST_LOGIT` and
    `SMALLEST_LOG_SCALE`. The 3D filter of Mip-Splatting is applied to scales and opacities. Nothing is allocated
    before the header's counts are checked against the file's size. Means that float32 would round are float64: those
    in columns of doubles, and those with a `SplatOffset`.

    Args:
        drop: leave out Gaussians with any other value that is not finite.
        schema: further parameters are read where the file has their first column, and are absent otherwise.

    Raises:
        SplatlearnError: the file is not such a PLY, it is rendered in another way, or, without `drop`, it has values
            that are not finite.
    """
    return read_ply_with_mode(path, drop, schema)[0]


def read_ply_with_mode(
    path: Path | str, drop: bool = False, schema: Schema = GAUSSIAN
) -> tuple[dict[str, torch.Tensor], bool | None]:
    """Read the same, and whether the file says that the scene was trained antialiased (None: it does not say)."""
    path = Path(path)
    with open_binary(path) as file:
        header = read_header(file, path)
        mode = antialiased(header.comments, path)
        names = [name for name, _ in header.vertex.properties]
        shapes = _shapes(names, path, schema)
        columns = {*_all_columns(schema, shapes), *NORMALS}
        filters = _filter([name for name in names if name not in columns], path)
        _warn_of_unused(header, {*columns, filters or ""}, path)
        check_size(file, header, path)
        check_color_space(file, header, path)
        arrays, widths = _arrays(file, header, shapes, schema, filters, path, drop)
    if widths is not None:
        mode = _apply_filter(arrays, widths, mode, path)
    return to_tensors(back(arrays, splat_offset(header.comments, path)), path, drop), mode


def _shapes(names: list[str], path: Path, schema: Schema) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter that the file holds, after a check that all its columns are there."""
    if any(name.startswith("packed_") for name in names):
        raise SplatlearnError(
            f"{path} is a compressed PLY (SuperSplat's packed_position), which is not read: export it uncompressed."
        )
    if {"scale_0", "scale_1", "rot_0", "opacity"} <= set(names) and "scale_2" not in names:
        raise SplatlearnError(f"{path} holds 2D Gaussians (2DGS: scale_0 and scale_1 alone), which are not read.")
    rest = _rest_count(names, path)
    shapes: dict[str, tuple[int, ...]] = {}
    for parameter in _in_order(schema):
        shape = tuple(rest // 3 if isinstance(size, tuple) else size for size in parameter.shape)
        columns = parameter.column_names(math.prod(shape))
        if not parameter.rendered and columns[0] not in names:
            continue
        for name in columns:
            if name not in names:
                raise SplatlearnError(
                    f"{path} has no property {name!r}: it is not a PLY of 3D Gaussians as 3DGS writes it."
                )
        shapes[parameter.name] = shape
    return {parameter.name: shapes[parameter.name] for parameter in schema if parameter.name in shapes}


def _filter(names: list[str], path: Path) -> str | None:
    """The property of the 3D filter; others that are named a filter are refused."""
    found = [name for name in names if "filter" in name.lower()]
    if unknown := [name for name in found if name.lower() not in FILTERS] + found[1:]:
        raise SplatlearnError(f"{path} has the property {shown(unknown[0])}, a filter that is not known.")
    return found[0] if found else None


def _all_columns(schema: Schema, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    for name, shape in shapes.items():
        yield from schema[name].column_names(math.prod(shape))


def _warn_of_unused(header: Header, used: set[str], path: Path) -> None:
    """Name properties and elements that are not read: they may change the picture elsewhere."""
    if properties := [name for name, _ in header.vertex.properties if name not in used]:
        warn(f"{path} has properties that are not used: {listed(properties)}.")
    others = [element.name for element in header.before + header.after if element.count]
    if others := [name for name in others if name != "color_space"]:
        warn(f"{path} has elements that are not read: {listed(others)}.")


def _arrays(
    file: BinaryIO,
    header: Header,
    shapes: Mapping[str, tuple[int, ...]],
    schema: Schema,
    filters: str | None,
    path: Path,
    drop: bool,
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Read the vertices into one array per parameter, and the 3D filter [N] of the property `filters`."""
    count = header.vertex.count
    arrays = {name: np.empty((count, *shape), np.float32) for name, shape in shapes.items()}
    kinds = dict(header.vertex.properties)
    if any(kinds[axis] == "f8" for axis in schema["means"].column_names(3)):
        arrays["means"] = arrays["means"].astype(np.float64)
    widths = np.empty(count, np.float32) if filters else None
    bad: dict[str, tuple[int, int]] = {}  # how many values of a property are not finite, and the first vertex
    start = 0
    for piece in pieces(file, header, path):
        rows = slice(start, start + len(piece))
        for name, shape in shapes.items():
            for index, column in enumerate(schema[name].column_names(math.prod(shape))):
                target = arrays[name][rows]
                wide = target.dtype == np.float64
                values = np.asarray(piece[column], np.float64) if wide else _float32(piece[column], column)
                if len(shape) == 2:  # channel by channel
                    target[:, index % shape[0], index // shape[0]] = values
                else:
                    target.reshape(len(values), -1)[:, index] = values
                if not drop:
                    _note_bad(bad, column, values, start)
        if widths is not None:
            widths[rows] = _float32(piece[filters], filters or "")
        start = rows.stop
    for column, (many, first) in bad.items():
        raise SplatlearnError(
            f"{path} has {many:,} values that are not finite float32 numbers in property {column!r}, "
            f"the first at vertex {first}; `splatlearn convert --drop-bad` leaves such out."
        )
    arrays["means"] = compact(arrays["means"])
    return arrays, widths


def _float32(values: np.ndarray, column: str) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # a double beyond float32 becomes inf and is reported
        found = values.astype(np.float32)
    if column == "opacity":
        found[values == np.inf], found[values == -np.inf] = LARGEST_LOGIT, -LARGEST_LOGIT
    elif column.startswith("scale_"):
        found[values == -np.inf] = SMALLEST_LOG_SCALE
    return np.asarray(found)


def _note_bad(bad: dict[str, tuple[int, int]], column: str, values: np.ndarray, start: int) -> None:
    if (rows := np.flatnonzero(~np.isfinite(values))).size:
        many, first = bad.get(column, (0, start + int(rows[0])))
        bad[column] = many + rows.size, first


def _apply_filter(arrays: dict[str, np.ndarray], widths: np.ndarray, mode: bool | None, path: Path) -> bool:
    """Widen the Gaussians by the 3D filter of Mip-Splatting, in place, and return how they are rendered.

    A Gaussian is convolved with one of standard deviation `widths`; its opacity falls by the ratio of the volumes.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        variances = np.exp(2 * arrays["scales"].astype(np.float64))
        wider = variances + np.where(widths >= 0, widths, np.nan).astype(np.float64)[:, None] ** 2
        shares = np.sqrt(np.prod(variances / wider, axis=1))
        arrays["opacities"][:] = logit(shares * sigmoid(arrays["opacities"]))
        arrays["scales"][:] = np.maximum(0.5 * np.log(wider), SMALLEST_LOG_SCALE)
    rendered = "" if mode is not None else ", and as its writers do, the scene is rendered antialiased"
    warn(f"{path} has a 3D filter (filter_3D): it is applied to scales and opacities{rendered}.")
    return True if mode is None else mode


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
