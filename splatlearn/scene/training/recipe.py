"""The config of a scene: every key of `configs/scene.yaml`, with its default and its bounds."""

from dataclasses import dataclass, make_dataclass, replace
from typing import TYPE_CHECKING, Any

from splatlearn.config import Common, Entries, chosen, entries, key
from splatlearn.errors import SplatlearnError
from splatlearn.registry import LOSSES, READERS, STRATEGIES
from splatlearn.scene.schema import GAUSSIAN, Schema


def rates_of(schema: Schema) -> type:
    """The config group `rates:` of a schema: a dataclass with the learning rates of its parameters."""
    found: list[tuple[str, float, str]] = []
    for parameter in schema:
        about, name = parameter.help or f"of the {parameter.name}", parameter.name
        if parameter.rate_final is None:
            found.append((name, parameter.rate, about))
        else:
            found.append((name, parameter.rate, f"{about}, at the first step"))
            found.append(
                (f"{name}_final", parameter.rate_final, f"of the {name} at the last step, approached exponentially")
            )
    found.append(("exposure", 1e-2, "of the images' exposures, at the first step"))
    found.append(("exposure_final", 1e-3, "of the exposures at the last step, approached exponentially"))
    return make_dataclass("Rates", [(name, float, key(default, about)) for name, default, about in found])


def recipe_of(schema: Schema, base: "type[Recipe]") -> "type[Recipe]":
    """The config of a task with this schema: all keys of `base`, with a rate for each parameter."""
    rates = rates_of(schema)
    return make_dataclass(base.__name__, [("rates", rates, key(rates, "learning rates"))], bases=(base,))


if TYPE_CHECKING:  # a class that is made while running is no type to a checker
    Rates = Any
else:
    Rates = rates_of(GAUSSIAN)


@dataclass
class Recipe(Common):
    """Every key of `configs/scene.yaml`."""

    task: str = key("scene", "scene, or the package.module:Class of a task derived from SceneTask")
    out: str = key("runs/scene", "the run folder to write; it must be new or empty", path=True)
    steps: int = key(7000, "updates to make")
    log_every: int = key(50, "steps between lines of metrics.jsonl")
    reader: str = key("colmap", "how the folder of data.path is read: colmap, or a package.module:Class")
    data: Any = chosen(READERS, "reader", "keys of the reader: the images and their cameras")
    init: str = key(
        "sfm",
        "sfm, random (both at the points of the model), or a file to start from: PLY, .splat, SPZ, glTF",
        path=True,
    )
    sh_degree: int = key(3, "degree of the spherical harmonics, 0 to 4")
    sh_every: int = key(1000, "steps after which the degree in use rises by one")
    losses: Entries = entries(LOSSES, {"photometric": {}}, "the terms of the loss")
    lambda_dssim: float | None = key(None, "short for losses.photometric.lambda_dssim; null: what is set there")
    antialiased: bool = key(False, "scale opacities for the low-pass filter (Mip-Splatting)")
    coarse: list[float] = key([], "fractions of all steps at which the size of the images doubles, up to full size")
    exposure: bool = key(False, "learn an affine colour for each training image, for varying exposures")
    rates: Rates = key(Rates, "learning rates")
    strategy: str = key("adaptive", "how the number of Gaussians changes: adaptive, fixed, or a package.module:Class")
    densify: Any = chosen(STRATEGIES, "strategy", "keys of the strategy")
    evaluate_every: int = key(0, "steps between evaluations on held-out images; 0: at the end only")
    patience: int = key(
        0, "evaluations in a row without a better PSNR, after which training ends; 0: never; needs evaluate_every"
    )
    lpips: bool = key(False, "also measure LPIPS after training; needs splatlearn[lpips] and its weights")
    cuda_graph: bool = key(
        False, "on a GPU, record a step once and replay it as a CUDA graph: the same bits, less work for the host"
    )
    timelapse: int = key(0, "frames of a video of the training, RUN/renders/timelapse.mp4; 0: no video")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.sh_degree <= 4:
            raise SplatlearnError(f"'sh_degree' must be from 0 to 4, got {self.sh_degree}")
        if self.evaluate_every < 0 or self.patience < 0:
            raise SplatlearnError(
                f"'evaluate_every' and 'patience' must be at least 0, got {self.evaluate_every} and {self.patience}"
            )
        if self.patience and not self.evaluate_every:
            raise SplatlearnError(f"'patience' needs evaluations: set 'evaluate_every', got patience {self.patience}")
        if self.cuda_graph and self.exposure:
            raise SplatlearnError("'cuda_graph' does not go with 'exposure', which is learned by image")
        if not 0 <= self.timelapse <= 10_000:
            raise SplatlearnError(f"'timelapse' must be from 0 to 10000 pictures, got {self.timelapse}")
        if self.sh_every < 1:
            raise SplatlearnError(f"'sh_every' must be at least 1, got {self.sh_every}")
        for name, rate in vars(self.rates).items():
            if rate < 0:
                raise SplatlearnError(f"'rates.{name}' must be at least 0, got {rate}")
        if self.lambda_dssim is not None:
            self.losses["photometric"] = replace(self.losses["photometric"], lambda_dssim=self.lambda_dssim)
            self.lambda_dssim = None
        if self.coarse != sorted(self.coarse) or not all(0 <= at <= 1 for at in self.coarse):
            raise SplatlearnError(f"'coarse' must be rising fractions from 0 to 1, got {self.coarse}")
