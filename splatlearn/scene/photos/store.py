"""The photographs of a scene, undistorted, within a memory budget: what was used last stays, threads fetch what comes.

Memory is bound: kept pictures take `memory_bytes` at most. On top come the few that are fetched ahead (MOST_COMING),
the sampling grids (GRID_BYTES), and the floats of the picture that each thread resamples. A cache folder, where one is
given, holds pictures as they come out of decoding, shrinking and undistorting, so that neither the next round nor the
next run does that again.
"""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
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
from splatlearn.ops.pages import in_own_pages
from splatlearn.scene.photos.decode import read_photo, shrink
from splatlearn.scene.photos.lens import PinholeView, sampling_grid, warp
from splatlearn.scene.photos.masks import read_mask, whole

# Memory for sampling grids: photographs of one lens mostly follow each other, so a few grids are enough.
GRID_BYTES = 512 << 20
MOST_COMING = 4  # pictures that are fetched ahead and not yet asked for


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
    """Where a picture comes from: file, size as stored, the pinhole view to take out of it, and its mask's file."""

    path: Path
    stored_size: tuple[int, int]
    view: PinholeView
    mask: Path | None = None


class _Key(NamedTuple):
    name: str
    is_mask: bool


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
        cache: Path | None = None,
    ) -> None:
        """`cache`: a folder to keep finished pictures in; it is made when the first one is written."""
        self.sources = sources
        self.downscale = downscale
        self.background = background
        self.cache = cache
        self.decoded = 0  # photographs, masks not counted, nor what the cache folder had
        self._pictures = _Cache(memory_bytes)
        self._grids = _Cache(GRID_BYTES)
        self._lock = threading.Lock()
        self._grid_lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._coming: dict[_Key, Future[torch.Tensor]] = {}

    def load(self, name: str) -> torch.Tensor:
        """The picture, [H, W, 3] uint8. Raises SplatlearnError if its file has become unusable since."""
        return self._load(_Key(name, False))

    def load_mask(self, name: str) -> torch.Tensor | None:
        """Its mask, [H, W] uint8, 255 where it counts and 0 where it is ignored; None for a picture without one."""
        return None if self.sources[name].mask is None else self._load(_Key(name, True))

    @property
    def kept_bytes(self) -> int:
        """How much memory the kept pictures take."""
        return self._pictures.used

    def _load(self, key: _Key) -> torch.Tensor:
        with self._lock:
            picture = self._pictures.get(key)
            coming = self._coming.pop(key, None)
        if picture is not None:
            return picture
        return coming.result() if coming is not None else self._produce(key)

    def _produce(self, key: _Key) -> torch.Tensor:
        picture = self._mask(key.name) if key.is_mask else self._photo(key.name)
        with self._lock:
            self._pictures.put(key, picture)
        return picture

    def _photo(self, name: str) -> torch.Tensor:
        source = self.sources[name]
        cached = self._cache_file(source)
        if cached is not None:
            picture = _read_cached(cached, source.view)
            if picture is not None:
                return picture
        photo = read_photo(source.path, self.background)
        size = (photo.shape[1], photo.shape[0])
        if size != source.stored_size:
            raise SplatlearnError(f"{source.path} changed its size from {source.stored_size} to {size} meanwhile.")
        photo = shrink(photo, self.downscale)
        picture = warp(photo, self._grid(source.view)) if source.view.resampled else in_own_pages(photo)
        with self._lock:
            self.decoded += 1
        if cached is not None:
            self._write_cached(cached, picture)
        return picture

    def _mask(self, name: str) -> torch.Tensor:
        source = self.sources[name]
        assert source.mask is not None
        mask = read_mask(source.mask, source.stored_size)[:, :, None].expand(-1, -1, 3)
        mask = shrink(mask, self.downscale)
        if source.view.resampled:
            # What fell short of white is mixed with something ignored; so is what is mixed from that.
            mask = warp(whole(mask), self._grid(source.view))
        return in_own_pages(whole(mask[:, :, 0]))

    def _grid(self, view: PinholeView) -> torch.Tensor:
        with self._grid_lock:  # held while computing, so that two threads do not make the same grid
            grid = self._grids.get(id(view))
            if grid is None:
                grid = sampling_grid(view)
                self._grids.put(id(view), grid)
            return grid

    def prefetch(self, names: Iterable[str]) -> None:
        """Starts loading these pictures and masks in threads and returns at once; `load` then waits for them.

        Of many names, only the first few are fetched: what nobody has asked for yet must not fill the memory.
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_threads(), thread_name_prefix="photos")
        for name in names:
            keys = [_Key(name, False)] + ([_Key(name, True)] if self.sources[name].mask is not None else [])
            for key in keys:
                with self._lock:
                    if key in self._coming or self._pictures.get(key) is not None:
                        continue
                    if len(self._coming) >= MOST_COMING * len(keys) and not self._forget_one():
                        return
                    self._coming[key] = self._pool.submit(self._produce, key)

    def _forget_one(self) -> bool:
        """Lets go of the oldest picture that has come and was not asked for; whether there was one."""
        key = next((key for key, future in self._coming.items() if future.done()), None)
        return key is not None and self._coming.pop(key) is not None

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
            self.load_mask(name)
        except SplatlearnError as error:
            return error
        return None

    # ---- the cache folder ----

    def _cache_file(self, source: PhotoSource) -> Path | None:
        """The file whose name stands for all that the picture depends on; None without a cache."""
        if self.cache is None:
            return None
        try:
            facts = source.path.stat()
        except OSError as error:
            raise SplatlearnError(f"{source.path} is missing ({error.strerror}).") from None
        view = source.view
        parts = [
            str(source.path.resolve()),
            facts.st_size,
            facts.st_mtime_ns,
            self.downscale,
            self.background,
            view.lens,
        ]
        parts += [view.scale, view.source_size, view.width, view.height, view.K.tolist(), view.lens_from_view.tolist()]
        return self.cache / f"{hashlib.sha256(repr(parts).encode(errors='surrogateescape')).hexdigest()[:40]}.npy"

    def _write_cached(self, file: Path, picture: torch.Tensor) -> None:
        """A cache that cannot be written costs time, not the training."""
        try:
            with replacing(file) as path:
                np.save(path, picture.numpy())
        except SplatlearnError as error:
            with self._lock:
                told, self.cache = self.cache is None, None
            if not told:
                warnings.warn(f"going on without the cache of photographs: {error}", UserWarning, stacklevel=2)


def _read_cached(file: Path, view: PinholeView) -> torch.Tensor | None:
    try:
        picture = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if picture.dtype != np.uint8 or picture.shape != (view.height, view.width, 3):
        return None
    return in_own_pages(torch.from_numpy(picture))


def _threads() -> int:
    return min(8, len(os.sched_getaffinity(0)))
