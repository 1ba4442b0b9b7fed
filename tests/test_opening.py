"""Image files from strangers: only known formats are opened, bombs are refused, huge photographs are read in strips."""

import io
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from splatlearn import notices
from splatlearn.errors import SplatlearnError
from splatlearn.scene.photos import suffixes
from splatlearn.scene.photos.decode import image_size, read_image, shrink
from splatlearn.scene.photos.masks import read_mask
from splatlearn.scene.photos.opening import LARGEST_PIXELS, MOST_SCANS
from splatlearn.scene.reconstruct.copies import copy_photo
from splatlearn.scene.reconstruct.gather import OnlyLeftOut, find_images, look_at
from splatlearn.scene.reconstruct.pipeline import check_in_place
from splatlearn.scene.reconstruct.ready import is_photographs, ready
from splatlearn.scene.reconstruct.report import Missing, Report

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\n(x) print quit\n%%EOF\n"


def png(width: int, height: int, depth: int, color: int, *chunks: tuple[bytes, bytes], rows: bytes = b"") -> bytes:
    """A PNG file of these chunks, and of `rows` compressed."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in (header, *chunks, (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content


def refused(path: Path, words: str) -> None:
    """Both the header and the pixels are refused in one short sentence, at once."""
    for reader in (image_size, read_image):
        begin = time.monotonic()
        with pytest.raises(SplatlearnError, match=words) as caught:
            reader(path)
        message = str(caught.value).replace(str(path), "")
        assert len(message) < 300 and message.isprintable() and time.monotonic() - begin < 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (EPS, "a PostScript or PDF document, which is never opened"),
        (b"\xc5\xd0\xd3\xc6" + bytes(60) + EPS, "never opened"),
        (b"%PDF-1.7\n%%EOF\n", "never opened"),
        (b"8BPS\0\1" + bytes(60), "in none of the formats"),
        (b"<svg/>", "in none of the formats"),
        (b"", "empty"),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".eps", ".pdf", ""])
def test_no_other_format_is_opened(tmp_path: Path, content: bytes, words: str, suffix: str) -> None:
    (path := tmp_path / f"a{suffix}").write_bytes(content)
    refused(path, words)


def test_no_program_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow starts Ghostscript for an EPS file, whatever its name."""
    (tmp_path / "a.png").write_bytes(EPS)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    refused(tmp_path / "a.png", "never opened")


