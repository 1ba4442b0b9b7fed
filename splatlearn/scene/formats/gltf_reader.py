"""Read glTF 2.0 with KHR_gaussian_splatting from any writer, transformed by its nodes and into COLMAP's frame.

The reader supports `.glb`, and `.gltf` with data embedded or in files beside it. It reads every primitive of the
extension in the default scene, and applies translation, rotation and uniform scale of the nodes above it, to the
harmonics too. Attributes are floats or the normalized integers that the specification allows. It rejects compressed
variants, sparse accessors, non-uniform scale and mirroring, files outside the folder, and more Gaussians than bytes.
"""

import base64
import binascii
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.scene.formats.checks import (
    KEYS,
    Arrays,
    file_size,
    log_scale,
    logit,
    normalized_quats,
    open_binary,
    to_tensors,
)
from splatlearn.scene.formats.gltf import (
    BINARY_CHUNK,
    BYTE,
    EXTENSION,
    FLOAT,
    GLB,
    JSON_CHUNK,
    KINDS,
    MAX_DEGREE,
    SHORT,
    UNSIGNED_BYTE,
    UNSIGNED_SHORT,
)
from splatlearn.scene.formats.place import compact
from splatlearn.scene.formats.sh_rotation import HALF_TURN, rotate_scene

TYPES = {FLOAT: "<f4", BYTE: "i1", UNSIGNED_BYTE: "u1", SHORT: "<i2", UNSIGNED_SHORT: "<u2"}
WIDTHS = {kind: width for width, kind in KINDS.items()}
MAX_DEPTH = 64  # levels of nested nodes
DATA = "data:"


def read_gltf(path: Path | str, drop: bool = False) -> dict[str, torch.Tensor]:
    """Read `.glb` or `.gltf`, distinguished by content.

    Args:
        path: the file.
        drop: leave out Gaussians with values that are not finite, opacities outside 0..1 or negative scales.

    Returns:
        float32 tensors as `read_ply` returns them, in COLMAP's frame.

    Raises:
        SplatlearnError: the file is not such a glTF or is damaged (each accessor is checked against its buffer's
            actual size), or, without `drop`, a value is invalid.
    """
    path = Path(path)
    with open_binary(path) as file:
        if file.read(4) == struct.pack("<I", GLB):
            text, binary = _chunks(file.read(file_size(file) - 4), path)
        else:
            file.seek(0)
            text, binary = file.read(), None
    try:
        document = json.loads(text)
        if not isinstance(document, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise SplatlearnError(f"{path} is not a glTF file: it holds no JSON object ({str(error)[:60]}).") from error
    try:
        parts = [
            _transformed(arrays, matrix, path)
            for arrays, matrix in _primitives(document, _Buffers(document, binary, path))
        ]
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        if isinstance(error, SplatlearnError):
            raise
        raise SplatlearnError(
            f"{path} is a damaged glTF file: its parts do not refer to each other rightly."
        ) from error
    if not parts:
        raise SplatlearnError(f"{path} has no Gaussians: no primitive with the extension {EXTENSION} is in its scene.")
    bases = max(part["shN"].shape[1] for part in parts)
    for part in parts:
        part["shN"] = np.pad(part["shN"], ((0, 0), (0, bases - part["shN"].shape[1]), (0, 0)))
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in KEYS}  # float64 wins among means
    return to_tensors(rotate_scene(arrays, HALF_TURN), path, drop)  # a half turn is its own inverse


def _chunks(rest: bytes, path: Path) -> tuple[bytes, bytes | None]:
    """Return the JSON and the binary chunk of a .glb; `rest` is its content after the magic number."""
    size = len(rest) + 4
    if len(rest) < 16:
        raise SplatlearnError(f"{path} is not a whole .glb: {size} bytes are less than its header.")
    version, length, json_length, kind = struct.unpack_from("<IIII", rest)
    if version != 2 or length > size or kind != JSON_CHUNK or 20 + json_length > length:
        raise SplatlearnError(
            f"{path} has a damaged .glb header: version {version}, {length:,} bytes of which {json_length:,} are JSON, "
            f"in a file of {size:,}."
        )
    end = 16 + json_length
    text, binary = rest[16:end], None
    if end + 8 <= length - 4:
        binary_length, kind = struct.unpack_from("<II", rest, end)
        if kind == BINARY_CHUNK:
            binary = rest[end + 8 : min(end + 8 + binary_length, length - 4)]
    return text, binary


