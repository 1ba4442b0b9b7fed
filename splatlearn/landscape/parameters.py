"""A model's parameters as one vector, and their temporary change."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError

Parameters = Mapping[str, Tensor]
Loss = Callable[[Any, Any], Tensor]  # (model, batch) to a scalar


def flatten(parameters: Parameters) -> Tensor:
    """Concatenate all values to [D] float64."""
    return torch.cat([value.detach().reshape(-1).double() for value in parameters.values()])


def unflatten(vector: Tensor, like: Parameters) -> dict[str, Tensor]:
    """Split a vector [D] into tensors with the shapes, dtypes and devices of ``like``: the inverse of `flatten`."""
    parts = vector.split([value.numel() for value in like.values()])
    return {name: part.reshape(like[name].shape).to(like[name]) for name, part in zip(like, parts, strict=True)}


def trainable(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return the parameters that require gradients; raises SplatlearnError if there are none."""
    found: dict[str, Tensor] = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if not found:
        raise SplatlearnError("the model has no trainable parameters: there is no landscape")
    return found


def copies(parameters: Parameters) -> dict[str, Tensor]:
    """Return detached copies."""
    return {name: value.detach().clone() for name, value in parameters.items()}


def check_like(expected: Parameters, got: Parameters) -> None:
    """Raise SplatlearnError naming the first parameter that is missing in one mapping or has another shape."""
    shapes, others = ({name: list(value.shape) for name, value in each.items()} for each in (expected, got))
    if shapes != others:
        name = next(name for name in [*shapes, *others] if shapes.get(name) != others.get(name))
        raise SplatlearnError(
            f"all points of a landscape need the same parameters, but '{name}' is {others.get(name, 'missing')} in one "
            f"and {shapes.get(name, 'missing')} in another"
        )


class Moved:
    """Context that adds an offset to the parameters and restores their exact bits afterwards."""

    def __init__(self, parameters: Parameters, offset: Parameters) -> None:
        self.parameters, self.offset = parameters, offset

    def __enter__(self) -> None:
        self.before = copies(self.parameters)
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.add_(self.offset[name].to(value))

    def __exit__(self, *_: object) -> None:
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(self.before[name])
