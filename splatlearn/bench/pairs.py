"""Counts (Gaussian, pixel) pairs of a view exactly, outside of the timing: those evaluated, and those that draw.

Shapes: I instances (a Gaussian in a tile), B of them at a time; 256 pixels a tile; U units (below) a tile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from splatlearn.bench.inputs import View
from splatlearn.ops import native
from splatlearn.ops.bin import TILE, Tiles, bin
from splatlearn.ops.project import Projection, project
from splatlearn.ops.rasterize import rasterize
from splatlearn.scene.gaussians import Gaussians

ALPHA_THRESHOLD = 1 / 255
BATCH = 1 << 15  # instances counted at a time: 32 MiB a float32 tensor of their pixels


class Counts(NamedTuple):
    """Of one view."""

    instances: int
    listed: int  # 256 pixels an instance: what a walk over whole tiles would evaluate
    evaluated_forward: int  # exponents computed by the forward blend of this backend
    evaluated_backward: int
    contributed: int  # alpha at or above the cut-off, before the pixel stopped


@dataclass(frozen=True)
class Walk:
    """What a backend evaluates at once: csrc/cpu/rasterize.cpp walks rows of a tile, csrc/cuda/rasterize.cu 8x4 halves.

    A unit of pixels is evaluated for a splat whose ellipse reaches it, in forward while a pixel of its group is alive
    where the list was last looked at (every `look` splats), in backward up to the last splat that its group drew.
    """

    width: int
    height: int
    group: tuple[int, int]  # width and height, forward
    look: int
    group_backward: tuple[int, int]


WALKS = {
    "cpu": Walk(16, 1, group=(16, 1), look=1, group_backward=(16, 16)),
    "cuda": Walk(8, 4, group=(8, 8), look=32, group_backward=(8, 8)),
}


@torch.no_grad()
def count(gaussians: Gaussians, view: View) -> Counts:
    """The pairs of a training step on this view, by the lists and the stops of the kernels themselves."""
    camera = view[0]
    projection, tiles, stops = _lists_and_stops(gaussians, view)
    kind = "cuda" if native.runs_kernels(stops) else "cpu"
    tile_stops, inside = _by_tile(stops, -1), _by_tile(torch.ones_like(stops), 0) > 0
    lengths = tiles.tile_offsets[1:] - tiles.tile_offsets[:-1]
    drawn = torch.minimum(tile_stops.long(), lengths[:, None])  # splats from this position on are not drawn
    total = torch.zeros(3, dtype=torch.int64, device=stops.device)
    across = -(-camera.width // TILE)
    instances = tiles.gaussian_ids.numel()
    for begin in range(0, instances, BATCH):
        at = torch.arange(begin, min(begin + BATCH, instances), device=stops.device)
        tile = torch.searchsorted(tiles.tile_offsets, at, right=True) - 1
        position = at - tiles.tile_offsets[tile]
        splats = _splats(projection, tiles.gaussian_ids[at])
        origin = torch.stack([tile % across, tile // across], dim=1) * TILE
        total += _pairs(splats, origin, position, tile_stops[tile], drawn[tile], inside[tile], WALKS[kind])
    forward, backward, contributed = total.tolist()
    return Counts(instances, instances * TILE * TILE, forward, backward, contributed)


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


def _pairs(
    splats: Tensor, origin: Tensor, position: Tensor, stops: Tensor, drawn: Tensor, inside: Tensor, walk: Walk
) -> Tensor:
    """[3]: pairs evaluated forward and backward, and pairs that drew.

    Args:
        splats: [B, 6]; origin: [B, 2] first pixel of the tile; position: [B] in the tile's list.
        stops, drawn, inside: [B, 256] of the tile's pixels.
    """
    x, y, a, b, c, log2_opacity = (value[:, None] for value in splats.unbind(dim=1))
    pixel = torch.arange(TILE * TILE, device=splats.device)
    dx = origin[:, :1] + pixel % TILE + 0.5 - x
    dy = origin[:, 1:] + pixel // TILE + 0.5 - y
    power = log2_opacity - a * dx * dx - (b * dx + c * dy) * dy
    visible = power >= math.log2(ALPHA_THRESHOLD)
    contributed = (visible & (position[:, None] < drawn)).sum()
    reached = _units_reached(splats, origin, walk, inside)
    pixels = walk.width * walk.height
    looked = position // walk.look * walk.look
    alive = _of_groups(stops, walk.group, walk) >= looked[:, None]
    wanted = _of_groups(drawn, walk.group_backward, walk) > position[:, None]
    return torch.stack([(reached & alive).sum() * pixels, (reached & wanted).sum() * pixels, contributed])


def _of_groups(values: Tensor, group: tuple[int, int], walk: Walk) -> Tensor:
    """The largest of `values` [B, 256] over the group of pixels to which each unit belongs, [B, U]."""
    grid = values.reshape(-1, TILE, TILE)
    largest = grid.reshape(-1, TILE // group[1], group[1], TILE // group[0], group[0]).amax(dim=(2, 4))
    largest = largest.repeat_interleave(group[1] // walk.height, dim=1)
    return largest.repeat_interleave(group[0] // walk.width, dim=2).flatten(1)


def _units_reached(splats: Tensor, origin: Tensor, walk: Walk, inside: Tensor) -> Tensor:
    """[B, U]: whether the ellipse of alpha >= cut-off reaches the pixel centres of each unit (csrc/math/tile.h)."""
    x, y, a, b, c, log2_opacity = (value[:, None] for value in splats.unbind(dim=1))
    b = b / 2
    level = log2_opacity - math.log2(ALPHA_THRESHOLD)
    columns, rows = TILE // walk.width, TILE // walk.height
    unit = torch.arange(columns * rows, device=splats.device)
    left = origin[:, :1] + unit % columns * walk.width + 0.5 - x
    top = origin[:, 1:] + unit // columns * walk.height + 0.5 - y
    used = inside.reshape(-1, rows, walk.height, columns, walk.width)
    right = left + used.any(dim=2).sum(dim=3).flatten(1) - 1
    bottom = top + used.any(dim=4).sum(dim=2).flatten(1) - 1
    determinant = a * c - b * b
    highest = (a * level / determinant).sqrt() + 0.01
    low, high = torch.maximum(top, -highest), torch.minimum(bottom, highest)
    of_rightmost = -(b / c) * (c * level / determinant).sqrt()
    y_right, y_left = (torch.minimum(torch.maximum(value, low), high) for value in (of_rightmost, -of_rightmost))
    last = ((a * level - determinant * y_right**2).clamp(min=0).sqrt() - b * y_right) / a + 0.01
    first = (-(a * level - determinant * y_left**2).clamp(min=0).sqrt() - b * y_left) / a - 0.01
    return (low <= high) & (last >= left) & (first <= right)
