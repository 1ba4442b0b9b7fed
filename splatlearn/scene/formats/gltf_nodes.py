"""The nodes of a glTF: which meshes of Gaussians its default scene shows, and by which transforms."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.scene.formats.gltf_file import index

INSTANCING, VISIBILITY = "EXT_mesh_gpu_instancing", "KHR_node_visibility"
MAX_DEPTH = 256  # levels of nested nodes


def placed_meshes(document: dict[str, Any], path: Path) -> Iterator[tuple[int, dict[str, Any], np.ndarray]]:
    """Yield the index of a mesh, its node, and the node's matrix [4,4] to the scene, in the order of the file.

    Invisible nodes (KHR_node_visibility) are left out with all below them.

    Raises:
        SplatlearnError: a node has two parents or is its own ancestor, or the nodes are nested too deep.
        LookupError, TypeError, ValueError: the nodes do not refer to each other rightly.
    """
    nodes = document.get("nodes", [])
    stack = [(number, np.eye(4), 1) for number in reversed(_roots(document, nodes))]
    visited = set()
    while stack:
        number, parent, depth = stack.pop()
        node = nodes[index(number)]
        if number in visited:
            raise SplatlearnError(f"{path} has nodes that contain each other, or a node of two parents ({number}).")
        if depth > MAX_DEPTH:
            raise SplatlearnError(f"{path} has nodes in more than {MAX_DEPTH} levels.")
        visited.add(number)
        if node.get("extensions", {}).get(VISIBILITY, {}).get("visible", True) is False:
            continue
        matrix = parent @ _matrix(node, path) if _moves(node) else parent
        stack += [(child, matrix, depth + 1) for child in reversed(node.get("children", []))]
        if "mesh" in node:
            yield index(node["mesh"]), node, matrix


def check_node(node: dict[str, Any], mesh: dict[str, Any], path: Path) -> None:
    """Refuse what moves or multiplies the Gaussians of a node beyond its transform."""
    if "skin" in node:
        raise SplatlearnError(f"{path} places Gaussians by a skin, which is not read.")
    if INSTANCING in node.get("extensions", {}):
        raise SplatlearnError(f"{path} shows Gaussians in many places by {INSTANCING!r}, which is not read.")
    if any(weight != 0 for weight in node.get("weights", mesh.get("weights", []))):
        raise SplatlearnError(f"{path} places Gaussians by morph targets of a weight, which are not read.")


def _roots(document: dict[str, Any], nodes: list[Any]) -> list[Any]:
    """The nodes of the default scene; without scenes, those that are no node's child."""
    if scenes := document.get("scenes", []):
        return list(scenes[index(document.get("scene", 0))].get("nodes", []))
    children = {child for node in nodes for child in node.get("children", [])}
    roots = [number for number in range(len(nodes)) if number not in children]
    return roots or list(range(len(nodes)))  # without a root they contain each other, which is then found


def _moves(node: dict[str, Any]) -> bool:
    return any(name in node for name in ("matrix", "rotation", "scale", "translation"))


def _matrix(node: dict[str, Any], path: Path) -> np.ndarray:
    """Return the transform [4,4] from a node's frame to its parent's."""
    if "matrix" in node:
        return _numbers(node["matrix"], 16).reshape(4, 4).T
    matrix = np.eye(4)
    x, y, z, w = _numbers(node.get("rotation", [0, 0, 0, 1]), 4)
    norm = x * x + y * y + z * z + w * w
    if not 0 < norm < np.inf:
        raise SplatlearnError(f"{path} has a node whose rotation is no quaternion.")
    matrix[:3, :3] = np.eye(3) + 2 / norm * np.array([
        [-y * y - z * z, x * y - w * z, x * z + w * y],
        [x * y + w * z, -x * x - z * z, y * z - w * x],
        [x * z - w * y, y * z + w * x, -x * x - y * y],
    ])  # fmt: skip
    matrix[:3, :3] *= _numbers(node.get("scale", [1, 1, 1]), 3)
    matrix[:3, 3] = _numbers(node.get("translation", [0, 0, 0]), 3)
    return matrix


def _numbers(values: Any, count: int) -> np.ndarray:
    if not isinstance(values, list) or len(values) != count or not all(type(v) in (int, float) for v in values):
        raise TypeError(values)
    return np.array([float(value) for value in values])
