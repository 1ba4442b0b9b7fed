"""The pose of a browser's camera, as viser reports it, and the camera that renders its picture."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.scene.cameras import Camera
from splatlearn.scene.keyframes import FARTHEST, Keyframe, pinhole_camera

if TYPE_CHECKING:
    from viser import CameraHandle

SMALLEST = 16  # pixels that the shorter side of a picture has at least
LONGEST = 16384  # pixels of a window's longer side
MOST_PIXELS = 3840 * 2160  # of a picture; a larger window shows it enlarged
FOV = (1.0, 170.0)  # degrees


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
        """Read the camera as viser last heard of it; its axes are x right, y down, z forward as ours.

        The field of view and the size are brought into the range of a real window.

        Raises:
            SplatlearnError: The pose is not one: the browser sent NaN, a rotation of norm 0 or other types.
        """
        try:
            position, wxyz = (np.array(v, np.float64) for v in (camera.position, camera.wxyz))
            numbers = [float(camera.fov), float(camera.image_width), float(camera.image_height)]
        except (TypeError, ValueError, OverflowError) as error:
            raise SplatlearnError("a browser's camera must consist of numbers") from error
        valid = position.shape == (3,) and wxyz.shape == (4,) and np.isfinite(numbers).all()
        if not valid or not (np.abs(position) < FARTHEST).all() or not 1e-6 < np.linalg.norm(wxyz) < FARTHEST:
            raise SplatlearnError(f"a browser's camera must have a finite position and a rotation, got {position}")
        fov = float(np.clip(np.degrees(numbers[0]), *FOV))
        width, height = (int(np.clip(n, 1, LONGEST)) for n in numbers[1:])
        return cls(position, wxyz, fov, width, height)

    def camera(self, factor: float = 1.0) -> Camera:
        """Return the camera of a picture of 1 / factor of the window's size, and of MOST_PIXELS at most."""
        full = pinhole_camera("", self.width, self.height, self.fov, self.position, self.wxyz)
        factor = max(factor, (full.width * full.height / MOST_PIXELS) ** 0.5)
        factor = max(1.0, min(factor, min(full.width, full.height) / SMALLEST))
        return full if factor == 1 else full.scaled(round(full.width / factor), round(full.height / factor))

    def keyframe(self, seconds: float) -> Keyframe:
        """The pose as a keyframe of a path."""
        return Keyframe(seconds, self.position, self.wxyz, self.fov)
