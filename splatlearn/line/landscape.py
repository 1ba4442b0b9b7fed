"""The loss over two parameters, seen whole: the neuron's (w, b) need no slice, as they are a plane already."""

from collections.abc import Callable

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.line.bowl import Bowl
from splatlearn.loop import AnyTask, Callback


def grid(low: tuple[float, float], high: tuple[float, float], size: int) -> Tensor:
    """``size`` x ``size`` points between two corners, [size, size, 2] float64; rows run along the second coordinate."""
    if size < 2:
        raise SplatlearnError(f"a grid needs at least 2 points a side, got {size}")
    a, b = (torch.linspace(low[i], high[i], size, dtype=torch.float64) for i in (0, 1))
    rows, columns = torch.meshgrid(b, a, indexing="ij")
    return torch.stack([columns, rows], dim=-1)


def surface(loss: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """The loss, a function of [..., 2] such as `Bowl.loss` or `hard.loss`, over a grid: [B, A] float64, no graph."""
    with torch.no_grad():
        return loss(points).double()


def bowl_grid(bowl: Bowl, path: Tensor, size: int = 101, margin: float = 0.25) -> Tensor:
    """A grid of (w, b) that holds a path [P, 2] and the minimum, with a margin, and is as wide on both sides of it."""
    reach = (path.double() - bowl.minimum).abs().amax(dim=0).clamp(min=1e-3) * (1 + margin)
    low, high = (bowl.minimum - reach).tolist(), (bowl.minimum + reach).tolist()
    return grid((low[0], low[1]), (high[0], high[1]), size)


class NeuronPath(Callback):
    """Keeps (w, b) before the first step and after each, and the losses of before each step."""

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
        """[P, 2] float64."""
        return torch.tensor(self._points, dtype=torch.float64).reshape(-1, 2)
