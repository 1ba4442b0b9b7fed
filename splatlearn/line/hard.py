"""A hard landscape: a smooth loss of two parameters with one global and several local minima that trap optimizers.

With p = (x, y), wells i of depth d, centre c and width s, and a wide bowl around o that bounds the paths:

    f(p)  = k/2 |p - o|² - Σ_i d_i g_i(p),   g_i(p) = exp(-|p - c_i|² / (2 s_i²))
    ∇f(p) = k (p - o) + Σ_i d_i g_i(p) (p - c_i) / s_i²

The second line follows from the first, as ∇g_i = -g_i (p - c_i) / s_i². `minima` computes the exact minima, which the
bowl and the other wells shift away from the wells' centres.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.line.optimizers import OptimizerName, ScheduleName, make_optimizer, make_schedule

BOWL = 0.25  # k
CENTER = (0.6, -0.6)  # o
REACH = 4.0  # figures and starts cover -REACH..REACH on both axes
WELLS = (  # depth, centre x, centre y, width
    (2.0, 1.3, -1.1, 0.7),
    (1.2, -1.9, 1.4, 0.6),
    (0.9, -1.4, -1.9, 0.5),
    (1.1, 1.5, 2.0, 0.6),
    (0.6, -0.5, 0.1, 0.45),
)
SETTLED = 0.15  # a path that ends within this distance of a minimum has found it


def loss(points: Tensor) -> Tensor:
    """Compute f at ``points`` [..., 2]; returns [...]."""
    depths, centers, widths = _wells(points)
    squares = (points[..., None, :] - centers).square().sum(dim=-1)
    wells = depths * torch.exp(-squares / (2 * widths.square()))
    return BOWL / 2 * (points - _center(points)).square().sum(dim=-1) - wells.sum(dim=-1)


def gradient(points: Tensor) -> Tensor:
    """Compute ∇f at ``points`` [..., 2] by the formula above; returns the same shape."""
    depths, centers, widths = _wells(points)
    away = points[..., None, :] - centers
    pulls = depths * torch.exp(-away.square().sum(dim=-1) / (2 * widths.square())) / widths.square()
    return BOWL * (points - _center(points)) + (pulls[..., None] * away).sum(dim=-2)


def _center(like: Tensor) -> Tensor:
    return torch.tensor(CENTER, dtype=like.dtype, device=like.device)


def _wells(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    table = torch.tensor(WELLS, dtype=like.dtype, device=like.device)
    return table[:, 0], table[:, 1:3], table[:, 3]


def minima() -> Tensor:
    """Return all minima within REACH, [M, 2] float64, by increasing loss: the global one first.

    Descent from a grid of starts finds them, and Newton's method refines each to rounding.
    """
    return _minima().clone()


@functools.cache
def _minima() -> Tensor:
    points = starts(21)
    for _ in range(400):
        points = points - 0.05 * gradient(points)
    found: list[Tensor] = []
    for point in points:
        if all(float((point - other).norm()) > 0.2 for other in found):
            found.append(point)
    return torch.stack(sorted((_refined(point) for point in found), key=lambda point: float(loss(point))))


def _refined(point: Tensor) -> Tensor:
    for _ in range(20):
        hessian = torch.autograd.functional.jacobian(gradient, point)
        point = point - torch.linalg.solve(hessian, gradient(point))
    return point


@dataclass(frozen=True)
class Walk:
    """An optimizer's configuration: optimizer and schedule by their names in the line's config."""

    name: str
    optimizer: OptimizerName
    schedule: ScheduleName
    rate: float
    momentum: float = 0.9


WALKS = (
    Walk("gradient descent", "sgd", "constant", 0.05),
    Walk("momentum", "momentum", "constant", 0.05),
    Walk("Nesterov", "nesterov", "constant", 0.05),
    Walk("Adam", "adam", "constant", 0.05),
    Walk("large steps", "sgd", "constant", 1.5),
    Walk("large steps, then small", "sgd", "step", 1.5),
    Walk("Adam, large steps, cosine", "adam", "cosine", 1.0),
)


def starts(size: int) -> Tensor:
    """Return a grid of starts within REACH, [size², 2] float64, row by row from the lowest y."""
    if size < 2:
        raise SplatlearnError(f"a grid of starts needs at least 2 a side, got {size}")
    axis = torch.linspace(-REACH, REACH, size, dtype=torch.float64)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([columns, rows], dim=-1).reshape(-1, 2)


def paths(walk: Walk, begin: Tensor, steps: int = 300) -> Tensor:
    """Optimize from ``begin`` [N, 2] independently and return all points, [steps + 1, N, 2] float64.

    These optimizers treat each number separately, so that N paths in one tensor do not interact.
    """
    points = begin.double().clone().requires_grad_()
    optimizer = make_optimizer(walk.optimizer, [points], walk.rate, walk.momentum)
    schedule = make_schedule(walk.schedule, optimizer, steps)
    kept = [points.detach().clone()]
    for _ in range(steps):
        points.grad = gradient(points.detach())
        optimizer.step()
        schedule.step()
        kept.append(points.detach().clone())
    return torch.stack(kept)


def ends(walk: Walk, begin: Tensor, steps: int = 300) -> Tensor:
    """Return the row of `minima` in which each path from ``begin`` [N, 2] ends, [N] int64; -1 if in none."""
    last = paths(walk, begin, steps)[-1]
    nearest = torch.cdist(last, minima()).min(dim=1)
    return torch.where(nearest.values < SETTLED, nearest.indices, -1)


def success(labels: Tensor) -> float:
    """Return the fraction of paths that ended in the global minimum."""
    return float((labels == 0).double().mean())
