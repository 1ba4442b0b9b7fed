"""The PLY reader and writer: a file of the original 3DGS survives the trip, a hostile one is one sentence."""

import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.scene.formats import ply
from splatlearn.scene.formats.ply import read_ply, read_ply_with_mode, write_ply
from splatlearn.scene.schema import GAUSSIAN


def gaussians(n: int = 5, degree: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    k = (degree + 1) ** 2
    shapes = {
        "means": (n, 3),
        "scales": (n, 3),
        "quats": (n, 4),
        "opacities": (n,),
        "sh0": (n, 1, 3),
        "shN": (n, k - 1, 3),
    }
    return {key: torch.randn(shape, generator=g) for key, shape in shapes.items()}


def columns(rest: int) -> list[str]:
    """The properties of a file with so many columns of higher coefficients."""
    shapes = {parameter.name: tuple(rest // 3 if isinstance(size, tuple) else size for size in parameter.shape)
              for parameter in GAUSSIAN}  # fmt: skip
    return ply._column_names(GAUSSIAN, {name: math.prod(shape) for name, shape in shapes.items()})


def header(
    count: object = 1,
    names: list[str] | None = None,
    kind: str = "float",
    form: str = "binary_little_endian",
) -> bytes:
    names = names if names is not None else columns(0)
    lines = [
        "ply",
        f"format {form} 1.0",
        f"element vertex {count}",
        *(f"property {kind} {n}" for n in names),
        "end_header",
    ]
    return ("\n".join(lines) + "\n").encode()


@pytest.mark.parametrize("degree", range(5))
@pytest.mark.parametrize("n", [0, 1, 7])
def test_round_trip_keeps_every_bit(tmp_path: Path, degree: int, n: int) -> None:
    before = gaussians(n, degree)
    write_ply(tmp_path / "a.ply", before)
    after = read_ply(tmp_path / "a.ply")
    assert list(after) == list(before), "keys are missing or in another order"
    for key in before:
        assert after[key].dtype == torch.float32 and after[key].is_contiguous(), f"{key} is not plain float32"
        assert torch.equal(after[key], before[key]), f"{key} changed on the way through the file"


def test_layout_is_that_of_3dgs(tmp_path: Path) -> None:
    g = gaussians(2, 3)
    write_ply(tmp_path / "a.ply", g)
    head, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")
    names = [line.split()[-1].decode() for line in head.splitlines() if line.startswith(b"property float")]
    assert names[:9] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"], (
        "viewers that read by place break"
    )
    assert len(names) == 62 and len(body) == 2 * 62 * 4, "a record is not 62 float32"
    first = dict(zip(names, struct.unpack("<62f", body[:248]), strict=True))
    assert first["f_rest_0"] == g["shN"][0, 0, 0] and first["f_rest_1"] == g["shN"][0, 1, 0], (
        "f_rest is not channel-major"
    )
    assert first["f_rest_15"] == g["shN"][0, 0, 1], "the green channel does not begin at f_rest_15"
    assert first["rot_0"] == g["quats"][0, 0] and first["opacity"] == g["opacities"][0], "rot or opacity moved"


def test_more_rows_than_one_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ply, "ROWS_AT_ONCE", 4)
    g = gaussians(11, 1)
    write_ply(tmp_path / "a.ply", g)
    assert torch.equal(read_ply(tmp_path / "a.ply")["shN"], g["shN"]), "rows are lost or repeated where two pieces meet"


