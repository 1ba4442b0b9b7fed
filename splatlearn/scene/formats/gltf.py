"""Write glTF 2.0 with KHR_gaussian_splatting, a standard that stores Gaussians beside meshes and that many tools read.

A `.glb` is one file; a `.gltf` is JSON text with its data in a `.bin` of the same name or embedded. A Gaussian is a
point of a POINTS primitive with float32 attributes: POSITION, KHR_gaussian_splatting:ROTATION (xyzw, unit), SCALE
(linear), OPACITY (0..1), SH_DEGREE_l_COEF_n (RGB, l up to 3), and COLOR_0 (bytes) for viewers that show points only.
Frame: glTF's x right, y up, z backward, which is COLMAP's rotated by 180 degrees about x, quaternions and harmonics
included. COLMAP does not define a vertical, so a scene that is tilted in its model is tilted in the glTF too. Harmonics
of degree 4 are lost. Little-endian; the specification is KhronosGroup/glTF,
extensions/2.0/Khronos/KHR_gaussian_splatting, ratified.
"""

import base64
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.files import replace_with_part, replacing
from splatlearn.scene.formats.checks import Arrays, Tensors, checked_arrays, normalized_quats, sigmoid
from splatlearn.scene.formats.place import at_origin, place_of
from splatlearn.scene.formats.sh_rotation import HALF_TURN, rotate_scene
from splatlearn.scene.formats.splat import SH0
from splatlearn.scene.frame import Frame

EXTENSION = "KHR_gaussian_splatting"
KERNEL, COLOR_SPACE = "ellipse", "srgb_rec709_display"
MAX_DEGREE = 3  # the highest of the extension
GLB, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
LARGEST = (1 << 32) - 1  # bytes of a .glb, whose length is a u32
FLOAT, BYTE, UNSIGNED_BYTE, SHORT, UNSIGNED_SHORT = 5126, 5120, 5121, 5122, 5123
KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}


def write_gltf(path: Path | str, tensors: Tensors, *, embed: bool = False, antialiased: bool | None = None) -> Frame:
    """Write a scene as `.glb` or `.gltf`, by the suffix, atomically.

    A `.gltf` refers to a `.bin` beside it. Both are written so that a kill leaves the old pair or the new one.

    Args:
        path: the file.
        tensors: as for `write_ply`.
        embed: store the data within the `.gltf`, as base64 a third larger.
        antialiased: whether the scene was trained antialiased; the standard has no field for it, so it becomes an
            `extras` that splatlearn reads.

    Returns:
        The frame of the positions; the translation of their node leads back.

    Raises:
        SplatlearnError: the tensors do not fit together, there are no Gaussians or more than a `.glb` can store, or
            the file cannot be written.
    """
    path = Path(path)
    arrays = checked_arrays(tensors, path)
    if not len(arrays["means"]):
        raise SplatlearnError(f"{path} cannot be written: glTF knows no primitive of 0 points.")
    place = place_of(arrays)
    columns = list(_attributes(rotate_scene(at_origin(arrays, place), HALF_TURN)))
    document = _document(columns, antialiased)
    if place.moves:  # in glTF's frame
        document["nodes"][0]["translation"] = [float(x) + 0.0 for x in HALF_TURN @ np.array(place.offset)]
    data = b"".join(np.ascontiguousarray(values).tobytes() for _, values in columns)
    if path.suffix.lower() == ".glb":
        text = _padded(json.dumps(document, separators=(",", ":")).encode(), b" ")
        length = 28 + len(text) + len(data)
        if length > LARGEST:
            raise SplatlearnError(f"{path} cannot be written: {length:,} bytes are more than a .glb holds; use .gltf.")
        with replacing(path) as temporary, open(temporary, "wb") as file:
            file.write(struct.pack("<IIIII", GLB, 2, length, len(text), JSON_CHUNK) + text)
            file.write(struct.pack("<II", len(data), BINARY_CHUNK))
            file.write(data)
        return place

    def write(file: Path, uri: str) -> None:
        document["buffers"][0]["uri"] = uri
        file.write_text(json.dumps(document, indent=1), encoding="utf-8")

    if embed:
        with replacing(path) as temporary:
            write(temporary, "data:application/octet-stream;base64," + base64.b64encode(data).decode("ascii"))
    else:
        replace_with_part(path, path.with_suffix(".bin"), lambda file, name: write(file, quote(name)), data)
    return place


def _attributes(arrays: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and values [N, 1, 3 or 4] of the attributes; the arrays are in glTF's frame."""
    yield "POSITION", arrays["means"]
    yield f"{EXTENSION}:ROTATION", np.roll(normalized_quats(arrays["quats"]), -1, axis=1)
    yield f"{EXTENSION}:SCALE", np.exp(np.clip(arrays["scales"], -80, 88))
    alphas = sigmoid(arrays["opacities"])[:, None]
    yield f"{EXTENSION}:OPACITY", alphas.astype(np.float32)
    coefficients = np.concatenate([arrays["sh0"], arrays["shN"]], axis=1)
    for degree in range(min(MAX_DEGREE, math.isqrt(coefficients.shape[1]) - 1) + 1):
        for order in range(2 * degree + 1):
            yield f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{order}", coefficients[:, degree * degree + order]
    color = np.concatenate([0.5 + SH0 * arrays["sh0"][:, 0].astype(np.float64), alphas], axis=1)
    yield "COLOR_0", np.clip(np.rint(255 * color), 0, 255).astype(np.uint8)


def _document(columns: list[tuple[str, np.ndarray]], antialiased: bool | None) -> dict[str, Any]:
    """Build the JSON: one accessor and one buffer view per attribute, all in one buffer."""
    accessors: list[Any] = []
    views: list[Any] = []
    start = 0
    for name, values in columns:
        accessor: dict[str, Any] = {"bufferView": len(views), "count": len(values), "type": KINDS[values.shape[1]]}
        accessor |= (
            {"componentType": UNSIGNED_BYTE, "normalized": True} if name == "COLOR_0" else {"componentType": FLOAT}
        )
        if name == "POSITION":
            accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        accessors.append(accessor)
        views.append({"buffer": 0, "byteOffset": start, "byteLength": values.nbytes, "target": 34962})
        start += values.nbytes
    extension: dict[str, Any] = {
        "kernel": KERNEL,
        "colorSpace": COLOR_SPACE,
        "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }
    if antialiased is not None:
        extension["extras"] = {"antialiased": antialiased}
    attributes = {name: index for index, (name, _) in enumerate(columns)}
    return {
        "asset": {"version": "2.0", "generator": "splatlearn"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "gaussians"}],
        "meshes": [{"primitives": [{"mode": 0, "attributes": attributes, "extensions": {EXTENSION: extension}}]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": start}],
    }


def _padded(text: bytes, filler: bytes) -> bytes:
    return text + filler * (-len(text) % 4)
