"""Flags of files that change the picture: each is read, kept through conversions, or refused by its name."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from format_scenes import Tensors, lopsided, pictures, worst_psnr

from splatlearn import notices
from splatlearn.cli import main
from splatlearn.errors import SplatlearnError
from splatlearn.scene.formats import registry, spz
from splatlearn.scene.formats.ply import write_ply
from splatlearn.scene.formats.sh_rotation import HALF_TURN, rotate_scene


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Returns the warnings since the last call, in one text."""
    monkeypatch.setattr(notices, "_collected", {})

    def text() -> str:
        found = " ".join(notices.collected())
        notices._collected.clear()
        return found

    return text


def refusal(path: Path) -> str:
    with pytest.raises(SplatlearnError) as caught:
        registry.read(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) <= 300 + len(str(path)), message
    return message


# ---- PLY ----


def commented(path: Path, *comments: str, word: str = "comment", scene: Tensors | None = None) -> Path:
    write_ply(path, scene or lopsided(1, 5))
    lines = "".join(f"{word} {comment}\n" for comment in comments).encode()
    path.write_bytes(path.read_bytes().replace(b"element vertex", lines + b"element vertex"))
    return path


def with_columns(path: Path, columns: dict[str, np.ndarray], comments: str = "") -> Path:
    """A PLY of degree 0 with further columns, or, where a value is ..., without one of its own."""
    scene = lopsided(0, len(next(iter(columns.values()))))
    values = {axis: scene["means"][:, i].numpy() for i, axis in enumerate("xyz")}
    values |= {f"f_dc_{i}": scene["sh0"][:, 0, i].numpy() for i in range(3)} | {"opacity": scene["opacities"].numpy()}
    values |= {f"scale_{i}": scene["scales"][:, i].numpy() for i in range(3)}
    values |= {f"rot_{i}": scene["quats"][:, i].numpy() for i in range(4)} | columns
    head = ["ply", "format binary_little_endian 1.0", *([comments] if comments else [])]
    head += [f"element vertex {len(scene['means'])}", *(f"property float {name}" for name in values), "end_header\n"]
    path.write_bytes("\n".join(head).encode() + np.stack(list(values.values()), 1).astype("<f4").tobytes())
    return path


@pytest.mark.parametrize("word", ["comment", "obj_info"])
@pytest.mark.parametrize("comment, expected", [
    ("SplatRenderMode: mip", True), ("splatrendermode: MIP", True), ("SPLATRENDERMODE:default", False),
    ("SplatRenderMode = Mip", True), ("SplatRenderMode mip", True), ("antialiased 1", True), ("antialiased 0", False),
    ("Antialiased: true", True), ("anti-aliased=False", False), ("  AntiAliasing:  On ", True),
    ("# SplatRenderMode: mip", True), ("rasterize_mode: antialiased", True), ("mip_filter: true", True),
    ("AntiAliased = 1.0", True), ("mip 0", False), ("antialiased", True),
    ("SH degree: 1", None), ("Exported from Brush", None), ("Vertical axis: y", None),
])  # fmt: skip
def test_comments_tell_of_antialiasing(
    comment: str, expected: bool | None, word: str, tmp_path: Path, warned: Callable[[], str]
) -> None:
    path = commented(tmp_path / "a.ply", comment, word=word)
    assert registry.read(path).antialiased is expected, f"{comment!r} is misread"
    assert not warned(), "what is understood gives a warning"


@pytest.mark.parametrize("comment, name", [
    ("SplatRenderMode: 2dgs", "2D Gaussians"), ("SplatRenderMode: banana", "banana"),
    ("antialiased 2", "antialiased 2"),
    ("colorspace: linear", "sRGB"), ("Color Space = ACEScg", "ACEScg"),
    ("SplatRenderMode: " + "x" * 5000, "SplatRenderMode"),
])  # fmt: skip
def test_comments_that_cannot_be_honoured_are_refused(comment: str, name: str, tmp_path: Path) -> None:
    assert name in refusal(commented(tmp_path / "a.ply", comment))


@pytest.mark.parametrize("comment", ["Vertical Axis: z", "offset 500000 4000000 0", "epsg 32632", "up axis: Z"])
def test_hints_about_the_frame_are_named(comment: str, tmp_path: Path, warned: Callable[[], str]) -> None:
    registry.read(commented(tmp_path / "a.ply", comment))
    assert comment in warned(), "a hint is dropped in silence"


@pytest.mark.parametrize(
    "comment", ["antialiased mesh", "made by Postshot, antialiased 1", "kernel_size 0.1", "Linear light"]
)
def test_comments_that_are_not_understood_are_named(comment: str, tmp_path: Path, warned: Callable[[], str]) -> None:
    assert registry.read(commented(tmp_path / "a.ply", comment)).antialiased is None
    assert comment in warned()


def test_the_last_of_several_comments_wins(tmp_path: Path, warned: Callable[[], str]) -> None:
    path = commented(tmp_path / "a.ply", "SplatRenderMode: mip", "antialiased 0")
    assert registry.read(path).antialiased is False and "disagree" in warned()


