"""A scene made of formulas: what figures of a scene are drawn from where no run is given.

The sculpture is a trefoil knot of Gaussians over a chequered disc, drawn from a ring of cameras by the framework's own
rasterizer and written as a COLMAP folder, so that a training reads it as it reads any photographs.
"""

import math
from pathlib import Path

import numpy as np
import torch

from splatlearn.files import replacing
from splatlearn.scene.cameras import Camera
from splatlearn.scene.gaussians import Gaussians
from splatlearn.show.pictures import save_png

WIDTH, HEIGHT, FOCAL = 208, 156, 190.0
KNOT, DISC = 1100, 700


def sculpture() -> tuple[np.ndarray, np.ndarray]:
    """Points [N, 3] float64 and colours [N, 3] float64 in 0..1; y points down, as in COLMAP's frame."""
    turn = np.linspace(0, 2 * np.pi, KNOT, endpoint=False)
    around = turn * 89
    spine = np.stack(
        [np.sin(turn) + 2 * np.sin(2 * turn), -np.sin(3 * turn), np.cos(turn) - 2 * np.cos(2 * turn)], axis=1
    )
    tube = 0.22 * np.stack([np.cos(around), np.sin(around), np.cos(around + 2)], axis=1)
    knot = 0.42 * (spine + tube) + [0, -0.25, 0]
    hues = 0.55 + 0.4 * np.stack([np.cos(turn), np.cos(turn - 2.1), np.cos(turn + 2.1)], axis=1)
    golden, radius = np.arange(DISC) * 2.399963, 1.75 * np.sqrt((np.arange(DISC) + 0.5) / DISC)
    disc = np.stack([radius * np.cos(golden), np.full(DISC, 0.5), radius * np.sin(golden)], axis=1)
    dark = (np.floor(disc[:, 0] * 2) + np.floor(disc[:, 2] * 2)) % 2
    floor = np.where(dark[:, None] > 0, [0.25, 0.27, 0.32], [0.82, 0.8, 0.76])
    return np.concatenate([knot, disc]), np.concatenate([hues, floor])


def cameras(count: int) -> list[Camera]:
    """A ring of cameras that look at the sculpture from above."""
    K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1.0]])
    found = []
    for index in range(count):
        angle = 2 * math.pi * index / count
        center = np.array([3.9 * math.cos(angle), -1.9, 3.9 * math.sin(angle)])
        forward = np.array([0, 0.05, 0]) - center
        forward /= np.linalg.norm(forward)
        right = np.cross([0, 1.0, 0], forward)
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
        pose[:3, 3] = -pose[:3, :3] @ center
        found.append(Camera(f"view_{index:02}.png", WIDTH, HEIGHT, K, pose))
    return found


def write_folder(root: Path, count: int = 20) -> Path:
    """The sculpture as a COLMAP folder with a text model: pictures, cameras, and some of its points, a little off."""
    from scipy.spatial.transform import Rotation

    points, colors = sculpture()
    truth = Gaussians.from_points(points, (255 * colors).round().astype(np.uint8), sh_degree=0)
    with torch.no_grad():
        truth.opacities.fill_(3.0)
        truth.scales.copy_(truth.scales.clamp(max=math.log(0.055)))
    model = root / "sparse" / "0"
    model.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, camera in enumerate(cameras(count), start=1):
        with torch.no_grad():
            save_png(root / "images" / camera.name, truth(camera).image)
        x, y, z, w = Rotation.from_matrix(camera.world_to_camera[:3, :3]).as_quat()
        pose = " ".join(f"{value:.17g}" for value in (w, x, y, z, *camera.world_to_camera[:3, 3]))
        lines.append(f"{index} {pose} 1 {camera.name}\n\n")
    random = np.random.default_rng(0)
    noisy = points + random.normal(size=points.shape) * 0.03
    rows = [f"{i} {p[0]:.6f} {p[1]:.6f} {p[2]:.6f} 128 128 128 0.5\n" for i, p in enumerate(noisy, start=1)]
    lens = f"1 PINHOLE {WIDTH} {HEIGHT} {FOCAL} {FOCAL} {WIDTH / 2} {HEIGHT / 2}\n"
    for name, text in (("cameras.txt", lens), ("images.txt", "".join(lines)), ("points3D.txt", "".join(rows))):
        with replacing(model / name) as path:
            path.write_text(text)
    return root
