"""Files of Gaussians made to exhaust time or memory: each ends in a sentence within 2 s and 256 MiB."""

import json
import os
import pickle
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from format_scenes import lopsided
from fuzz.formats import gltf, ply, spz
from fuzz.harness import Case

from splatlearn.errors import SplatlearnError
from splatlearn.scene.formats import registry

TESTS = Path(__file__).resolve().parent
CHILD = """
import json, pickle, sys
from pathlib import Path
from types import SimpleNamespace
from fuzz import harness

folder, said, module = Path(sys.argv[2], "case"), [], None

def read(folder):
    try:
        module.read(folder)
        said.append("read")
    except Exception as error:
        said.append(str(error))
        raise

for name, kind, case in pickle.load(open(sys.argv[1], "rb")):
    module = harness.load(kind)
    attacked = SimpleNamespace(read=read)
    if kind == "spz":
        attacked.decoded_size = module.decoded_size
    harness.check(attacked, module.seeds()[0], folder)  # imports are not the cost of an input
    print(json.dumps([name, *harness.check(attacked, case, folder), said[-1]]))
"""


def document(**changes: Any) -> dict[str, Any]:
    return gltf._document(0)[0] | changes


def beside(changed: dict[str, Any], data: bytes = gltf._document(0)[1]) -> Case:
    return gltf._beside(changed, data)


def empty_primitives() -> Case:
    changed = document(nodes=[{"mesh": 0}] * 300, scenes=[{"nodes": list(range(300))}])
    changed["meshes"][0]["primitives"] *= 150
    for accessor in changed["accessors"]:
        accessor["count"] = 0
    return beside(changed)


def many_meshes() -> Case:
    """Nodes times primitives that hold no Gaussians: 80 million visits."""
    plain = [{"attributes": {}}] * 20_000
    nodes = [{"mesh": 0}] * 4000
    return beside(document(nodes=nodes, scenes=[{"nodes": list(range(4000))}], meshes=[{"primitives": plain}]))


def many_buffers() -> Case:
    """200 buffers and views of one file of 4 MB."""
    changed, data = gltf._document(0)
    changed["buffers"] = [{"uri": "a.bin", "byteLength": 4 << 20}] * 200
    for number, view in enumerate(changed["bufferViews"]):
        view["buffer"] = number
    primitive, accessors = changed["meshes"][0]["primitives"][0], changed["accessors"]
    primitives = []
    for shift in range(0, 200, 5):
        first = len(accessors)
        changed["bufferViews"] += [
            {**view, "buffer": (i + shift) % 200} for i, view in enumerate(changed["bufferViews"][:5])
        ]
        accessors += [{**accessor, "bufferView": first + i} for i, accessor in enumerate(accessors[:5])]
        names = {name: first + i for i, name in enumerate(primitive["attributes"])}
        primitives.append({**primitive, "attributes": names})
    changed["meshes"] = [{"primitives": primitives}]
    return {**beside(changed), "a.bin": data + bytes(4 << 20)}


def one_view_for_all() -> Case:
    """All attributes of 2.6 million Gaussians in the same 42 MB, in many nodes."""
    count = 2_600_000
    changed = document(nodes=[{"mesh": 0}] * 100, scenes=[{"nodes": list(range(100))}])
    changed["bufferViews"] = [{"buffer": 0, "byteLength": 16 * count}]
    changed["buffers"] = [{"byteLength": 16 * count, "uri": "a.bin"}]
    for accessor in changed["accessors"]:
        accessor |= {"bufferView": 0, "count": count}
    return {**beside(changed), "a.bin": bytes(16 * count)}


def tree(children: Callable[[int], list[int]], count: int) -> Case:
    nodes = [*({"children": children(i)} for i in range(count)), {"mesh": 0}]
    return beside(document(nodes=nodes, scenes=[{"nodes": [0]}]))


def header(lines: list[str], body: bytes = b"", form: str = "binary_little_endian") -> Case:
    return {ply.FILE: "\n".join(["ply", f"format {form} 1.0", *lines, "end_header\n"]).encode() + body}


