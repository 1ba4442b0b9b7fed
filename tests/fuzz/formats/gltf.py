"""glTF with KHR_gaussian_splatting: `.glb`, and `.gltf` with its data beside it or embedded."""

import base64
import json
import math
import struct
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from fuzz import mutations
from fuzz.harness import Case
from splatlearn.scene.formats import registry

EXTENSION, COUNT = "KHR_gaussian_splatting", 3
GLB, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
URIS = [
    "a.bin", "./a.bin", "../a.bin", "/dev/zero", "/etc/passwd", "https://example.org/a.bin", "file:///etc/passwd", "",
    ".", "a%00.bin", "%2e%2e/a.bin", "x" * 5000, "data:;base64,", "data:;base64,????", "data:,abc", "a.bin/x",
    "data:application/octet-stream;base64,AAAA", "\ud800",
]  # fmt: skip
NAMES = ["KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_mesh_quantization", EXTENSION, "", "x\n" * 200]


@cache
def seeds() -> list[Case]:
    document, data = _document()
    two = json.loads(json.dumps(document))
    two["nodes"] = [{"children": [1, 2], "scale": [2, 2, 2]}, {"mesh": 0}, {"mesh": 0, "translation": [1, 2, 3]}]
    return [_glb(document, data), _glb(two, data), _beside(document, data), _embedded(document, data)]


