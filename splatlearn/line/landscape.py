"""Evaluate the line's loss over its whole parameter plane (w, b), and record the path of a training in it."""

from collections.abc import Callable

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.line.bowl import Bowl
from splatlearn.loop import AnyTask, Callback


def grid(low: tuple[float, float], high: tuple[float, float], size: int) -> Tensor:
    """Build a grid between two corners, [size, size, 2] float64; rows run along the second coordinate."""
    if size < 2:
        raise SplatlearnError(f"a grid needs at least 2 points a side, got {size}")
    a, b = (torch.linspace(low[i], high[i], size, dtype=torch.float64) for i in (0, 1))
    rows, columns = torch.meshgrid(b, a, indexing="ij")
    return torch.stack([columns, rows], dim=-1)


def surface(loss: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """Evaluate a loss of [..., 2], such as `Bowl.loss` or `hard.loss`, on a grid: [B, A] float64, without a graph."""
    with torch.no_grad():
        return loss(points).double()


def bowl_grid(bowl: Bowl, path: Tensor, size: int = 101, margin: float = 0.25) -> Tensor:
    """Build a grid of (w, b) centred at the minimum that contains a path [P, 2] with a margin."""
    reach = (path.double() - bowl.minimum).abs().amax(dim=0).clamp(min=1e-3) * (1 + margin)
    low, high = (bowl.minimum - reach).tolist(), (bowl.minimum + reach).tolist()
    return grid((low[0], low[1]), (high[0], high[1]), size)


class NeuronPath(Callback):
    """Callback that records (w, b) before the first step and after each, and the loss before each step."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []
        self.losses: list[float] = []

    def on_start(self, start: int, task: AnyTask) -> None:
        self._keep(task)

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        self._keep(task)
        self.losses.append(loss)

    def _keep(self, task: AnyTask) -> None:
        figures = task.metrics()
        self._points.append((figures["weight"], figures["bias"]))

    @property
    def points(self) -> Tensor:
        """The recorded (w, b), [P, 2] float64."""
        return torch.tensor(self._points, dtype=torch.float64).reshape(-1, 2)
