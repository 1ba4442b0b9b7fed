"""The model of a scene: N Gaussians with their six parameters, how they begin, and how they are drawn.

Shapes: N Gaussians, K = (degree + 1)^2 spherical-harmonics bases, H x W pixels.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from splatlearn.errors import SplatlearnError
from splatlearn.ops.bin import bin
from splatlearn.ops.project import DetachedGaussians, project
from splatlearn.ops.rasterize import rasterize
from splatlearn.scene.cameras import Camera
from splatlearn.scene.formats.ply import read_ply, write_ply
from splatlearn.scene.formats.registry import read
from splatlearn.scene.order import morton_order
from splatlearn.scene.photos.staging import upload

SH0 = 0.28209479177387814  # the constant basis: colour = 1/2 + SH0 * sh0
NAMES = ("means", "scales", "quats", "opacities", "sh0", "shN")


class Rendering(NamedTuple):
    """One picture and what training reads of how it was made."""

    image: Tensor  # [H, W, 3] float32, 0..1 and a little beyond
    alpha: Tensor  # [H, W, 1]
    means2d: Tensor  # [1, N, 2] px, in the graph
    radii: Tensor  # [1, N, 2] int32 px, 0: not drawn
    colors: Tensor  # [1, N, 3] seen from the camera, in the graph
    detached: DetachedGaussians | None = None  # where backward ends, if not at the parameters


class Pose(NamedTuple):
    """A camera as the rasterizer takes it, float32 on its device."""

    viewmat: Tensor  # [1, 4, 4] world to camera
    K: Tensor  # [1, 3, 3] px
    center: Tensor  # [1, 3] world

    @classmethod
    def of(cls, numbers: Tensor) -> "Pose":
        """Views of what `pose_numbers` gave."""
        return cls(numbers[:16].view(1, 4, 4), numbers[16:25].view(1, 3, 3), numbers[25:28].view(1, 3))


def pose_numbers(camera: Camera) -> Tensor:
    """A camera in one tensor [28] float32, which goes to a device in one copy."""
    parts = [camera.world_to_camera.ravel(), camera.K.ravel(), camera.center]
    return torch.from_numpy(np.concatenate(parts).astype(np.float32))


@lru_cache(maxsize=4096)
def pose_of(camera: Camera, device: torch.device) -> Pose:
    """A camera on a device, where it stays for the next time."""
    return Pose.of(upload(pose_numbers(camera), device))


class Gaussians(nn.Module):
    """N Gaussians as trainable parameters, before activation.

    means [N, 3] world; scales [N, 3] logarithms of standard deviations; quats [N, 4] wxyz of any norm; opacities [N]
    logits; sh0 [N, 1, 3] and shN [N, K-1, 3] spherical-harmonics coefficients.
    """

    means: nn.Parameter
    scales: nn.Parameter
    quats: nn.Parameter
    opacities: nn.Parameter
    sh0: nn.Parameter
    shN: nn.Parameter

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """`tensors` by name as above, copied to contiguous float32.

        Raises:
            SplatlearnError: a tensor is missing or its shape does not fit.
        """
        super().__init__()
        missing = [name for name in NAMES if name not in tensors]
        if missing:
            raise SplatlearnError(f"Gaussians need the tensors {', '.join(NAMES)}, but {', '.join(missing)} is missing")
        n, bases = tensors["means"].shape[0], tensors["shN"].shape[1] + 1
        shapes = ((n, 3), (n, 3), (n, 4), (n,), (n, 1, 3), (n, bases - 1, 3))
        for name, shape in zip(NAMES, shapes, strict=True):
            if tuple(tensors[name].shape) != shape:
                raise SplatlearnError(f"{name} must have shape {list(shape)}, but has {list(tensors[name].shape)}")
            self.replace(name, tensors[name].detach().float().contiguous().clone())
        if math.isqrt(bases) ** 2 != bases or not 1 <= bases <= 25:
            raise SplatlearnError(f"shN must hold 0, 3, 8, 15 or 24 bases, but has {bases - 1}")

    @classmethod
    def from_points(
        cls,
        points: np.ndarray,
        colors: np.ndarray,
        *,
        sh_degree: int = 3,
        init: Literal["sfm", "random"] = "sfm",
        generator: torch.Generator | None = None,
    ) -> "Gaussians":
        """One Gaussian at each of the points of structure from motion.

        Args:
            points: [N, 3] float world; colors: [N, 3] uint8.
            init: "sfm": the point's colour, an isotropic scale from the 3 nearest neighbours, opacity 0.1 (Kerbl et al.
                2023); "random": the scale varies about that by axis; rotation, colour and opacity are random.
            generator: for "random".

        Raises:
            SplatlearnError: there is no point.
        """
        if len(points) == 0:
            raise SplatlearnError("Gaussians cannot begin from 0 points: at least one is needed")
        means = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32))
        n = len(means)
        spacing = torch.from_numpy(np.log(neighbour_distances(points))).float()
        scales, quats = spacing[:, None].repeat(1, 3), torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(n, 1)
        opacities, rgb = torch.full((n,), 0.1), torch.from_numpy(colors.astype(np.float32) / 255)
        if init == "random":
            scales = scales + 0.5 * torch.randn(n, 3, generator=generator)
            quats = torch.randn(n, 4, generator=generator)
            opacities = 0.05 + 0.9 * torch.rand(n, generator=generator)
            rgb = torch.rand(n, 3, generator=generator)
        tensors = {
            "means": means,
            "scales": scales,
            "quats": quats,
            "opacities": torch.logit(opacities),
            "sh0": ((rgb - 0.5) / SH0)[:, None],
            "shN": torch.zeros(n, (sh_degree + 1) ** 2 - 1, 3),
        }
        return cls(tensors)

    @classmethod
    def from_ply(cls, path: Path | str) -> "Gaussians":
        """Gaussians of a PLY file of the original 3DGS; errors as `splatlearn.scene.formats.ply.read_ply`."""
        return cls(read_ply(path))

    @classmethod
    def load(cls, path: Path | str) -> "Gaussians":
        """Gaussians of a PLY, .splat, SPZ or glTF file, by its suffix; errors as `formats.registry.read`."""
        return cls(read(path).tensors)

    def at_least(self, sh_degree: int) -> "Gaussians":
        """The same Gaussians with room for colours by direction up to `sh_degree`: zeros where there were none."""
        missing = (sh_degree + 1) ** 2 - 1 - self.shN.shape[1]
        if missing > 0:
            self.replace("shN", torch.cat([self.shN.detach(), self.shN.new_zeros(len(self), missing, 3)], dim=1))
        return self

    def save_ply(self, path: Path | str) -> None:
        """Writes a PLY file of the original 3DGS, in the frame of the means."""
        write_ply(path, self.tensors())

    def replace(self, name: str, value: Tensor) -> None:
        """Makes `value` the parameter `name`, of whatever N."""
        self.register_parameter(name, nn.Parameter(value))

    def arranged(self) -> "Gaussians":
        """The same Gaussians, those near in space near in memory (`splatlearn.scene.order`), where they draw faster."""
        order = morton_order(self.means.detach())
        for name, value in self.tensors().items():
            self.replace(name, value[order])
        return self

    def tensors(self) -> dict[str, Tensor]:
        """The parameters by name, detached."""
        return {name: getattr(self, name).detach() for name in NAMES}

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics held."""
        return math.isqrt(self.shN.shape[1] + 1) - 1

    def forward(
        self,
        camera: Camera,
        *,
        background: Tensor | None = None,
        sh_degree: int | None = None,
        antialiased: bool = False,
        detached: bool = False,
    ) -> Rendering:
        """Draws the scene from a camera.

        Args:
            background: [3] colour behind everything; None: black.
            sh_degree: use the bases up to this degree only; None: all.
            leaves: backward ends at the 2D Gaussians, from which `GaussianAdam.step` goes on; the parameters get no
                gradient.
        """
        return self.draw(
            pose_of(camera, self.means.device), camera.width, camera.height,
            background=background, sh_degree=sh_degree, antialiased=antialiased, detached=detached,
        )  # fmt: skip

    def draw(
        self,
        pose: Pose,
        width: int,
        height: int,
        *,
        background: Tensor | None = None,
        sh_degree: int | None = None,
        antialiased: bool = False,
        detached: bool = False,
    ) -> Rendering:
        """Draws the scene from a pose that is on its device already; otherwise as `forward`."""
        splats = project(
            self.means, self.quats, self.scales, self.opacities, self.sh0, self.shN,
            pose.viewmat, pose.K, width, height,
            sh_degree=self.sh_degree if sh_degree is None else min(sh_degree, self.sh_degree),
            antialiased=antialiased, raw=True, camera_centers=pose.center, detached=detached,
        )  # fmt: skip
        assert splats.colors is not None
        ellipses = (splats.means2d, splats.conics, splats.opacities)
        tiles = bin(*ellipses, splats.depths, splats.radii, width, height, n_cameras=1, ahead=True)
        behind = None if background is None else background[None]
        image, alpha = rasterize(*ellipses, splats.colors, behind, tiles, width, height, records=splats.records)
        # squeeze, as the gradient of image[0] would be copied into zeros
        ends = splats if isinstance(splats, DetachedGaussians) else None
        return Rendering(image.squeeze(0), alpha.squeeze(0), splats.means2d, splats.radii, splats.colors, ends)


def neighbour_distances(points: np.ndarray, neighbours: int = 3) -> np.ndarray:
    """Root mean square distance [N] of each point to its nearest neighbours, at least 1e-6 of the cloud's size."""
    from scipy.spatial import cKDTree

    size = float(np.ptp(points, axis=0).max()) if len(points) > 1 else 0.0
    floor = max(size * 1e-6, 1e-9)
    count = min(neighbours, len(points) - 1)
    if count == 0:
        return np.full(len(points), max(size, 0.01))
    distances = np.asarray(cKDTree(points).query(points, k=count + 1)[0])[:, 1:]
    return np.maximum(np.sqrt((distances**2).mean(axis=1)), floor)
