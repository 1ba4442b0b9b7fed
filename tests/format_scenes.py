"""A scene for the tests of file formats: lopsided, so that mirrored axes, lost turns and unturned harmonics show."""

import math

import numpy as np
import torch

from splatlearn.scene.cameras import Camera
from splatlearn.scene.gaussians import Gaussians

Tensors = dict[str, torch.Tensor]


def lopsided(degree: int = 3, count: int = 250, seed: int = 7) -> Tensors:
    """Raw tensors of needles that lie, and shine, differently in every direction; float32."""
    random = torch.Generator().manual_seed(seed)
    means = torch.randn(count, 3, generator=random) * torch.tensor([0.9, 0.5, 0.7]) + torch.tensor([0.25, -0.4, 0.3])
    sizes = torch.tensor([0.24, 0.09, 0.03]) * torch.exp(0.3 * torch.randn(count, 3, generator=random))
    colors = torch.rand(count, 3, generator=random) * torch.tensor([1.0, 0.6, 0.3]) + means / 5
    bases = (degree + 1) ** 2
    return {
        "means": means,
        "scales": sizes.log(),
        "quats": torch.randn(count, 4, generator=random),
        "opacities": 1.5 * torch.randn(count, generator=random) + 0.5,
        "sh0": ((colors.clamp(0.05, 0.95) - 0.5) / 0.28209479)[:, None],
        "shN": 0.2 * torch.randn(count, bases - 1, 3, generator=random),
    }


def cameras(count: int = 5, width: int = 120, height: int = 90) -> list[Camera]:
    """Cameras around and above the scene, none of them level."""
    found = []
    for index in range(count):
        turn = 2 * math.pi * index / count + 0.4
        eye = np.array([3.2 * math.cos(turn), -1.0 + 0.8 * index / count, 3.2 * math.sin(turn)])
        forward = -eye / np.linalg.norm(eye)
        right = np.cross([0.2, 1.0, 0.1], forward)
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = [right, np.cross(forward, right), forward]
        pose[:3, 3] = -pose[:3, :3] @ eye
        K = np.array([[110.0, 0, width / 2 + 3], [0, 112.0, height / 2 - 2], [0, 0, 1]])
        found.append(Camera(f"view_{index}.png", width, height, K, pose))
    return found


def pictures(tensors: Tensors, sh_degree: int | None = None, views: list[Camera] | None = None) -> torch.Tensor:
    """The scene from all cameras, [C,H,W,3], as the rasterizer draws it."""
    model = Gaussians(tensors)
    with torch.no_grad():
        shown = [model(camera, sh_degree=sh_degree).image.clamp(0, 1) for camera in views or cameras()]
    return torch.stack(shown)


def worst_psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    """The lowest PSNR in dB over pictures [C,H,W,3]."""
    assert one.std() > 0.1, "the pictures show nothing to compare"
    errors = (one - other).square().flatten(1).mean(1).clamp(min=1e-14)
    return float((-10 * errors.log10()).min())
