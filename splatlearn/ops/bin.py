"""Stage bin: which 16x16 tiles each 2D Gaussian touches, listed by tile in depth order. It has no derivative (its outputs are integers)."""

import os
from typing import NamedTuple

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.ops import native
from splatlearn.ops.checks import check_like, check_number, check_size, check_tensor

TILE = 16


class Tiles(NamedTuple):
    """Lists of instances (a Gaussian in a tile). M rows of 2D Gaussians, I instances, tiles row-major, camera by camera."""

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

    Args:
        means2d, conics, opacities, depths, radii: [..., 2], [..., 3], [...], [...], [..., 2] of stage project, leading
            dimensions flattened to M rows.
        n_cameras: C; without `camera_ids` row r belongs to camera r // (M / C).
        camera_ids: [M] int64, or None.
        channels: colour channels that backward will carry, for the memory estimate.

    Raises:
        SplatlearnError: a tensor does not fit, or the lists and their gradients would not fit into memory.
    """
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
        if rows and not (0 <= int(camera_ids.min()) and int(camera_ids.max()) < n_cameras):
            raise SplatlearnError(f"camera_ids must lie in 0 .. {n_cameras - 1}, but reach from {int(camera_ids.min())} to {int(camera_ids.max())}")
    elif n_cameras < 1 or rows % n_cameras:
        raise SplatlearnError(f"n_cameras must divide the {rows} rows of 2D Gaussians, but is {n_cameras}")
    if rows > 2**31 - 1:
        raise SplatlearnError(f"{rows:,} 2D Gaussians are more than the {2**31 - 1:,} that a row number of 32 bits can name")
    inputs = native.BinInputs(
        native.context(means2d),
        rows,
        n_cameras,
        width,
        height,
        alpha_threshold,
        *map(native.pointer, [means2d, conics, opacities, depths, radii, camera_ids]),
    )
    row_offsets = torch.empty(rows + 1, dtype=torch.int64)
    native.call("bin_count", native.BinCount(inputs, row_offsets.data_ptr()))
    instances = int(row_offsets[-1])
    _refuse_if_too_large(instances, means2d.element_size(), channels)
    tiles = n_cameras * -(-width // TILE) * -(-height // TILE)
    tile_offsets = torch.empty(tiles + 1, dtype=torch.int64)
    row_ids, slots = torch.empty(instances, dtype=torch.int32), torch.empty(instances, dtype=torch.int64)
    pointers = map(native.pointer, [row_offsets, tile_offsets, row_ids, slots])
    native.call("bin_write", native.BinWrite(inputs, *pointers))
    return Tiles(tile_offsets, row_ids, slots, row_offsets)


def _refuse_if_too_large(instances: int, scalar_bytes: int, channels: int) -> None:
    """Refuses before allocating: each instance takes 12 bytes of lists and one row of gradients."""
    if instances < 1 << 20:
        return  # at most tens of megabytes: not worth asking the system
    needed = instances * (12 + scalar_bytes * (channels + 8))
    available = available_memory()
    if needed > available:
        raise SplatlearnError(
            f"this view has {instances:,} Gaussian-tile instances, whose lists and gradients need {needed:,} bytes, "
            f"but only {available:,} bytes of memory are available; render it smaller or with fewer Gaussians"
        )


def available_memory() -> int:
    """Bytes of memory that can still be had without swapping."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
