"""The loss of a training step: a sum of terms, each with a weight and a schedule.

A config lists terms under `losses:`, and code adds them to `SceneTask.losses`. A term reads the rendering and the maps
of the view, or the parameters of the Gaussians directly. It returns its value without its weight.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from splatlearn.config import key
from splatlearn.errors import SplatlearnError
from splatlearn.ops.photometric import photometric_loss
from splatlearn.ops.workspace import Workspace
from splatlearn.scene.gaussians import Gaussians, Rendering
from splatlearn.scene.photos.masks import masked
from splatlearn.scene.view import View

if TYPE_CHECKING:
    from splatlearn.scene.photos.exposure import Exposures


@dataclass
class TermConfig:
    """The keys of every term: its weight, and when it counts."""

    weight: float = key(1.0, "factor of the term in the loss; 0 leaves it out")
    start: int = key(0, "steps before the term begins")
    stop: int = key(0, "last step of the term; 0: it stays to the end")
    ramp: int = key(0, "steps after the start over which the weight rises from 0; 0: it is whole at once")

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise SplatlearnError(f"the weight of a loss term must be a number of at least 0, but is {self.weight}")
        if min(self.start, self.stop, self.ramp) < 0 or 0 < self.stop <= self.start:
            raise SplatlearnError(
                f"a loss term must have start, ramp >= 0 and a stop of 0 or above start, but has start {self.start}, "
                f"stop {self.stop} and ramp {self.ramp}"
            )

    def weight_at(self, step: int) -> float:
        """The weight at a step, numbered from 1; 0 where the term is left out."""
        if step <= self.start or 0 < self.stop < step:
            return 0.0
        return self.weight if self.ramp == 0 else self.weight * min((step - self.start) / self.ramp, 1.0)


@dataclass
class Learned:
    """What a term may read beside the rendering and the view.

    gaussians: the scene. Read its parameters anew at each call, as densification replaces them.
    exposures: of the training images, where they are learned.
    """

    gaussians: Gaussians
    exposures: "Exposures | None" = None


class Term:
    """One term of the loss. Subclasses define `__call__`, and a `Config` where they have keys of their own.

    options: options of `splatlearn.rasterization` that the term needs, such as {"render_mode": "RGB+ED"} for depth.
    recordable: whether the term may be recorded with `cuda_graph`: it depends on `step` in no way, and on the host's
        numbers and on other tensors only where these never change.
    """

    Config: ClassVar[type[TermConfig]] = TermConfig
    options: Mapping[str, Any] = {}
    recordable: bool = False

    def __init__(self, config: Any, learned: Learned) -> None:
        self.config = config
        self.learned = learned

    def __call__(self, rendering: Rendering, view: View, step: int) -> Tensor:
        """The value of the term, a scalar in the graph."""
        raise NotImplementedError


class Losses(dict[str, Term]):
    """The terms of a loss by name."""

    def active(self, step: int) -> dict[str, float]:
        """The weights of the terms that count at this step, by name."""
        weights = {name: term.config.weight_at(step) for name, term in self.items()}
        return {name: weight for name, weight in weights.items() if weight > 0}

    def options(self, step: int) -> dict[str, Any]:
        """Options of `rasterization` that the terms of this step need."""
        return merged((f"loss term '{name}'", self[name].options) for name in self.active(step))

    def __call__(self, rendering: Rendering, view: View, step: int) -> Tensor:
        """The weighted sum of the terms that count at this step.

        Raises:
            SplatlearnError: no term counts, or a term has a value that is no scalar.
        """
        total: Tensor | None = None
        for name, weight in self.active(step).items():
            value = self[name](rendering, view, step)
            if value.dim() != 0:
                raise SplatlearnError(f"loss term '{name}' must return a scalar, but returned {list(value.shape)}")
            value = value if weight == 1 else weight * value
            total = value if total is None else total + value
        if total is None:
            raise SplatlearnError(f"a loss needs a term, but none of {', '.join(self) or 'none'} counts at step {step}")
        return total


def merged(wishes: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Options from several sources, each with a name.

    Raises:
        SplatlearnError: two sources need different values of an option.
    """
    found: dict[str, Any] = {}
    owner: dict[str, str] = {}
    for source, options in wishes:
        for option, value in options.items():
            if option in found and found[option] != value:
                raise SplatlearnError(
                    f"{option} must be the same for all, but {owner[option]} needs {found[option]!r} and {source} "
                    f"needs {value!r}"
                )
            found[option], owner[option] = value, source
    return found


class Photometric(Term):
    """L1 and D-SSIM of the rendered image and the view's image, whose masked pixels are left out."""

    @dataclass
    class Config(TermConfig):
        lambda_dssim: float = key(0.2, "weight of 1 - SSIM against L1")

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 0 <= self.lambda_dssim <= 1:
                raise SplatlearnError(f"'lambda_dssim' must be from 0 to 1, got {self.lambda_dssim}")

    recordable = True

    def __init__(self, config: Config, learned: Learned | None = None) -> None:
        self.config = config
        self.space = Workspace()  # its own, so that two such terms never share a gradient

    def __call__(self, rendering: Rendering, view: View, step: int) -> Tensor:
        with self.space:
            return photometric_loss(*masked(rendering.image, view.image, view.mask), self.config.lambda_dssim)


class ExposurePenalty(Term):
    """Squared distance of the exposure of this step's image from the identity; see `scene.photos.exposure`."""

    @dataclass
    class Config(TermConfig):
        weight: float = key(0.01, "factor of the term in the loss: gains of 30 % are followed, noise is not")

    def __call__(self, rendering: Rendering, view: View, step: int) -> Tensor:
        if self.learned.exposures is None:
            raise SplatlearnError("loss term 'exposure' needs learned exposures: set 'exposure: true'")
        return self.learned.exposures.penalty()


class Depth(Term):
    """Mean absolute difference of the expected depth and the view's map `depth`, over its pixels that are not zero."""

    @dataclass
    class Config(TermConfig):
        weight: float = key(0.1, "factor of the term in the loss, per normalised length of depth")

    options = {"render_mode": "RGB+ED"}
    recordable = True

    def __call__(self, rendering: Rendering, view: View, step: int) -> Tensor:
        depth, target = rendering.depth, view.map("depth")
        assert depth is not None
        known = target > 0 if view.mask is None else (target > 0) & (view.mask > 0)
        difference = torch.where(known, depth - target, 0.0)
        return difference.abs().sum() / known.sum().clamp(min=1)


class OpacityRegulariser(Term):
    """Mean opacity: Gaussians that the images do not need fade out (Kheradmand et al. 2024)."""

    @dataclass
    class Config(TermConfig):
        weight: float = key(0.01, "factor of the term in the loss")

    recordable = True

    def __call__(self, rendering: Rendering, view: View, step: int) -> Tensor:
        return self.learned.gaussians.activated("opacities").mean()


class ScaleRegulariser(Term):
    """Mean standard deviation along the axes, in normalised lengths (Kheradmand et al. 2024)."""

    @dataclass
    class Config(TermConfig):
        weight: float = key(0.01, "factor of the term in the loss")

    recordable = True

    def __call__(self, rendering: Rendering, view: View, step: int) -> Tensor:
        return self.learned.gaussians.activated("scales").mean()