class _Buffers:
    """The document's buffers as arrays of bytes, loaded at first use."""

    def __init__(self, document: dict[str, Any], binary: bytes | None, path: Path) -> None:
        self.document, self.binary, self.path = document, binary, path
        self.loaded: dict[int, np.ndarray] = {}
        self.size = 0  # bytes loaded

    def __call__(self, index: int) -> np.ndarray:
        if index not in self.loaded:
            self.loaded[index] = np.frombuffer(self._bytes(index), np.uint8)
            self.size += len(self.loaded[index])
        return self.loaded[index]

    def _bytes(self, index: int) -> bytes:
        buffer = self.document["buffers"][index]
        uri, declared = buffer.get("uri"), _index(buffer["byteLength"])
        if uri is None:
            data = self.binary if index == 0 else None
        elif uri.startswith(DATA):
            data = _decode_data_uri(uri, self.path)
        else:
            data = _read_sibling(unquote(uri), declared, self.path)
        if data is None or len(data) < declared:
            raise SplatlearnError(
                f"{self.path} promises {declared:,} bytes of data in buffer {index}, "
                f"there are {0 if data is None else len(data):,}."
            )
        return data[:declared]


def _decode_data_uri(uri: str, path: Path) -> bytes:
    head, _, text = uri.partition(",")
    if not head.endswith(";base64"):
        raise SplatlearnError(f"{path} has data that is not in base64.")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise SplatlearnError(f"{path} has damaged base64 data.") from error


def _read_sibling(name: str, length: int, path: Path) -> bytes:
    """Read the first `length` bytes of a file in the glTF's folder or below it."""
    parts = Path(name).parts
    if "://" in name or not parts or Path(name).is_absolute() or ".." in parts or "\0" in name:
        raise SplatlearnError(f"{path} refers to {name[:80]!r}, which is not a file in its folder.")
    with open_binary(path.parent / name) as file:
        return file.read(min(length, file_size(file)))


def _primitives(document: dict[str, Any], buffers: _Buffers) -> Iterator[tuple[Arrays, np.ndarray]]:
    """Yield the Gaussians of each primitive in the frame of its node, and the node's matrix [4,4] to the scene."""
    path = buffers.path
    for name in document.get("extensionsRequired", []):
        if name != EXTENSION:
            raise SplatlearnError(f"{path} requires the glTF extension {str(name)[:60]!r}, which is not read.")
    scenes, nodes = document.get("scenes", []), document.get("nodes", [])
    roots = scenes[_index(document.get("scene", 0))].get("nodes", []) if scenes else range(len(nodes))
    stack = [(index, np.eye(4), 1) for index in roots]
    remaining, total = len(nodes), 0
    while stack:
        index, parent, depth = stack.pop(0)
        remaining -= 1
        if remaining < 0 or depth > MAX_DEPTH:
            raise SplatlearnError(f"{path} has nodes that contain each other.")
        node = nodes[_index(index)]
        matrix = parent @ _matrix(node)
        stack += [(child, matrix, depth + 1) for child in node.get("children", [])]
        if "mesh" in node:
            for primitive in document["meshes"][_index(node["mesh"])]["primitives"]:
                extension = primitive.get("extensions", {}).get(EXTENSION)
                if extension is not None:
                    arrays = _gaussians(document, primitive, extension, buffers)
                    total += len(arrays["means"])
                    if total > buffers.size:
                        raise SplatlearnError(f"{path} shows the same Gaussians again and again, which is not read.")
                    yield arrays, matrix


def _index(value: Any) -> int:
    """Check an index of glTF: as a Python index, JSON's -1 or true would silently select another element."""
    if type(value) is not int or value < 0:
        raise IndexError(value)
    return value


def _matrix(node: dict[str, Any]) -> np.ndarray:
    """Return the transform [4,4] from a node's frame to its parent's."""
    from scipy.spatial.transform import Rotation

    if "matrix" in node:
        return np.asarray(node["matrix"], np.float64).reshape(4, 4).T
    matrix = np.eye(4)
    rotation = Rotation.from_quat(node.get("rotation", [0, 0, 0, 1])).as_matrix()
    matrix[:3, :3] = rotation * np.asarray(node.get("scale", [1, 1, 1]), np.float64)
    matrix[:3, 3] = node.get("translation", [0, 0, 0])
    return matrix