class TestBombs:
    def test_one_bit_pixels(self, tmp_path: Path) -> None:
        side = 20000
        (path := tmp_path / "a.png").write_bytes(png(side, side, 1, 0, rows=bytes((side // 8 + 1) * side)))
        assert path.stat().st_size < 60_000
        refused(path, "is no photograph: .* bytes that would become 400,000,000 pixels")

    @pytest.mark.parametrize("side", [24000, 2**31 - 1])
    def test_more_pixels_than_any_photograph(self, tmp_path: Path, side: int) -> None:
        (path := tmp_path / "a.png").write_bytes(png(side, side, 8, 2))
        refused(path, rf"{LARGEST_PIXELS:,} pixels|no image that can be read")

    @pytest.mark.parametrize(("kind", "head"), [(b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")])
    def test_texts_and_profiles(self, tmp_path: Path, kind: bytes, head: bytes) -> None:
        bomb = (kind, head + zlib.compress(bytes(64 << 20), 9))
        (path := tmp_path / "a.png").write_bytes(png(4, 3, 8, 0, *[bomb] * 20, rows=bytes(15)))
        begin = time.monotonic()
        try:
            read_image(path)
        except SplatlearnError as error:
            assert len(str(error)) < 300 + len(str(path))
        assert time.monotonic() - begin < 2

    def test_scans(self, tmp_path: Path) -> None:
        file = io.BytesIO()
        Image.new("RGB", (64, 48)).save(file, "JPEG", progressive=True)
        content = file.getvalue()
        last = content.rindex(b"\xff\xda")
        (path := tmp_path / "a.jpg").write_bytes(content[:last] + content[last:-2] * MOST_SCANS + content[-2:])
        refused(path, rf"a JPEG of \d+ scans; expected {MOST_SCANS} at most")

    def test_a_mask_of_another_size(self, tmp_path: Path) -> None:
        (path := tmp_path / "a.png").write_bytes(png(16000, 16000, 1, 0, rows=bytes(2001 * 16000)))
        with pytest.raises(SplatlearnError, match="expected a mask of its photograph's size, 40x40 pixels"):
            read_mask(path, (40, 40))


class TestHuge:
    # Peak memory in MiB above that of a small image, in a process of its own.
    CODE = """
import resource, sys
from pathlib import Path
from splatlearn.scene.photos.decode import read_image
from splatlearn.scene.reconstruct.copies import copy_photo
from splatlearn.scene.reconstruct.gather import look_at
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
path = Path(sys.argv[1])
read_image(path.with_name("small.jpg"), downscale=2)
before = peak()
(photo,) = look_at(path.parent, [path.name], {}, 1)
copy_photo(path, path.with_name("copy.jpg"), 1600)
print(photo.width, photo.height, *read_image(path, downscale=8).shape, peak() - before)
print(*read_image(path).shape, peak() - before)
"""

    def test_memory(self, tmp_path: Path) -> None:
        width, height = 16320, 12240
        Image.new("RGB", (32, 32)).save(tmp_path / "small.jpg")
        Image.new("L", (width, height), 128).save(tmp_path / "200mp.jpg", quality=30)
        command = [sys.executable, "-c", self.CODE, tmp_path / "200mp.jpg"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and done.stderr == "", "a warning of an attack, or an error"
        reduced, whole = (line.split() for line in done.stdout.splitlines())
        assert reduced[:5] == [str(width), str(height), "1530", "2040", "3"] and int(reduced[5]) < 128
        assert whole[:3] == [str(height), str(width), "3"]
        assert int(whole[3]) < (width * height * 4 >> 20) + 128, "more than the grey pixels and the result"
        assert Image.open(tmp_path / "copy.jpg").size == (1600, 1200)

    def test_strips_are_the_whole(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from splatlearn.scene.photos import decode

        values = np.random.default_rng(0).integers(0, 256, (53, 31, 4), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / "a.png")
        whole = read_image(tmp_path / "a.png", (1.0, 0.5, 0.0))
        monkeypatch.setattr(decode, "STRIP_PIXELS", 31 * 7)
        assert read_image(tmp_path / "a.png", (1.0, 0.5, 0.0)).equal(whole)
        for factor in (2, 3, 5):
            assert read_image(tmp_path / "a.png", (1.0, 0.5, 0.0), factor).equal(shrink(whole, factor))

    def test_the_decoder_reduces_like_the_mean(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from splatlearn.scene.photos import decode

        smooth = np.add.outer(np.linspace(0, 120, 203), np.linspace(0, 120, 301))[:, :, None].repeat(3, 2)
        Image.fromarray(smooth.astype(np.uint8)).save(tmp_path / "a.jpg", quality=95)
        mean = read_image(tmp_path / "a.jpg", downscale=12)
        monkeypatch.setattr(decode, "HUGE_PIXELS", 1)
        huge = read_image(tmp_path / "a.jpg", downscale=12)
        assert huge.shape == mean.shape and (huge.int() - mean.int()).abs().max() <= 2


class TestKinds:
    def test_a_folder_a_pipe_and_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").mkdir()
        os.mkfifo(tmp_path / "b.jpg")
        for name, words in (("a.jpg", "is a folder"), ("b.jpg", "no regular file"), ("c.jpg", "is missing")):
            refused(tmp_path / name, words)

    @pytest.mark.parametrize(
        ("kind", "tolerance"), [("WEBP", 0), ("AVIF", 60), ("HEIF", 60), ("GIF", 0), ("JPEG2000", 0)]
    )
    def test_other_formats_are_read_and_converted(self, tmp_path: Path, kind: str, tolerance: int) -> None:
        heif = pytest.importorskip("pillow_heif")
        heif.register_heif_opener()
        values = np.repeat(np.arange(0, 240, 10, dtype=np.uint8), 64 * 3).reshape(24, 64, 3)
        suffix = {"WEBP": ".webp", "AVIF": ".AVIF", "HEIF": ".HEIC", "GIF": ".gif", "JPEG2000": ".jp2"}[kind]
        for index in range(2):
            options = {"lossless": True} if kind == "WEBP" else {}
            Image.fromarray(values).save(tmp_path / f"{index}{suffix}", kind, **options)
        found = find_images(tmp_path)
        assert found.names == [f"0{suffix}", f"1{suffix}"] and not found.left_out
        photos = look_at(tmp_path, found.names, {}, 1)
        assert [photo.name for photo in photos] == [f"0{suffix}.jpg", f"1{suffix}.jpg"]
        copy_photo(tmp_path / photos[0].file, tmp_path / "copy.jpg", None, convert=True)
        with Image.open(tmp_path / "copy.jpg") as copy:
            assert copy.format == "JPEG" and copy.size == (64, 24)
        for path in (tmp_path / f"0{suffix}", tmp_path / "copy.jpg"):
            assert np.abs(read_image(path).numpy().astype(int) - values).max() <= tolerance + 8
        with pytest.raises(SplatlearnError, match="that COLMAP reads, got 2 to be converted"):
            check_in_place(photos, tmp_path, True)

    def test_the_content_decides_and_not_the_suffix(self, tmp_path: Path) -> None:
        Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", "WEBP")
        Image.new("RGBA", (40, 30)).save(tmp_path / "b.png", "WEBP", lossless=True)
        Image.new("RGB", (40, 30)).save(tmp_path / "c.jpg", "PNG")
        photos = look_at(tmp_path, ["a.jpg", "b.png", "c.jpg"], {}, 1)
        assert [photo.name for photo in photos] == ["a.jpg.jpg", "b.png.png", "c.jpg"]

    def test_two_photographs_of_one_copy(self, tmp_path: Path) -> None:
        Image.new("RGB", (40, 30)).save(tmp_path / "a.webp")
        Image.new("RGB", (40, 30)).save(tmp_path / "a.webp.jpg")
        with pytest.raises(SplatlearnError, match=r"would have one copy: a\.webp and a\.webp\.jpg"):
            look_at(tmp_path, ["a.webp", "a.webp.jpg"], {}, 1)

    def test_an_animation_is_said_to_be_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        said: dict[str, None] = {}
        monkeypatch.setattr(notices, "_collected", said)
        frames = [Image.new("RGB", (40, 30), (index, 0, 0)) for index in (0, 90)]
        frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
        look_at(tmp_path, ["a.webp"], {}, 1)
        assert any("a.webp is an animation; its first frame is taken" in sentence for sentence in said)


class TestLeftOut:
    NAMES = (
        "a.jpg",
        "b.jpg",
        "c.CR2",
        "d.cr2",
        "e.NEF",
        "f.MOV",
        "._a.jpg",
        ".g.png",
        "h.psd",
        "notes.txt",
        ".DS_Store",
    )

    def folder(self, tmp_path: Path) -> Path:
        for name in self.NAMES:
            (tmp_path / name).write_bytes(b"x")
        return tmp_path

    def test_all_are_counted_and_named(self, tmp_path: Path) -> None:
        found = find_images(self.folder(tmp_path))
        assert found.names == ["a.jpg", "b.jpg"]
        sentence = suffixes.sentence(found.left_out)
        assert sentence.startswith("7 files are left out: 2 .cr2 (raw; develop them")
        assert all(name in sentence for name in self.NAMES[2:9]) and "notes.txt" not in sentence

    def test_five_names_and_a_count(self, tmp_path: Path) -> None:
        for index in range(40):
            (tmp_path / f"{index:02d}.dng").touch()
        with pytest.raises(
            OnlyLeftOut, match=r"got 0; 40 files are left out: 40 \.dng .*: 00.dng, .*04\.dng and 35 more$"
        ):
            find_images(tmp_path)

    def test_heic_without_the_library(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("a.jpg", "b.jpg", "c.HEIC", "d.heic"):
            (tmp_path / name).touch()
        monkeypatch.setattr(suffixes, "heif_is_readable", lambda: False)
        remedy = "(to read them, install pillow-heif (pip install 'splatlearn[heif]'))"
        sentence = suffixes.sentence(find_images(tmp_path).left_out)
        assert sentence == f"2 files are left out: 2 .heic {remedy}: c.HEIC, d.heic"

    def test_no_further_photographs_are_asked_for(self, tmp_path: Path) -> None:
        left_out = find_images(self.folder(tmp_path)).left_out
        missing = (Missing("b.jpg", "alone", "matches no other"), Missing("c.jpg", "apart", "belongs to another group"))
        report = Report(8, 10, 100, 0.5, 1.0, missing=missing)
        assert "30 and more" in report.text() and "take some more" in report.text() and "helps" in report.warning
        report = Report(8, 10, 100, 0.5, 1.0, missing=missing, left_out=left_out)
        for words in (report.text(), report.warning):
            assert "more show it" not in words and "take some more" not in words and "add photographs" not in words
            assert "7 files are left out" in words and "more overlap" not in words
        assert "Make the files that are left out readable" in report.text()

    def test_train_names_them_too(self, tmp_path: Path) -> None:
        for index in range(9):
            (tmp_path / f"{index}.CR3").touch()
        with pytest.raises(OnlyLeftOut, match=r"9 files are left out: 9 \.cr3"):
            is_photographs(tmp_path)
        (tmp_path / "a.mov").touch()
        with pytest.raises(SplatlearnError, match="expected a video, got a file without a video stream"):
            ready(str(tmp_path / "a.mov"), "ask")