def mutate(case: Case, rng: Random) -> Case:
    document, data = _document(rng.choice([0, 0, 1, 3]))
    acts = [_nodes, _declared, _numbers, _buffers, _many]
    for act in rng.sample(acts, rng.choice([0, 1, 1, 1, 2])):
        act(document, rng)
    if rng.randrange(3) == 0:
        document = mutations.tree(document, rng)
    elif rng.randrange(3) == 0:
        place = 4 * rng.randrange(len(data) // 4)
        value = rng.choice([math.nan, math.inf, -math.inf, -1.0, 0.0, 3e38, 1e-45])
        data = data[:place] + struct.pack("<f", value) + data[place + 4 :]
    elif rng.randrange(4) == 0:
        data = rng.choice([data[: rng.randrange(len(data))], data + bytes(9), b""])
    if not isinstance(document, dict) or rng.randrange(12) == 0:
        return {"a.gltf": mutations.tree_bytes(document, rng)}
    kind = rng.randrange(3)
    if kind == 0:
        return _glb(document, data, rng)
    return (_beside if kind == 1 else _embedded)(document, data)


def _buffers(document: dict[str, Any], rng: Random) -> None:
    """Another place of the data."""
    document["buffers"] = [{"uri": rng.choice(URIS), "byteLength": rng.choice([4, 0, 500])}]


def _nodes(document: dict[str, Any], rng: Random) -> None:
    """Trees, circles, shared children, deep chains, transforms."""
    act, many = rng.randrange(6), rng.choice([2, 30, 300, 3000])
    transform = rng.choice([
        {"matrix": [rng.choice([0, 1, -1, 1e300, 0.5]) for _ in range(rng.choice([16, 15]))]},
        {"rotation": [rng.choice([0, 1, 1e300]) for _ in range(4)]}, {"scale": [rng.choice([0, -1, 2, 1e-300])] * 3},
        {"translation": [1e300, 0, 0]}, {"scale": "222"}, {"skin": 0}, {"weights": [1]},
        {"extensions": {"EXT_mesh_gpu_instancing": {}}}, {"extensions": {"KHR_node_visibility": {"visible": False}}},
    ])  # fmt: skip
    shapes = [
        [{"mesh": 0, **transform}],
        [*({"children": [i + 1]} for i in range(many)), {"mesh": 0}],
        [*({"children": [i + 1, i + 1]} for i in range(many)), {"mesh": 0}],
        [{"children": [0], "mesh": 0}],
        [{"mesh": 0, **transform} for _ in range(many)],
        [{"children": list(range(1, many))}, *({"mesh": 0, **transform} for _ in range(many))],
    ]
    document["nodes"] = shapes[act]
    document["scenes"] = [{"nodes": list(range(many)) if act == 4 else [0]}]
    if rng.randrange(4) == 0:
        document.pop(rng.choice(["scene", "scenes"]), None)


def _declared(document: dict[str, Any], rng: Random) -> None:
    """Extensions, and what the primitive declares."""
    primitive = document["meshes"][0]["primitives"][0]
    extension = primitive["extensions"][EXTENSION]
    act = rng.randrange(5)
    if act == 0:
        extension[rng.choice(["kernel", "colorSpace", "projection", "sortingMethod", "extras"])] = mutations.value(rng)
    elif act == 1:
        document[rng.choice(["extensionsRequired", "extensionsUsed"])] = [rng.choice(NAMES), mutations.value(rng)]
    elif act == 2:
        primitive[rng.choice(["mode", "indices", "targets"])] = mutations.value(rng)
    elif act == 3:
        rng.choice([extension, primitive, document["bufferViews"][0]])["extensions"] = {rng.choice(NAMES): {}}
    else:
        name = rng.choice(["SH_DEGREE_2_COEF_0", "SH_DEGREE_99999999999_COEF_0", "VELOCITY", "SCALE"])
        primitive["attributes"][f"{EXTENSION}:{name}"] = rng.choice([0, 5, mutations.integer(rng)])


def _numbers(document: dict[str, Any], rng: Random) -> None:
    """Counts, offsets, strides and types of accessors and views."""
    place = rng.choice([*document["accessors"], *document["bufferViews"], *document["buffers"]])
    keys = [*place, "byteOffset", "byteStride", "normalized", "sparse"]
    small = [0, 1, 3, 4, 5120, 5121, 5123, 5125, 65_535, 1 << 20, "SCALAR", "VEC4", True]
    place[rng.choice(keys)] = rng.choice([*small, mutations.integer(rng), 10**4000, mutations.number(rng)])


def _many(document: dict[str, Any], rng: Random) -> None:
    """Many primitives, meshes, buffers or views of the same data."""
    key, many = rng.choice(["primitives", "meshes", "buffers", "bufferViews", "accessors"]), rng.choice([20, 150, 2000])
    if key == "primitives":
        document["meshes"][0]["primitives"] *= many
    else:
        document[key] = document[key] * min(many, 2000 // len(document[key]))
    if rng.randrange(2):
        document["nodes"] = [{"mesh": 0} for _ in range(many)]
        document["scenes"] = [{"nodes": list(range(many))}]
    if key == "primitives" and rng.randrange(2):
        for accessor in document["accessors"]:
            accessor["count"] = 0


def read(folder: Path) -> object:
    return registry.read(next(path for path in sorted(folder.iterdir()) if path.suffix in (".glb", ".gltf")))


def _document(degree: int = 1) -> tuple[dict[str, Any], bytes]:
    """A document of three Gaussians in one buffer, and the buffer."""
    columns = {"POSITION": 3, f"{EXTENSION}:ROTATION": 4, f"{EXTENSION}:SCALE": 3, f"{EXTENSION}:OPACITY": 1}
    columns |= {f"{EXTENSION}:SH_DEGREE_{l}_COEF_{n}": 3 for l in range(degree + 1) for n in range(2 * l + 1)}  # noqa: E741
    accessors, views, data = [], [], b""
    for width in columns.values():
        content = struct.pack(f"<{COUNT * width}f", *(0.1 + i / (3 * width * COUNT) for i in range(COUNT * width)))
        kind = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}[width]
        accessors.append({"bufferView": len(views), "count": COUNT, "type": kind, "componentType": 5126})
        views.append({"buffer": 0, "byteOffset": len(data), "byteLength": len(content)})
        data += content
    extension = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display", "projection": "perspective"}
    attributes = {name: i for i, name in enumerate(columns)}
    primitive = {"mode": 0, "attributes": attributes, "extensions": {EXTENSION: extension}}
    return {
        "asset": {"version": "2.0"}, "extensionsUsed": [EXTENSION], "scene": 0, "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}], "meshes": [{"primitives": [primitive]}], "accessors": accessors,
        "bufferViews": views, "buffers": [{"byteLength": len(data)}],
    }, data  # fmt: skip


def _glb(document: dict[str, Any], data: bytes, rng: Random | None = None) -> Case:
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    numbers = [GLB, 2, 28 + len(text) + len(data), len(text), JSON_CHUNK]
    chunk = [len(data), BINARY_CHUNK]
    if rng is not None and rng.randrange(3) == 0:
        (numbers if rng.randrange(2) else chunk)[rng.randrange(1, 2)] = mutations.integer(rng, 32, signed=False)
        numbers[rng.randrange(1, 5)] = mutations.integer(rng, 32, signed=False)
    return {"a.glb": struct.pack("<5I", *numbers) + text + struct.pack("<2I", *chunk) + data}


def _beside(document: dict[str, Any], data: bytes) -> Case:
    return {"a.gltf": _named(document, "a.bin"), "a.bin": data}


def _embedded(document: dict[str, Any], data: bytes) -> Case:
    uri = "data:application/octet-stream;base64," + base64.b64encode(data).decode()
    return {"a.gltf": _named(document, uri)}


def _named(document: dict[str, Any], uri: str) -> bytes:
    """The document's JSON, in which buffers without a uri get one."""
    buffers = document.get("buffers")
    if isinstance(buffers, list):
        buffers = [{"uri": uri, **buffer} if isinstance(buffer, dict) else buffer for buffer in buffers]
    return json.dumps({**document, "buffers": buffers}).encode()
