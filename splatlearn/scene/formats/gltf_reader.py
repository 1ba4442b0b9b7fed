"""glTF 2.0 with KHR_gaussian_splatting, read: ours and others', placed by their nodes, turned into COLMAP's frame.

Read: `.glb`, `.gltf` with data within or in files beside it; every primitive of the extension in the default scene,
with the translation, rotation and even scale of the nodes above it (harmonics are rotated too); float attributes and
the normalised integers that the specification allows. Refused in a sentence: compressed variants, sparse accessors,
uneven scale and mirroring, files outside the folder, more Gaussians than bytes of data.
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
from splatlearn.scene.formats.checks import KEYS, Arrays, finished, log_scale, logit, opened, size_of, unit
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
from splatlearn.scene.formats.sh_rotation import HALF_TURN, rotate_scene

TYPES = {FLOAT: "<f4", BYTE: "i1", UNSIGNED_BYTE: "u1", SHORT: "<i2", UNSIGNED_SHORT: "<u2"}
WIDTHS = {kind: width for width, kind in KINDS.items()}
DEPTH = 64  # nodes above each other
DATA = "data:"


def read_gltf(path: Path | str, drop: bool = False) -> dict[str, torch.Tensor]:
    """Reads `.glb` or `.gltf` (told apart by content) into float32 tensors as `read_ply` gives them.

    Raises SplatlearnError for whatever is not such a file and, without `drop`, for values that are not finite,
    opacities outside 0..1 and negative scales among them. Every accessor is held against its buffer's real size first.
    """
    path = Path(path)
    with opened(path) as file:
        if file.read(4) == struct.pack("<I", GLB):
            text, binary = _chunks(file.read(size_of(file) - 4), path)
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
            _placed(arrays, matrix, path) for arrays, matrix in _primitives(document, _Buffers(document, binary, path))
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
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in KEYS}
    return finished(rotate_scene(arrays, HALF_TURN), path, drop)  # a half turn is its own inverse


def _chunks(rest: bytes, path: Path) -> tuple[bytes, bytes | None]:
    """The JSON and the binary chunk of a .glb, of which `rest` follows the mark."""
    size = len(rest) + 4
    if len(rest) < 16:
        raise SplatlearnError(f"{path} is not a whole .glb: {size} bytes are less than its header.")
    version, length, json_length, kind = struct.unpack_from("<IIII", rest)
    if version != 2 or length > size or kind != JSON_CHUNK or 20 + json_length > length:
        raise SplatlearnError(
            f"{path} has a damaged .glb header: version {version}, {length:,} bytes of which {json_length:,} are JSON, "
            f"in a file of {size:,}."
        )
    at = 16 + json_length
    text, binary = rest[16:at], None
    if at + 8 <= length - 4:
        binary_length, kind = struct.unpack_from("<II", rest, at)
        if kind == BINARY_CHUNK:
            binary = rest[at + 8 : min(at + 8 + binary_length, length - 4)]
    return text, binary


class _Buffers:
    """The document's buffers as arrays of bytes, loaded when first asked for."""

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
        uri, promised = buffer.get("uri"), _index(buffer["byteLength"])
        if uri is None:
            data = self.binary if index == 0 else None
        elif uri.startswith(DATA):
            data = _decoded(uri, self.path)
        else:
            data = _beside(unquote(uri), promised, self.path)
        if data is None or len(data) < promised:
            raise SplatlearnError(
                f"{self.path} promises {promised:,} bytes of data in buffer {index}, "
                f"there are {0 if data is None else len(data):,}."
            )
        return data[:promised]


def _decoded(uri: str, path: Path) -> bytes:
    head, _, text = uri.partition(",")
    if not head.endswith(";base64"):
        raise SplatlearnError(f"{path} has data that is not in base64.")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise SplatlearnError(f"{path} has damaged base64 data.") from error


def _beside(name: str, length: int, path: Path) -> bytes:
    """The first bytes of a file in the glTF's folder or below it."""
    parts = Path(name).parts
    if "://" in name or not parts or Path(name).is_absolute() or ".." in parts or "\0" in name:
        raise SplatlearnError(f"{path} refers to {name[:80]!r}, which is not a file in its folder.")
    with opened(path.parent / name) as file:
        return file.read(min(length, size_of(file)))


def _primitives(document: dict[str, Any], buffers: _Buffers) -> Iterator[tuple[Arrays, np.ndarray]]:
    """The Gaussians of every primitive of the scene, in the frame of its node, with the matrix [4,4] of that node."""
    path = buffers.path
    for name in document.get("extensionsRequired", []):
        if name != EXTENSION:
            raise SplatlearnError(f"{path} requires the glTF extension {str(name)[:60]!r}, which is not read.")
    scenes, nodes = document.get("scenes", []), document.get("nodes", [])
    roots = scenes[_index(document.get("scene", 0))].get("nodes", []) if scenes else range(len(nodes))
    stack = [(index, np.eye(4), 1) for index in roots]
    left, total = len(nodes), 0
    while stack:
        index, above, depth = stack.pop(0)
        left -= 1
        if left < 0 or depth > DEPTH:
            raise SplatlearnError(f"{path} has nodes that contain each other.")
        node = nodes[_index(index)]
        matrix = above @ _matrix(node)
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
    """A reference of glTF: JSON's -1 or true would silently mean another element in Python."""
    if type(value) is not int or value < 0:
        raise IndexError(value)
    return value


def _matrix(node: dict[str, Any]) -> np.ndarray:
    """The transform [4,4] of a node to its parent."""
    from scipy.spatial.transform import Rotation

    if "matrix" in node:
        return np.asarray(node["matrix"], np.float64).reshape(4, 4).T
    matrix = np.eye(4)
    turn = Rotation.from_quat(node.get("rotation", [0, 0, 0, 1])).as_matrix()
    matrix[:3, :3] = turn * np.asarray(node.get("scale", [1, 1, 1]), np.float64)
    matrix[:3, 3] = node.get("translation", [0, 0, 0])
    return matrix


def _gaussians(document: dict[str, Any], primitive: dict[str, Any], extension: Any, buffers: _Buffers) -> Arrays:
    """The arrays of one primitive, in glTF's frame."""
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
        "quats": unit(np.roll(column(f"{EXTENSION}:ROTATION", 4), 1, axis=1)),
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
    """The values [count, width] of an accessor as float32, after checking that its buffer holds them."""
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


def _placed(arrays: Arrays, matrix: np.ndarray, path: Path) -> Arrays:
    """The arrays under the transform [4,4] of their node, which must be a turn, a shift and an even scale."""
    linear = matrix[:3, :3]
    size = float(np.cbrt(np.linalg.det(linear))) if np.isfinite(matrix).all() else 0.0
    if size <= 0 or not np.allclose(linear.T @ linear, size * size * np.eye(3), rtol=0, atol=1e-4 * size * size):
        raise SplatlearnError(f"{path} places Gaussians by a node that mirrors them or scales them unevenly.")
    if np.array_equal(matrix, np.eye(4)):
        return arrays
    turned = rotate_scene(arrays, linear / size)
    with np.errstate(over="ignore", invalid="ignore"):  # judged when all is read
        means = (size * turned["means"].astype(np.float64) + matrix[:3, 3]).astype(np.float32)
    return {**turned, "means": means, "scales": turned["scales"] + np.float32(np.log(size))}
