"""Photographs as 8-bit RGB tensors: every pixel format explicitly, undistorted, within a memory budget."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.scene.lens import PinholeView, sampling_grid, warp

if TYPE_CHECKING:
    from PIL import Image

# Memory for sampling grids: photographs of one lens mostly follow each other, so a few grids are enough.
_GRID_BYTES = 512 << 20

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


class _Cache:
    """Least-recently-used tensors within a number of bytes. Not thread-safe by itself."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self._entries: OrderedDict[Any, torch.Tensor] = OrderedDict()

    def get(self, key: Any) -> torch.Tensor | None:
        tensor = self._entries.get(key)
        if tensor is not None:
            self._entries.move_to_end(key)
        return tensor

    def put(self, key: Any, tensor: torch.Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if key in self._entries or size > self.budget:
            return
        while self.used + size > self.budget:
            _, oldest = self._entries.popitem(last=False)
            self.used -= oldest.numel() * oldest.element_size()
        self._entries[key] = tensor
        self.used += size


@dataclass(frozen=True)
class PhotoSource:
    """Where a picture comes from: the file, its size as stored, and the pinhole view to take out of it."""

    path: Path
    stored_size: tuple[int, int]
    view: PinholeView


class PhotoStore:
    """Undistorted pictures by name, decoded when first asked for and kept while `memory_bytes` allow.

    Safe to use from several threads; the same name always gives the same bits. The tensors are shared: do not
    write into them.
    """

    def __init__(
        self,
        sources: dict[str, PhotoSource],
        *,
        downscale: int = 1,
        background: tuple[float, float, float] = (0.0, 0.0, 0.0),
        memory_bytes: int = 4 << 30,
    ) -> None:
        self.sources = sources
        self.downscale = downscale
        self.background = background
        self.decoded = 0
        self._pictures = _Cache(memory_bytes)
        self._grids = _Cache(_GRID_BYTES)
        self._lock = threading.Lock()
        self._grid_lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._coming: dict[str, Future[torch.Tensor]] = {}

    def load(self, name: str) -> torch.Tensor:
        """The picture, [H, W, 3] uint8. Raises SplatlearnError if its file has become unusable since."""
        with self._lock:
            picture = self._pictures.get(name)
            coming = self._coming.get(name)
        if picture is not None:
            return picture
        return coming.result() if coming is not None else self._produce(name)

    @property
    def kept_bytes(self) -> int:
        """How much memory the kept pictures take."""
        return self._pictures.used

    def _produce(self, name: str) -> torch.Tensor:
        try:
            picture = self._decode(self.sources[name])
            with self._lock:
                self.decoded += 1
                self._pictures.put(name, picture)
        finally:
            with self._lock:
                self._coming.pop(name, None)
        return picture

    def _decode(self, source: PhotoSource) -> torch.Tensor:
        photo = read_photo(source.path, self.background)
        size = (photo.shape[1], photo.shape[0])
        if size != source.stored_size:
            raise SplatlearnError(f"{source.path} changed its size from {source.stored_size} to {size} meanwhile.")
        photo = shrink(photo, self.downscale)
        return warp(photo, self._grid(source.view)) if source.view.resampled else photo

    def _grid(self, view: PinholeView) -> torch.Tensor:
        with self._grid_lock:  # held while computing, so that two threads do not make the same grid
            grid = self._grids.get(id(view))
            if grid is None:
                grid = sampling_grid(view)
                self._grids.put(id(view), grid)
            return grid

    def prefetch(self, names: Iterable[str]) -> None:
        """Starts loading these pictures in threads and returns at once; `load` then waits for them."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_threads(), thread_name_prefix="photos")
        for name in names:
            with self._lock:
                if name not in self._coming and self._pictures.get(name) is None:
                    self._coming[name] = self._pool.submit(self._produce, name)

    def check(self) -> dict[str, SplatlearnError]:
        """Decodes every file in threads and keeps the pictures that fit; returns what failed, by name."""
        from tqdm import tqdm

        failed = {}
        pool = ThreadPoolExecutor(_threads(), thread_name_prefix="photos")
        try:
            results = pool.map(self._failure, self.sources)
            bar = tqdm(results, "photos", total=len(self.sources), leave=False, delay=2, disable=None)
            for name, failure in zip(self.sources, bar, strict=True):
                if failure is not None:
                    failed[name] = failure
        finally:
            pool.shutdown(cancel_futures=True)  # so that Ctrl-C need not wait for all photographs
        return failed

    def _failure(self, name: str) -> SplatlearnError | None:
        try:
            self.load(name)
        except SplatlearnError as error:
            return error
        return None


def _threads() -> int:
    return min(8, len(os.sched_getaffinity(0)))
