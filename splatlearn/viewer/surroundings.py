"""What the viewer knows of a scene beside its Gaussians: cameras, photos, background, and where a browser starts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splatlearn.scene.cameras import Camera, scene_extent
from splatlearn.scene.keyframes import rotation_of
from splatlearn.viewer.drawing import Snapshot


@dataclass(frozen=True)
class Surroundings:
    """What is known of a scene beside its Gaussians.

    train, test: the cameras of its photographs in the frame of the Gaussians, which `photo` gives as [H, W, 3] uint8;
    none for a bare file.
    background: RGB, 0..1, that it was trained on. folder: where camera paths and videos are written.
    """

    train: Sequence[Camera] = ()
    test: Sequence[Camera] = ()
    photo: Callable[[Camera], torch.Tensor] | None = None
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    folder: Path = field(default_factory=lambda: Path("renders"))

    @property
    def cameras(self) -> list[Camera]:
        """All cameras, by name."""
        return sorted([*self.train, *self.test], key=lambda camera: camera.name)


@dataclass(frozen=True)
class Start:
    """Where a browser begins. All vectors are [3], world; fov is vertical, degrees."""

    position: np.ndarray
    look_at: np.ndarray
    up: np.ndarray
    fov: float


def first_camera(snapshot: Snapshot, around: Surroundings) -> Start:
    """The first photograph's camera, or for a bare file a place in front of it, in the frame of COLMAP: y is down."""
    points = snapshot.tensors["means"]
    means = points[:: len(points) // 20_000 + 1].cpu().double().numpy()
    middle = np.median(means, axis=0) if len(means) else np.zeros(3)
    spread = float(np.percentile(np.linalg.norm(means - middle, axis=1), 80)) if len(means) else 1.0
    spread = max(spread, 1e-3)
    cameras = around.cameras
    if not cameras:
        return Start(middle - [0, 0, 2.5 * spread], middle, np.array([0.0, -1.0, 0.0]), 50.0)
    camera = cameras[0]
    forward = camera.world_to_camera[2, :3]
    up = -np.mean([each.world_to_camera[1, :3] for each in cameras], axis=0)
    up = up / np.linalg.norm(up) if np.linalg.norm(up) > 0.1 else -camera.world_to_camera[1, :3]
    depths = (means - camera.center) @ forward
    seen = depths[depths > 0]
    distance = float(np.median(seen)) if seen.size else spread
    fov = float(np.degrees(2 * np.arctan(camera.height / 2 / camera.K[1, 1])))
    return Start(camera.center, camera.center + max(distance, 1e-3) * forward, up, float(np.clip(fov, 10, 120)))


def frusta(around: Surroundings, most: int) -> list[tuple[Camera, dict[str, Any]]]:
    """Cameras to draw, at most so many, evenly chosen, with what viser's `add_camera_frustum` takes."""
    cameras = around.cameras
    chosen = [cameras[i] for i in np.linspace(0, len(cameras) - 1, min(most, len(cameras))).round().astype(int)]
    held_out = {camera.name for camera in around.test}
    size = 0.025 * scene_extent(cameras)
    return [
        (
            camera,
            {
                "fov": 2 * np.arctan(camera.height / 2 / camera.K[1, 1]),
                "aspect": camera.width / camera.K[0, 0] * camera.K[1, 1] / camera.height,
                "scale": size,
                "thickness": 1.5,
                "thickness_units": "screen",
                "color": (255, 150, 60) if camera.name in held_out else (90, 170, 255),
                "wxyz": rotation_of(camera),
                "position": camera.center,
                "cast_shadow": False,
                "receive_shadow": False,
            },
        )
        for camera in chosen
    ]
