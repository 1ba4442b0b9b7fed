"""Stage bin: which 16x16 tiles each 2D Gaussian touches, listed by tile in depth order. Integers have no derivative."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.ops import capacity as capacities
from splatlearn.ops import native, workspace
from splatlearn.ops.checks import MAX_ROWS, check_like, check_number, check_size, check_tensor

TILE = native.TILE
# Ways to sort on CUDA.
SORTING = {"auto": native.SORT_AUTO, "all": native.SORT_ALL, "tile": native.SORT_BY_TILE}
_sorting: ContextVar[str] = ContextVar("sorting", default="auto")


@contextmanager
def sorting(way: str) -> Iterator[None]:
    """A context that sets how stage bin sorts on a CUDA device. The lists are the same; the CPU ignores it.

    Args:
        way: "all": sort the rows by depth, then all instances by tile, at a cost in bytes. "tile": sort the list of
            each tile by itself, with a quarter of the launches. "auto": choose by the capacity of the lists.

    Raises:
        SplatlearnError: there is no such way.
    """
    if way not in SORTING:
        raise SplatlearnError(f'sorting takes one of {", ".join(SORTING)}, but got "{way}"')
    token = _sorting.set(way)
    try:
        yield
    finally:
        _sorting.reset(token)


class Tiles(NamedTuple):
    """Lists of instances (a Gaussian in a tile). M rows of 2D Gaussians, I instances, tiles row-major by camera.

    Within a `Capacity` on CUDA the host does not wait for I: `gaussian_ids` and `slots` are longer than I, and their
    entries from I on are undefined. If the capacity was below I, every tile's list is empty.
    """

    tile_offsets: Tensor  # [C * tiles + 1] int64: a tile's instances are tile_offsets[t] .. tile_offsets[t + 1]
    gaussian_ids: Tensor  # [I] int32: row of each instance, nearest first within a tile
    slots: Tensor  # [I] int64: index of each instance in the order of rows, where its gradient row is
    row_offsets: Tensor  # [M + 1] int64: a row's slots are row_offsets[m] .. row_offsets[m + 1]
    ahead: "Ahead | None" = None  # gives the lists their exact length, if they do not have it yet


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
    alpha_threshold: float = native.ALPHA_THRESHOLD,
    camera_ids: Tensor | None = None,
    channels: int = 3,
    ahead: bool = False,
) -> Tiles:
    """List the Gaussians of each tile in depth order; the tile test is exact to a hundredth of a pixel.

    Args:
        means2d, conics, opacities, depths, radii: [..., 2], [..., 3], [...], [...], [..., 2] of stage project, leading
            dimensions flattened to M rows.
        n_cameras: C; without `camera_ids` row r belongs to camera r // (M / C).
        camera_ids: [M] int64, or None.
        channels: colour channels that backward will carry, for the memory estimate.
        ahead: on a CUDA device do not wait for the length of the lists, but write them with the capacity that earlier
            views have needed; `Tiles.ahead`, or the `Capacity` in effect, checks later whether it was large enough.

    Raises:
        SplatlearnError: a tensor has another shape, dtype or device, or the lists and their gradients do not fit into
            memory.
    """
    check_size(width, height)
    check_number("alpha_threshold", alpha_threshold, 0, 1)
    capacities.refuse_large_picture(n_cameras, width, height, channels, means2d)
    shape = tuple(means2d.shape[:-1])
    means2d = check_tensor("means2d", means2d.detach(), (*shape, 2))
    conics = check_tensor("conics", conics.detach(), (*shape, 3), means2d)
    opacities = check_tensor("opacities", opacities.detach(), shape, means2d)
    depths = check_tensor("depths", depths.detach(), shape, means2d)
    radii = check_like("radii", radii, torch.int32, (*shape, 2), means2d)
    rows = opacities.numel()
    if camera_ids is not None:
        camera_ids = _checked_cameras(camera_ids, shape, n_cameras, means2d)
    elif n_cameras < 1 or rows % n_cameras:
        raise SplatlearnError(f"n_cameras must divide the {rows} rows of 2D Gaussians, but is {n_cameras}")
    if rows > MAX_ROWS:
        raise SplatlearnError(f"{rows:,} 2D Gaussians are more than the {MAX_ROWS:,} that 32 bits can number")
    inputs = native.BinInputs(
        context=native.context(means2d),
        n_rows=rows,
        n_cameras=n_cameras,
        width=width,
        height=height,
        alpha_threshold=alpha_threshold,
        means2d=means2d,
        conics=conics,
        opacities=opacities,
        depths=depths,
        radii=radii,
        camera_ids=camera_ids,
    )
    kernels, space = native.runs_kernels(means2d), workspace.current(means2d)
    counts = radii.new_empty(rows) if kernels else None
    row_offsets = workspace.empty(space, "row_offsets", (rows + 1,), means2d, torch.int64)
    block_offsets = row_offsets.new_empty(-(-rows // native.BIN_BLOCK) + 1 if kernels else 1, 2)
    params = native.BinCount(inputs=inputs, counts=counts, row_offsets=row_offsets, block_offsets=block_offsets)
    native.call("bin_count", params, means2d)
    tiles = n_cameras * -(-width // TILE) * -(-height // TILE)
    counted = _Counted(inputs, means2d, counts, row_offsets, block_offsets, tiles, channels)
    known = capacities.known_size(means2d.device)
    if not ahead or known is None or not kernels:
        return _write_exactly(counted)
    capacity, within = capacities.ListSize(min(known.rows, rows), known.instances), capacities.current(means2d.device)
    if within is None:
        return Ahead.begin(counted, capacity)
    within.expect(counted.arriving, capacity, means2d, channels)
    return _write(counted, capacity, within.overflow)


def _checked_cameras(camera_ids: Tensor, shape: tuple[int, ...], n_cameras: int, like: Tensor) -> Tensor:
    camera_ids = check_like("camera_ids", camera_ids, torch.int64, shape, like)
    # On a CUDA device, where reading the ids would block, the kernels leave rows of no camera out of all lists.
    if camera_ids.numel() and not camera_ids.is_cuda:
        low, high = int(camera_ids.min()), int(camera_ids.max())
        if low < 0 or high >= n_cameras:
            raise SplatlearnError(f"camera_ids must lie in 0 .. {n_cameras - 1}, but reach from {low} to {high}")
    return camera_ids


class _Counted(NamedTuple):
    """The state after counting, before the lists are written."""

    inputs: native.BinInputs
    like: Tensor  # of the view's dtype and device
    counts: Tensor | None  # [M] int32 on CUDA
    row_offsets: Tensor  # [M + 1] int64, on CUDA written with the lists
    block_offsets: Tensor  # [blocks of rows + 1, 2] int64, whose last are the rows and instances to list
    n_tiles: int  # of all cameras
    channels: int

    def arriving(self) -> capacities.Arriving:
        return capacities.Arriving(self.block_offsets[-1])


def _write(counted: _Counted, capacity: capacities.ListSize, overflow: Tensor | None = None) -> Tiles:
    """Lists of this capacity; `overflow` [1] int32 becomes 1 if it is too small."""
    row_offsets = counted.row_offsets
    tile_offsets = row_offsets.new_empty(counted.n_tiles + 1)
    space = workspace.current(row_offsets)
    row_ids = workspace.empty(space, "row_ids", (capacity.instances,), row_offsets, torch.int32)
    slots = workspace.empty(space, "slots", (capacity.instances,), row_offsets)
    params = native.BinWrite(
        inputs=counted.inputs,
        n_listed=capacity.rows,
        n_instances=capacity.instances,
        sorting=SORTING[_sorting.get()],
        counts=counted.counts,
        row_offsets=row_offsets,
        block_offsets=counted.block_offsets,
        tile_offsets=tile_offsets,
        row_ids=row_ids,
        slots=slots,
        overflow=overflow,
    )
    native.call("bin_write", params, row_offsets)
    return Tiles(tile_offsets, row_ids, slots, row_offsets)


def _write_exactly(counted: _Counted) -> Tiles:
    needed = counted.arriving().wait()
    capacities.refuse_if_too_large(needed.instances, counted.like, counted.channels)
    if native.runs_kernels(counted.like):
        capacities.remember(counted.like.device, needed)
    return _write(counted, needed)


class Ahead:
    """Lists that are written before their length is known, so that a CUDA device does not idle after the count."""

    def __init__(self, counted: _Counted, capacity: capacities.ListSize) -> None:
        self._counted, self._capacity = counted, capacity
        self._needed = counted.arriving()
        self.tiles = _write(counted, capacity)

    @classmethod
    def begin(cls, counted: _Counted, capacity: capacities.ListSize) -> Tiles:
        """Lists of this capacity, with the `Ahead` that resolves them."""
        ahead = cls(counted, capacity)
        return ahead.tiles._replace(ahead=ahead)

    def resolve(self) -> bool:
        """Wait for the count alone; then `tiles` have their exact length.

        Returns:
            Whether the capacity was large enough. If not, all lists were empty, and have been written again.

        Raises:
            SplatlearnError: the lists and their gradients do not fit into memory.
        """
        needed = self._needed.wait()
        if not self._capacity.holds(needed):
            self.tiles = _write_exactly(self._counted)
            return False
        capacities.remember(self._counted.like.device, needed)
        ids, slots = self.tiles.gaussian_ids[: needed.instances], self.tiles.slots[: needed.instances]
        self.tiles = self.tiles._replace(gaussian_ids=ids, slots=slots)
        return True
