"""Stage bin: which 16x16 tiles each 2D Gaussian touches, listed by tile in depth order. Integers have no derivative."""

import os
from typing import Any, NamedTuple

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.ops import native
from splatlearn.ops.checks import check_like, check_number, check_size, check_tensor

TILE = 16
MAX_INSTANCES = 2**31 - 1  # on CUDA, where an instance's number has 32 bits
# Scratch bytes an instance while the CUDA kernels sort: two keys, two values and a row, and the sort's own buffers.
SORT_BYTES = 28


class Tiles(NamedTuple):
    """Lists of instances (a Gaussian in a tile). M rows of 2D Gaussians, I instances, tiles row-major by camera."""

    tile_offsets: Tensor  # [C * tiles + 1] int64: a tile's instances are tile_offsets[t] .. tile_offsets[t + 1]
    gaussian_ids: Tensor  # [I] int32: row of each instance, nearest first within a tile
    slots: Tensor  # [I] int64: place of each instance when ordered by row, where its gradients are kept
    row_offsets: Tensor  # [M + 1] int64: a row's slots are row_offsets[m] .. row_offsets[m + 1]


def bin(
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    depths: Tensor,
    radii: Tensor,
    width: int,
    height: int,
    *,
    n_cameras: int,
    alpha_threshold: float = 1 / 255,
    camera_ids: Tensor | None = None,
    channels: int = 3,
) -> Tiles:
    """Lists the Gaussians of each tile in depth order; the tile test is exact to a hundredth of a pixel.

    The lists have their exact length, for which a CUDA device is waited for; `bin_ahead` does not wait.

    Args:
        means2d, conics, opacities, depths, radii: [..., 2], [..., 3], [...], [...], [..., 2] of stage project, leading
            dimensions flattened to M rows.
        n_cameras: C; without `camera_ids` row r belongs to camera r // (M / C).
        camera_ids: [M] int64, or None.
        channels: colour channels that backward will carry, for the memory estimate.

    Raises:
        SplatlearnError: a tensor does not fit, or the lists and their gradients would not fit into memory.
    """
    counted = _count(
        means2d, conics, opacities, depths, radii, width, height,
        n_cameras=n_cameras, alpha_threshold=alpha_threshold, camera_ids=camera_ids,
    )  # fmt: skip
    return _write_exactly(counted, channels)


def bin_ahead(*arguments: Any, channels: int = 3, **options: Any) -> "Tiles | Ahead":
    """The lists of `bin`, with its arguments and errors; on a CUDA device without waiting for their length.

    They are then written into room that the views before have needed, and `Ahead.settle` sees whether it was enough.
    """
    counted = _count(*arguments, **options)
    capacity = _capacities.get(counted.row_offsets.device)
    if capacity is None or not native.runs_kernels(counted.row_offsets):
        return _write_exactly(counted, channels)
    return Ahead(counted, capacity, channels)


class _Counted(NamedTuple):
    """What stands before the lists are written."""

    inputs: native.BinInputs
    tensors: tuple[Tensor | None, ...]  # that the inputs point into
    row_offsets: Tensor  # [M + 1] int64
    n_tiles: int  # of all cameras


