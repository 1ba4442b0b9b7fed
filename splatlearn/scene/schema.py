"""The parameters of a Gaussian, each described once: shape, activation, learning rate, PLY columns, initial value.

`Gaussians`, the optimizer, checkpoints, densification, PLY files and the config's `rates:` follow from a schema. A
further parameter is one more entry and whatever reads it, such as a loss term:

    SCHEMA = GAUSSIAN.extended(Parameter("features", (4,), rate=1e-2, initial=0.0))

Shapes: N Gaussians, K = (degree + 1)^2 spherical-harmonics bases.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError

SH_REST = (0, 3, 8, 15, 24)  # K - 1 of SH degree 0 to 4
Activation = Literal["identity", "exp", "sigmoid", "normalize"]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a Gaussian.

    name: attribute of `Gaussians`, key of checkpoints, and `rates.NAME` of the config.
    shape: shape behind N; a tuple in it lists the lengths that a dimension may have.
    rate: default learning rate of Adam.
    rate_final: the rate decays exponentially to it at the last step, also `rates.NAME_final`; None: it is constant.
    rate_in_extents: rates are multiples of the scene's extent.
    activation: maps the stored values to those that the equations use.
    columns: names of its PLY columns, or what their names start with before a number; None: the parameter's name and
        an underscore. Two dimensions behind N are written with the last one first, as 3DGS does.
    rendered: whether the rasterizer reads it. Others get gradients from loss terms alone.
    initial: value to start from where a scene brings none; None: a scene must bring it.
    help: the words of the config's help.
    """

    name: str
    shape: tuple[int | tuple[int, ...], ...]
    rate: float
    rate_final: float | None = None
    rate_in_extents: bool = False
    activation: Activation = "identity"
    columns: str | tuple[str, ...] | None = None
    rendered: bool = False
    initial: float | None = None
    help: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise SplatlearnError(f"a parameter's name must be an identifier, but is {self.name!r}")
        if not self.rendered and (self.initial is None or not all(isinstance(size, int) for size in self.shape)):
            raise SplatlearnError(
                f"parameter '{self.name}' must have an initial value and a fixed shape, as no scene brings it, but has "
                f"{self.initial} and {list(self.shape)}"
            )

    def fits(self, shape: tuple[int, ...], count: int) -> bool:
        """Whether `shape` is that of this parameter for `count` Gaussians."""
        if len(shape) != len(self.shape) + 1 or shape[0] != count:
            return False
        return all(
            size in allowed if isinstance(allowed, tuple) else size == allowed
            for size, allowed in zip(shape[1:], self.shape, strict=True)
        )

    def shape_text(self, count: int | str = "N") -> str:
        """The expected shape for `count` Gaussians, such as [N, 0|3|8|15|24, 3]."""
        sizes = ("|".join(map(str, size)) if isinstance(size, tuple) else str(size) for size in self.shape)
        return f"[{', '.join([str(count), *sizes])}]"

    def column_names(self, count: int) -> list[str]:
        """Names of its `count` PLY columns."""
        if isinstance(self.columns, tuple):
            return list(self.columns)
        prefix = f"{self.name}_" if self.columns is None else self.columns
        return [f"{prefix}{index}" for index in range(count)]

    def activated(self, stored: Tensor) -> Tensor:
        """The stored values after activation."""
        match self.activation:
            case "exp":
                return stored.exp()
            case "sigmoid":
                return stored.sigmoid()
            case "normalize":
                return torch.nn.functional.normalize(stored, dim=-1)
            case _:
                return stored

    def rate_at(self, rates: Any, done: float, extent: float) -> float:
        """The learning rate after the fraction `done` of all steps, from the config group `rates` where it has one."""
        rate: float = getattr(rates, self.name, self.rate)
        scale = extent if self.rate_in_extents else 1.0
        if self.rate_final is None:
            return scale * rate
        final: float = getattr(rates, f"{self.name}_final", self.rate_final)
        return float(scale * rate ** (1 - done) * final**done)


@dataclass(frozen=True)
class Schema:
    """All parameters of a Gaussian, by name."""

    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        names = self.names
        if twice := [name for name in names if names.count(name) > 1]:
            raise SplatlearnError(f"a schema must hold each parameter once, but has '{twice[0]}' twice")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def further(self) -> tuple[str, ...]:
        """Names of the parameters that the rasterizer does not read."""
        return tuple(parameter.name for parameter in self.parameters if not parameter.rendered)

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def __getitem__(self, name: str) -> Parameter:
        return next(parameter for parameter in self.parameters if parameter.name == name)

    def extended(self, *further: Parameter) -> "Schema":
        """This schema and further parameters."""
        return Schema((*self.parameters, *further))

    def problem(self, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
        """What is wrong with tensors of these shapes, as the end of a sentence; None: nothing."""
        for parameter in self:
            if parameter.name not in shapes:
                return f"the tensor {parameter.name!r} is missing (needed: {', '.join(self.names)})"
            shape, count = shapes[parameter.name], shapes[self.names[0]][0] if shapes[self.names[0]] else 0
            if not parameter.fits(shape, count):
                return f"{parameter.name} must have shape {parameter.shape_text(count)}, but has {list(shape)}"
        return None


GAUSSIAN = Schema(
    (
        Parameter(
            "means",
            (3,),
            rate=1.6e-4,
            rate_final=1.6e-6,
            rate_in_extents=True,
            columns=("x", "y", "z"),
            rendered=True,
            help="of the means, in scene extents",
        ),
        Parameter(
            "scales",
            (3,),
            rate=5e-3,
            activation="exp",
            columns="scale_",
            rendered=True,
            help="of the logarithmic scales",
        ),
        Parameter(
            "quats", (4,), rate=1e-3, activation="normalize", columns="rot_", rendered=True, help="of the quaternions"
        ),
        Parameter(
            "opacities",
            (),
            rate=5e-2,
            activation="sigmoid",
            columns=("opacity",),
            rendered=True,
            help="of the opacity logits",
        ),
        Parameter("sh0", (1, 3), rate=2.5e-3, columns="f_dc_", rendered=True, help="of the constant colour"),
        Parameter(
            "shN", (SH_REST, 3), rate=1.25e-4, columns="f_rest_", rendered=True, help="of the view-dependent colour"
        ),
    )
)
