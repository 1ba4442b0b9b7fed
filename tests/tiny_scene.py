"""A COLMAP folder small enough to train on in a second: pictures of known Gaussians, drawn by the rasterizer itself."""

import math
from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch

from splatlearn.scene.cameras import Camera
from splatlearn.scene.gaussians import Gaussians

WIDTH, HEIGHT = 50, 37
K = np.array([[45.0, 0, WIDTH / 2], [0, 45.0, HEIGHT / 2], [0, 0, 1]])


def gaussians(count: int = 60, seed: int = 0) -> Gaussians:
    """A cloud of coloured Gaussians about the origin."""
    random = np.random.default_rng(seed)
    points = random.normal(size=(count, 3)) * 0.6
    cloud = Gaussians.from_points(points, random.integers(0, 256, (count, 3), dtype=np.uint8), sh_degree=1)
    with torch.no_grad():
        cloud.opacities.fill_(1.5)
        cloud.scales.clamp_(max=math.log(0.3))
    return cloud


def cameras(count: int = 9) -> list[Camera]:
    """Cameras on a ring that look at the origin."""
    out = []
    for index in range(count):
        angle = 2 * math.pi * index / count
        forward = np.array([-math.cos(angle), 0.2, -math.sin(angle)])
        forward /= np.linalg.norm(forward)
        right = np.cross([0, 1.0, 0], forward)
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(forward, right), forward])
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, rotation @ (3.5 * forward)
        out.append(Camera(f"view_{index}.png", WIDTH, HEIGHT, K, pose))
    return out


def write(root: Path, count: int = 9, scale: float = 1.0, shift: Sequence[float] = (0, 0, 0)) -> Path:
    """A COLMAP folder with a text model at `root`, scaled, then moved, which changes no pixel; returns it."""
    from scipy.spatial.transform import Rotation

    truth, lines = gaussians(), []
    (root / "images").mkdir(parents=True)
    (root / "sparse" / "0").mkdir(parents=True)
    for index, camera in enumerate(cameras(count), start=1):
        with torch.no_grad():
            picture = truth(camera).image.clamp(0, 1)
        iio.imwrite(root / "images" / camera.name, (picture.numpy() * 255).round().astype(np.uint8))
        x, y, z, w = Rotation.from_matrix(camera.world_to_camera[:3, :3]).as_quat()
        translation = -camera.world_to_camera[:3, :3] @ (camera.center * scale + shift)
        pose = " ".join(f"{value:.17g}" for value in (w, x, y, z, *translation))
        lines.append(f"{index} {pose} 1 {camera.name}\n\n")
    model = root / "sparse" / "0"
    (model / "cameras.txt").write_text(f"1 PINHOLE {WIDTH} {HEIGHT} 45 45 {WIDTH / 2} {HEIGHT / 2}\n")
    (model / "images.txt").write_text("".join(lines))
    points = truth.means.detach().double().numpy() * scale + shift
    rows = [f"{i} {p[0]:.17g} {p[1]:.17g} {p[2]:.17g} 128 128 128 0.5\n" for i, p in enumerate(points, start=1)]
    (model / "points3D.txt").write_text("".join(rows))
    return root
