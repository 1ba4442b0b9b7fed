"""How many splats make a pixel: what no sum of channels gives, counted from the lists that `rasterization` returns."""

import math
from typing import Any

import torch
from torch import Tensor

from splatlearn.ops import native
from splatlearn.ops.bin import TILE

TRANSMITTANCE_THRESHOLD = 1e-4  # of the rasterizer


def blended(meta: dict[str, Any]) -> Tensor:
    """The number of splats [H, W] (int32) that the rasterizer blended into each pixel of the one view of `meta`.

    A splat counts where its alpha reaches the threshold, until the next one would take the transmittance below its own.
    """
    across, down = meta["tile_width"], meta["tile_height"]
    splats = torch.cat([meta["means2d"], meta["conics"], meta["opacities"].clamp(min=1e-30).log()[..., None]], dim=-1)
    splats = splats.reshape(-1, 6)[meta["flatten_ids"].long()]
    bounds = [*meta["isect_offsets"].flatten().tolist(), len(splats)]
    rows, columns = torch.meshgrid(torch.arange(TILE), torch.arange(TILE), indexing="ij")
    offsets = torch.stack([columns.flatten(), rows.flatten()], dim=1).to(splats) + 0.5  # [256, 2], of pixel centres
    counts = splats.new_zeros(down, across, TILE, TILE)
    for tile in range(down * across):
        y, x = divmod(tile, across)
        if bounds[tile] < bounds[tile + 1]:
            pixels = offsets + offsets.new_tensor([x * TILE, y * TILE])
            counts[y, x] = _blended_in_tile(splats[bounds[tile] : bounds[tile + 1]], pixels).reshape(TILE, TILE)
    whole = counts.permute(0, 2, 1, 3).reshape(down * TILE, across * TILE)
    return whole[: meta["height"], : meta["width"]].to(torch.int32)


def _blended_in_tile(splats: Tensor, pixels: Tensor) -> Tensor:
    """The count [256] for pixel centres [256, 2] and splats [n, 6] (mean, conic, log opacity), nearest first."""
    count, before = pixels.new_zeros(len(pixels)), pixels.new_zeros(len(pixels))  # log transmittance before a chunk
    stop = math.log(TRANSMITTANCE_THRESHOLD)
    for chunk in splats.split(64):  # few, because most tiles are opaque long before their last splat
        x, y, a, b, c, log_opacity = chunk.unsqueeze(2).unbind(1)
        dx, dy = pixels[:, 0] - x, pixels[:, 1] - y
        alpha = (log_opacity - 0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy).exp().clamp_(max=native.ALPHA_MAX)
        alpha = torch.where(alpha >= native.ALPHA_THRESHOLD, alpha, 0.0)
        after = before + torch.log1p(-alpha).cumsum(0)
        count += ((alpha > 0) & (after >= stop)).sum(0)
        before = after[-1]
        if not bool((before >= stop).any()):
            break
    return count
