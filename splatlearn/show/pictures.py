"""Pictures for people: a render beside its photograph, contact sheets, PNG files that are never half-written.

Shapes: H rows, W columns. An image is [H,W,3], [H,W,1] or [H,W], a tensor or array, float in 0..1 or uint8.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

Image = torch.Tensor | np.ndarray

PNG_LEVEL = 4  # of zlib: photographs are 3 % larger than at its default, and written 2.5 times as fast
GAP = 6  # pixels between panels
PAPER = (255, 255, 255)
# from no error to the end of the scale: dark to bright, so that it can be read without colour too
ERROR_COLORS = np.array([(8, 8, 20), (84, 20, 110), (190, 55, 84), (245, 135, 40), (252, 250, 190)], np.float64)


def to_uint8(image: Image) -> np.ndarray:
    """The image as uint8 [H,W,3] on the CPU: floats are clamped to 0..1 and rounded, grey is repeated.

    Raises SplatlearnError for another shape and for values that are not numbers.
    """
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    array = array[:, :, None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in (1, 3) or 0 in array.shape:
        raise SplatlearnError(f"an image must be [H,W,3], [H,W,1] or [H,W], got {list(array.shape)}.")
    if array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating):
            raise SplatlearnError(f"an image must be float in 0..1 or uint8, got {array.dtype}.")
        if np.isnan(array).any():
            raise SplatlearnError("an image has values that are not a number.")
        array = (np.clip(array.astype(np.float32), 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def side_by_side(
    photo: Image,
    render: Image,
    magnify: float = 4.0,
    captions: tuple[str, str, str] | None = None,
) -> np.ndarray:
    """Photo | render | error in one uint8 picture [H, 3W + 2·GAP, 3], each with a small caption.

    The error is the mean over the channels of |photo - render|, times `magnify`, dark to bright. `magnify` 0
    leaves that panel out and gives [H, 2W + GAP, 3]. Raises SplatlearnError where the two differ in size.
    """
    left, right = to_uint8(photo), to_uint8(render)
    if left.shape != right.shape:
        raise SplatlearnError(f"photo and render differ in size: {_size(left)} and {_size(right)}.")
    names = captions or ("photo", "render", f"error x{magnify:g}")
    panels = [left, right]
    if magnify:
        panels.append(error_map(left, right, magnify))
    panels = [caption(panel, name) for panel, name in zip(panels, names, strict=False)]
    gap = np.full((left.shape[0], GAP, 3), PAPER, np.uint8)
    pieces = [piece for panel in panels for piece in (gap, panel)][1:]
    return np.concatenate(pieces, axis=1)


def error_map(photo: Image, render: Image, magnify: float = 4.0) -> np.ndarray:
    """How two images of one size differ, uint8 [H,W,3]: the mean over channels of |photo - render|, times `magnify`.

    Dark is right; the scale ends, bright, at an error of 1 / `magnify` of the full range.
    """
    error = np.abs(to_uint8(photo).astype(np.float64) - to_uint8(render)).mean(axis=2) / 255
    place = np.clip(error * magnify, 0, 1)
    stops = np.linspace(0, 1, len(ERROR_COLORS))
    return np.stack([np.interp(place, stops, c) for c in ERROR_COLORS.T], axis=2).astype(np.uint8)


def depth_map(depth: np.ndarray, near: float, far: float) -> np.ndarray:
    """Depths [H,W] in colours, uint8 [H,W,3]: `near` is bright, `far` dark, by their logarithms; 0 (nothing) is black.

    The colours are matplotlib's viridis, which people of any colour vision read in the same order.
    """
    from matplotlib import colormaps

    place = np.log(np.clip(depth, near, far) / near) / np.log(max(far / near, 1 + 1e-6))
    colors = (colormaps["viridis"](1 - place)[..., :3] * 255 + 0.5).astype(np.uint8)
    return np.asarray(np.where((depth > 0)[..., None], colors, np.uint8(0)))


def caption(image: Image, text: str) -> np.ndarray:
    """A copy [H,W,3] of the image with `text`, white on a dark label, in its upper left corner."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    picture = Pillow.fromarray(to_uint8(image))
    size = int(np.clip(min(picture.size) / 20, 9, 32))
    font = _font(size)
    pad = size // 2
    left, top, right, bottom = ImageDraw.Draw(picture).textbbox((2 * pad, 1.6 * pad), text, font=font)
    shade = ImageDraw.Draw(picture, "RGBA")
    box = (pad, pad, int(right) + pad, int(bottom) + pad // 2 + 1)
    shade.rounded_rectangle(box, radius=pad, fill=(12, 12, 20, 150))
    shade.text((2 * pad, 1.6 * pad), text, font=font, fill=(255, 255, 255, 255))
    return np.asarray(picture).copy()


def contact_sheet(
    images: Sequence[Image], columns: int = 4, tile_width: int = 320, captions: Sequence[str] = ()
) -> np.ndarray:
    """All images on one white sheet, uint8 [H,W,3], row by row, each scaled to `tile_width` pixels.

    Images may differ in size; a row is as high as its highest. Raises SplatlearnError without images, for
    columns or a tile width below 1, and for another number of captions than images (none at all is fine).
    """
    from PIL import Image as Pillow

    if not images or columns < 1 or tile_width < 1:
        raise SplatlearnError(
            f"a contact sheet needs images, columns, tile width: got {len(images)}, {columns}, {tile_width}."
        )
    if captions and len(captions) != len(images):
        raise SplatlearnError(f"a contact sheet of {len(images)} images got {len(captions)} captions.")
    tiles = []
    for i, image in enumerate(images):
        picture = Pillow.fromarray(to_uint8(image))
        height = max(1, round(picture.height * tile_width / picture.width))
        tile = np.asarray(picture.resize((tile_width, height), Pillow.Resampling.LANCZOS))
        tiles.append(caption(tile, captions[i]) if captions else tile)
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(tile.shape[0] for tile in row) for row in rows]
    across = min(columns, len(tiles))
    shape = (sum(heights) + GAP * (len(rows) - 1), across * tile_width + GAP * (across - 1), 3)
    sheet = np.full(shape, PAPER, np.uint8)
    y = 0
    for row, height in zip(rows, heights, strict=True):
        for i, tile in enumerate(row):
            x = i * (tile_width + GAP)
            sheet[y : y + tile.shape[0], x : x + tile_width] = tile
        y += height + GAP
    return sheet


def save_png(path: Path | str, image: Image) -> None:
    """Write the image as an 8-bit RGB PNG, whole or not at all; folders are made as needed.

    Raises SplatlearnError for what is no image and where the disk refuses.
    """
    from PIL import Image as Pillow

    picture = Pillow.fromarray(to_uint8(image))
    with replacing(Path(path)) as temporary:
        picture.save(temporary, format="PNG", compress_level=PNG_LEVEL)


def save_png16(path: Path | str, image: np.ndarray) -> None:
    """Write uint16 [H,W] as a 16-bit grey PNG, whole or not at all. Raises SplatlearnError for anything else."""
    from PIL import Image as Pillow

    if image.dtype != np.uint16 or image.ndim != 2 or 0 in image.shape:
        raise SplatlearnError(f"a 16-bit PNG needs uint16 [H,W], got {image.dtype} {list(image.shape)}.")
    picture = Pillow.fromarray(image)
    with replacing(Path(path)) as temporary:
        picture.save(temporary, format="PNG", compress_level=PNG_LEVEL)


def save_array(path: Path | str, array: np.ndarray) -> None:
    """Write an array as NPY, whole or not at all."""
    with replacing(Path(path)) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)


def _font(size: int) -> "FreeTypeFont | ImageFont":
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