@pytest.mark.parametrize(
    "form,kind", [("ascii", "float"), ("binary_big_endian", "float64"), ("binary_little_endian", "double")]
)
def test_any_order_type_and_extra_properties(tmp_path: Path, form: str, kind: str) -> None:
    names = ["extra", *reversed([n for n in columns(9) if not n.startswith("n")])]  # no normals
    values = np.arange(2 * len(names), dtype=np.float64).reshape(2, len(names)) / 8
    text = header(2, names, kind, form).replace(b"element vertex", b"element first 3\nproperty uchar a\nelement vertex")
    text = text.replace(b"end_header", b"element face 9\nproperty list uchar int vertex_indices\nend_header")
    if form == "ascii":
        body = "\n".join(["7", "7", "7", *(" ".join(map(str, row)) for row in values), "3 0 0 0"]).encode()
    else:
        body = b"\7\7\7" + values.astype(">f8" if "big" in form else "<f8").tobytes() + b"trailing faces"
    (tmp_path / "a.ply").write_bytes(text + body)
    got = read_ply(tmp_path / "a.ply")
    column = {name: torch.tensor(values[:, i], dtype=torch.float32) for i, name in enumerate(names)}
    assert torch.equal(got["means"], torch.stack([column["x"], column["y"], column["z"]], 1)), (
        "read by place, not by name"
    )
    assert torch.equal(got["shN"][:, 2, 1], column["f_rest_5"]), "f_rest of degree 1 is taken apart wrongly"
    assert torch.equal(got["opacities"], column["opacity"]), "opacity is read from another column"


