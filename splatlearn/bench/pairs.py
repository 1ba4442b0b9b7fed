"""Counts (Gaussian, pixel) pairs of a view exactly, outside of the timing: those evaluated, and those that draw.

Shapes: I instances (a Gaussian in a tile), B of them at a time; 256 pixels a tile; U units of P pixels (below) a tile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from splatlearn.ops import native
from splatlearn.ops.bin import TILE, Tiles, bin
from splatlearn.ops.project import Projection, project
from splatlearn.ops.rasterize import rasterize
from splatlearn.scene.gaussians import Gaussians
from splatlearn.scene.view import View

ROUNDING, MARGIN = 5e-7, 0.01  # of the ellipse test for float32 and in pixels, as in csrc/math/tile.h
BATCH = 1 << 15  # instances counted at a time: at most 32 MiB a float32 tensor of their pixels


class Counts(NamedTuple):
    """Numbers of (pixel, splat) pairs of one view."""

    instances: int
    listed: int  # 256 pixels per instance: the evaluations of whole tiles
    evaluated_forward: int  # exponents computed by the forward blend of this backend
    evaluated_backward: int
    contributed: int  # alpha at or above the cut-off, before the pixel stopped


@dataclass(frozen=True)
class BlockLayout:
    """The unit of pixels that a backend evaluates at once: 4x4 pixels in csrc/cpu/rasterize.cpp, 8x4 in csrc/cuda.

    A unit is evaluated for a splat whose ellipse reaches it: in forward while a pixel of its group is alive at the last
    check (every `check_every` splats), in backward up to the last splat that contributed to its group.
    """

    width: int
    height: int
    group: tuple[int, int]  # width and height, forward
    check_every: int
    group_backward: tuple[int, int]


LAYOUTS = {
    "cpu": BlockLayout(4, 4, group=(4, 4), check_every=64, group_backward=(4, 4)),
    "cuda": BlockLayout(8, 4, group=(8, 4), check_every=32, group_backward=(8, 4)),
}


@torch.no_grad()
def count(gaussians: Gaussians, view: View) -> Counts:
    """Count the pairs of a training step on this view, from the lists and the stops of the kernels themselves."""
    projection, tiles, stops = _lists_and_stops(gaussians, view)
    layout = LAYOUTS["cuda" if native.runs_kernels(stops) else "cpu"]
    units = _UnitTable(layout, tiles, stops)
    total = torch.zeros(3, dtype=torch.int64, device=stops.device)
    instances = int(tiles.tile_offsets[-1])
    for begin in range(0, instances, BATCH):
        at = torch.arange(begin, min(begin + BATCH, instances), device=stops.device)
        tile = torch.searchsorted(tiles.tile_offsets, at, right=True) - 1
        splats = _splats(projection, tiles.gaussian_ids[at])
        total += _pairs(splats, tile, at - tiles.tile_offsets[tile], units)
    forward, backward, contributed = total.tolist()
    return Counts(instances, instances * TILE * TILE, forward, backward, contributed)


class _UnitTable:
    """Per-tile tables of the units, computed before the lists are traversed; P pixels per unit."""

    def __init__(self, layout: BlockLayout, tiles: Tiles, stops: Tensor) -> None:
        lengths = (tiles.tile_offsets[1:] - tiles.tile_offsets[:-1])[:, None]
        tile_stops, inside = _by_tile(stops, -1), _by_tile(torch.ones_like(stops), 0) > 0
        drawn = torch.minimum(tile_stops.long(), lengths)  # splats from this position on are not drawn
        self.layout = layout
        self.across = -(-stops.shape[1] // TILE)
        self.drawn = _by_unit(drawn, layout)  # [tiles, U, P]
        self.alive = _of_groups(
            tile_stops, layout.group, layout
        )  # [tiles, U]: checks at positions up to this one find it alive
        self.end = _of_groups(
            drawn, layout.group_backward, layout
        )  # [tiles, U]: backward evaluates positions below this
        inside = _by_unit(inside, layout).reshape(*self.alive.shape, layout.height, layout.width)
        self.columns = inside.any(dim=2).sum(dim=2)  # [tiles, U] pixels across and down that the picture has of a unit
        self.rows = inside.any(dim=3).sum(dim=2)


def _lists_and_stops(gaussians: Gaussians, view: View) -> tuple[Projection, Tiles, Tensor]:
    """The stages of a rendering up to where each pixel stopped, [H, W] int32."""
    g, camera = gaussians, view[0]
    pose, K = (torch.from_numpy(a).float().to(g.means.device)[None] for a in (camera.world_to_camera, camera.K))
    size = (camera.width, camera.height)
    p = project(
        g.means, g.quats, g.scales.exp(), g.opacities.sigmoid(), g.sh0, g.shN, pose, K, *size, sh_degree=g.sh_degree
    )
    tiles = bin(p.means2d, p.conics, p.opacities, p.depths, p.radii, *size, n_cameras=1)
    assert p.colors is not None
    with torch.enable_grad():  # what backward is given holds where the pixels stopped
        colors = p.colors.detach().requires_grad_()
        render, _ = rasterize(p.means2d, p.conics, p.opacities, colors, None, tiles, *size)
    saved = render.grad_fn.saved_tensors  # type: ignore[union-attr]
    shape = (1, camera.height, camera.width)
    (stops,) = (t for t in saved if t is not None and t.dtype == torch.int32 and t.shape == shape)
    return p, tiles, stops[0]


def _by_tile(image: Tensor, outside: int) -> Tensor:
    """[H, W] as [tiles, 256], row-major within a tile; pixels beyond the picture are `outside`."""
    height, width = image.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    padded = torch.nn.functional.pad(image, (0, columns * TILE - width, 0, rows * TILE - height), value=outside)
    return padded.reshape(rows, TILE, columns, TILE).transpose(1, 2).reshape(rows * columns, TILE * TILE)


def _splats(p: Projection, ids: Tensor) -> Tensor:
    """[B, 6]: mean, the conic with log2(e) folded in as in csrc/math/blend.h, log2 of the opacity."""
    ids = ids.long()
    conic = p.conics[0, ids] * p.conics.new_tensor([0.5, 1.0, 0.5]) / math.log(2)
    return torch.cat([p.means2d[0, ids], conic, p.opacities[0, ids, None].log2()], dim=1)


def _by_unit(values: Tensor, layout: BlockLayout) -> Tensor:
    """[tiles, 256] as [tiles, U, P]."""
    grid = values.reshape(-1, TILE // layout.height, layout.height, TILE // layout.width, layout.width)
    return grid.transpose(2, 3).reshape(len(values), -1, layout.height * layout.width)


def _of_groups(values: Tensor, group: tuple[int, int], layout: BlockLayout) -> Tensor:
    """The largest of `values` [tiles, 256] over the group of pixels to which each unit belongs, [tiles, U]."""
    grid = values.reshape(-1, TILE // group[1], group[1], TILE // group[0], group[0])
    largest = grid.amax(dim=(2, 4)).repeat_interleave(group[1] // layout.height, dim=1)
    return largest.repeat_interleave(group[0] // layout.width, dim=2).flatten(1)


def _pairs(splats: Tensor, tile: Tensor, position: Tensor, units: _UnitTable) -> Tensor:
    """[3]: pairs evaluated forward and backward, and pairs that drew, of B instances.

    Args:
        splats: [B, 6]; tile: [B]; position: [B] in the tile's list.
    """
    layout = units.layout
    left, top = _corners(tile, units)
    reached = _reached(splats, left, top, units.columns[tile], units.rows[tile])
    checked = position // layout.check_every * layout.check_every
    forward = (reached & (units.alive[tile] >= checked[:, None])).sum()
    evaluated = reached & (units.end[tile] > position[:, None])
    instance, unit = evaluated.nonzero(as_tuple=True)
    pixel = torch.arange(layout.width * layout.height, device=splats.device)
    x, y, a, b, c, log2_opacity = (value[:, None] for value in splats[instance].unbind(dim=1))
    dx = left[instance, unit][:, None] + pixel % layout.width - x
    dy = top[instance, unit][:, None] + pixel // layout.width - y
    power = log2_opacity - a * dx * dx - (b * dx + c * dy) * dy
    visible = (power >= math.log2(native.ALPHA_THRESHOLD)) & (
        units.drawn[tile[instance], unit] > position[instance][:, None]
    )
    return torch.stack([forward * len(pixel), evaluated.sum() * len(pixel), visible.sum()])


def _corners(tile: Tensor, units: _UnitTable) -> tuple[Tensor, Tensor]:
    """[B, U] x and y of the first pixel centre of each unit."""
    layout, columns = units.layout, TILE // units.layout.width
    unit = torch.arange(columns * (TILE // layout.height), device=tile.device)
    left = (tile % units.across * TILE)[:, None] + unit % columns * layout.width + 0.5
    return left, (tile // units.across * TILE)[:, None] + unit // columns * layout.height + 0.5


def _reached(splats: Tensor, left: Tensor, top: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """[B, U]: whether the ellipse of alpha >= cut-off reaches the pixel centres of each unit (csrc/math/tile.h)."""
    x, y, a, b, c, log2_opacity = (value[:, None] for value in splats.unbind(dim=1))
    b = b / 2
    level = log2_opacity - math.log2(native.ALPHA_THRESHOLD)
    left, top = left - x, top - y
    right, bottom = left + (columns - 1), top + (rows - 1)
    determinant = torch.maximum(a * c - b * b - ROUNDING * (a * c), ROUNDING * (a * c))  # slivers cancel
    highest = (a * level / determinant).sqrt() + MARGIN
    low, high = torch.maximum(top, -highest), torch.minimum(bottom, highest)
    of_rightmost = -(b / c) * (c * level / determinant).sqrt()
    y_right, y_left = (torch.minimum(torch.maximum(value, low), high) for value in (of_rightmost, -of_rightmost))
    last = ((a * level - determinant * y_right**2).clamp(min=0).sqrt() - b * y_right) / a
    first = (-(a * level - determinant * y_left**2).clamp(min=0).sqrt() - b * y_left) / a
    margin = MARGIN + 1e-5 * (last - first)
    return (low <= high) & (last + margin >= left) & (first - margin <= right)
