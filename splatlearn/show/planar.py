"""Gaussians in the plane that learn a picture: the splatting idea without a camera, small enough to write out by hand.

K Gaussians, each a row (x, y, log s1, log s2, angle θ, r, g, b); lengths in picture heights, y down, the origin in the
upper left corner; colours are added up and may be negative. At the pixel centre p, with d = p - (x, y):

    u = (d_x cos θ + d_y sin θ) / s1      v = (-d_x sin θ + d_y cos θ) / s2
    g = exp(-(u² + v²) / 2)               I(p) = Σ_k rgb_k g_k(p)        L = mean over pixels and channels of (I - T)²

With e = ∂L/∂I = 2 (I - T) / (number of values) and h = g Σ_c e_c rgb_c, the gradient of each row sums over pixels

    ∂x: h (u cos θ/s1 - v sin θ/s2)    ∂y: h (u sin θ/s1 + v cos θ/s2)
    ∂log s1: h u²    ∂log s2: h v²     ∂θ: h u v (s1/s2 - s2/s1)     ∂rgb: e g

The page of figures runs these very lines in the browser.
"""

from typing import NamedTuple

import torch
from torch import Tensor

COLUMNS = 8
ASPECT = 4 / 3  # width over height
RATES = (0.004, 0.004, 0.03, 0.03, 0.05, 0.02, 0.02, 0.02)  # of Adam, by column


class Fit(NamedTuple):
    """What came of `fit`: the rows [K, 8] at each kept step, those steps, and the loss of every step."""

    rows: list[Tensor]
    steps: list[int]
    losses: list[float]


def picture(height: int = 48) -> Tensor:
    """A landscape at dusk made of formulas, [height, 4/3 height, 3] float32 in 0..1."""
    x, y = _pixels(height).unbind(-1)
    sky = torch.stack([0.95 - 0.45 * (0.62 - y), 0.55 + 0.05 * y, 0.35 + 0.75 * (0.62 - y)], dim=-1)
    sun = ((x - 0.92) ** 2 + (y - 0.36) ** 2).sqrt()
    glow = torch.exp(-(sun**2) / 0.03)[..., None] * torch.tensor([0.35, 0.25, 0.0])
    image = sky + glow
    image = torch.where((sun < 0.11)[..., None], torch.tensor([1.0, 0.93, 0.62]), image)
    far = 0.52 + 0.07 * torch.sin(5.0 * x + 0.6) + 0.02 * torch.sin(17 * x)
    near = 0.68 + 0.06 * torch.sin(3.4 * x + 2.2)
    lake = 0.84 + 0.02 * torch.sin(4 * x)
    image = torch.where((y > far)[..., None], torch.tensor([0.42, 0.33, 0.52]), image)
    image = torch.where((y > near)[..., None], torch.tensor([0.13, 0.31, 0.27]), image)
    ripples = 0.5 + 0.06 * torch.sin(70 * y + 6 * x)
    water = torch.stack([ripples + 0.25 * torch.exp(-((x - 0.92) ** 2) / 0.02), ripples, ripples + 0.16], dim=-1)
    return torch.where((y > lake)[..., None], water, image).clamp(0, 1).float()


def _pixels(height: int) -> Tensor:
    """Pixel centres (x, y), [height, width, 2] float64."""
    width = round(ASPECT * height)
    y, x = ((torch.arange(n, dtype=torch.float64) + 0.5) / height for n in (height, width))
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows], dim=-1)


def begin(count: int, seed: int = 0) -> Tensor:
    """Rows [count, 8] float32: small round Gaussians of faint grey at random places."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(count, COLUMNS, generator=generator)
    size = torch.full((count, 2), (0.25 / count) ** 0.5).log()
    return torch.cat([draw[:, :1] * ASPECT, draw[:, 1:2], size, 3 * draw[:, 4:5], 0.2 + 0.2 * draw[:, 5:]], dim=1)


def render(rows: Tensor, height: int) -> Tensor:
    """The picture [height, width, 3] that Gaussians [K, 8] add up to."""
    g, _, _ = _bumps(rows, height)
    return torch.einsum("khw,kc->hwc", g, rows[:, 5:])


def _bumps(rows: Tensor, height: int) -> tuple[Tensor, Tensor, Tensor]:
    """g, u and v of the docs, each [K, height, width]."""
    points = _pixels(height).to(rows)
    dx, dy = (points[..., i] - rows[:, i, None, None] for i in (0, 1))
    first, second = (rows[:, i, None, None].exp() for i in (2, 3))
    cos, sin = rows[:, 4, None, None].cos(), rows[:, 4, None, None].sin()
    u, v = (dx * cos + dy * sin) / first, (dy * cos - dx * sin) / second
    return torch.exp(-(u**2 + v**2) / 2), u, v


def gradient(rows: Tensor, target: Tensor) -> tuple[Tensor, float]:
    """The gradient [K, 8] of the loss by the formulas above, and the loss."""
    g, u, v = _bumps(rows, len(target))
    residual = torch.einsum("khw,kc->hwc", g, rows[:, 5:]) - target
    e = 2 * residual / residual.numel()
    h = g * torch.einsum("hwc,kc->khw", e, rows[:, 5:])
    s1, s2 = rows[:, 2].exp(), rows[:, 3].exp()
    cos, sin = rows[:, 4].cos(), rows[:, 4].sin()
    hu, hv = (h * u).sum(dim=(1, 2)), (h * v).sum(dim=(1, 2))
    huv = (h * u * v).sum(dim=(1, 2))
    columns = [
        hu * cos / s1 - hv * sin / s2,
        hu * sin / s1 + hv * cos / s2,
        (h * u * u).sum(dim=(1, 2)),
        (h * v * v).sum(dim=(1, 2)),
        huv * (s1 / s2 - s2 / s1),
    ]
    colors = torch.einsum("khw,hwc->kc", g, e)
    return torch.cat([torch.stack(columns, dim=1), colors], dim=1), float(residual.square().mean())


def fit(target: Tensor, count: int = 200, steps: int = 300, keep: int = 24, seed: int = 0) -> Fit:
    """Adam on the formulas above, from `begin`; about ``keep`` of its steps are kept, close together at first."""
    rows = begin(count, seed)
    columns = [column.clone().requires_grad_() for column in rows.T]
    optimizer = torch.optim.Adam([{"params": [c], "lr": rate} for c, rate in zip(columns, RATES, strict=True)])
    wanted = {round(steps * (i / (keep - 1)) ** 2) for i in range(keep)}
    result = Fit([rows.clone()], [0], [])
    for step in range(1, steps + 1):
        slopes, loss = gradient(torch.stack(columns, dim=1).detach(), target)
        for column, slope in zip(columns, slopes.T, strict=True):
            column.grad = slope.clone()
        optimizer.step()
        result.losses.append(loss)
        if step in wanted:
            result.rows.append(torch.stack(columns, dim=1).detach())
            result.steps.append(step)
    return result
