"""How a scene is learned: every key of `configs/scene.yaml`, with its default and its bounds."""

from dataclasses import dataclass
from typing import Literal

from splatlearn.config import Common, key
from splatlearn.errors import SplatlearnError
from splatlearn.scene.readers.colmap import ColmapScene
from splatlearn.scene.training.densify import AdaptiveDensity


@dataclass
class Rates:
    """Learning rates, by parameter."""

    means: float = key(1.6e-4, "of the means, in scene extents, at the first step")
    means_final: float = key(1.6e-6, "of the means at the last step, approached exponentially")
    scales: float = key(5e-3, "of the logarithmic scales")
    quats: float = key(1e-3, "of the quaternions")
    opacities: float = key(5e-2, "of the opacity logits")
    sh0: float = key(2.5e-3, "of the constant colour")
    shN: float = key(1.25e-4, "of the view-dependent colour")
    exposure: float = key(1e-2, "of the photographs' exposures, at the first step")
    exposure_final: float = key(1e-3, "of the exposures at the last step, approached exponentially")


@dataclass
class Recipe(Common):
    """Every key of `configs/scene.yaml`."""

    task: Literal["scene"] = key("scene", "what is learned")
    out: str = key("runs/scene", "the run folder to write; it must be new or empty")
    steps: int = key(7000, "updates to make")
    log_every: int = key(50, "steps between lines of metrics.jsonl")
    data: ColmapScene.Config = key(ColmapScene.Config, "the photographs and their cameras")
    init: str = key(
        "sfm", "sfm, random (both at the points of the model), or a file to start from: PLY, .splat, SPZ, glTF"
    )
    sh_degree: int = key(3, "degree of the spherical harmonics, 0 to 4")
    sh_every: int = key(1000, "steps after which the degree in use rises by one")
    lambda_dssim: float = key(0.2, "weight of 1 - SSIM against L1")
    antialiased: bool = key(False, "scale opacities for the low-pass filter (Mip-Splatting)")
    coarse: list[float] = key([], "fractions of all steps at which the picture's size doubles, up to full size")
    exposure: bool = key(False, "learn an affine colour for each training photograph, of varying exposures")
    rates: Rates = key(Rates, "learning rates")
    densify: AdaptiveDensity.Config = key(AdaptiveDensity.Config, "adaptive density control")
    evaluate_every: int = key(0, "steps between evaluations on held-out photographs; 0: at the end only")
    patience: int = key(
        0, "evaluations in a row without a better PSNR, after which training ends; 0: never; needs evaluate_every"
    )
    cuda_graph: bool = key(
        False, "on a card, record a step once and replay it as a CUDA graph: the same bits, less work for the host"
    )
    timelapse: int = key(0, "pictures in a film of the training, RUN/renders/timelapse.mp4; 0: no film")

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
            raise SplatlearnError("'cuda_graph' does not go with 'exposure', which is learned by photograph")
        if not 0 <= self.timelapse <= 10_000:
            raise SplatlearnError(f"'timelapse' must be from 0 to 10000 pictures, got {self.timelapse}")
        if self.sh_every < 1:
            raise SplatlearnError(f"'sh_every' must be at least 1, got {self.sh_every}")
        if not 0 <= self.lambda_dssim <= 1:
            raise SplatlearnError(f"'lambda_dssim' must be from 0 to 1, got {self.lambda_dssim}")
        if self.coarse != sorted(self.coarse) or not all(0 <= at <= 1 for at in self.coarse):
            raise SplatlearnError(f"'coarse' must be rising fractions from 0 to 1, got {self.coarse}")
