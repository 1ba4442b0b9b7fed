"""Every pixel format becomes the 8-bit RGB that it means."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from colmap_samples import noise
from PIL import Image

from splatlearn.errors import SplatlearnError
from splatlearn.scene.photos.decode import image_size, read_image, shrink

RGB16, GREY16, GREY_ALPHA16, RGBA16 = 2, 0, 4, 6  # PNG's colour types


def png16(values: np.ndarray, color_type: int, transparent: bytes = b"") -> bytes:
    """A 16-bit PNG of [H, W, C] uint16 made by hand; every other row holds differences to the left."""
    height, width = values.shape[:2]
    stride = values.shape[2] * 2
    rows = []
    for number, row in enumerate(values.astype(">u2")):
        raw = np.frombuffer(row.tobytes(), np.uint8)
        if number % 2:  # filter 1: difference to the pixel on the left
            raw = raw - np.concatenate([np.zeros(stride, np.uint8), raw[:-stride]])
        rows.append(bytes([number % 2]) + raw.tobytes())

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    extra = chunk(b"tRNS", transparent) if transparent else b""
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def deep(channels: int) -> np.ndarray:
    """[9, 13, channels] uint16 with the corners of the range."""
    values = np.random.default_rng(channels).integers(0, 65536, (9, 13, channels), dtype=np.uint16)
    values[0, :4] = np.array([0, 255, 32767, 65535])[:, None]
    return values


def eighths(values: np.ndarray) -> np.ndarray:
    """16-bit values as 8-bit ones: divided by 257, rounded."""
    return np.floor(values / 257 + 0.5).astype(np.uint8)


def read(tmp_path: Path, content: bytes, suffix: str, background: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(content)
    photo = read_image(path, background)
    assert photo.dtype == torch.uint8 and photo.is_contiguous() and photo.shape[2] == 3
    return photo.numpy()


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_rgb(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(tmp_path, encoded(Image.fromarray(noise(7, 5)), "PNG"), ".png"), noise(7, 5))


def test_grey(tmp_path: Path) -> None:
    grey = noise(7, 5)[..., 0]
    got = read(tmp_path, encoded(Image.fromarray(grey), "PNG"), ".png")
    np.testing.assert_array_equal(got, np.repeat(grey[..., None], 3, axis=2), err_msg="grey is not grey")


def test_black_and_white(tmp_path: Path) -> None:
    got = read(tmp_path, encoded(Image.fromarray(noise(8, 8)[..., 0] > 127), "PNG"), ".png")
    np.testing.assert_array_equal(got[..., 1] == 255, noise(8, 8)[..., 0] > 127, err_msg="1-bit white must be 255")


@pytest.mark.parametrize("background", [(0.0, 0.0, 0.0), (1.0, 0.5, 0.25)])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_over_the_background(tmp_path: Path, mode: str, background: tuple) -> None:
    image = Image.fromarray(np.dstack([noise(7, 5), noise(7, 5, 1)[..., 0]])).convert(mode)
    values = np.asarray(image).astype(float)
    colors, alpha = np.broadcast_to(values[..., :-1], (5, 7, 3)), values[..., -1:] / 255
    expected = colors * alpha + 255 * np.array(background) * (1 - alpha)
    error = np.abs(read(tmp_path, encoded(image, "PNG"), ".png", background) - expected)
    assert error.max() <= 0.51, "alpha was dropped, or another background taken"


@pytest.mark.parametrize("transparency", [None, 3])
def test_palette(tmp_path: Path, transparency: int | None) -> None:
    indices = np.arange(16, dtype=np.uint8).reshape(4, 4)
    image = Image.fromarray(indices)
    image.putpalette(noise(16, 1)[0].tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    expected = noise(16, 1)[0][indices].copy()
    if transparency is not None:
        expected[indices == transparency] = [255, 0, 0]
    got = read(tmp_path, encoded(image, "PNG", **options), ".png", (1.0, 0.0, 0.0))
    np.testing.assert_array_equal(got, expected, err_msg="indices were taken for colours, or the transparent one shown")


def test_cmyk(tmp_path: Path) -> None:
    flat = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    got = read(tmp_path, encoded(flat, "JPEG", quality=95), ".jpg").reshape(-1, 3).mean(axis=0)
    assert got[0] < 10 and got[1] > 245 and got[2] > 245, (
        f"full cyan ink is not {got}: inverted, or inks taken for light"
    )


@pytest.mark.parametrize("color_type, channels", [(RGB16, 3), (GREY16, 1)])
def test_sixteen_bits_are_divided_by_257(tmp_path: Path, color_type: int, channels: int) -> None:
    got = read(tmp_path, png16(deep(channels), color_type), ".png")
    expected = np.broadcast_to(eighths(deep(channels)), (9, 13, 3))
    np.testing.assert_array_equal(got, expected, err_msg="saturated (grey) or cut to the high byte (colour)")


@pytest.mark.parametrize("color_type, channels", [(RGBA16, 4), (GREY_ALPHA16, 2)])
def test_sixteen_bits_with_alpha(tmp_path: Path, color_type: int, channels: int) -> None:
    values = deep(channels) / 65535
    expected = 255 * (values[..., :-1] * values[..., -1:] + np.array([0, 1, 0.5]) * (1 - values[..., -1:]))
    error = np.abs(read(tmp_path, png16(deep(channels), color_type), ".png", (0, 1, 0.5)) - expected)
    assert error.max() <= 0.51, "16-bit alpha was dropped or cut"


def test_sixteen_bits_with_a_transparent_colour(tmp_path: Path) -> None:
    values = deep(3)
    content = png16(values, RGB16, values[4, 5].astype(">u2").tobytes())
    got = read(tmp_path, content, ".png", (1, 1, 1))
    assert got[4, 5].tolist() == [255, 255, 255], "the colour that means transparent was shown"
    got[4, 5] = eighths(values)[4, 5]
    np.testing.assert_array_equal(got, eighths(values), err_msg="another colour became transparent")


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_sixteen_bit_tiff(tmp_path: Path, byte_order: str) -> None:
    values = deep(3)
    height, width = values.shape[:2]
    pixels = values.astype(byte_order + "u2").tobytes()
    # width, height, bits (at 8), uncompressed, RGB, pixels at 14, 3 samples, all rows, bytes
    bits_at, pixels_at = 8, 14
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, bits_at), (259, 4, 1, 1), (262, 4, 1, 2)]
    tags += [(273, 4, 1, pixels_at), (277, 4, 1, 3), (278, 4, 1, height), (279, 4, 1, len(pixels))]
    directory = struct.pack(byte_order + "H", len(tags))
    directory += b"".join(struct.pack(byte_order + "HHII", *tag) for tag in tags) + bytes(4)
    start = struct.pack(byte_order + "2sHI", b"II" if byte_order == "<" else b"MM", 42, pixels_at + len(pixels))
    content = start + struct.pack(byte_order + "3H", 16, 16, 16) + pixels + directory
    np.testing.assert_array_equal(read(tmp_path, content, ".tif"), eighths(values), err_msg="bytes swapped or cut")


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_known_white_are_refused(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(np.full((4, 4), 70000, dtype=np.float32 if mode == "F" else np.int32))
    with pytest.raises(SplatlearnError, match="whose white is unknown"):
        read(tmp_path, encoded(image, "TIFF"), ".tif")


def test_exif_rotation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to view"
    content = encoded(Image.fromarray(noise(16, 8)), "JPEG", exif=exif)
    assert read(tmp_path, content, ".jpg").shape == (8, 16, 3), "COLMAP measured the pixels as stored"
    assert image_size(tmp_path / "photo.jpg") == (16, 8)


@pytest.mark.parametrize("kind, suffix", [("JPEG", ".jpg"), ("PNG", ".png")])
def test_cut_files_are_refused(tmp_path: Path, kind: str, suffix: str) -> None:
    content = encoded(Image.fromarray(noise(200, 200)), kind)
    for part in (0.99, 0.5, 0.2):
        with pytest.raises(SplatlearnError, match=f"photo{suffix} cannot be decoded"):
            read(tmp_path, content[: int(part * len(content))], suffix)
    for rest in (b"", b"no picture", content[:10]):
        with pytest.raises(SplatlearnError, match=f"photo{suffix} is no image"):
            read(tmp_path, rest, suffix)


def test_missing_file(tmp_path: Path) -> None:
    for name in ("none.png", "x" * 300 + ".png", "folder/none.png"):
        with pytest.raises(SplatlearnError, match="is missing|is no image"):
            read_image(tmp_path / name)


def test_shrink_rounds_the_mean_and_cuts_the_rest() -> None:
    photo = torch.from_numpy(noise(11, 8))
    for factor in (1, 2, 3, 5):
        height, width = 8 // factor, 11 // factor
        blocks = noise(11, 8)[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
        expected = blocks.mean(axis=(1, 3))
        assert shrink(photo, factor).shape == (height, width, 3)
        assert np.abs(shrink(photo, factor).numpy() - expected).max() <= 0.5, f"not the mean at {factor}"
    white = torch.full((4, 4, 3), 255, dtype=torch.uint8)
    assert torch.equal(shrink(white, 4), white[:1, :1]), "sums must not overflow 8 bits"
