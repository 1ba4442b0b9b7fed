"""The pose of a browser's camera, as viser reports it, and the camera that renders its picture."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from splatlearn.scene.cameras import Camera
from splatlearn.scene.keyframes import Keyframe, pinhole_camera

if TYPE_CHECKING:
    from viser import CameraHandle

SMALLEST = 16  # pixels that the shorter side of a picture has at least


@dataclass(frozen=True)
class BrowserPose:
    """A browser's camera: centre [3] and rotation camera to world [4] wxyz, vertical field of view in degrees, px."""

    position: np.ndarray
    wxyz: np.ndarray
    fov: float
    width: int
    height: int

    @classmethod
    def of(cls, camera: "CameraHandle") -> "BrowserPose":
        """The camera as viser last heard of it; its axes are x right, y down, z forward as ours."""
        fov = float(np.degrees(camera.fov))
        return cls(camera.position.copy(), camera.wxyz.copy(), fov, camera.image_width, camera.image_height)

    def camera(self, factor: float = 1.0) -> Camera:
        """The camera, its picture 1 / factor of the window's size."""
        full = pinhole_camera("", max(self.width, 1), max(self.height, 1), self.fov, self.position, self.wxyz)
        factor = max(1.0, min(factor, min(full.width, full.height) / SMALLEST))
        return full if factor == 1 else full.scaled(round(full.width / factor), round(full.height / factor))

    def keyframe(self, seconds: float) -> Keyframe:
        """The pose as a keyframe of a path."""
        return Keyframe(seconds, self.position, self.wxyz, self.fov)