def test_render_mode_comment(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    for mode, antialiased in ((None, None), ("default", False), ("mip", True)):
        write_ply(path, gaussians(), mode)
        assert read_ply_with_mode(path)[1] is antialiased, "an antialiased scene would be shown classically"
    with pytest.raises(SplatlearnError, match="render_mode"):
        write_ply(path, gaussians(), "antialiased")


GOOD = header() + bytes(4 * 17)
HOSTILE = {
    "empty file": (b"", "ply"),
    "not a ply": (b"glTF" + bytes(50), "ply"),
    "no end_header": (GOOD.split(b"end_header")[0], "end_header"),
    "endless header": (b"ply\n" + b"comment x\n" * 10_000, "end_header"),
    "endless line": (b"ply\ncomment " + b"x" * 200_000, "end_header"),
    "huge count": (header(10**15) + bytes(68), "too short"),
    "count of many digits": (header("9" * 3000) + bytes(68), "element vertex 999"),
    "negative count": (header(-1) + bytes(68), "element vertex -1"),
    "count that is no number": (header("1_0") + bytes(68), "element vertex 1_0"),
    "huge count without properties": (header(10**17, []), "'x'"),
    "huge element before the vertices": (
        GOOD.replace(b"element v", b"element a 999999999999\nproperty int b\nelement v"), "too short"),
    "cut by a byte": (GOOD[:-1], "too short"),
    "header alone": (header(), "too short"),
    "list property": (GOOD.replace(b"float x", b"list uchar int x"), "list property"),
    "unknown type": (GOOD.replace(b"float x", b"float128 x"), "float128"),
    "unknown format": (GOOD.replace(b"binary_little_endian", b"binary_middle_endian"), "middle"),
    "element before format": (GOOD.replace(b"ply\n", b"ply\nelement a 1\n"), "element a 1"),
    "no vertices": (GOOD.replace(b"element vertex", b"element edge"), "vertex"),
    "missing property": (GOOD.replace(b"float opacity", b"float alpha"), "'opacity'"),
    "property twice": (GOOD.replace(b"float y", b"float x"), "twice"),
    "a f_rest count of no degree": (GOOD.replace(b"float nx", b"float f_rest_0"), "f_rest"),
    "f_rest with a hole": (
        header(1, [f"f_rest_{i}" for i in range(1, 10)] + columns(0)) + bytes(104), "'f_rest_0'"),
    "NaN": (GOOD[:-4] + struct.pack("<f", float("nan")), "rot_3"),
    "double beyond float32": (header(kind="double") + struct.pack("<17d", *[1e300] * 17), "finite"),
    "ascii garbage": (header(form="ascii") + b"0 " * 16 + b"hello", "table of numbers"),
    "ascii with a short row": (header(2, form="ascii") + b"0 " * 17 + b"\n" + b"0 " * 16, "numbers"),
    "ascii with too few rows": (header(2, form="ascii") + b"0.00000 " * 17 + b"\n", "1 rows"),
    "ascii with a huge count": (header(10**12, form="ascii") + b"0 " * 17, "too short"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_one_sentence(tmp_path: Path, name: str) -> None:
    content, word = HOSTILE[name]
    path = tmp_path / "bad.ply"
    path.write_bytes(content)
    with pytest.raises(SplatlearnError) as caught:
        read_ply(path)
    message = str(caught.value)
    assert str(path) in message and word in message, f"neither file nor fault named: {message}"
    assert "\n" not in message and len(message) < 300 + len(str(path)), "not one readable sentence"


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    write_ply(tmp_path / "good.ply", gaussians(2, 0))
    content = (tmp_path / "good.ply").read_bytes()
    for end in range(0, len(content), 3):
        (tmp_path / "cut.ply").write_bytes(content[:end])
        with pytest.raises(SplatlearnError):
            read_ply(tmp_path / "cut.ply")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.ply", tmp_path):
        with pytest.raises(SplatlearnError, match="could not be read"):
            read_ply(path)


def test_writer_refuses_what_it_could_not_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    write_ply(path, gaussians(3, 0))
    before = path.read_bytes()
    bad = [
        ({"scales": torch.full((5, 3), float("nan"))}, "scales"), ({"shN": torch.zeros(5, 2, 3)}, "shN"),
        ({"quats": torch.zeros(4, 4)}, "quats"), ({"opacities": torch.zeros(5, 1)}, "opacities"),
    ]  # fmt: skip
    for change, word in bad:
        with pytest.raises(SplatlearnError, match=word):
            write_ply(path, gaussians() | change)
    with pytest.raises(SplatlearnError, match="'sh0' is missing"):
        write_ply(path, {k: v for k, v in gaussians().items() if k != "sh0"})
    assert path.read_bytes() == before, "a refused write damaged the file that was there"


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ply"
    write_ply(path, gaussians(3, 0))
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SplatlearnError, match="No space left"):
        write_ply(path, gaussians(9, 3))
    assert path.read_bytes() == before, "a full disk destroyed the last good file"
    assert list(tmp_path.iterdir()) == [path], "a temporary file was left behind"


def test_what_tools_write_for_opaque_and_flat_is_read(tmp_path: Path) -> None:
    values = np.zeros(17, "<f4")
    names = columns(0)
    values[names.index("opacity")], values[names.index("scale_1")], values[-4] = np.inf, -np.inf, 1
    (tmp_path / "a.ply").write_bytes(header() + values.tobytes())
    got = read_ply(tmp_path / "a.ply")
    assert got["opacities"][0] == 16 and got["scales"][0].tolist() == [0, -30, 0], "limits of logit and log are lost"


def test_bad_gaussians_are_left_out_when_asked(tmp_path: Path) -> None:
    scene = gaussians(4, 1)
    write_ply(tmp_path / "a.ply", scene)
    content = bytearray((tmp_path / "a.ply").read_bytes())
    content[-2 * 26 * 4 - 4 : -2 * 26 * 4] = struct.pack("<f", float("nan"))  # rot_3 of the second of four
    (tmp_path / "a.ply").write_bytes(content)
    with pytest.raises(SplatlearnError, match="--drop-bad"):
        read_ply(tmp_path / "a.ply")
    got = read_ply(tmp_path / "a.ply", drop=True)
    assert torch.equal(got["means"], scene["means"][[0, 2, 3]]), "another Gaussian than the damaged one is left out"


def test_compressed_files_are_named(tmp_path: Path) -> None:
    names = ["packed_position", "packed_rotation", "packed_scale", "packed_color"]
    chunk = b"element chunk 1\nproperty float min_x\nelement vertex"
    text = header(1, names, "uint").replace(b"element vertex", chunk)
    (tmp_path / "a.ply").write_bytes(text + bytes(20))
    with pytest.raises(SplatlearnError, match="compressed PLY"):
        read_ply(tmp_path / "a.ply")
