"""Decode image files to 8-bit RGB tensors; every pixel format is handled explicitly, none by a decoder's default."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from splatlearn.errors import SplatlearnError

if TYPE_CHECKING:
    from PIL import Image

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
        SplatlearnError: the file is missing or is not an image.
    """
    with _open(path) as image:
        return image.size


def read_image(path: Path, background: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> torch.Tensor:
    """Decode an image file; EXIF rotation is not applied.

    16-bit values are divided by 257, grey is repeated, a palette is looked up, and Pillow converts CMYK.

    Args:
        path: the image file.
        background: RGB, 0 to 1, over which an image with an alpha channel is composited.

    Returns:
        [H, W, 3] uint8 RGB.

    Raises:
        SplatlearnError: the file is missing, truncated or not an image, or its pixels have no known white (32-bit
            integers, floats).
    """
    with _open(path) as image:
        try:
            values, white = _channels(image, path)
        except SplatlearnError:
            raise
        except Exception as error:  # Pillow's decoders raise many kinds for damaged files
            raise SplatlearnError(f"{path} cannot be decoded: {_reason(error)}.") from None
    return torch.from_numpy(_to_rgb(values, white, background))


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _open(path: Path) -> Image.Image:
    from PIL import Image

    try:
        if not path.is_file():
            raise SplatlearnError(f"{path} is missing.")
        return Image.open(path)
    except SplatlearnError:
        raise
    except Exception as error:  # see read_image
        raise SplatlearnError(f"{path} is no image that can be read: {_reason(error)}.") from None


def _channels(image: Image.Image, path: Path) -> tuple[np.ndarray, int]:
    """Return the pixels as [H, W, 1 to 4] (grey, grey and alpha, RGB, RGBA) and the value of white, 255 or 65535."""
    if image.mode == "F":
        raise SplatlearnError(f"{path} holds floating-point pixels, whose white is unknown; save it with 8 or 16 bits.")
    wide = _sixteen_bits(image, path)
    if wide is not None:
        transparent = image.info.get("transparency")  # the one value or colour that means "transparent"
        if isinstance(transparent, (int, tuple)):
            alpha = np.where((wide == transparent).all(axis=-1, keepdims=True), np.int32(0), np.int32(65535))
            wide = np.concatenate([wide, alpha], axis=-1)
        return wide, 65535
    has_alpha = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    if image.mode in ("La", "RGBa"):  # premultiplied: Pillow divides by alpha only within the same family
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    return np.asarray(image.convert("RGBA" if has_alpha else "RGB")), 255


def _sixteen_bits(image: Image.Image, path: Path) -> np.ndarray | None:
    """Return [H, W, 1 to 4] int32 for an image with 16 bits per channel, else None."""
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int32)
        if grey.min() < 0 or grey.max() > 65535:
            raise SplatlearnError(f"{path} holds 32-bit integers, whose white is unknown; save it with 8 or 16 bits.")
        return grey[..., None]
    raw_modes = {_raw_mode(tile) for tile in getattr(image, "tile", [])}
    raw_mode = raw_modes.pop() if len(raw_modes) == 1 else ""
    if raw_mode == "LA;16B":
        channels = _decode_as(path, "RGBA")
        return channels[..., 0::2] * 256 + channels[..., 1::2]
    if raw_mode not in _OTHER_BYTE_ORDER:
        return None
    return np.asarray(image).astype(np.int32) * 256 + _decode_as(path, _OTHER_BYTE_ORDER[raw_mode])


def _raw_mode(tile: Any) -> str:
    arguments = tile[3]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _decode_as(path: Path, raw_mode: str) -> np.ndarray:
    """Decode the file's pixels again as [H, W, C] int32, with its bytes read as `raw_mode`."""
    with _open(path) as image:
        tiles = []
        for tile in image.tile:
            codec, extents, offset, arguments = tile
            changed = (raw_mode, *arguments[1:]) if isinstance(arguments, tuple) else raw_mode
            tiles.append(type(tile)(codec, extents, offset, changed))
        image.tile = tiles
        return np.asarray(image).astype(np.int32)


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
