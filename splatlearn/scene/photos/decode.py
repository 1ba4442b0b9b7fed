"""Image files as 8-bit RGB tensors: every pixel format explicitly, so that none is guessed by a decoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from splatlearn.errors import SplatlearnError

if TYPE_CHECKING:
    from PIL import Image

# Pillow keeps only the high byte of 16-bit colours. Decoded a second time as if in the other byte order, the
# low byte comes out in its place. Grey with alpha has four bytes a pixel: a plain RGBA shows them all.
_OTHER_BYTE_ORDER = {
    "RGB;16B": "RGB;16L",
    "RGB;16L": "RGB;16B",
    "RGB;16N": "RGB;16B",
    "RGBA;16B": "RGBA;16L",
    "RGBA;16L": "RGBA;16B",
    "RGBA;16N": "RGBA;16B",
}


def photo_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels as stored (EXIF rotation is not applied), from the file's header alone.

    Raises SplatlearnError if the file is missing or no image.
    """
    with _opened(path) as image:
        return image.size


def read_photo(path: Path, background: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> torch.Tensor:
    """Decodes an image file: [H, W, 3] uint8 RGB, rotated as stored.

    16-bit values are divided by 257, grey is repeated, a palette is looked up, CMYK is converted by Pillow,
    and where there is an alpha channel the colours are composited over `background` (RGB, 0 to 1). Raises
    SplatlearnError for a file that is missing, cut short or no image, and for pixels without a known white
    (32-bit integers, floats).
    """
    with _opened(path) as image:
        try:
            values, white = _channels(image, path)
        except SplatlearnError:
            raise
        except Exception as error:  # Pillow's decoders raise many kinds for damaged files
            raise SplatlearnError(f"{path} cannot be decoded: {_reason(error)}.") from None
    return torch.from_numpy(_to_rgb(values, white, background))


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _opened(path: Path) -> Image.Image:
    from PIL import Image

    try:
        if not path.is_file():
            raise SplatlearnError(f"{path} is missing.")
        return Image.open(path)
    except SplatlearnError:
        raise
    except Exception as error:  # as in read_photo
        raise SplatlearnError(f"{path} is no image that can be read: {_reason(error)}.") from None


def _channels(image: Image.Image, path: Path) -> tuple[np.ndarray, int]:
    """The pixels as [H, W, 1 to 4] (grey, grey and alpha, RGB, RGBA) and the value of white, 255 or 65535."""
    if image.mode == "F":
        raise SplatlearnError(f"{path} holds floating-point pixels, whose white is unknown; save it with 8 or 16 bits.")
    deep = _sixteen_bits(image, path)
    if deep is not None:
        transparent = image.info.get("transparency")  # one value or colour that stands for "nothing here"
        if isinstance(transparent, (int, tuple)):
            alpha = np.where((deep == transparent).all(axis=-1, keepdims=True), np.int32(0), np.int32(65535))
            deep = np.concatenate([deep, alpha], axis=-1)
        return deep, 65535
    has_alpha = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    if image.mode in ("La", "RGBa"):  # premultiplied: Pillow undoes it only within the same family
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    return np.asarray(image.convert("RGBA" if has_alpha else "RGB")), 255


def _sixteen_bits(image: Image.Image, path: Path) -> np.ndarray | None:
    """[H, W, 1 to 4] int32 of an image with 16 bits a channel; None for any other."""
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int32)
        if grey.min() < 0 or grey.max() > 65535:
            raise SplatlearnError(f"{path} holds 32-bit integers, whose white is unknown; save it with 8 or 16 bits.")
        return grey[..., None]
    raw_modes = {_raw_mode(tile) for tile in getattr(image, "tile", [])}
    raw_mode = raw_modes.pop() if len(raw_modes) == 1 else ""
    if raw_mode == "LA;16B":
        channels = _decoded_as(path, "RGBA")
        return channels[..., 0::2] * 256 + channels[..., 1::2]
    if raw_mode not in _OTHER_BYTE_ORDER:
        return None
    return np.asarray(image).astype(np.int32) * 256 + _decoded_as(path, _OTHER_BYTE_ORDER[raw_mode])


def _raw_mode(tile: Any) -> str:
    arguments = tile[3]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _decoded_as(path: Path, raw_mode: str) -> np.ndarray:
    """The file's pixels once more, [H, W, C] int32, its bytes taken in another order."""
    with _opened(path) as again:
        tiles = []
        for tile in again.tile:
            codec, extents, offset, arguments = tile
            changed = (raw_mode, *arguments[1:]) if isinstance(arguments, tuple) else raw_mode
            tiles.append(type(tile)(codec, extents, offset, changed))
        again.tile = tiles
        return np.asarray(again).astype(np.int32)


def _to_rgb(values: np.ndarray, white: int, background: tuple[float, float, float]) -> np.ndarray:
    """[H, W, 3] uint8 of [H, W, 1 to 4] whole numbers from 0 to `white`."""
    channels = values.shape[2]
    colors = values[..., : 3 if channels >= 3 else 1]
    if channels in (2, 4):
        alpha = values[..., -1:].astype(np.float32) / white
        backdrop = np.array(background, dtype=np.float32) * 255
        mixed = colors.astype(np.float32) * (255 / white) * alpha + backdrop * (1 - alpha)
        rgb = np.rint(mixed).clip(0, 255).astype(np.uint8)
    elif white == 65535:
        rgb = ((colors + 128) // 257).astype(np.uint8)  # value / 257, rounded
    else:
        rgb = colors
    return np.array(np.broadcast_to(rgb, (*rgb.shape[:2], 3)), order="C")


def shrink(photo: torch.Tensor, factor: int) -> torch.Tensor:
    """Averages blocks of `factor` by `factor` pixels of [H, W, 3] uint8; what fills no block is cut off."""
    if factor == 1:
        return photo
    height, width = photo.shape[0] // factor, photo.shape[1] // factor
    blocks = photo[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    sums = blocks.sum(dim=3, dtype=torch.int32).sum(dim=1, dtype=torch.int32)
    area = factor * factor
    return ((sums + area // 2) // area).to(torch.uint8)
