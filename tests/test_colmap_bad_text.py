"""A COLMAP model in text form with a wrong field, line or end is refused by file and line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from colmap_samples import FILES, refused, sound, write_scene

pytest.importorskip("pycolmap")


@pytest.fixture
def text_root(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "text", text=True)


def edited(file: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / file
        content = path.read_text()
        assert old in content, "the test's own edit no longer fits the file"
        path.write_text(content.replace(old, new, 1))

    return edit


@pytest.mark.parametrize(
    "edit, sentence",
    [
        (
            edited("cameras.txt", "1 PINHOLE", "1 PINHOLES"),
            "cameras.txt, line 4: unknown camera model 'PINHOLES'",
        ),
        (
            edited("cameras.txt", "1 PINHOLE", "one PINHOLE"),
            "line 4: the camera's id must be a whole number",
        ),
        (
            edited("cameras.txt", "PINHOLE 40", "PINHOLE 40.5"),
            "the width must be a whole number .* '40.5'",
        ),
        (
            edited("cameras.txt", " 15.5", ""),
            r"PINHOLE has 4 parameters \(fx, fy, cx, cy\), but there are 3",
        ),
        (edited("cameras.txt", " 15.5", " 15.5 1"), "PINHOLE has 4 parameters .* but there are 5"),
        (edited("cameras.txt", " 15.5", " 1_5"), "parameter cy must be a number, but is '1_5'"),
        (edited("cameras.txt", " 35", " nan"), "parameters must be finite"),
        (
            edited("images.txt", "1 1 0 0 0 0 0 0 1 a.png", "1 1 0 0 0 0"),
            "images.txt, line 5: the pose is missing",
        ),
        (
            edited("images.txt", "1 1 0 0 0 0 0 0 1 a.png", "1 1 0 0 x 0 0 0 1 a.png"),
            "the pose must be a number",
        ),
        (
            edited("images.txt", "1 1 0 0 0 0 0 0 1 a.png", "1 1 0 0 0 0 0 0 1"),
            "the image's name is missing",
        ),
        (edited("images.txt", "1.5 2.5 ", "2.5 "), "the 2D points of image 1 must be triples"),
        (edited("images.txt", "1.5 2.5 ", "1.5 z "), "a 2D point's Y must be a number, but is 'z'"),
        (edited("images.txt", "1.5 2.5 1 ", "1.5 2.5 -2 "), "POINT3D_ID must be a whole number"),
        (
            edited("images.txt", "images: 3", "images: 4"),
            "images.txt is cut short: its comment '# Number of images: 4'",
        ),
        (
            edited("points3D.txt", "1 0 -0 3 0", "1 0 -0 3 256"),
            "line 4: a colour must be a whole number from 0 to 255",
        ),
        (edited("points3D.txt", "1 0 -0 3", "1 0 inf 3"), "position of point 1 must be finite"),
        (edited("points3D.txt", " 3 0\n", " 3\n"), "a track must be pairs"),
        (edited("points3D.txt", "points: 5", "points: 50"), "points3D.txt is cut short"),
        (
            edited("rigs.txt", "1 1 CAMERA", "1 1 CAMCORDER"),
            "rigs.txt, line 4: a sensor's type must be one of",
        ),
        (
            edited("rigs.txt", "1 1 CAMERA", "1 4000000000 CAMERA"),
            "rigs.txt, line 4: a sensor's type is missing",
        ),
        (
            edited("frames.txt", "CAMERA 1 1", "CAMERA 1 1 1"),
            "frames.txt, line 4: expected 13 fields, but there are 14",
        ),
    ],
)
def test_one_wrong_field(text_root: Path, edit: Callable[[Path], None], sentence: str) -> None:
    edit(text_root / "sparse" / "0")
    refused(text_root, sentence)


@pytest.mark.parametrize("name", FILES[:3])
def test_no_text_at_all(text_root: Path, name: str) -> None:
    path = text_root / "sparse" / "0" / f"{name}.txt"
    path.write_bytes(np.random.default_rng(0).bytes(500))
    refused(text_root, rf"{name}\.txt is not a text file")
    path.write_text("lorem ipsum dolor\nsit amet\n")
    refused(text_root, rf"{name}\.txt, line 1: .* must be a whole number")


@pytest.mark.parametrize("name", FILES)
def test_random_edits_never_get_through_unseen(text_root: Path, name: str) -> None:
    generator = np.random.default_rng(len(name))
    folder = text_root / "sparse" / "0"
    path = folder / f"{name}.txt"
    whole = path.read_text()
    words = ["", "nan", "-1", "1e999", "x", "99999999999999999999999", "\t", "\n", "#", "0", "..", "\0"]
    for _ in range(200):
        fields = whole.split(" ")
        for at in generator.integers(0, len(fields), generator.integers(1, 4)):
            fields[at] = words[generator.integers(len(words))]
        path.write_text(" ".join(fields))
        sound(folder)


def test_cut_at_a_line(text_root: Path) -> None:
    folder = text_root / "sparse" / "0"
    for name in ("cameras", "images", "points3D"):
        path = folder / f"{name}.txt"
        whole = path.read_text()
        lines = whole.splitlines(keepends=True)
        for count in range(3, len(lines) - 1):
            path.write_text("".join(lines[:count]))
            assert not sound(folder), f"{name}.txt with {count} of {len(lines)} lines"
        path.write_text(whole)


def test_names_that_leave_the_folder_in_text(text_root: Path) -> None:
    path = text_root / "sparse" / "0" / "images.txt"
    whole = path.read_text()
    for name, sentence in (
        ("../b.png", "leaves the image folder"),
        ("/b.png", "absolute"),
        ("b\0.png", "printed"),
    ):
        path.write_text(whole.replace("b.png", name))
        refused(text_root, rf"images\.txt: the name .* of image 2 .*{sentence}")
