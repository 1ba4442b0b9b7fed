"""Decode image files to 8-bit RGB tensors; every pixel format is handled explicitly, none by a decoder's default."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.scene.photos.opening import HUGE_PIXELS, huge_lock, open_image, reason

if TYPE_CHECKING:
    from PIL import Image

_Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels
STRIP_PIXELS = 1 << 22  # of an image that are converted at a time

# Pillow keeps only the high byte of 16-bit colours. A second decoding in the opposite byte order returns the low
# byte instead. Grey with alpha has four bytes per pixel: decoding it as RGBA returns all of them.
_OTHER_BYTE_ORDER = {
    "RGB;16B": "RGB;16L",
    "RGB;16L": "RGB;16B",
    "RGB;16N": "RGB;16B",
    "RGBA;16B": "RGBA;16L",
    "RGBA;16L": "RGBA;16B",
    "RGBA;16N": "RGBA;16B",
}


def image_size(path: Path) -> tuple[int, int]:
    """Read an image's width and height in pixels from the file's header; EXIF rotation is not applied.

    Raises:
        SplatlearnError: the file is missing, is not an image, or is larger than any photograph.
    """
    with open_image(path) as image:
        return image.size


def read_image(
    path: Path,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    downscale: int = 1,
    *,
    is_mask: bool = False,
) -> torch.Tensor:
    """Decode an image file; EXIF rotation is not applied.

    16-bit values are divided by 257, grey is repeated, a palette is looked up, and Pillow converts CMYK. Pixels are
    converted and reduced strip by strip; of images with more than HUGE_PIXELS only one is decoded at a time, and the
    JPEG decoder itself reduces those by 2, 4 or 8, where `downscale` allows it.

    Args:
        path: the image file.
        background: RGB, 0 to 1, over which an image with an alpha channel is composited.
        downscale: whole factor by which the image is reduced, by averaging; incomplete blocks at the border are
            dropped.
        is_mask: whether the file is a mask, which may be compressed further than a photograph.

    Returns:
        [H // downscale, W // downscale, 3] uint8 RGB.

    Raises:
        SplatlearnError: the file is missing, truncated or not an image, or its pixels have no known white (32-bit
            integers, floats).
    """
    with open_image(path, is_mask=is_mask) as image:
        is_huge = image.width * image.height > HUGE_PIXELS
        with huge_lock if is_huge else nullcontext():
            try:
                return torch.from_numpy(_reduced(image, path, background, downscale, is_huge))
            except SplatlearnError:
                raise
            except Exception as error:  # Pillow's decoders raise many kinds for damaged files
                raise SplatlearnError(f"{path} cannot be decoded: {reason(error)}.") from None


def _reduced(
    image: Image.Image, path: Path, background: tuple[float, float, float], downscale: int, is_huge: bool
) -> np.ndarray:
    """Return [H // downscale, W // downscale, 3] uint8 RGB, made strip by strip."""
    width, height = image.width // downscale, image.height // downscale
    factor = downscale
    if is_huge and image.format in ("JPEG", "MPO"):
        by_decoder = next(scale for scale in (8, 4, 2, 1) if downscale % scale == 0)
        if by_decoder > 1:
            image.draft(None, (image.width // by_decoder, image.height // by_decoder))
            factor //= by_decoder
    channels_of = _channels(image, path)
    rows = max(1, STRIP_PIXELS // (image.width * factor))  # of the result
    rgb = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        values, white = channels_of((0, top * factor, width * factor, bottom * factor))
        strip = torch.from_numpy(_to_rgb(values, white, background))
        rgb[top:bottom] = shrink(strip, factor).numpy()
    return rgb


def _channels(image: Image.Image, path: Path) -> Callable[[_Box], tuple[np.ndarray, int]]:
    """Decode all pixels; return a function from a box to its pixels.

    These are [H, W, 1 to 4] (grey, grey and alpha, RGB, RGBA) and the value of white, 255 or 65535.
    """
    if image.mode == "F":
        raise SplatlearnError(f"{path} holds floating-point pixels, whose white is unknown; save it with 8 or 16 bits.")
    wide_of = _sixteen_bits(image, path)
    transparent = image.info.get("transparency")  # for 16 bits the one value or colour that means "transparent"
    has_alpha = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    mode = "RGBA" if has_alpha else "RGB"
    image.load()

    def wide(box: _Box) -> tuple[np.ndarray, int]:
        assert wide_of is not None
        values = wide_of(box)
        if isinstance(transparent, (int, tuple)):
            alpha = np.where((values == transparent).all(axis=-1, keepdims=True), np.int32(0), np.int32(65535))
            values = np.concatenate([values, alpha], axis=-1)
        return values, 65535

    def narrow(box: _Box) -> tuple[np.ndarray, int]:
        strip = image.crop(box)
        if strip.mode in ("La", "RGBa"):  # premultiplied: Pillow divides by alpha only within the same family
            strip = strip.convert("LA" if strip.mode == "La" else "RGBA")
        return np.asarray(strip if strip.mode == mode else strip.convert(mode)), 255

    return narrow if wide_of is None else wide


def _sixteen_bits(image: Image.Image, path: Path) -> Callable[[_Box], np.ndarray] | None:
    """Return a function from a box to [H, W, 1 to 4] int32 for an image with 16 bits per channel, else None."""
    if image.mode.startswith("I"):
        return lambda box: _grey(image, box, path)
    raw_modes = {_raw_mode(tile) for tile in getattr(image, "tile", [])}
    raw_mode = raw_modes.pop() if len(raw_modes) == 1 else ""
    if raw_mode == "LA;16B":
        decoded = _decode_as(path, "RGBA")

        def grey_and_alpha(box: _Box) -> np.ndarray:
            channels = np.asarray(decoded.crop(box)).astype(np.int32)
            return channels[..., 0::2] * 256 + channels[..., 1::2]

        return grey_and_alpha
    if raw_mode not in _OTHER_BYTE_ORDER:
        return None
    low = _decode_as(path, _OTHER_BYTE_ORDER[raw_mode])
    return lambda box: np.asarray(image.crop(box)).astype(np.int32) * 256 + np.asarray(low.crop(box))


def _grey(image: Image.Image, box: _Box, path: Path) -> np.ndarray:
    grey = np.asarray(image.crop(box)).astype(np.int32)
    if grey.min() < 0 or grey.max() > 65535:
        raise SplatlearnError(f"{path} holds 32-bit integers, whose white is unknown; save it with 8 or 16 bits.")
    return grey[..., None]


def _raw_mode(tile: Any) -> str:
    arguments = tile[3]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _decode_as(path: Path, raw_mode: str) -> Image.Image:
    """Decode the file's pixels again, with its bytes read as `raw_mode`."""
    with open_image(path) as image:
        tiles = []
        for tile in image.tile:
            codec, extents, offset, arguments = tile
            changed = (raw_mode, *arguments[1:]) if isinstance(arguments, tuple) else raw_mode
            tiles.append(type(tile)(codec, extents, offset, changed))
        image.tile = tiles
        image.load()
        return image


def _to_rgb(values: np.ndarray, white: int, background: tuple[float, float, float]) -> np.ndarray:
    """Convert [H, W, 1 to 4] integers from 0 to `white` to [H, W, 3] uint8."""
    channels = values.shape[2]
    colors = values[..., : 3 if channels >= 3 else 1]
    if channels in (2, 4):
        alpha = values[..., -1:].astype(np.float32) / white
        behind = np.array(background, dtype=np.float32) * 255
        composited = colors.astype(np.float32) * (255 / white) * alpha + behind * (1 - alpha)
        rgb = np.rint(composited).clip(0, 255).astype(np.uint8)
    elif white == 65535:
        rgb = ((colors + 128) // 257).astype(np.uint8)  # value / 257, rounded
    else:
        rgb = colors
    return np.array(np.broadcast_to(rgb, (*rgb.shape[:2], 3)), order="C")


def shrink(image: torch.Tensor, factor: int) -> torch.Tensor:
    """Average blocks of `factor` by `factor` pixels of [H, W, 3] uint8; incomplete blocks at the border are dropped."""
    if factor == 1:
        return image
    height, width = image.shape[0] // factor, image.shape[1] // factor
    blocks = image[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    sums = blocks.sum(dim=3, dtype=torch.int32).sum(dim=1, dtype=torch.int32)
    area = factor * factor
    return ((sums + area // 2) // area).to(torch.uint8)
