"""The frame in which a scene is learned, and the way back to the frame of its capture, in float64.

A capture may stand anywhere and have any size: UTM coordinates have seven digits before the point, a reconstruction may
be a thousandth of a unit wide. Float32 does not hold the first, and no threshold in world units fits both. So cameras
and points are moved and scaled when they are read, and everything that leaves is moved back:

    capture = offset + scale * normalised

The scale is a power of two and the offset a multiple of it, so that undoing either rounds nothing that float64 holds.
A scene that is scaled by a power of two, or moved by multiples of the scale, is learned with the same bits.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.scene.cameras import Camera, radius_of
from splatlearn.scene.geometry import near_depth

NEAR = 0.01  # near plane, relative to the depth at which most cameras see their first points
LARGEST = 1e100  # of a number in a frame: its square is finite
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Frame:
    """A similarity between the frame of the capture (COLMAP's) and the normalised one.

    scale: lengths of the capture per normalised length, a power of two where `frame_of_cameras` chose it.
    offset: the normalised origin in the capture's frame.
    near: the near plane, in normalised lengths. The frame of runs of earlier versions is the identity with 0.01.
    """

    scale: float = 1.0
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    near: float = NEAR

    def __post_init__(self) -> None:
        numbers = (self.scale, self.near, *self.offset)
        if not all(math.isfinite(x) and abs(x) < LARGEST for x in numbers) or min(self.scale, self.near) < 1 / LARGEST:
            raise SplatlearnError(
                f"a frame must have a positive scale, a positive near plane and a finite offset, got {self}"
            )

    @property
    def moves(self) -> bool:
        """Whether the two frames differ."""
        return self.scale != 1 or any(self.offset)

    # ---- points [N, 3], float64 ----

    def normalised_points(self, points: Any) -> np.ndarray:
        """Map points of the capture's frame to the normalised one."""
        return (np.asarray(points, np.float64).reshape(-1, 3) - self.offset) / self.scale

    def capture_points(self, points: Any) -> np.ndarray:
        """Map normalised points to the capture's frame."""
        return np.asarray(points, np.float64).reshape(-1, 3) * self.scale + self.offset

    # ---- cameras ----

    def normalised_camera(self, camera: Camera) -> Camera:
        """Map a camera of the capture's frame to the normalised one: x = R X + t with X = offset + scale X'."""
        pose = camera.world_to_camera.copy()
        pose[:3, 3] = (pose[:3, :3] @ np.array(self.offset) + pose[:3, 3]) / self.scale
        return Camera(camera.name, camera.width, camera.height, camera.K, pose)

    def capture_camera(self, camera: Camera) -> Camera:
        """Map a normalised camera to the capture's frame."""
        pose = camera.world_to_camera.copy()
        pose[:3, 3] = self.scale * pose[:3, 3] - pose[:3, :3] @ np.array(self.offset)
        return Camera(camera.name, camera.width, camera.height, camera.K, pose)

    # ---- Gaussians, as `Gaussians.tensors()` ----

    def normalised_tensors(self, tensors: Tensors) -> dict[str, Tensor]:
        """Map Gaussians of the capture's frame to the normalised one: means [N, 3] of any dtype become float32."""
        means = tensors["means"]
        if self.moves:
            means = (means.double() - means.new_tensor(self.offset, dtype=torch.float64)) / self.scale
        scales = tensors["scales"] - math.log(self.scale) if self.scale != 1 else tensors["scales"]
        return {**tensors, "means": means.float(), "scales": scales}

    def capture_tensors(self, tensors: Tensors) -> dict[str, Tensor]:
        """Map normalised Gaussians to the capture's frame; the means become float64 where the frames differ."""
        if not self.moves:
            return dict(tensors)
        means = tensors["means"]
        means = means.double() * self.scale + means.new_tensor(self.offset, dtype=torch.float64)
        return {**tensors, "means": means, "scales": tensors["scales"] + math.log(self.scale)}

    # ---- JSON ----

    def record(self) -> dict[str, Any]:
        """The frame as a JSON object."""
        return {"scale": self.scale, "offset": list(self.offset), "near": self.near}

    @classmethod
    def of_record(cls, record: Any, name: str) -> "Frame":
        """Take back what `record` returned.

        Args:
            record: The object; None is the identity, the frame of earlier versions.
            name: Names the source in an error.

        Raises:
            SplatlearnError: The object is no frame.
        """
        if record is None:
            return cls()
        try:
            offset = tuple(map(_number, record["offset"]))
            if len(offset) != 3:
                raise ValueError(f"{len(offset)} numbers of an offset")
            return cls(_number(record["scale"]), offset, _number(record.get("near", NEAR)))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, SplatlearnError) as error:
            raise SplatlearnError(
                f"{name} must hold a frame: a scale above 0, an offset of 3 numbers and a near plane ({error})"
            ) from error


def frame_of_cameras(cameras: Sequence[Camera], points: np.ndarray) -> Frame:
    """Choose the frame of a capture: the cameras' median is the origin, their radius or the scene's depth the unit.

    Args:
        cameras: in the capture's frame; those whose poses are implausible left out.
        points: [P, 3] in the capture's frame; P may be 0.
    """
    centers = np.stack([camera.center for camera in cameras])
    middle = np.median(centers, axis=0)
    depth = near_depth(cameras, points)
    size = max(radius_of(centers), depth)
    return _frame(middle, size, depth or size) if size > 0 else Frame(offset=_rounded(middle, 1.0))


def frame_of_means(means: Any) -> Frame:
    """Choose the frame of bare Gaussians, of which no cameras are known, from their means [N, 3]."""
    points = means.double().cpu().numpy() if isinstance(means, Tensor) else np.asarray(means, np.float64)
    if not len(points):
        return Frame()
    middle = np.median(points, axis=0)
    size = float(np.median(np.abs(points - middle).max(axis=1)))
    return _frame(middle, size, size) if size > 0 else Frame(offset=_rounded(middle, 1.0))


def _frame(middle: np.ndarray, size: float, depth: float) -> Frame:
    scale = 2.0 ** round(math.log2(size))
    return Frame(scale, _rounded(middle, scale), NEAR * depth / scale)


def _rounded(middle: np.ndarray, step: float) -> tuple[float, float, float]:
    """The multiple of `step` next to a point; 0.0 rather than -0.0."""
    x, y, z = (float(value) + 0.0 for value in np.rint(middle / step) * step)
    return x, y, z


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"expected a number, got {str(value)[:40]!r}")
    return float(value)
