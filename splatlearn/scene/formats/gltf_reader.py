"""Read glTF 2.0 with KHR_gaussian_splatting from any writer, transformed by its nodes and into COLMAP's frame.

The reader supports `.glb`, and `.gltf` with data embedded or in files beside it. It reads every primitive of the
extension in the default scene, and applies translation, rotation and uniform scale of the nodes above it, to the
harmonics too. Attributes are floats or the normalized integers that the specification allows. What changes the picture
and is not supported is rejected by its name: another kernel, colour space, projection or sorting, compression, sparse
accessors, skins, instances, mirroring. So are files outside the folder, and more Gaussians than bytes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splatlearn.errors import SplatlearnError, listed, shown
from splatlearn.notices import warn
from splatlearn.scene.formats.checks import KEYS, Arrays, log_scale, logit, normalized_quats, to_tensors
from splatlearn.scene.formats.gltf import COLOR_SPACE, EXTENSION, KERNEL, MAX_DEGREE
from splatlearn.scene.formats.gltf_file import Accessor, GltfFile
from splatlearn.scene.formats.gltf_nodes import VISIBILITY, check_node, placed_meshes
from splatlearn.scene.formats.place import compact
from splatlearn.scene.formats.sh_rotation import HALF_TURN, rotate_scene

KNOWN_EXTENSIONS = (EXTENSION, "KHR_mesh_quantization", VISIBILITY)
# what the extension declares, and the values that are read: cameraDistance is the default, and zDepth is how we sort;
# the two differ where Gaussians overlap far from the middle of the image
DECLARATIONS = {
    "kernel": (KERNEL,),
    "colorSpace": (COLOR_SPACE,),
    "projection": ("perspective",),
    "sortingMethod": ("cameraDistance", "zDepth"),
}
REQUIRED = ("kernel", "colorSpace")
HARMONIC = re.compile(rf"{EXTENSION}:SH_DEGREE_(\d+)_COEF_(\d+)")
MOST_PRIMITIVES = 256
# float32 output per byte of input: 4 where all are bytes, so more means that primitives share them; small files may
MOST_GROWTH, FREE_BYTES = 4, 64 << 20
ROWS_AT_ONCE = 1 << 16


@dataclass
class _Primitive:
    """A primitive of Gaussians in the scene."""

    columns: dict[str, Accessor]  # by the name of the attribute, without its prefix
    count: int
    degree: int
    matrix: np.ndarray  # [4,4], to the scene
    antialiased: bool | None


def read_gltf(path: Path | str, drop: bool = False) -> tuple[dict[str, torch.Tensor], bool | None]:
    """Read `.glb` or `.gltf`, distinguished by content.

    Args:
        path: the file.
        drop: leave out Gaussians with values that are not finite, opacities outside 0..1 or negative scales.

    Returns:
        float32 tensors as `read_ply` returns them, in COLMAP's frame, and whether the scene was trained antialiased
        (None: the file does not say).

    Raises:
        SplatlearnError: the file is not such a glTF or is damaged (each accessor is checked against its buffer's
            actual size), it is rendered in another way, or, without `drop`, a value is invalid.
    """
    path = Path(path)
    with GltfFile(path) as file:
        try:
            _check_document(file)
            primitives = list(_primitives(file))
        except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
            if isinstance(error, SplatlearnError):
                raise
            raise SplatlearnError(
                f"{path} is a damaged glTF file: its parts do not refer to each other rightly."
            ) from error
        arrays = _arrays(primitives, file)
    modes = {primitive.antialiased for primitive in primitives}
    if len(modes) > 1:
        warn(f"{path} has primitives that disagree on antialiasing, so it is rendered without.")
    return to_tensors(arrays, path, drop), modes.pop() if len(modes) == 1 else False


def _check_document(file: GltfFile) -> None:
    path, document = file.path, file.document
    asset = document.get("asset", {})
    for key in ("version", "minVersion"):
        if not str(asset.get(key, "2.0")).startswith("2."):
            raise SplatlearnError(f"{path} is of glTF {key} {shown(asset[key], 12)}, where 2.0 is read.")
    for name in document.get("extensionsRequired", []):
        if name not in KNOWN_EXTENSIONS:
            raise SplatlearnError(f"{path} requires the glTF extension {shown(name, 60)}, which is not read.")
    if others := [str(name)[:60] for name in document.get("extensionsUsed", []) if name not in KNOWN_EXTENSIONS]:
        warn(f"{path} uses glTF extensions that are not applied: {listed(others)}.")
    if document.get("animations"):
        warn(f"{path} has animations, which are not played.")


def _primitives(file: GltfFile) -> Iterator[_Primitive]:
    """Yield the primitives of Gaussians in the default scene, all checked."""
    path, meshes = file.path, file.document.get("meshes", [])
    gaussians = [[p for p in mesh["primitives"] if EXTENSION in p.get("extensions", {})] for mesh in meshes]
    seen, others, count = set(), False, 0
    for number, node, matrix in placed_meshes(file.document, path):
        others |= len(gaussians[number]) < len(meshes[number]["primitives"])
        if gaussians[number]:
            seen.add(number)
            check_node(node, meshes[number], path)
            _check_matrix(matrix, path)
        count += len(gaussians[number])
        if count > MOST_PRIMITIVES:
            raise SplatlearnError(f"{path} shows more than {MOST_PRIMITIVES:,} primitives of Gaussians.")
        for primitive in gaussians[number]:
            yield _checked(primitive, matrix, file)
    if not count:
        foreign = {str(name) for mesh in meshes for p in mesh["primitives"] for name in p.get("extensions", {})}
        if splats := sorted(name[:60] for name in foreign if "splat" in name.lower()):
            raise SplatlearnError(f"{path} holds Gaussians by {listed(splats)}, which is not read in this place.")
        raise SplatlearnError(f"{path} has no Gaussians: no primitive with the extension {EXTENSION} is in its scene.")
    if others:
        warn(f"{path} has meshes beside its Gaussians, which are not read.")
    if hidden := sum(map(len, gaussians)) - sum(len(gaussians[number]) for number in seen):
        warn(f"{path} has {hidden:,} primitives of Gaussians that its default scene does not show; they are not read.")


def _checked(primitive: dict[str, Any], matrix: np.ndarray, file: GltfFile) -> _Primitive:
    """Check one primitive and find its columns."""
    path, attributes, extension = file.path, primitive["attributes"], primitive["extensions"][EXTENSION]
    foreign = [*extension.get("extensions", {}), *(name for name in primitive["extensions"] if _changes_data(name))]
    if foreign:
        raise SplatlearnError(f"{path} holds Gaussians changed by {shown(foreign[0], 60)}, which is not read.")
    for key, known in DECLARATIONS.items():
        if key not in extension and key in REQUIRED:
            warn(f"{path} does not say the {key} of its Gaussians: {known[0]} is assumed.")
        elif (value := extension.get(key, known[0])) not in known:
            raise SplatlearnError(f"{path} has Gaussians of {key} {shown(value)}, where {listed([*known])} is read.")
    if (mode := primitive.get("mode", 4)) != 0:
        raise SplatlearnError(f"{path} has Gaussians in a primitive of mode {shown(mode)}, expected points (0).")
    if "indices" in primitive:
        raise SplatlearnError(f"{path} selects Gaussians by indices, which are not read.")
    if primitive.get("targets"):
        warn(f"{path} has morph targets, which are not applied.")
    degree = _degree(attributes, path)
    names = {f"SH_DEGREE_{l}_COEF_{n}": 3 for l in range(degree + 1) for n in range(2 * l + 1)}  # noqa: E741
    columns = {}
    for name, width in {"POSITION": 3, "ROTATION": 4, "SCALE": 3, "OPACITY": 1, **names}.items():
        full = name if name == "POSITION" else f"{EXTENSION}:{name}"
        if full not in attributes:
            raise SplatlearnError(f"{path} has a primitive of {EXTENSION} without the attribute {full!r}.")
        columns[name] = file.accessor(attributes[full], width, full)
    if len(counts := {column.count for column in columns.values()}) > 1:
        raise SplatlearnError(
            f"{path} has a primitive whose attributes count {' and '.join(map(str, sorted(counts)[:4]))}."
        )
    said = extension.get("extras", {})
    antialiased = said.get("antialiased") if isinstance(said, dict) else None
    return _Primitive(columns, counts.pop(), degree, matrix, antialiased if isinstance(antialiased, bool) else None)


def _changes_data(name: str) -> bool:
    return name != EXTENSION and (name.startswith(EXTENSION) or "draco" in name or "meshopt" in name)


def _degree(attributes: dict[str, Any], path: Path) -> int:
    """The SH degree of the attributes; unknown attributes of the extension are refused, others named."""
    degrees, unused = {0}, []
    for name in attributes:
        if match := HARMONIC.fullmatch(name[:80]):
            degrees.add(int(match[1]))
        elif name.startswith(f"{EXTENSION}:"):
            if name.removeprefix(f"{EXTENSION}:") not in ("ROTATION", "SCALE", "OPACITY"):
                raise SplatlearnError(f"{path} has the attribute {shown(name, 60)}, which is not known.")
        elif name not in ("POSITION", "COLOR_0"):  # COLOR_0 is for viewers of points
            unused.append(name)
    if (highest := max(degrees)) > MAX_DEGREE or len(degrees) <= highest:
        raise SplatlearnError(
            f"{path} has harmonics of degree {highest}, expected all degrees from 0 to at most {MAX_DEGREE}."
        )
    if unused:
        warn(f"{path} has attributes that are not used: {listed(unused)}.")
    return highest


def _check_matrix(matrix: np.ndarray, path: Path) -> None:
    """A transform must be a rotation, a translation and a uniform scale."""
    linear = matrix[:3, :3]
    with np.errstate(all="ignore"):
        scale = float(np.cbrt(np.linalg.det(linear))) if np.isfinite(matrix).all() else 0.0
        even = np.allclose(linear.T @ linear, scale * scale * np.eye(3), rtol=0, atol=1e-4 * scale * scale)
    if not (0 < scale < np.inf and even) or not np.allclose(matrix[3], [0, 0, 0, 1]):
        raise SplatlearnError(f"{path} places Gaussians by a node that mirrors them or scales them unevenly.")


def _arrays(primitives: list[_Primitive], file: GltfFile) -> Arrays:
    """Read all primitives into arrays in COLMAP's frame."""
    total, bases = sum(p.count for p in primitives), max((p.degree + 1) ** 2 for p in primitives)
    if 4 * total * (11 + 3 * bases) > FREE_BYTES + MOST_GROWTH * file.size:
        raise SplatlearnError(f"{file.path} shows the same Gaussians again and again, which is not read.")
    shapes = {"means": (3,), "scales": (3,), "quats": (4,), "opacities": (), "sh0": (1, 3), "shN": (bases - 1, 3)}
    arrays = {key: np.zeros((total, *shapes[key]), np.float32) for key in KEYS}
    if any(not np.array_equal(primitive.matrix, np.eye(4)) for primitive in primitives):
        arrays["means"] = arrays["means"].astype(np.float64)
    begin = 0
    for primitive in primitives:
        for start in range(0, primitive.count, ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, primitive.count)
            for key, values in _decoded(primitive, start, stop).items():
                part = arrays[key][begin + start : begin + stop]
                (part[:, : values.shape[1]] if key == "shN" else part)[:] = values
        begin += primitive.count
    arrays["means"] = compact(arrays["means"])
    return arrays


def _decoded(primitive: _Primitive, start: int, stop: int) -> Arrays:
    """Return some rows of a primitive in COLMAP's frame."""
    columns = {name: accessor.rows(start, stop) for name, accessor in primitive.columns.items()}
    coefficients = np.stack([values for name, values in columns.items() if name.startswith("SH_")], axis=1)
    arrays = {
        "means": columns["POSITION"],
        "scales": log_scale(columns["SCALE"]),
        "quats": normalized_quats(np.roll(columns["ROTATION"], 1, axis=1)),
        "opacities": logit(columns["OPACITY"][:, 0]),
        "sh0": coefficients[:, :1],
        "shN": coefficients[:, 1:],
    }
    matrix = primitive.matrix
    if not np.array_equal(matrix, np.eye(4)):
        scale = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
        arrays = rotate_scene({**arrays, "means": arrays["means"].astype(np.float64)}, matrix[:3, :3] / scale)
        with np.errstate(over="ignore", invalid="ignore"):  # `to_tensors` checks the result
            means = scale * arrays["means"] + matrix[:3, 3]
        arrays = {**arrays, "means": means, "scales": arrays["scales"] + np.float32(np.log(scale))}
    return rotate_scene(arrays, HALF_TURN)  # a half turn is its own inverse
