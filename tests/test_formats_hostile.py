"""Files that are cut, mutated, random or made to harm: one sentence, little memory, no hang, never half a scene."""

import json
import random
import signal
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard
from format_scenes import lopsided

from splatlearn.errors import SplatlearnError
from splatlearn.scene.formats import registry, spz

MEMORY = 48 << 20  # bytes that a reader may take at most for the small files here
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "ply": ("a.ply", {}),
    "splat": ("a.splat", {}),
    "spz 3": ("a.spz", {"spz_version": 3}),
    "spz 4": ("a.spz", {"spz_version": 4}),
    "glb": ("a.glb", {}),
    "gltf": ("a.gltf", {}),
    "gltf embedded": ("a.gltf", {"embed": True}),
}


@contextmanager
def bounded(seconds: int = 20) -> Iterator[None]:
    """Fails where more memory than MEMORY is taken, or where it never ends."""

    def late(*_: object) -> None:
        raise AssertionError("the reader hangs")

    earlier = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
        assert peak < MEMORY, f"{peak >> 20} MiB were taken for a small file"
    finally:
        tracemalloc.stop()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)


def tried(path: Path) -> str:
    """Reads a file that may be bad: "" where it is a scene nonetheless, else the sentence; anything else raises."""
    try:
        tensors = registry.read(path).tensors
    except SplatlearnError as error:
        message = str(error)
        assert str(path.parent) in message and "\n" not in message and len(message) <= 300 + len(str(path)), message
        return message
    count = len(tensors["means"])
    for key, value in tensors.items():
        assert len(value) == count and bool(value.isfinite().all()), f"half a scene was read: {key}"
    return ""