def _count(
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    depths: Tensor,
    radii: Tensor,
    width: int,
    height: int,
    *,
    n_cameras: int,
    alpha_threshold: float = 1 / 255,
    camera_ids: Tensor | None = None,
) -> _Counted:
    check_size(width, height)
    check_number("alpha_threshold", alpha_threshold, 0, 1)
    shape = tuple(means2d.shape[:-1])
    means2d = check_tensor("means2d", means2d.detach(), (*shape, 2))
    conics = check_tensor("conics", conics.detach(), (*shape, 3), means2d)
    opacities = check_tensor("opacities", opacities.detach(), shape, means2d)
    depths = check_tensor("depths", depths.detach(), shape, means2d)
    radii = check_like("radii", radii, torch.int32, (*shape, 2), means2d)
    rows = opacities.numel()
    if camera_ids is not None:
        camera_ids = check_like("camera_ids", camera_ids, torch.int64, shape, means2d)
        # On a CUDA device, where to look is to wait, the kernels leave rows of no camera out of all lists.
        if rows and not camera_ids.is_cuda and not (0 <= int(camera_ids.min()) and int(camera_ids.max()) < n_cameras):
            low, high = int(camera_ids.min()), int(camera_ids.max())
            raise SplatlearnError(f"camera_ids must lie in 0 .. {n_cameras - 1}, but reach from {low} to {high}")
    elif n_cameras < 1 or rows % n_cameras:
        raise SplatlearnError(f"n_cameras must divide the {rows} rows of 2D Gaussians, but is {n_cameras}")
    if rows > 2**31 - 1:
        raise SplatlearnError(f"{rows:,} 2D Gaussians are more than the {2**31 - 1:,} that 32 bits can number")
    tensors = (means2d, conics, opacities, depths, radii, camera_ids)
    inputs = native.BinInputs(
        native.context(means2d), rows, n_cameras, width, height, alpha_threshold, *map(native.pointer, tensors)
    )
    row_offsets = means2d.new_empty(rows + 1, dtype=torch.int64)
    native.call("bin_count", native.BinCount(inputs, row_offsets.data_ptr()), means2d)
    return _Counted(inputs, tensors, row_offsets, n_cameras * -(-width // TILE) * -(-height // TILE))


def _write(counted: _Counted, length: int) -> Tiles:
    """Lists with room for `length` instances."""
    row_offsets = counted.row_offsets
    tile_offsets = row_offsets.new_empty(counted.n_tiles + 1)
    row_ids, slots = row_offsets.new_empty(length, dtype=torch.int32), row_offsets.new_empty(length)
    pointers = map(native.pointer, [row_offsets, tile_offsets, row_ids, slots])
    native.call("bin_write", native.BinWrite(counted.inputs, length, *pointers), row_offsets)
    return Tiles(tile_offsets, row_ids, slots, row_offsets)


def _write_exactly(counted: _Counted, channels: int) -> Tiles:
    instances = int(counted.row_offsets[-1])  # on CUDA the host waits here
    means2d = counted.tensors[0]
    assert means2d is not None
    _refuse_if_too_large(instances, means2d, channels)
    if native.runs_kernels(means2d):
        _remember(counted.row_offsets.device, instances)
    return _write(counted, instances)


# Instances to make room for, by device: a quarter more than a view has needed, slowly forgotten.
_capacities: dict[torch.device, int] = {}


def _remember(device: torch.device, instances: int) -> None:
    before = _capacities.get(device, 0)
    _capacities[device] = min(max(instances + instances // 4 + 1024, before - before // 64), MAX_INSTANCES)


class Ahead:
    """Lists that are written before their length is known, so that a CUDA device need not pause after the count."""

    def __init__(self, counted: _Counted, capacity: int, channels: int) -> None:
        self._counted, self._capacity, self._channels = counted, capacity, channels
        self._event: torch.cuda.Event | None = None
        self._total = counted.row_offsets[-1:]
        if self._total.is_cuda:
            total = torch.empty(1, dtype=torch.int64, pin_memory=True)
            self._total = total.copy_(self._total, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(counted.row_offsets.device))
        self.tiles = _write(counted, capacity)  # with room to spare until they are settled

    def settle(self) -> bool:
        """Waits for the count alone; then `tiles` have their exact length.

        False: the room was too small, so that `tiles` were empty until now, and they have been written again.

        Raises:
            SplatlearnError: the lists and their gradients would not fit into memory.
        """
        if self._event is not None:
            self._event.synchronize()
        instances = int(self._total)
        if instances > self._capacity:
            self.tiles = _write_exactly(self._counted, self._channels)
            return False
        _remember(self._counted.row_offsets.device, instances)
        ids, slots = self.tiles.gaussian_ids[:instances], self.tiles.slots[:instances]
        self.tiles = self.tiles._replace(gaussian_ids=ids, slots=slots)
        return True


def _refuse_if_too_large(instances: int, like: Tensor, channels: int) -> None:
    """Refuses before allocating: an instance takes its lists, the scratch memory of sorting, and a row of gradients."""
    kernels = native.runs_kernels(like)
    needed = instances * (12 + (SORT_BYTES if kernels else 0) + like.element_size() * (channels + 8))
    if kernels and instances > MAX_INSTANCES:
        raise SplatlearnError(
            f"this view has {instances:,} Gaussian-tile instances, whose lists and gradients need {needed:,} bytes, "
            f"but the CUDA kernels take at most {MAX_INSTANCES:,} instances; render it smaller or with fewer Gaussians"
        )
    if instances < 1 << 20:
        return  # at most tens of megabytes: not worth asking the system
    available = _available_on_card(like.device) if like.is_cuda else available_memory()
    if needed > available:
        raise SplatlearnError(
            f"this view has {instances:,} Gaussian-tile instances, whose lists and gradients need {needed:,} bytes, "
            f"but only {available:,} bytes of memory are available; render it smaller or with fewer Gaussians"
        )


def _available_on_card(device: torch.device) -> int:
    """Bytes that a CUDA device has free, and those that PyTorch holds of it without using them."""
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def available_memory() -> int:
    """Bytes of memory that can still be had without swapping."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
