"""Keep the undistorted images of a scene within a memory budget: least recently used go first, threads prefetch.

Kept images take at most `memory_bytes`. In addition the store needs memory for a few prefetched images
(MAX_PREFETCHED), the sampling grids (GRID_BYTES), and one float image per resampling thread. An optional cache folder
keeps the decoded, reduced and undistorted images, so that neither the next epoch nor the next run decodes them again.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.notices import warn
from splatlearn.ops.pages import in_own_pages
from splatlearn.scene.photos.decode import image_size, read_image, shrink
from splatlearn.scene.photos.masks import read_mask, whole
from splatlearn.scene.photos.undistort import Undistortion, sampling_grid, warp

# Memory for sampling grids: consecutive images mostly share a camera, so a few grids are enough.
GRID_BYTES = 512 << 20
MAX_PREFETCHED = 4  # images that are prefetched and not yet loaded


class _Cache:
    """An LRU cache of tensors, limited in bytes. Not thread-safe by itself."""

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
class ImageSource:
    """The source of an image: its file, stored size (width, height), undistortion, and its mask's file if any."""

    path: Path
    stored_size: tuple[int, int]
    undistortion: Undistortion
    mask: Path | None = None


class _Key(NamedTuple):
    name: str
    is_mask: bool


class ImageStore:
    """Undistorted images by name, decoded at first use and kept within a memory budget.

    Several threads may use it; a name always gives the same bits. The tensors are shared: do not write into them.

    Args:
        sources: the images by name.
        downscale: whole factor by which images are reduced before undistortion.
        background: RGB, 0 to 1, behind images with an alpha channel.
        memory_bytes: budget for kept images and masks.
        cache: folder that keeps finished images, created with the first one; None: no such folder.
    """

    def __init__(
        self,
        sources: dict[str, ImageSource],
        *,
        downscale: int = 1,
        background: tuple[float, float, float] = (0.0, 0.0, 0.0),
        memory_bytes: int = 4 << 30,
        cache: Path | None = None,
    ) -> None:
        self.sources = sources
        self.downscale = downscale
        self.background = background
        self.cache = cache
        self.decoded = 0  # images decoded, without masks and without those read from the cache folder
        self._images = _Cache(memory_bytes)
        self._grids = _Cache(GRID_BYTES)
        self._lock = threading.Lock()
        self._grid_lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._pending: dict[_Key, Future[torch.Tensor]] = {}

    def load(self, name: str) -> torch.Tensor:
        """Return the image, [H, W, 3] uint8 RGB; raises SplatlearnError if its file has become unusable."""
        return self._load(_Key(name, False))

    def load_mask(self, name: str) -> torch.Tensor | None:
        """Return the image's mask, [H, W] uint8, 255 or 0 where it is ignored; None if it has no mask."""
        return None if self.sources[name].mask is None else self._load(_Key(name, True))

    @property
    def kept_bytes(self) -> int:
        """Memory in bytes of the kept images."""
        return self._images.used

    def _load(self, key: _Key) -> torch.Tensor:
        with self._lock:
            image = self._images.get(key)
            pending = self._pending.pop(key, None)
        if image is not None:
            return image
        return pending.result() if pending is not None else self._produce(key)

    def _produce(self, key: _Key) -> torch.Tensor:
        image = self._produce_mask(key.name) if key.is_mask else self._produce_image(key.name)
        with self._lock:
            self._images.put(key, image)
        return image

    def _produce_image(self, name: str) -> torch.Tensor:
        source = self.sources[name]
        cached = self._cache_file(source)
        if cached is not None:
            image = _read_cached(cached, source.undistortion)
            if image is not None:
                return image
        size = image_size(source.path)
        if size != source.stored_size:
            raise SplatlearnError(f"{source.path} changed its size from {source.stored_size} to {size} meanwhile.")
        image = read_image(source.path, self.background, self.downscale)
        image = warp(image, self._grid(source.undistortion)) if source.undistortion.resampled else in_own_pages(image)
        with self._lock:
            self.decoded += 1
        if cached is not None:
            self._write_cached(cached, image)
        return image

    def _produce_mask(self, name: str) -> torch.Tensor:
        source = self.sources[name]
        assert source.mask is not None
        mask = read_mask(source.mask, source.stored_size)[:, :, None].expand(-1, -1, 3)
        mask = shrink(mask, self.downscale)
        if source.undistortion.resampled:
            # A value below white contains an ignored pixel. `whole` rejects those before and after the warp.
            mask = warp(whole(mask), self._grid(source.undistortion))
        return in_own_pages(whole(mask[:, :, 0]))

    def _grid(self, undistortion: Undistortion) -> torch.Tensor:
        with self._grid_lock:  # held while computing, so that two threads do not compute the same grid
            grid = self._grids.get(id(undistortion))
            if grid is None:
                grid = sampling_grid(undistortion)
                self._grids.put(id(undistortion), grid)
            return grid

    def prefetch(self, names: Iterable[str]) -> None:
        """Start loading these images and masks in threads and return at once; `load` then waits for them.

        Only the first MAX_PREFETCHED of many names are fetched, so that unused images do not fill the memory.
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_threads(), thread_name_prefix="photos")
        for name in names:
            keys = [_Key(name, False)] + ([_Key(name, True)] if self.sources[name].mask is not None else [])
            for key in keys:
                with self._lock:
                    if key in self._pending or self._images.get(key) is not None:
                        continue
                    if len(self._pending) >= MAX_PREFETCHED * len(keys) and not self._drop_one():
                        return
                    self._pending[key] = self._pool.submit(self._produce, key)

    def _drop_one(self) -> bool:
        """Drop the oldest prefetched image that is finished and unused; return whether there was one."""
        key = next((key for key, future in self._pending.items() if future.done()), None)
        return key is not None and self._pending.pop(key) is not None

    def check(self) -> dict[str, SplatlearnError]:
        """Decode every file in threads and keep the images that fit; return the errors by name."""
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
            pool.shutdown(cancel_futures=True)  # so that Ctrl-C does not wait for all images
        return failed

    def _failure(self, name: str) -> SplatlearnError | None:
        try:
            self.load(name)
            self.load_mask(name)
        except SplatlearnError as error:
            return error
        return None

    # ---- the cache folder ----

    def _cache_file(self, source: ImageSource) -> Path | None:
        """Return the cache file, named by a hash of all inputs of the image; None without a cache folder."""
        if self.cache is None:
            return None
        try:
            stat = source.path.stat()
        except OSError as error:
            raise SplatlearnError(f"{source.path} is missing ({error.strerror}).") from None
        undistortion = source.undistortion
        parts = [
            str(source.path.resolve()),
            stat.st_size,
            stat.st_mtime_ns,
            self.downscale,
            self.background,
            undistortion.intrinsics,
            undistortion.scale,
            undistortion.source_size,
            undistortion.width,
            undistortion.height,
            undistortion.K.tolist(),
            undistortion.source_from_pinhole.tolist(),
        ]
        return self.cache / f"{hashlib.sha256(repr(parts).encode(errors='surrogateescape')).hexdigest()[:40]}.npy"

    def _write_cached(self, file: Path, image: torch.Tensor) -> None:
        """Write the image into the cache folder; a folder that cannot be written is disabled with one warning."""
        try:
            with replacing(file) as path:
                np.save(path, image.numpy())
        except SplatlearnError as error:
            with self._lock:
                warned, self.cache = self.cache is None, None
            if not warned:
                warn(f"going on without the cache of photographs: {error}")


def _read_cached(file: Path, undistortion: Undistortion) -> torch.Tensor | None:
    try:
        image = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if image.dtype != np.uint8 or image.shape != (undistortion.height, undistortion.width, 3):
        return None
    return in_own_pages(torch.from_numpy(image))


def _threads() -> int:
    return min(8, len(os.sched_getaffinity(0)))