PROPERTIES_OF_NO_USE = [f"property uchar a{i}" for i in range(3000)]
PROPERTIES = [f"property float {name}" for name in ply.NAMES]


def gzip_bomb(extra: int, count: int = 5, degree: int = 0) -> Case:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    pieces = [packer.compress(struct.pack("<IIIBBBB", spz.MAGIC, 3, count, degree, 12, 0, 0))]
    pieces += [packer.compress(bytes(1 << 20)) for _ in range(extra >> 20)]
    return {spz.FILE: b"".join([*pieces, packer.flush()])}


def zstd_bomb(said: int, real: int) -> Case:
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    frame = b"".join([packer.compress(bytes(1 << 20)) for _ in range(real >> 20)] + [packer.flush()])
    small = [zstandard.compress(bytes(n)) for n in (5, 15, 15, 20)]
    head = struct.pack("<IIIBBBBI12x", spz.MAGIC, 4, 5, 0, 12, 0, 5, 32)
    table = b"".join(struct.pack("<QQ", len(f), n) for f, n in zip([frame, *small], (said, 5, 15, 15, 20), strict=True))
    return {spz.FILE: head + table + frame + b"".join(small)}


def extended(version: int, records: bytes) -> Case:
    return {spz.FILE: spz._file({"version": version, "flags": 2, "records": records})}


BOMBS: dict[str, tuple[str, Callable[[], Case], str]] = {
    "empty primitives": ("gltf", empty_primitives, "256 primitives"),
    "many meshes": ("gltf", many_meshes, "no Gaussians"),
    "many buffers": ("gltf", many_buffers, "read"),
    "one view for all": ("gltf", one_view_for_all, "again"),
    "JSON of many values": ("gltf", lambda: {"a.gltf": b'{"a": [' + b"1," * (12 << 20) + b"1]}"}, "values of JSON"),
    "JSON of many objects": ("gltf", lambda: {"a.gltf": b'{"a": [' + b"{}," * (5 << 20) + b"1]}"}, "values of JSON"),
    "JSON of one string": ("gltf", lambda: {"a.gltf": b'{"a": "' + b"x" * (50 << 20) + b'"}'}, "no Gaussians"),
    "brackets": ("gltf", lambda: {"a.gltf": b"[" * 99_000}, "no JSON object"),
    "brackets of objects": ("gltf", lambda: {"a.gltf": b'{"a":' * 99_000}, "no JSON object"),
    "a subtree twice in 30 levels": ("gltf", lambda: tree(lambda i: [i + 1, i + 1], 30), "two parents"),
    "a circle": ("gltf", lambda: tree(lambda i: [(i + 1) % 100], 100), "contain each other"),
    "a deep tree": ("gltf", lambda: tree(lambda i: [i + 1], 40_000), "levels"),
    "a wide tree": ("gltf", lambda: tree(lambda i: [i + 1] if i else list(range(1, 20_000)), 19_999), "levels"),
    "embedded data": (
        "gltf", lambda: gltf._embedded(document(), bytes(24 << 20)), "read"),
    "a million lines": ("ply", lambda: header(["comment x"] * 10**6), "end_header"),
    "a header without end": ("ply", lambda: {ply.FILE: b"ply\ncomment " + b"x" * (64 << 20)}, "end_header"),
    "10^17 vertices": ("ply", lambda: header([f"element vertex {10**17}", *PROPERTIES], bytes(99)), "too short"),
    "10^17 lines before": (
        "ply", lambda: header([f"element a {10**17}", "property int a", "element vertex 1", *PROPERTIES], form="ascii"),
        "too short"),
    "thousands of properties": (
        "ply", lambda: header(["element vertex 1", *PROPERTIES_OF_NO_USE], bytes(3000)), "'x'"),
    "thousands of elements": (
        "ply", lambda: header([f"element a{i} 999999999999999999" for i in range(1500)] + ["element vertex 1"]), "'x'"),
    "a line of 48 MB": (
        "ply", lambda: header(["element vertex 1", *PROPERTIES], b"1 " * (24 << 20), "ascii"), "characters"),
    "gzip": ("spz", lambda: gzip_bomb(300 << 20), "more than"),
    "gzip of many": ("spz", lambda: gzip_bomb(300 << 20, 500_000, 4), "more than"),
    "zstd": ("spz", lambda: zstd_bomb(45, 300 << 20), "a stream that holds"),
    "zstd that says so": ("spz", lambda: zstd_bomb(300 << 20, 300 << 20), "table of contents"),
    "extensions": ("spz", lambda: extended(4, struct.pack("<II", 0xADBE0002, 0) * 8000), "read"),
    "too many extensions": ("spz", lambda: extended(4, struct.pack("<II", 0xADBE0002, 0) * 99_999), "no SPZ"),
    "extensions without end": ("spz", lambda: extended(3, bytes(64 << 20)), "more than"),
    "half a record": ("splat", lambda: {"a.splat": bytes((64 << 20) + 1)}, "no multiple of 32"),
}  # fmt: skip


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float, str]]:
    """The end of every bomb, its seconds and its message, from one process that measures its memory."""
    folder = tmp_path_factory.mktemp("bombs")
    (folder / "cases").write_bytes(pickle.dumps([(name, kind, made()) for name, (kind, made, _) in BOMBS.items()]))
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", CHILD, str(folder / "cases"), str(folder)]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path}, cwd=TESTS
    )
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(rows) == len(BOMBS), f"the process ended early: {ran.stderr[-2000:]}"
    return {name: tuple(row) for name, *row in rows}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end_in_a_sentence(name: str, ends: dict[str, tuple[str, float, str]]) -> None:
    end, seconds, message = ends[name]
    assert end in ("read", "refused"), f"{end} ({seconds:.2f} s)"
    assert BOMBS[name][2] in message, message


