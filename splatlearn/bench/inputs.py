"""What a benchmark runs on: the images of a COLMAP folder, or a sphere of any number of Gaussians."""

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
from splatlearn.scene.view import View

RADIUS, ROUGHNESS = 2.2, 0.02  # of the synthetic sphere, and how far its Gaussians lie off it, in radii
DISTANCE = 5.0  # of its camera
LARGEST = 50_000_000  # Gaussians of a synthetic scene


@dataclass
class Inputs:
    """The same for all that are compared."""

    gaussians: Gaussians
    views: list[View]  # each with an image [H, W, 3] uint8
    folder: Path | None = None  # the COLMAP folder, where there is one

    @property
    def device(self) -> torch.device:
        return self.gaussians.means.device

    def to(self, device: torch.device) -> Inputs:
        views = [View(view.camera, {"image": view.image.to(device)}) for view in self.views]
        return Inputs(self.gaussians.to(device), views, self.folder)


def image_folder(folder: Path, gaussians: Path | None) -> Inputs:
    """The training images of a COLMAP folder, and the Gaussians of a PLY file or run, or at the model's points."""
    from splatlearn.scene.load import load_placed
    from splatlearn.scene.readers.colmap import ColmapScene

    scene = ColmapScene(ColmapScene.Config(path=str(folder)))
    if gaussians:
        model, frame, _ = load_placed(gaussians)
        scene.place(frame)
    else:
        model = Gaussians.from_points(scene.points, scene.point_colors)
    views = [View(camera, {"image": scene.photo(camera)}) for camera in scene.train]
    return Inputs(model.arranged(), views, folder)


def synthetic(count: int, width: int, height: int, seed: int = 0) -> Inputs:
    """Gaussians over a rough sphere that fills the image, and an image of noise.

    Scenes are surfaces. A Gaussian is half as wide as the distance between neighbours on the surface, which falls with
    the root of their number. So a pixel blends some 20 of them, as in a captured scene, whatever their number.
    """
    if not 1 <= count <= LARGEST:
        raise SplatlearnError(f"--count must be from 1 to {LARGEST:,}, got {count}")
    random = np.random.default_rng(seed)
    points = random.standard_normal((count, 3), dtype=np.float32)
    rough = RADIUS * (1 + ROUGHNESS * random.standard_normal((count, 1), dtype=np.float32))
    points *= rough / np.linalg.norm(points, axis=1, keepdims=True).clip(1e-6)
    spacing = RADIUS * math.sqrt(4 * math.pi / count)
    axes = 0.5 * spacing * np.exp(0.3 * random.standard_normal((count, 3), dtype=np.float32))
    opacities = 0.1 + 0.8 * random.random(count, dtype=np.float32)
    gaussians = Gaussians(
        {
            "means": torch.from_numpy(points),
            "scales": torch.from_numpy(np.log(axes.clip(max=RADIUS / 2))),
            "quats": torch.from_numpy(random.standard_normal((count, 4), dtype=np.float32)),
            "opacities": torch.from_numpy(opacities).logit(),
            "sh0": torch.from_numpy((random.random((count, 1, 3), dtype=np.float32) - 0.5) / SH0),
            "shN": torch.zeros(count, 15, 3),
        }
    )
    K = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    pose = np.eye(4)
    pose[2, 3] = DISTANCE
    image = torch.from_numpy(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    camera = Camera("synthetic.png", width, height, K, pose)
    return Inputs(gaussians.arranged(), [View(camera, {"image": image})])


def picture_size(text: str) -> tuple[int, int]:
    """Width and height of WIDTHxHEIGHT, each from 1 to 2^15 pixels."""
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() and 1 <= int(side) <= 1 << 15 for side in sides):
        raise SplatlearnError(f"--size must be WIDTHxHEIGHT of at most {1 << 15} pixels a side, got {text!r}")
    return int(sides[0]), int(sides[1])


def write_colmap(inputs: Inputs, root: Path) -> Path:
    """Write the inputs as a COLMAP folder with a text model, for a peer that reads one; returns `root`."""
    from PIL import Image
    from scipy.spatial.transform import Rotation

    model = root / "sparse" / "0"
    model.mkdir(parents=True)
    (root / "images").mkdir()
    lenses, images = [], []
    for index, view in enumerate(inputs.views, start=1):
        name, camera = f"{index:05d}.png", view.camera
        Image.fromarray(view.image.cpu().numpy()).save(root / "images" / name)
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
