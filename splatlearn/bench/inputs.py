"""What a benchmark runs on: the photographs of a COLMAP folder, or a ball of any number of Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.scene.cameras import Camera
from splatlearn.scene.gaussians import SH0, Gaussians

View = tuple[Camera, torch.Tensor]  # a camera and its photograph, [H, W, 3] uint8
SPREAD = np.array([1.5, 1.0, 1.0])  # standard deviations of the synthetic ball
DISTANCE = 5.0  # of its camera
LARGEST = 50_000_000  # Gaussians of a synthetic scene


@dataclass
class Inputs:
    """The same for all that are compared."""

    gaussians: Gaussians
    views: list[View]
    folder: Path | None = None  # the COLMAP folder, where there is one

    @property
    def device(self) -> torch.device:
        return self.gaussians.means.device

    def to(self, device: torch.device) -> Inputs:
        views = [(camera, photo.to(device)) for camera, photo in self.views]
        return Inputs(self.gaussians.to(device), views, self.folder)


def photographs(folder: Path, gaussians: Path | None) -> Inputs:
    """The training photographs of a COLMAP folder, and the Gaussians of a PLY file or run, or at the model's points."""
    from splatlearn.commands.opened import load_gaussians
    from splatlearn.scene.colmap import ColmapScene

    scene = ColmapScene(ColmapScene.Config(path=str(folder)))
    model = load_gaussians(gaussians) if gaussians else Gaussians.from_points(scene.points, scene.point_colors)
    return Inputs(model, [(camera, scene.photo(camera)) for camera in scene.train], folder)


def synthetic(count: int, width: int, height: int, seed: int = 0) -> Inputs:
    """A ball of Gaussians whose sizes cover the picture about alike for any count, and a picture of noise.

    A Gaussian is as wide as the distance to its neighbours, 0.7 (N pdf)^(-1/3), as those of a reconstruction begin.
    """
    if not 1 <= count <= LARGEST:
        raise SplatlearnError(f"--count must be from 1 to {LARGEST:,}, got {count}")
    random = np.random.default_rng(seed)
    points = (random.standard_normal((count, 3), dtype=np.float32) * SPREAD).astype(np.float32)
    distance = ((points / SPREAD) ** 2).sum(axis=1)
    density = count * np.exp(-distance / 2) / ((2 * math.pi) ** 1.5 * SPREAD.prod())
    width_of = np.minimum(0.7 * density ** (-1 / 3), 0.5).astype(np.float32)
    colors = random.random((count, 1, 3), dtype=np.float32)
    gaussians = Gaussians(
        {
            "means": torch.from_numpy(points),
            "scales": torch.from_numpy(np.log(width_of))[:, None].repeat(1, 3),
            "quats": torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
            "opacities": torch.full((count,), math.log(0.1 / 0.9)),
            "sh0": torch.from_numpy((colors - 0.5) / SH0),
            "shN": torch.zeros(count, 15, 3),
        }
    )
    K = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    pose = np.eye(4)
    pose[2, 3] = DISTANCE
    photo = torch.from_numpy(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return Inputs(gaussians, [(Camera("synthetic.png", width, height, K, pose), photo)])


def picture_size(text: str) -> tuple[int, int]:
    """Width and height of WIDTHxHEIGHT, each from 1 to 2^15 pixels."""
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() and 1 <= int(side) <= 1 << 15 for side in sides):
        raise SplatlearnError(f"--size must be WIDTHxHEIGHT of at most {1 << 15} pixels a side, got {text!r}")
    return int(sides[0]), int(sides[1])


def write_colmap(inputs: Inputs, root: Path) -> Path:
    """Writes the inputs as a COLMAP folder with a text model, for a peer that reads one; returns `root`."""
    from PIL import Image
    from scipy.spatial.transform import Rotation

    model = root / "sparse" / "0"
    model.mkdir(parents=True)
    (root / "images").mkdir()
    lenses, images = [], []
    for index, (camera, photo) in enumerate(inputs.views, start=1):
        name = f"{index:05d}.png"
        Image.fromarray(photo.cpu().numpy()).save(root / "images" / name)
        x, y, z, w = Rotation.from_matrix(camera.world_to_camera[:3, :3]).as_quat()
        pose = " ".join(f"{value:.17g}" for value in (w, x, y, z, *camera.world_to_camera[:3, 3]))
        intrinsics = " ".join(f"{value:.17g}" for value in (*np.diag(camera.K)[:2], *camera.K[:2, 2]))
        lenses.append(f"{index} PINHOLE {camera.width} {camera.height} {intrinsics}\n")
        images.append(f"{index} {pose} {index} {name}\n\n")
    tensors = inputs.gaussians.tensors()
    points = tensors["means"].cpu().double().numpy()
    colors = (255 * (0.5 + SH0 * tensors["sh0"][:, 0])).clamp(0, 255).byte().cpu().numpy()
    rows = (
        f"{i} {p[0]:.9g} {p[1]:.9g} {p[2]:.9g} {c[0]} {c[1]} {c[2]} 0.5\n"
        for i, (p, c) in enumerate(zip(points, colors, strict=True), start=1)
    )
    for name, lines in (("cameras.txt", lenses), ("images.txt", images), ("points3D.txt", rows)):
        with replacing(model / name) as path, path.open("w") as file:
            file.writelines(lines)
    return root
