"""Photographs that are missing are five names, a count and a hint; cameras out of reason are named."""

import re
import shutil
import struct
import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colmap_samples import CAMERA_PARAMS, SampleImage, SampleIntrinsics, load, write_scene
from PIL import Image

from splatlearn import notices
from splatlearn.errors import SplatlearnError
from splatlearn.scene.readers.colmap_records import Intrinsics
from splatlearn.scene.readers.missing import why_unusable
from splatlearn.scene.readers.odd_cameras import unusable_parameter, warn_of_odd_cameras


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> dict[str, None]:
    sentences: dict[str, None] = {}
    monkeypatch.setattr(notices, "_collected", sentences)
    return sentences


def failures(names: list[str]) -> dict[str, Exception]:
    return {name: SplatlearnError(f"{name} is missing.") for name in names}


def test_the_hint_is_within_what_the_command_line_prints(tmp_path: Path) -> None:
    """Five unreadable photographs with long reasons come before it."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.JPG").touch()
    bad = [f"bad_{index}.jpg" for index in range(9)]
    for name in bad:
        (tmp_path / "images" / name).touch()
    failed = {name: SplatlearnError(f"{tmp_path / 'images' / name} " + "cannot be read " * 30 + ".") for name in bad}
    sentence = why_unusable(failed | failures(["a.jpg"]), 10, tmp_path / "images", tmp_path)
    assert "and 6 more" in sentence and "a.jpg is missing; it is there in upper or lower case" in sentence
    assert len(sentence) - len(str(tmp_path)) < 560


def test_two_thousand_are_five_names_and_a_count(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    names = [f"IMG_{index:04d}.JPG" for index in range(2000)]
    for name in names:
        (tmp_path / "images" / name.lower()).touch()
    begin = time.monotonic()
    sentence = why_unusable(failures(names), 2000, tmp_path / "images", tmp_path)
    assert time.monotonic() - begin < 2
    assert sentence.startswith(f"2,000 of 2,000 photographs in {tmp_path / 'images'} cannot be used: IMG_0000.JPG, ")
    assert "and 1,995 more are missing" in sentence and sentence.count(".jpg") <= 7 and len(sentence) < 400
    assert "all of them are there in upper or lower case ('IMG_0000.JPG' as 'img_0000.jpg'): rename" in sentence


@pytest.mark.parametrize(
    ("named", "there", "hint"),
    [
        ("a.JPG", "images/a.jpg", "upper or lower case"),
        ("a.jpg", "images/a.png", "with another suffix ('a.jpg' as 'a.png')"),
        ("a.jpg", "images/a.JPEG", "with another suffix ('a.jpg' as 'a.JPEG')"),
        ("a.jpg", "images/left/a.jpg", "in another folder ('a.jpg' as 'left/a.jpg')"),
        ("left/a.jpg", "images/a.jpg", "in another folder"),
        ("left/a.jpg", "images/a.webp", "in another folder with another suffix"),
        ("a.jpg", "images_4/a.jpg", "images_4: add --data.images images_4"),
        ("b.jpg", "images/a.txt", "holds no photographs at all"),
        (unicodedata.normalize("NFC", "ä.jpg"), "images/" + unicodedata.normalize("NFD", "ä.jpg"), "Unicode form"),
    ],
)
def test_hints(tmp_path: Path, named: str, there: str, hint: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).touch()
    assert hint in why_unusable(failures([named]), 3, tmp_path / "images", tmp_path)


def test_no_hint_where_two_files_could_be_meant(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a.png", "a.jpeg"):
        (tmp_path / "images" / name).touch()
    assert why_unusable(failures(["a.jpg"]), 1, tmp_path / "images", tmp_path).endswith("a.jpg is missing")


@pytest.mark.parametrize("path", ["images\\a.png", "C:\\Users\\me\\photos\\a.png"])
def test_windows_paths(tmp_path: Path, path: str) -> None:
    write_scene(tmp_path, text=True)
    file = tmp_path / "sparse" / "0" / "images.txt"
    file.write_text(file.read_text().replace(" a.png", f" {path}"))
    with pytest.raises(SplatlearnError, match=r"a path of Windows does; expected it relative .*such as 'a\.png'"):
        load(tmp_path)


def test_the_sentence_of_a_scene(tmp_path: Path) -> None:
    write_scene(tmp_path, images=[SampleImage(f"{index}.png") for index in range(9)])
    shutil.move(tmp_path / "images", tmp_path / "images_2")
    with pytest.raises(SplatlearnError, match=r"there is images_2: add --data\.images images_2"):
        load(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(SplatlearnError, match=r"9 of 9 .* and 4 more are missing; all of them are in .*images_2: add"):
        load(tmp_path)


class TestCameras:
    @pytest.mark.parametrize("model", sorted(CAMERA_PARAMS))
    def test_usual_ones_need_no_word(self, model: str, said: dict[str, None]) -> None:
        camera = Intrinsics(1, model, 160, 120, tuple(map(float, CAMERA_PARAMS[model])))
        warn_of_odd_cameras([camera], Path("sparse"))
        assert unusable_parameter(camera) is None and not said

    @pytest.mark.parametrize(
        ("params", "words"),
        [
            ((16000.0, 16000.0, 80, 60, 0, 0, 0, 0), r"focal length fx=16000 px or 100 image widths"),
            ((5.0, 5.0, 80, 60, 0, 0, 0, 0), r"focal length fx=5 px or 0\.0312 image widths"),
            ((125.0, 1000.0, 80, 60, 0, 0, 0, 0), r"fx=125 and fy=1000 differ"),
            ((125.0, 125.0, 500, 60, 0, 0, 0, 0), r"principal point \(500, 60\) outside"),
            ((125.0, 125.0, 80, -3, 0, 0, 0, 0), r"principal point \(80, -3\) outside"),
            ((125.0, 125.0, 80, 60, 7.5, 0, 0, 0), r"distortion k1=7\.5, usual is at most 1"),
        ],
    )
    def test_odd_ones_are_named(self, tmp_path: Path, params: Any, words: str, said: dict[str, None]) -> None:
        warn_of_odd_cameras([Intrinsics(4, "OPENCV", 160, 120, params)], Path("sparse"))
        (sentence,) = said
        assert re.search(
            rf"1 camera is out of reason.*something is wrong.*camera 4 \(OPENCV, 160x120, .*{words}", sentence
        )

    def test_a_scene_with_one_warns(self, tmp_path: Path, said: dict[str, None]) -> None:
        load(write_scene(tmp_path, cameras=[SampleIntrinsics(params=(700.0, 700.0, 20, 15))]), holdout="none")
        assert any("focal length fx=700 px or 17.5 image widths" in sentence for sentence in said)

    @pytest.mark.parametrize("value", [1e308, 1e-310, 5e-324, float("nan"), float("inf"), -1.0, 0.0, 1e30])
    @pytest.mark.parametrize("index", range(4))
    def test_what_no_camera_has_is_refused(self, tmp_path: Path, value: float, index: int) -> None:
        write_scene(tmp_path)
        file = tmp_path / "sparse" / "0" / "cameras.bin"
        content = bytearray(file.read_bytes())
        content[32 + 8 * index : 40 + 8 * index] = struct.pack("<d", value)
        file.write_bytes(content)
        if index >= 2 and abs(value) < 10:
            load(tmp_path)
            return
        with pytest.raises(SplatlearnError, match=r"camera 1 \(PINHOLE\) is not usable") as caught:
            load(tmp_path)
        assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_a_panorama_with_another_camera(tmp_path: Path, said: dict[str, None]) -> None:
    write_scene(tmp_path, images=[SampleImage(f"{index}.jpg") for index in range(3)])
    tag = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><r GPano:ProjectionType="equirectangular"/></x:xmpmeta>'
    values = np.zeros((30, 40, 3), np.uint8)
    Image.fromarray(values).save(tmp_path / "images" / "0.jpg", xmp=tag.encode())
    load(tmp_path, holdout="none")
    assert any(
        "360° panoramas (equirectangular): 0.jpg; the camera model PINHOLE does not fit" in word for word in said
    )