def test_the_3d_filter_is_applied(tmp_path: Path, warned: Callable[[], str]) -> None:
    """Against the covariance itself: a Gaussian convolved with one of the filter's size, of the same integral."""
    widths = np.array([0, 0.05, 0.2, 1.0], np.float32)
    plain = registry.read(with_columns(tmp_path / "a.ply", {"nx": widths * 0})).tensors
    found = registry.read(with_columns(tmp_path / "b.ply", {"filter_3D": widths}))
    assert "filter_3D" in warned() and found.antialiased is True, "its writers render it antialiased"
    squares = (2 * plain["scales"].double()).exp()
    wider = squares + torch.from_numpy(widths).double()[:, None] ** 2
    assert torch.allclose(found.tensors["scales"].double(), wider.log() / 2, atol=1e-5)
    share = (squares.prod(1) / wider.prod(1)).sqrt()
    expected = torch.sigmoid(plain["opacities"].double()) * share
    assert torch.allclose(torch.sigmoid(found.tensors["opacities"].double()), expected, atol=1e-6)
    assert (
        registry.read(with_columns(tmp_path / "c.ply", {"FILTER_3d": widths}, "comment antialiased 0")).antialiased
        is False
    )
    assert "not finite" in refusal(with_columns(tmp_path / "d.ply", {"filter_3D": -widths}))


@pytest.mark.parametrize("name", ["mip_filter", "filter_3D_1", "Filter2D"])
def test_other_filters_are_refused(name: str, tmp_path: Path) -> None:
    assert name in refusal(with_columns(tmp_path / "a.ply", {name: np.ones(3, np.float32)}))


def test_2d_gaussians_and_unused_columns_are_named(tmp_path: Path, warned: Callable[[], str]) -> None:
    path = with_columns(tmp_path / "a.ply", {"nx": np.zeros(3, np.float32)})
    path.write_bytes(path.read_bytes().replace(b"float scale_2", b"float thick_2"))
    assert "2D Gaussians" in refusal(path)
    extra = {name: np.zeros(3, np.float32) for name in ("red", "green", "blue", "segment", "f_rest", "time")}
    registry.read(with_columns(tmp_path / "b.ply", extra))
    text = warned()
    assert "red, green, blue, segment" in text and "1 more" in text
    registry.read(with_columns(tmp_path / "c.ply", {"ny": np.zeros(3, np.float32)}))
    assert not warned(), "normals are zeros"


@pytest.mark.parametrize("value, refused", [(0, False), (1, True)])
def test_linear_colours_of_sharp_are_refused(value: int, refused: bool, tmp_path: Path) -> None:
    path = with_columns(tmp_path / "a.ply", {"nx": np.zeros(3, np.float32)})
    more = b"element frame 2\nproperty int frame\nelement color_space 1\nproperty uchar color_space\nend_header"
    path.write_bytes(path.read_bytes().replace(b"end_header", more) + bytes(8) + bytes([value]))
    assert "linear" in refusal(path) if refused else registry.read(path)


def test_extra_elements_are_named(tmp_path: Path, warned: Callable[[], str]) -> None:
    path = with_columns(tmp_path / "a.ply", {"nx": np.zeros(3, np.float32)})
    path.write_bytes(
        path.read_bytes().replace(b"end_header", b"element camera 1\nproperty float f\nend_header") + bytes(4)
    )
    registry.read(path)
    assert "camera" in warned()


# ---- SPZ ----


