"""The planes of loss landscapes: random directions, the training path's components, and the Hessian's eigenvectors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.landscape.parameters import (
    Loss,
    Moved,
    Parameters,
    check_like,
    copies,
    flatten,
    trainable,
    unflatten,
)

PARALLEL = 0.9  # |cosine| of two random directions above which the second is drawn again


@dataclass(frozen=True)
class Plane:
    """A point and two directions in parameter space.

    Attributes:
        kind: "random", "trajectory" or "hessian".
        origin: the point, by parameter name.
        directions: the two directions, by parameter name.
        explained: fraction of the path's variance along each direction ("trajectory").
        eigenvalues: curvature of the loss along each direction ("hessian").
    """

    kind: str
    origin: dict[str, Tensor]
    directions: tuple[dict[str, Tensor], dict[str, Tensor]]
    explained: tuple[float, float] | None = None
    eigenvalues: tuple[float, float] | None = None

    def project(self, snapshots: Sequence[Parameters]) -> Tensor:
        """Project P snapshots onto the plane by least squares; returns coordinates (a, b), [P, 2] float64."""
        basis = torch.stack([flatten(direction) for direction in self.directions])
        origin = flatten(self.origin)
        products = torch.stack([basis @ (flatten(snapshot) - origin) for snapshot in snapshots])
        return torch.linalg.solve(basis @ basis.T, products.T).T


def describe(plane: Plane) -> str:
    """Describe the plane in a sentence."""
    if plane.explained is not None:
        one, two = plane.explained
        return f"the plane of the path holds {one + two:.1%} of its variance ({one:.1%} and {two:.1%})"
    if plane.eigenvalues is not None:
        return "curvature along the top two eigenvectors: {:.4g} and {:.4g}".format(*plane.eigenvalues)
    return "two random directions, each filter as long as the model's own"


def random_plane(parameters: Parameters, generator: torch.Generator | None = None) -> Plane:
    """Draw two random directions with filter normalization (Li et al. 2018, section 4).

    Each filter of a direction gets the norm of the parameters' filter. A filter is a row of a tensor along its first
    dimension, such as the weights into one neuron, or one Gaussian. A tensor of at most one dimension, such as a bias,
    is one filter.

    Args:
        parameters: the origin of the plane.
        generator: the source of randomness.

    Raises:
        SplatlearnError: there are fewer than 2 parameters, all are zero, or the directions are always parallel.
    """
    if sum(value.numel() for value in parameters.values()) < 2:
        raise SplatlearnError("a plane needs at least 2 trainable parameters")
    if not any(bool(value.detach().any()) for value in parameters.values()):
        raise SplatlearnError("random directions are scaled to the parameters, but those are all zero")
    first = _filter_normalized(parameters, generator)
    for _ in range(100):
        second = _filter_normalized(parameters, generator)
        one, two = flatten(first), flatten(second)
        if abs(float(one @ two)) < PARALLEL * float(one.norm() * two.norm()):
            return Plane("random", copies(parameters), (first, second))
    raise SplatlearnError("random directions are all parallel: too few parameters are not zero")


def trajectory_plane(snapshots: Sequence[Parameters]) -> Plane:
    """Compute the first two principal components of a training path, of length 1, through its last point.

    Args:
        snapshots: the parameters along the path, oldest first.

    Raises:
        SplatlearnError: there are fewer than 3 snapshots, their shapes differ, or the path is a straight line.
    """
    if len(snapshots) < 3:
        raise SplatlearnError(f"the plane of a path needs at least 3 snapshots, got {len(snapshots)}")
    last = snapshots[-1]
    for snapshot in snapshots:
        check_like(last, snapshot)
    path = torch.stack([flatten(snapshot) for snapshot in snapshots])
    _, spread, components = torch.linalg.svd(path - path.mean(dim=0), full_matrices=False)
    if len(spread) < 2 or not float(spread[1]) > 1e-12 * float(spread[0]):
        raise SplatlearnError("the path lies on a straight line: it spans no plane")
    share = spread.square() / spread.square().sum()
    directions = (unflatten(components[0], last), unflatten(components[1], last))
    return Plane("trajectory", copies(last), directions, explained=(float(share[0]), float(share[1])))


def hessian_plane(
    model: torch.nn.Module, loss: Loss, batch: Any, generator: torch.Generator | None = None, rounds: int = 24
) -> Plane:
    """Compute the Hessian's eigenvectors of the two largest eigenvalues, of length 1, through the parameters.

    The method is Lanczos with full reorthogonalisation in float64: ``rounds`` Hessian-vector products, and no matrix. A
    product is a derivative of the gradient if the loss is twice differentiable. Otherwise it is a central difference of
    gradients, whose accuracy depends on the model's dtype.

    Args:
        model: any module.
        loss: takes (model, batch), returns a scalar tensor.
        batch: passed to ``loss`` unchanged.
        generator: for the start vector.
        rounds: Lanczos iterations at most.

    Raises:
        SplatlearnError: there are fewer than 2 trainable parameters, or the Hessian shows only one direction.
    """
    parameters = trainable(model)
    size = sum(value.numel() for value in parameters.values())
    if size < 2:
        raise SplatlearnError("a plane needs at least 2 trainable parameters")
    product = _hessian_product(model, loss, batch)
    device = next(iter(parameters.values())).device
    start = torch.randn(size, generator=generator, dtype=torch.float64).to(device)
    basis, diagonal, off_diagonal = [start / start.norm()], [], []
    for _ in range(min(rounds, size)):
        vector = product(basis[-1])
        diagonal.append(vector @ basis[-1])
        for _ in range(2):  # two passes suffice to stay orthogonal in floating point
            vector = vector - torch.stack(basis).T @ (torch.stack(basis) @ vector)
        off_diagonal.append(vector.norm())
        if float(off_diagonal[-1]) < 1e-10 * float(diagonal[0].abs() + off_diagonal[0]) + 1e-300:
            break
        basis.append(vector / off_diagonal[-1])
    n = len(diagonal)
    tridiagonal = torch.diag(torch.stack(diagonal))
    if n > 1:
        upper = torch.diag(torch.stack(off_diagonal[: n - 1]), 1)
        tridiagonal = tridiagonal + upper + upper.T
    else:
        raise SplatlearnError("the Hessian shows no second direction: the loss bends the same way in all")
    values, vectors = torch.linalg.eigh(tridiagonal)
    ritz = vectors.T @ torch.stack(basis[:n])
    directions = (unflatten(ritz[-1], parameters), unflatten(ritz[-2], parameters))
    return Plane("hessian", copies(parameters), directions, eigenvalues=(float(values[-1]), float(values[-2])))


def _filter_normalized(parameters: Parameters, generator: torch.Generator | None) -> dict[str, Tensor]:
    direction = {}
    for name, value in parameters.items():
        value = value.detach()
        draw = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        rows = len(value) if value.dim() > 1 else 1
        lengths = value.reshape(rows, -1).norm(dim=1) if value.numel() else value.new_zeros(rows)
        drawn = draw.reshape(rows, -1).norm(dim=1).clamp(min=1e-30) if value.numel() else value.new_ones(rows)
        direction[name] = (draw.reshape(rows, -1) * (lengths / drawn)[:, None]).reshape(value.shape)
    return direction


def _hessian_product(model: torch.nn.Module, loss: Loss, batch: Any) -> Callable[[Tensor], Tensor]:
    parameters = trainable(model)
    values = list(parameters.values())

    def gradient(create_graph: bool = False) -> Tensor:
        with torch.enable_grad():
            found = torch.autograd.grad(loss(model, batch), values, create_graph=create_graph, allow_unused=True)
        filled = (torch.zeros_like(v) if g is None else g for g, v in zip(found, values, strict=True))
        return torch.cat([g.reshape(-1).double() for g in filled])

    def by_difference(vector: Tensor) -> Tensor:
        exact = max(torch.finfo(value.dtype).eps for value in values)
        step = exact ** (1 / 3) * max(1.0, float(flatten(parameters).norm())) / float(vector.norm())
        sides = []
        for sign in (1, -1):
            with Moved(parameters, unflatten(sign * step * vector, parameters)):
                sides.append(gradient())
        return (sides[0] - sides[1]) / (2 * step)

    probe = torch.randn(flatten(parameters).shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    difference = by_difference(probe.to(values[0].device))
    slope = gradient(create_graph=True)  # after the difference, as moving the parameters invalidates an earlier graph

    def by_derivative(vector: Tensor) -> Tensor:
        found = torch.autograd.grad(slope @ vector, values, retain_graph=True, allow_unused=True)
        filled = (torch.zeros_like(v) if g is None else g for g, v in zip(found, values, strict=True))
        return torch.cat([g.reshape(-1).double() for g in filled])

    # With a stage that is differentiable only once, the second derivative raises an error or, behind the constant
    # gradient of the loss itself, is silently incomplete. So it is used only if a central difference agrees with it.
    try:
        derivative = by_derivative(probe.to(slope))
    except RuntimeError:
        return by_difference
    agree = float((derivative - difference).norm()) <= 0.05 * float(difference.norm())
    return by_derivative if agree else by_difference