def _gaussians(document: dict[str, Any], primitive: dict[str, Any], extension: Any, buffers: _Buffers) -> Arrays:
    """Return the arrays of one primitive, in the frame of its node."""
    path, attributes = buffers.path, primitive["attributes"]
    if compressed := list(extension.get("extensions", {})):
        raise SplatlearnError(f"{path} holds Gaussians compressed by {compressed[0][:60]!r}, which are not read.")
    if (kernel := extension.get("kernel", "ellipse")) != "ellipse":
        raise SplatlearnError(f"{path} holds Gaussians of the kernel {str(kernel)[:40]!r}, where 'ellipse' is read.")

    def column(name: str, width: int) -> np.ndarray:
        if name not in attributes:
            raise SplatlearnError(f"{path} has a primitive of {EXTENSION} without the attribute {name!r}.")
        return _accessor(document, _index(attributes[name]), width, name, buffers)

    degree = 0
    while degree < MAX_DEGREE and f"{EXTENSION}:SH_DEGREE_{degree + 1}_COEF_0" in attributes:
        degree += 1
    names = [f"{EXTENSION}:SH_DEGREE_{l}_COEF_{n}" for l in range(degree + 1) for n in range(2 * l + 1)]  # noqa: E741
    coefficients = [column(name, 3) for name in names]
    arrays = {
        "means": column("POSITION", 3),
        "scales": log_scale(column(f"{EXTENSION}:SCALE", 3)),
        "quats": normalized_quats(np.roll(column(f"{EXTENSION}:ROTATION", 4), 1, axis=1)),
        "opacities": logit(column(f"{EXTENSION}:OPACITY", 1)[:, 0]),
        "sh0": coefficients[0][:, None],
        "shN": np.stack(coefficients, axis=1)[:, 1:],
    }
    counts = {len(values) for values in arrays.values()}
    if len(counts) > 1:
        raise SplatlearnError(
            f"{path} has a primitive whose attributes count {' and '.join(map(str, sorted(counts)))}."
        )
    return arrays


def _accessor(document: dict[str, Any], index: int, width: int, name: str, buffers: _Buffers) -> np.ndarray:
    """Return the values [count, width] of an accessor as float32, after a check that its buffer contains them."""
    path, accessor = buffers.path, document["accessors"][index]
    count, start = _index(accessor["count"]), _index(accessor.get("byteOffset", 0))
    kind = accessor["componentType"]
    if accessor["type"] != KINDS[width] or kind not in TYPES:
        raise SplatlearnError(
            f"{path} has {name} as {accessor['type']} of type {kind}, expected {KINDS[width]} of floats."
        )
    if "sparse" in accessor or "bufferView" not in accessor:
        raise SplatlearnError(f"{path} has {name} in a sparse accessor, which is not read.")
    view = document["bufferViews"][_index(accessor["bufferView"])]
    data = buffers(_index(view["buffer"]))
    begin, length = _index(view.get("byteOffset", 0)), _index(view["byteLength"])
    item = np.dtype(TYPES[kind]).itemsize * width
    stride = _index(view.get("byteStride", item))
    needed = start + (count - 1) * stride + item if count else 0
    if stride < item or needed > length or begin + length > len(data):
        raise SplatlearnError(
            f"{path} promises {count:,} values of {name} in {needed:,} bytes, but has {len(data):,} bytes of data."
        )
    raw = np.lib.stride_tricks.as_strided(data[begin + start :], (count, item), (stride, 1)) if count else data[:0]
    values = np.ascontiguousarray(raw).view(TYPES[kind]).reshape(count, width)
    if kind == FLOAT or not accessor.get("normalized", False):
        return values.astype(np.float32)
    return np.maximum(values / np.float32(np.iinfo(values.dtype).max), np.float32(-1)).astype(np.float32)


def _transformed(arrays: Arrays, matrix: np.ndarray, path: Path) -> Arrays:
    """Apply a node's transform [4,4] to the arrays; it must be a rotation, a translation and a uniform scale."""
    linear = matrix[:3, :3]
    scale = float(np.cbrt(np.linalg.det(linear))) if np.isfinite(matrix).all() else 0.0
    if scale <= 0 or not np.allclose(linear.T @ linear, scale * scale * np.eye(3), rtol=0, atol=1e-4 * scale * scale):
        raise SplatlearnError(f"{path} places Gaussians by a node that mirrors them or scales them unevenly.")
    if np.array_equal(matrix, np.eye(4)):
        return arrays
    rotated = rotate_scene(arrays, linear / scale)
    with np.errstate(over="ignore", invalid="ignore"):  # `to_tensors` checks the result
        means = compact(scale * rotated["means"].astype(np.float64) + matrix[:3, 3])
    return {**rotated, "means": means, "scales": rotated["scales"] + np.float32(np.log(scale))}