@pytest.fixture(scope="module", params=KINDS)
def good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good file of each kind, degree 1, of 20 Gaussians."""
    name, options = KINDS[request.param]
    path = tmp_path_factory.mktemp("good") / name
    registry.write(path, lopsided(1, 20), **options)
    return path


def mutations(content: bytes, seed: int) -> bytes:
    """The content with one kind of harm done to it."""
    dice = random.Random(seed)
    harmed = bytearray(content)
    at = dice.randrange(len(harmed))
    match seed % 7:
        case 0:
            del harmed[at:]
        case 1:
            harmed = bytearray(dice.randbytes(dice.randrange(400)))
        case 2:
            for _ in range(dice.choice((1, 1, 2, 8))):
                harmed[dice.randrange(len(harmed))] ^= 1 << dice.randrange(8)
        case 3:  # numbers of the header at their extremes
            word = dice.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE, 0x00FFFFFF))
            place = 4 * dice.randrange(0, 16)
            harmed[place : place + 4] = struct.pack("<I", word)
        case 4:
            length = dice.randrange(1, 60)
            harmed[at : at + length] = dice.choice((b"\0", b"\xff", b"9", b"[", b"\n")) * length
        case 5:
            harmed[at:at] = dice.randbytes(dice.randrange(1, 50))
        case 6:
            length = dice.randrange(1, 60)
            del harmed[at : at + length]
    return bytes(harmed)


def test_harmed_files_are_one_sentence_or_a_scene(good: Path, tmp_path: Path) -> None:
    content, path, refused = good.read_bytes(), tmp_path / good.name, 0
    if (beside := good.with_suffix(".bin")).exists():
        (tmp_path / beside.name).write_bytes(beside.read_bytes())
    assert tried(good) == "", "the good file is not read"
    with bounded(120):
        for seed in range(40):
            path.write_bytes(mutations(content, seed))
            refused += tried(path) != ""
    assert refused > (4 if good.suffix == ".splat" else 14), "harm goes unnoticed"  # .splat: any 32 bytes are one


def test_every_cut_is_refused(good: Path, tmp_path: Path) -> None:
    content, path = good.read_bytes(), tmp_path / good.name
    with bounded(120):
        for end in range(0, len(content), max(1, len(content) // 30)):
            path.write_bytes(content[:end])
            whole = good.suffix == ".splat" and end and end % 32 == 0
            assert whole or tried(path), f"{end} of {len(content)} bytes pass for a scene"


@pytest.mark.parametrize("kind", ["spz 3", "spz 4"])
def test_no_flipped_bit_of_spz_is_overlooked(kind: str, tmp_path: Path) -> None:
    """Its streams carry checksums, which must be looked at."""
    registry.write(tmp_path / "a.spz", lopsided(0, 8), **KINDS[kind][1])
    content = (tmp_path / "a.spz").read_bytes()
    begin = 10 if kind == "spz 3" else 32 + 5 * 16
    for at in range(begin, len(content)):
        harmed = bytearray(content)
        harmed[at] ^= 1 << at % 3  # of a frame of zstd, one higher bit means nothing
        (tmp_path / "b.spz").write_bytes(harmed)
        assert tried(tmp_path / "b.spz"), f"a bit flipped in byte {at} of {len(content)} is overlooked"


# ---- promises ----


def legacy(count: int, degree: int = 0, version: int = 3, body: bytes = b"", fraction: int = 12) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    header = struct.pack("<IIIBBBB", spz.MAGIC, version, count, degree, fraction, 0, 0)
    return packer.compress(header + body) + packer.flush()


def ngsp(count: int, sizes: list[int], frames: list[bytes], degree: int = 0, version: int = 4) -> bytes:
    head = spz.NGSP.pack(spz.MAGIC, version, count, degree, 12, 0, len(frames), 32, b"")
    table = b"".join(struct.pack("<QQ", len(f), s) for f, s in zip(frames, sizes, strict=True))
    return head + table + b"".join(frames)


def zeros(length: int) -> bytes:
    """A zstd frame of so many zeros, without having them."""
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    pieces = [packer.compress(bytes(1 << 20)) for _ in range(length >> 20)]
    return b"".join(pieces) + packer.compress(bytes(length & 0xFFFFF)) + packer.flush()


def glb(document: Any, binary: bytes = b"") -> bytes:
    text = json.dumps(document).encode() if not isinstance(document, bytes) else document
    text += b" " * (-len(text) % 4)
    total = 28 + len(text) + len(binary)
    head = struct.pack("<IIIII", 0x46546C67, 2, total, len(text), 0x4E4F534A) + text
    return head + struct.pack("<II", len(binary), 0x004E4942) + binary


PLY = b"ply\nformat binary_little_endian 1.0\nelement vertex 4000000000\nproperty float x\nend_header\n"
N = 4_000_000_000
PROMISES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "ply": ("a.ply", lambda: PLY + bytes(98 - len(PLY) if len(PLY) < 98 else 0)),
    "spz 3": ("a.spz", lambda: legacy(N)),
    "spz 4": ("a.spz", lambda: ngsp(N, [9 * N, N, 3 * N, 3 * N, 4 * N], [b"\x28\xb5\x2f\xfd"] * 5)),
    "spz 3 that bursts": ("a.spz", lambda: legacy(10, body=bytes(300 << 20))),
    "spz 4 that bursts": (
        "a.spz",
        lambda: ngsp(1, [9, 1, 3, 3, 4], [zeros(300 << 20), *[zstandard.compress(bytes(n)) for n in (1, 3, 3, 4)]]),
    ),
    "spz 4 whose table lies": ("a.spz", lambda: ngsp(1, [1 << 62, 1, 3, 3, 4], [zstandard.compress(bytes(9))] * 5)),
    "spz 3 flatter than scenes are": ("a.spz", lambda: legacy(300_000, body=bytes(20 * 300_000))),
    "glb": ("a.glb", lambda: glb({
        "asset": {"version": "2.0"}, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "extensions": {"KHR_gaussian_splatting": {}}}]}],
        "accessors": [{"count": N, "type": "VEC3", "componentType": 5126, "bufferView": 0}],
        "bufferViews": [{"buffer": 0, "byteLength": 12 * N}], "buffers": [{"byteLength": 12 * N}],
    }, bytes(12))),
    "glb whose length lies": ("a.glb", lambda: struct.pack("<IIIII", 0x46546C67, 2, N, N - 20, 0x4E4F534A)),
    "glb of brackets": ("a.glb", lambda: glb(b"[" * 100_000)),
    "gltf of a number": ("a.gltf", lambda: b"9" * 100_000),
}  # fmt: skip


@pytest.mark.parametrize("name", PROMISES)
def test_promises_beyond_the_file_are_refused(name: str, tmp_path: Path) -> None:
    file, made = PROMISES[name]
    (tmp_path / file).write_bytes(made())
    with bounded():
        assert tried(tmp_path / file), "it is believed"


# ---- damage that a fuzz seldom makes ----


def changed(document: Any, *way: Any, to: Any) -> Any:
    """A copy of a JSON document with the value at the end of a way replaced, or removed (`to` is ...)."""
    copy = json.loads(json.dumps(document))
    place = copy
    for step in way[:-1]:
        place = place[step]
    if to is ...:
        del place[way[-1]]
    else:
        place[way[-1]] = to
    return copy


def ways(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*way, key)
        yield from ways(item, (*way, key))


def test_every_value_of_a_gltf_may_be_wrong(tmp_path: Path) -> None:
    registry.write(tmp_path / "good.gltf", lopsided(0, 4), embed=True)
    document = json.loads((tmp_path / "good.gltf").read_text())
    values = (..., None, -1, 1e300, 1 << 70, True, "x", [], {}, [0], float("nan"))
    path = tmp_path / "a.gltf"
    with bounded(120):
        for number, way in enumerate(ways(document)):  # two values each; tests/fuzz tries many more
            for value in (values[number % len(values)], values[(5 * number + 3) % len(values)]):
                path.write_text(json.dumps(changed(document, *way, to=value)))
                tried(path)


def extended(document: Any, **values: Any) -> Any:
    """A document whose primitive declares something else."""
    way = ("meshes", 0, "primitives", 0, "extensions", "KHR_gaussian_splatting")
    return changed(document, *way, to={"kernel": "ellipse", "colorSpace": "srgb_rec709_display"} | values)


def attributed(document: Any, name: str) -> Any:
    """A document whose primitive has a further attribute."""
    return changed(document, "meshes", 0, "primitives", 0, "attributes", f"KHR_gaussian_splatting:{name}", to=0)


HURTS: dict[str, Callable[[Any], Any]] = {
    "compressed": lambda d: changed(
        d, "meshes", 0, "primitives", 0, "extensions", "KHR_gaussian_splatting", "extensions",
        to={"KHR_gaussian_splatting_compression_spz_2": {"bufferView": 0}}),
    "required extension": lambda d: d | {"extensionsRequired": ["EXT_meshopt_compression"]},
    "no extension": lambda d: changed(d, "meshes", 0, "primitives", 0, "extensions", to={}),
    "nodes in a circle": lambda d: d | {"nodes": [{"children": [0], "mesh": 0}]},
    "mirrored": lambda d: d | {"nodes": [{"mesh": 0, "scale": [-1, 1, 1]}]},
    "uneven": lambda d: d | {"nodes": [{"mesh": 0, "scale": [1, 2, 1]}]},
    "sparse": lambda d: changed(d, "accessors", 1, "sparse", to={"count": 1}),
    "stride of nothing": lambda d: changed(d, "bufferViews", 0, "byteStride", to=0),
    "beyond the view": lambda d: changed(d, "accessors", 0, "byteOffset", to=8),
    "other counts": lambda d: changed(d, "accessors", 2, "count", to=3),
    "outside of the folder": lambda d: d | {"buffers": [{"byteLength": 9, "uri": "../secret.bin"}]},
    "from a network": lambda d: d | {"buffers": [{"byteLength": 9, "uri": "https://example.org/a.bin"}]},
    "absolute": lambda d: d | {"buffers": [{"byteLength": 9, "uri": "/etc/passwd"}]},
    "damaged base64": lambda d: d | {"buffers": [{"byteLength": 9, "uri": "data:;base64,???"}]},
    "many primitives": lambda d: d | {
        "scenes": [{"nodes": list(range(2000))}], "nodes": [{"mesh": 0} for _ in range(2000)]},
    "a node of two parents": lambda d: d | {
        "scenes": [{"nodes": [0]}], "nodes": [*({"children": [i + 1, i + 1]} for i in range(40)), {"mesh": 0}]},
    "levels": lambda d: d | {
        "scenes": [{"nodes": [0]}], "nodes": [*({"children": [i + 1]} for i in range(9000)), {"mesh": 0}]},
    "linear colours": lambda d: extended(d, colorSpace="lin_rec709_display"),
    "another colour space": lambda d: extended(d, colorSpace="BT.2020-PQ\n" * 99),
    "another kernel": lambda d: extended(d, kernel="gabor"),
    "another projection": lambda d: extended(d, projection="orthographic"),
    "another sorting": lambda d: extended(d, sortingMethod="none"),
    "triangles": lambda d: changed(d, "meshes", 0, "primitives", 0, "mode", to=4),
    "indices": lambda d: changed(d, "meshes", 0, "primitives", 0, "indices", to=0),
    "a hole in the degrees": lambda d: attributed(d, "SH_DEGREE_2_COEF_0"),
    "a degree of the future": lambda d: attributed(d, "SH_DEGREE_4_COEF_0"),
    "an attribute of the future": lambda d: attributed(d, "VELOCITY"),
    "a skin": lambda d: d | {"nodes": [{"mesh": 0, "skin": 0}]},
    "instances": lambda d: d | {"nodes": [{"mesh": 0, "extensions": {"EXT_mesh_gpu_instancing": {}}}]},
    "morphed": lambda d: d | {"nodes": [{"mesh": 0, "weights": [0, 0.5]}]},
    "meshopt": lambda d: changed(d, "bufferViews", 0, "extensions", to={"EXT_meshopt_compression": {}}),
    "draco": lambda d: changed(
        d, "meshes", 0, "primitives", 0, "extensions", "KHR_draco_mesh_compression", to={"bufferView": 0}),
    "an older extension": lambda d: changed(
        d, "meshes", 0, "primitives", 0, "extensions", to={"KHR_spz_gaussian_splats_compression": {}}),
    "version 1": lambda d: changed(d, "asset", "version", to="1.0"),
    "a rotation of nothing": lambda d: d | {"nodes": [{"mesh": 0, "rotation": [0, 0, 0, 0]}]},
    "a shear": lambda d: d | {"nodes": [{"mesh": 0, "matrix": [1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]}]},
    "endless": lambda d: d | {"nodes": [{"mesh": 0, "scale": [1e300] * 3}]},
}  # fmt: skip
SAID = {
    "compressed": "spz_2", "required extension": "EXT_meshopt", "no extension": "no Gaussians", "mirrored": "mirrors",
    "nodes in a circle": "contain each other", "uneven": "unevenly", "sparse": "sparse",
    "other counts": "count 3 and 4",
    "outside of the folder": "not a file in its folder", "from a network": "not a file in its folder",
    "absolute": "not a file in its folder", "damaged base64": "base64", "again and again": "again",
}  # fmt: skip


@pytest.mark.parametrize("name", HURTS)
def test_what_a_gltf_cannot_mean_is_said(name: str, tmp_path: Path) -> None:
    registry.write(tmp_path / "good.gltf", lopsided(0, 4), embed=True)
    document = json.loads((tmp_path / "good.gltf").read_text())
    (tmp_path / "a.gltf").write_text(json.dumps(HURTS[name](document)))
    with bounded():
        assert SAID.get(name, "a.gltf") in tried(tmp_path / "a.gltf")


def test_gaussians_that_are_shown_again_and_again_are_refused(tmp_path: Path) -> None:
    """Instances are fine while they take little memory."""
    registry.write(tmp_path / "good.gltf", lopsided(0, 12_000))
    document = json.loads((tmp_path / "good.gltf").read_text())
    for many in (50, 250):
        nodes = [{"mesh": 0} for _ in range(many)]
        (tmp_path / "a.gltf").write_text(
            json.dumps(document | {"scenes": [{"nodes": list(range(many))}], "nodes": nodes})
        )
        if many == 50:
            assert len(registry.read(tmp_path / "a.gltf").tensors["means"]) == 600_000
        else:
            assert "again" in tried(tmp_path / "a.gltf")


SPZ_HURTS = {
    "version": (legacy(1, version=9, body=bytes(20)), "version 9"),
    "version 0": (legacy(1, version=0, body=bytes(20)), "version 0"),
    "degree": (legacy(1, degree=5, body=bytes(200)), "SH degree 5"),
    "fraction": (legacy(1, fraction=60, body=bytes(20)), "60 fractional bits"),
    "more than promised": (legacy(1, body=bytes(21)), "more than"),
    "less than promised": (legacy(2, body=bytes(21)), "too short"),
    "another gzip": (zlib.compressobj(9, zlib.DEFLATED, 31).flush(), "ends within the header"),
    "gzip of something": (legacy(0)[:4] + legacy(0)[4:], ""),
    "streams": (ngsp(1, [9, 1], [b"", b""]), "2 streams"),
    "version of v4": (ngsp(1, [9, 1, 3, 3, 4], [b""] * 5, version=5), "version 5"),
}


@pytest.mark.parametrize("name", SPZ_HURTS)
def test_what_an_spz_cannot_mean_is_said(name: str, tmp_path: Path) -> None:
    content, word = SPZ_HURTS[name]
    (tmp_path / "a.spz").write_bytes(content)
    assert word in tried(tmp_path / "a.spz")


def test_extensions_of_spz_are_passed_over(tmp_path: Path) -> None:
    scene = lopsided(1, 9)
    for version in (3, 4):
        registry.write(tmp_path / "a.spz", scene, spz_version=version)
        plain, content = registry.read(tmp_path / "a.spz").tensors, (tmp_path / "a.spz").read_bytes()
        record = struct.pack("<IIff", 0xADBE0002, 8, 0.5, 1.5)
        if version == 4:  # between header and table; the flag, and the table's place
            content = (
                content[:14]
                + b"\2"
                + content[15:16]
                + struct.pack("<I", 32 + len(record))
                + content[20:32]
                + (record + content[32:])
            )
        else:  # after the attributes, in the stream
            raw = bytearray(zlib.decompress(content, 31))
            raw[14] |= 2
            packer = zlib.compressobj(6, zlib.DEFLATED, 31)
            content = packer.compress(bytes(raw) + record) + packer.flush()
        (tmp_path / "b.spz").write_bytes(content)
        again = registry.read(tmp_path / "b.spz").tensors
        assert all(torch.equal(again[key], plain[key]) for key in plain), "an extension shifts what is read"


@pytest.mark.parametrize("suffix", ["ply", "splat", "glb"])
def test_values_that_are_not_finite_are_counted_or_left_out(suffix: str, tmp_path: Path) -> None:
    scene, path = lopsided(0, 10), tmp_path / f"a.{suffix}"
    registry.write(path, scene)
    content = path.read_bytes()
    for row, bad in ((2, np.nan), (7, np.inf)):
        mean = scene["means"][row].clone()
        if suffix == "glb":
            mean[1:] *= -1
        harmed = mean.clone()
        harmed[1] = bad
        assert content.count(mean.numpy().tobytes()) == 1
        content = content.replace(mean.numpy().tobytes(), harmed.numpy().tobytes())
    path.write_bytes(content)
    message = tried(path)
    assert ("has 2 " in message) and "--drop-bad" in message, f"not told how many and what to do: {message}"
    kept = registry.read(path, drop=True).tensors["means"]
    rows = [0, 1, 3, 4, 5, 6, 8, 9]
    assert torch.allclose(kept, scene["means"][rows]), "others than the bad ones are left out"


def test_missing_files_folders_and_names(tmp_path: Path) -> None:
    for name, *_ in KINDS.values():
        assert "could not be read" in tried(tmp_path / "none" / name)
        (tmp_path / "folder" / name).mkdir(parents=True, exist_ok=True)
        assert "could not be read" in tried(tmp_path / "folder" / name)
    (tmp_path / "a.obj").write_bytes(b"v 0 0 0")
    assert ".ply, .splat, .spz" in tried(tmp_path / "a.obj")
    with pytest.raises(SplatlearnError, match=r"\.glb"):
        registry.write(tmp_path / "a.obj", lopsided(0, 3))


def test_a_full_disk_keeps_the_old_file(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    before = {path.name: path.read_bytes() for path in good.parent.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SplatlearnError, match="No space left"):
        registry.write(good, lopsided(2, 30))
    assert {path.name: path.read_bytes() for path in good.parent.iterdir()} == before, "the last good file is harmed"