def spz_bytes(
    version: int, *, flags: int = 0, records: bytes = b"", reserved: int = 0, scene: Tensors | None = None
) -> bytes:
    """An SPZ of version 3 or 4 with other flags, with extension records, with reserved bytes."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.spz"
        registry.write(path, scene or lopsided(1, 9), spz_version=version)
        content = bytearray(path.read_bytes())
    if version == 4:
        content[14] |= flags
        content[31] = reserved
        content[16:20] = struct.pack("<I", 32 + len(records))
        return bytes(content[:32] + records + content[32:])
    raw = bytearray(zlib.decompress(content, 31))
    raw[14] |= flags
    raw[15] = reserved
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(bytes(raw) + records) + packer.flush()


def record(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content


@pytest.mark.parametrize("version", [3, 4])
def test_flags_of_spz(version: int, tmp_path: Path, warned: Callable[[], str]) -> None:
    path = tmp_path / "a.spz"
    orbit = record(0xADBE0002, bytes(12))
    for flags, records, reserved, name in (
        (4, b"", 0, "0x4"), (0x80, b"", 0, "0x80"), (0xF8, b"", 0, "0xf8"), (0, b"", 7, "reserved"),
        (2, record(0x12340001, b"abc"), 0, "0x12340001"), (2, orbit + record(0x4E410001, b""), 0, "0x4e410001"),
        (2, record(0xADBE0003, struct.pack("<I", 17)), 0, "coordinate_system"), (2, orbit[:-1], 0, "cut"),
        (2, record(0xADBE0003, b"\4"), 0, "coordinate_system"), (2, b"\0", 0, "cut"), (0, orbit, 0, ""),
        (2, struct.pack("<II", 0xADBE0002, 0xFFFFFFFF), 0, "cut"),
    ):  # fmt: skip
        path.write_bytes(spz_bytes(version, flags=flags, records=records, reserved=reserved))
        assert name in refusal(path), f"flags {flags:#x}, {records!r}"
    path.write_bytes(spz_bytes(version, flags=1 | 2, records=orbit))
    assert registry.read(path).antialiased is True and "safe_orbit_camera" in warned()


@pytest.mark.parametrize("system, axes", [
    (0, None), (4, None), (6, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]), (1, [[-1, 0, 0], [0, 1, 0], [0, 0, -1]]),
    (7, [[-1, 0, 0], [0, -1, 0], [0, 0, 1]]), (12, [[1, 0, 0], [0, 0, -1], [0, 1, 0]]),
    (15, [[-1, 0, 0], [0, 0, -1], [0, -1, 0]]),
])  # fmt: skip
def test_the_coordinate_system_of_spz_is_honoured(system: int, axes: list[list[int]] | None, tmp_path: Path) -> None:
    """A scene stored in other axes, left-handed ones too, is the same scene; `axes` [3,3] lead to COLMAP's."""
    scene = lopsided(2)
    path = tmp_path / "a.spz"
    if axes is not None:  # our writer turns by HALF_TURN: what it is given must arrive in the file as `axes` want it
        arrays = {key: value.numpy() for key, value in scene.items()}
        stored = rotate_scene(arrays, HALF_TURN @ np.linalg.inv(np.array(axes, np.float64)))
        scene = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in stored.items()}
    path.write_bytes(spz_bytes(4, flags=2, records=record(0xADBE0003, struct.pack("<I", system)), scene=scene))
    seen = worst_psnr(pictures(lopsided(2)), pictures(registry.read(path).tensors))
    assert seen > 40, f"axes of system {system} are misread: {seen:.1f} dB"


def test_version_1_of_spz_is_read(tmp_path: Path) -> None:
    from splatlearn.scene.formats import spz_attributes

    scene = lopsided(1)
    arrays = {key: value.numpy() for key, value in scene.items()}
    fraction, streams = spz_attributes.encode(arrays, tmp_path, (8, 8))
    turned = rotate_scene(arrays, HALF_TURN)
    streams[0] = turned["means"].astype("<f2").tobytes()
    quats = turned["quats"].astype(np.float64)
    quats /= np.linalg.norm(quats, axis=1, keepdims=True) * np.where(quats[:, :1] < 0, -1, 1)
    streams[4] = np.rint(127.5 * quats[:, 1:] + 127.5).astype(np.uint8).tobytes()
    with open(tmp_path / "old.spz", "wb") as file:
        spz._write_legacy(file, spz.Header(1, len(arrays["means"]), 1, fraction, 1), streams)
    found = registry.read(tmp_path / "old.spz")
    assert found.antialiased is True
    assert worst_psnr(pictures(scene), pictures(found.tensors)) > 30, "positions of version 1 are misread"
    with open(tmp_path / "bad.spz", "wb") as file:
        streams[0] = struct.pack("<e", float("nan")) + streams[0][2:]
        spz._write_legacy(file, spz.Header(1, len(arrays["means"]), 1, fraction, 1), streams)
    assert "not finite" in refusal(tmp_path / "bad.spz")


# ---- what a conversion keeps, and what it loses with a word ----


@pytest.mark.parametrize("suffix, kept", [(".ply", True), (".spz", True), (".splat", False)])
def test_a_conversion_keeps_the_flag_or_says_so(
    suffix: str, kept: bool, tmp_path: Path, warned: Callable[[], str]
) -> None:
    source = commented(tmp_path / "in.ply", "Antialiased 1", scene=lopsided(0, 5))
    assert main(["convert", str(source), str(tmp_path / f"out{suffix}")]) == 0
    assert (registry.read(tmp_path / f"out{suffix}").antialiased is True) is kept
    assert ("antialiased" in warned()) is not kept, "lost in silence, or a warning about nothing"


def test_a_page_of_an_antialiased_file_is_antialiased(tmp_path: Path) -> None:
    source = commented(tmp_path / "in.ply", "antialiased 1")
    assert main(["export", str(source), "--out", str(tmp_path / "a.html")]) == 0
    assert '"antialiased": true' in (tmp_path / "a.html").read_text(), "the page shows it as it was not trained"


def test_what_a_format_cuts_off_is_counted(tmp_path: Path, warned: Callable[[], str]) -> None:
    scene = lopsided(1, 9)
    scene["scales"][3, 1], scene["scales"][4, 0], scene["sh0"][5] = 7, -12, 4
    scene["shN"][2, 0, 0] = 1.5
    registry.write(tmp_path / "a.spz", scene)
    text = warned()
    assert "scales of 2 Gaussians" in text and "sh0 of 1 " in text and "shN of 1 " in text
    registry.write(tmp_path / "a.splat", scene)
    text = warned()
    assert "colours of" in text and "up to degree 0 of 1" in text
