"""Which photographs go in: links, odd names, damaged files, and copies that are smaller but keep their lens."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
import sfm_photos
from PIL import Image
from sfm_photos import WIDTH, hashes, touched

from splatlearn import notices
from splatlearn.demo import still_life
from splatlearn.errors import SplatlearnError
from splatlearn.scene.photos.panorama import warn_of_panoramas
from splatlearn.scene.reconstruct import Settings, gather, reconstruct
from splatlearn.scene.reconstruct.copies import copy_photo, smaller
from splatlearn.scene.reconstruct.gather import find_images, look_at

ALONE = Settings(threads=1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sfm_photos.make(tmp_path_factory.mktemp("photos"), 7)


class TestFinding:
    def test_names_links_and_loops(self, tmp_path: Path) -> None:
        folder = touched(
            tmp_path / "in", "ä/日本 語.JPG", "b.jpeg", ".hidden.jpg", ".git/c.jpg", "notes.txt", "masks/b.png"
        )
        outside = touched(tmp_path / "outside", "far.png", "sub/farther.tif")
        (folder / "link.jpg").symlink_to(outside / "far.png")
        (folder / "linked").symlink_to(outside)
        (outside / "back").symlink_to(folder)
        (folder / "ä" / "self").symlink_to(folder / "ä")
        wanted = ["b.jpeg", "link.jpg", "linked/far.png", "linked/sub/farther.tif", "ä/日本 語.JPG"]
        assert find_images(folder, [folder / "masks"]).names == wanted, (
            "links are not followed, or followed in a circle"
        )

    def test_two_ways_to_one_folder_count_once(self, tmp_path: Path) -> None:
        folder = touched(tmp_path, "a/1.jpg", "a/2.jpg")
        (folder / "z").symlink_to(folder / "a")
        assert find_images(folder).names == ["a/1.jpg", "a/2.jpg"], "a photograph came in twice"

    @pytest.mark.parametrize(
        ("names", "sentence"),
        [
            ((), "at least 2 photographs .* got 0$"),
            (("a.jpg",), "at least 2 photographs .* got 1$"),
            (("c.nef",), r"got 0; 1 file is left out: 1 \.nef \(raw.*: c.nef$"),
            (("a.jpg", "b\nc.jpg"), r"names that can be printed, without backslash, got 'b\\nc.jpg'"),
            (("a.jpg", "b\\c.jpg"), "without backslash"),
        ],
    )
    def test_what_is_refused(self, tmp_path: Path, names: tuple[str, ...], sentence: str) -> None:
        with pytest.raises(SplatlearnError, match=sentence):
            find_images(touched(tmp_path, *names))

    def test_names_of_other_bytes(self, tmp_path: Path) -> None:
        touched(tmp_path, "a.jpg")
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg"))).touch()
        with pytest.raises(SplatlearnError, match="names that can be printed"):
            find_images(tmp_path)


class TestLooking:
    def test_all_damaged_files_are_named(self, photos: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(photos, tmp_path / "in")
        (folder / "photo 1.jpg").write_bytes((photos / "photo 1.jpg").read_bytes()[:3000])
        (folder / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
        (folder / "zero.png").touch()
        sentence = r"got 3 that cannot be read: gone\.jpg \(No such file.*\), photo 1\.jpg \(.*\), zero\.png \(.*empty"
        with pytest.raises(SplatlearnError, match=sentence):
            reconstruct(folder, tmp_path / "out", ALONE, progress=False)
        assert not (tmp_path / "out").exists(), "a refused run made its folder"

    def test_a_second_look_is_for_what_has_changed(self, photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
        folder = shutil.copytree(photos, tmp_path / "in")
        names = find_images(folder).names
        first = look_at(folder, names, {}, 2)
        opened: list[str] = []
        original = Image.open
        monkeypatch.setattr(Image, "open", lambda path, **k: (opened.append(Path(path).name), original(path, **k))[1])
        shutil.copy(folder / "photo 3.jpg", folder / "photo 0.jpg")
        second = look_at(folder, names, {photo.name: photo for photo in first}, 2)
        assert opened == ["photo 0.jpg"], "unchanged photographs were decoded again, or a changed one was not"
        assert second[1:] == first[1:] and second[0].digest == first[3].digest

    def test_sixteen_bits_are_judged_alike(self, tmp_path: Path) -> None:
        values = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / "a.png")
        Image.fromarray(values.astype(np.uint16) * 257).save(tmp_path / "b.png")
        a, b = look_at(tmp_path, ["a.png", "b.png"], {}, 1)
        assert a.sharpness == pytest.approx(b.sharpness, rel=0.01) and a.brightness == pytest.approx(b.brightness, 0.01)


class TestCopies:
    def test_exact_copies_are_left_out(self, photos: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(photos, tmp_path / "in")
        shutil.copy(folder / "photo 2.jpg", folder / "twin of 2.jpg")
        report = reconstruct(folder, tmp_path / "out", ALONE, progress=False)
        assert report.copies == {"twin of 2.jpg": "photo 2.jpg"} and report.total == 7
        assert "twin of 2.jpg" not in hashes(tmp_path / "out" / "images"), "a twin could be held out and learned"
        assert "exact copies: twin of 2.jpg = photo 2.jpg" in report.text()

    def test_nothing_but_copies(self, photos: Path, tmp_path: Path) -> None:
        for index in range(3):
            shutil.copy(photos / "photo 0.jpg", tmp_path / f"{index}.jpg")
        with pytest.raises(SplatlearnError, match="2 different photographs, got 3 copies of one"):
            reconstruct(tmp_path, tmp_path / "out", ALONE, progress=False)

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
    def test_a_smaller_copy_keeps_its_focal_length(self, photos: Path, tmp_path: Path, suffix: str) -> None:
        source = photos / "photo 0.jpg"
        if suffix != ".jpg":
            with Image.open(photos / "photo 0.jpg") as image:
                image.save(source := tmp_path / f"photo{suffix}", exif=image.getexif().tobytes())
        copy_photo(source, tmp_path / f"copy{suffix}", 160)
        copy = pycolmap.Bitmap.read(tmp_path / f"copy{suffix}", True)
        assert copy is not None and (copy.width, copy.height) == (160, 120)
        with Image.open(tmp_path / f"copy{suffix}") as image:
            assert image.getexif().get_ifd(gather.EXIF_IFD)[gather.EXIF_FOCAL_35MM] == still_life.FOCAL_35MM
        if suffix == ".jpg":  # pycolmap reads these data from JPEGs
            focal = pycolmap.Bitmap.read(source, True).exif_focal_length()
            assert focal and copy.exif_focal_length() == pytest.approx(focal / 2), (
                "the prior of the focal length is lost"
            )

    @pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK", "I;16"])
    def test_every_kind_of_pixel_is_made_smaller(self, tmp_path: Path, mode: str) -> None:
        values = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
        suffix = ".jpg" if mode == "CMYK" else ".png"
        image = Image.fromarray(values[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(values)
        (image if mode == "I;16" else image.convert(mode)).save(tmp_path / f"a{suffix}")
        copy_photo(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}", 64)
        with Image.open(tmp_path / f"b{suffix}") as small:
            assert small.size == (64, 32) and (small.mode == "RGBA") == (mode == "RGBA")
            assert abs(np.asarray(small.convert("L"), dtype=float).mean() - 127) < 25, "values were cut"

    def test_small_ones_are_copied_to_the_byte(self, photos: Path, tmp_path: Path) -> None:
        copy_photo(photos / "photo 0.jpg", tmp_path / "a.jpg", WIDTH)
        assert (tmp_path / "a.jpg").read_bytes() == (photos / "photo 0.jpg").read_bytes()
        assert smaller((4000, 3000), 1600) == (1600, 1200) and smaller((3, 4000), 100) == (1, 100)

    def test_a_reconstruction_of_smaller_copies(self, photos: Path, tmp_path: Path) -> None:
        before = hashes(photos)
        report = reconstruct(photos, tmp_path / "out", Settings(threads=1, max_size=280), progress=False)
        (camera,) = report.cameras
        assert (camera["width"], camera["height"]) == (280, 210) and report.registered == 7
        truth = still_life.lens(280, 210).params[0]
        assert camera["focal_px"][0] == pytest.approx(truth, rel=0.05), "the focal length is not that of the copies"
        assert hashes(photos) == before, "a photograph was changed"


def test_png_files_are_written_beside_pycolmap(tmp_path: Path) -> None:
    """pycolmap brings a zlib of its own, which Pillow's encoder must not use in part: it crashed the process."""
    code = f"""
from splatlearn.scene.sfm_library import load_pycolmap
load_pycolmap()
from PIL import Image
Image.effect_noise((96, 64), 90).save({str(tmp_path / "a.png")!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / "a.png").is_file(), done.stderr


def test_panoramas_are_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, None] = {}
    monkeypatch.setattr(notices, "_collected", said)
    tag = b'<m xmlns:x="adobe:ns:meta/"><GPano:ProjectionType>equirectangular</GPano:ProjectionType></m>'
    Image.new("RGB", (64, 40)).save(tmp_path / "tagged.jpg", xmp=tag)
    Image.new("RGB", (1200, 600)).save(tmp_path / "shaped.jpg")
    Image.new("RGB", (1200, 800)).save(tmp_path / "usual.jpg")
    photos = look_at(tmp_path, ["shaped.jpg", "tagged.jpg", "usual.jpg"], {}, 1)
    assert [photo.panorama for photo in photos] == ["shaped", "tagged", ""]
    warn_of_panoramas({photo.file: photo.panorama for photo in photos}, "OPENCV", "remedy")
    tagged, shaped = said
    assert "1 of 3 photographs say of themselves" in tagged and "360°" in tagged and "tagged.jpg" in tagged
    assert "the shape (2:1)" in shaped and "shaped.jpg" in shaped
    said.clear()
    warn_of_panoramas({photo.file: photo.panorama for photo in photos}, "EQUIRECTANGULAR", "remedy")
    assert not said
