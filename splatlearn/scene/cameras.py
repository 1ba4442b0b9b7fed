"""The ideal pinhole camera that all parts of a scene share: lens models stay inside the loader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SMALLEST_EXTENT = 1e-3
FAR = 10.0  # times the median distance from the median, beyond which a camera is far off


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera with its pose, in COLMAP's and OpenCV's frame: x right, y down, z forward.

    A point `X` of the world lies at `x = world_to_camera @ (X, 1)` in the camera and at `K @ x`, divided by
    its last component, in the image, where the centre of the first pixel is (0.5, 0.5).

    name: the image's name, a relative path with forward slashes; unique in a scene.
    width, height: the image's size in pixels.
    K: [3, 3] float64, the intrinsic matrix in pixels.
    world_to_camera: [4, 4] float64, a rigid transform.
    """

    name: str
    width: int
    height: int
    K: np.ndarray
    world_to_camera: np.ndarray

    @property
    def center(self) -> np.ndarray:
        """The camera's centre in the world, [3] float64."""
        rotation, translation = self.world_to_camera[:3, :3], self.world_to_camera[:3, 3]
        return -rotation.T @ translation

    def scaled(self, width: int, height: int) -> Camera:
        """The same camera with an image of `width` by `height` pixels; `K` is scaled axis by axis."""
        ratios = np.array([width / self.width, height / self.height, 1.0])
        return Camera(self.name, width, height, self.K * ratios[:, None], self.world_to_camera)


def scene_extent(cameras: Sequence[Camera]) -> float:
    """The scene's radius: 1.1 times the largest distance of a camera's centre from the mean of all centres.

    The original 3D Gaussian splatting scales the learning rate of positions and its size thresholds by this
    length. Cameras that are `far_off` do not count: one wrong pose would make every step of the others too large. It
    is never below `SMALLEST_EXTENT`, so that a scene of one camera can still learn.
    """
    if not cameras:
        return SMALLEST_EXTENT
    return max(1.1 * radius_of(np.stack([camera.center for camera in cameras])), SMALLEST_EXTENT)


def radius_of(centers: np.ndarray) -> float:
    """The largest distance of centres [C, 3] from their mean, without those that are `far_off`."""
    kept = centers[~far_off(centers)]
    return float(np.linalg.norm(kept - kept.mean(axis=0), axis=1).max())


def far_off(centers: np.ndarray, factor: float = FAR) -> np.ndarray:
    """Find centres [C, 3] that lie more than `factor` times as far from the median as most others; [C] bool.

    The median bears up to half of them. Where most centres are at one place, none is far off.
    """
    distances = np.linalg.norm(centers - np.median(centers, axis=0), axis=1)
    typical = float(np.median(distances))
    return distances > factor * typical if typical > 0 else np.zeros(len(centers), bool)