# ---- files that are no files ----


@pytest.mark.parametrize("suffix", ["ply", "splat", "spz", "gltf", "glb"])
def test_pipes_and_devices_are_refused(suffix: str, tmp_path: Path) -> None:
    """Opening a pipe would wait for ever, a device has no end."""
    os.mkfifo(tmp_path / f"pipe.{suffix}")
    (tmp_path / f"zero.{suffix}").symlink_to("/dev/zero")
    for path in tmp_path.iterdir():
        with pytest.raises(SplatlearnError, match="not a regular file"):
            registry.read(path)


def test_data_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    inside = tmp_path / "inside"
    registry.write(inside / "a.gltf", lopsided(0, 4))
    made = json.loads((inside / "a.gltf").read_text())
    (inside / "link.bin").symlink_to(tmp_path / "secret.bin")
    (inside / "folder").symlink_to(tmp_path)
    (inside / "dev.bin").symlink_to("/dev/zero")
    os.mkfifo(inside / "pipe.bin")
    (inside / "ok.bin").symlink_to("a.bin")
    for name in (
        "link.bin", "folder/secret.bin", "dev.bin", "../secret.bin", "%2e%2e/secret.bin", "/dev/zero", "pipe.bin",
        "file:///etc/passwd", "http://localhost/a.bin", "a.bin%00", "", ".", "x" * 9999, "\ud800", "a\nb",
    ):  # fmt: skip
        made["buffers"][0]["uri"] = name
        (inside / "b.gltf").write_text(json.dumps(made))
        with pytest.raises(SplatlearnError) as caught:
            registry.read(inside / "b.gltf")
        message = str(caught.value)
        assert len(message) < 300 + len(str(inside)) and message.isprintable(), message
    made["buffers"][0]["uri"] = "ok.bin"
    (inside / "b.gltf").write_text(json.dumps(made))
    assert len(registry.read(inside / "b.gltf").tensors["means"]) == 4, "a link within the folder is fine"
