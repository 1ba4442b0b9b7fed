"""Evaluate the loss on a grid in a plane, and project the path of a training onto it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from splatlearn.errors import SplatlearnError
from splatlearn.landscape.parameters import Loss, Moved, Parameters, check_like, flatten, trainable
from splatlearn.landscape.planes import Plane, describe, hessian_plane, random_plane, trajectory_plane
from splatlearn.loop import AnyTask, Callback


@dataclass(frozen=True)
class Landscape:
    """The loss on a grid in a plane.

    Attributes:
        plane: the plane.
        a, b: [A] and [B] float64, the grid's coordinates along the two directions.
        losses: [B, A] float64.
        path: [P, 2] float64, the training path as (a, b); empty without one.
    """

    plane: Plane
    a: Tensor
    b: Tensor
    losses: Tensor
    path: Tensor = field(default_factory=lambda: torch.zeros(0, 2, dtype=torch.float64))


class Trajectory(Callback):
    """Callback that copies all parameters before the first step and after every ``every``-th step.

    Points of different dimensions share no plane. So a new path begins whenever a scene gains or loses Gaussians, and
    only the last path is kept.

    Args:
        every: steps between two snapshots.

    Attributes:
        begun: the step of the path's first snapshot.
        snapshots: the parameters by name, oldest first.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self.begun = 0
        self.snapshots: list[dict[str, Tensor]] = []

    def on_start(self, start: int, task: AnyTask) -> None:
        self._keep(start, task)

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        if step % self.every == 0:
            self._keep(step, task)

    def _keep(self, step: int, task: AnyTask) -> None:
        snapshot = {name: value.detach().clone() for name, value in task.named_parameters()}
        if self.snapshots and _shapes(self.snapshots[-1]) != _shapes(snapshot):
            self.snapshots.clear()
        if not self.snapshots:
            self.begun = step
        self.snapshots.append(snapshot)


def _shapes(parameters: Parameters) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in parameters.items()}


def landscape(
    model: torch.nn.Module,
    loss: Loss,
    batch: Any,
    *,
    plane: Plane | Literal["random", "trajectory", "hessian"] = "random",
    trajectory: Sequence[Parameters] = (),
    size: int = 25,
    span: float | None = None,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> Landscape:
    """Evaluate the loss of a model on a plane through its parameters, and project its training path onto it.

    Args:
        model: any module; its trainable parameters are moved over the plane and always restored.
        loss: takes (model, batch), returns a scalar tensor; it must be deterministic.
        batch: passed to ``loss`` unchanged.
        plane: a plane, or the kind to build: "random" (`random_plane`), "trajectory" (`trajectory_plane` of
            ``trajectory``; prints its explained variance) or "hessian" (`hessian_plane`; prints its eigenvalues).
        trajectory: snapshots of the parameters during training, oldest first, as `Trajectory` records them.
        size: grid points per side.
        span: half the grid's side in lengths of the directions. By default it is 1 for random directions. For the
            others, whose length is 1, it contains the whole path with a margin, or is 1/10 of the parameters' norm.
        generator: for random directions and for the start vector of the search for eigenvectors.
        progress: show a progress bar.

    Returns:
        The losses on the grid and the projected path.

    Raises:
        SplatlearnError: nothing is trainable, the grid is below 2 x 2, the path has other parameters, or the kind of
            plane is unknown.
    """
    if size < 2:
        raise SplatlearnError(f"a landscape needs a grid of at least 2 x 2, got {size}")
    if isinstance(plane, str):
        plane = _make_plane(plane, model, loss, batch, trajectory, generator)
        if progress and (plane.explained or plane.eigenvalues):
            tqdm.write(describe(plane))
    for snapshot in trajectory:
        check_like(plane.origin, snapshot)
    path = plane.project(trajectory) if trajectory else torch.zeros(0, 2, dtype=torch.float64)
    a, b = _axes(plane, path, size, span)
    with tqdm(
        total=size * size, desc=f"landscape ({plane.kind})", unit="loss", disable=not progress, leave=False
    ) as bar:
        losses = _losses(model, loss, batch, plane, (a, b), bar)
    return Landscape(plane, a, b, losses, path)


def _make_plane(
    kind: str, model: torch.nn.Module, loss: Loss, batch: Any, trajectory: Any, generator: torch.Generator | None
) -> Plane:
    if kind == "random":
        return random_plane(trainable(model), generator)
    if kind == "trajectory":
        return trajectory_plane(trajectory)
    if kind == "hessian":
        return hessian_plane(model, loss, batch, generator)
    raise SplatlearnError(f"a plane must be random, trajectory or hessian, got {kind!r}")


def _axes(plane: Plane, path: Tensor, size: int, span: float | None) -> tuple[Tensor, Tensor]:
    if span is None and plane.kind == "trajectory" and len(path):
        low, high = path.min(dim=0).values, path.max(dim=0).values
        margin = 0.25 * (high - low).clamp(min=1e-12)
        low, high = low - margin, high + margin
    else:
        half = span
        if half is None:
            half = 1.0 if plane.kind == "random" else 0.1 * max(1e-6, float(flatten(plane.origin).norm()))
        low, high = torch.full((2,), -half, dtype=torch.float64), torch.full((2,), half, dtype=torch.float64)
    a, b = (torch.linspace(float(x), float(y), size, dtype=torch.float64) for x, y in zip(low, high, strict=True))
    return a, b


def _losses(
    model: torch.nn.Module, loss: Loss, batch: Any, plane: Plane, axes: tuple[Tensor, Tensor], bar: "tqdm[Any]"
) -> Tensor:
    parameters = trainable(model)
    check_like(plane.origin, parameters)
    rows = []
    for b in axes[1].tolist():
        row = []
        for a in axes[0].tolist():
            offset = {
                name: plane.origin[name]
                - value.detach()
                + a * plane.directions[0][name]
                + b * plane.directions[1][name]
                for name, value in parameters.items()
            }
            with torch.no_grad(), Moved(parameters, offset):
                row.append(float(loss(model, batch)))
            bar.update()
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)
