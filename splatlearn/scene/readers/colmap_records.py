"""What a COLMAP model's files hold, as plain records: both readers fill these, and one place checks them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# COLMAP's camera models by their number in cameras.bin, with the names of their parameters in file order
# (src/colmap/sensor/models.h). A name that starts with "f" is a focal length in pixels.
CAMERA_MODELS: dict[int, tuple[str, str]] = {
    0: ("SIMPLE_PINHOLE", "f cx cy"),
    1: ("PINHOLE", "fx fy cx cy"),
    2: ("SIMPLE_RADIAL", "f cx cy k"),
    3: ("RADIAL", "f cx cy k1 k2"),
    4: ("OPENCV", "fx fy cx cy k1 k2 p1 p2"),
    5: ("OPENCV_FISHEYE", "fx fy cx cy k1 k2 k3 k4"),
    6: ("FULL_OPENCV", "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6"),
    7: ("FOV", "fx fy cx cy omega"),
    8: ("SIMPLE_RADIAL_FISHEYE", "f cx cy k"),
    9: ("RADIAL_FISHEYE", "f cx cy k1 k2"),
    10: ("THIN_PRISM_FISHEYE", "fx fy cx cy k1 k2 p1 p2 k3 k4 sx1 sy1"),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", "fx fy cx cy k0 k1 k2 k3 k4 k5 p0 p1 s0 s1 s2 s3"),
    12: ("SIMPLE_DIVISION", "f cx cy k"),
    13: ("DIVISION", "fx fy cx cy k"),
    14: ("SIMPLE_FISHEYE", "f cx cy"),
    15: ("FISHEYE", "fx fy cx cy"),
    16: ("EUCM", "fx fy cx cy alpha beta"),
    17: ("EQUIRECTANGULAR", "w h"),
}
PARAMETERS_OF_MODEL: dict[str, list[str]] = {name: names.split() for name, names in CAMERA_MODELS.values()}

# The number that COLMAP writes for "this 2D point belongs to no 3D point".
NO_POINT = 2**64 - 1


@dataclass(frozen=True)
class Lens:
    """One camera of a model (COLMAP's "camera": a lens and a sensor, shared by many photographs)."""

    id: int
    model: str
    width: int
    height: int
    params: tuple[float, ...]

    def named(self) -> dict[str, float]:
        """The parameters by name, in file order."""
        return dict(zip(PARAMETERS_OF_MODEL[self.model], self.params, strict=True))


@dataclass(frozen=True)
class Pose:
    """A rigid transform: quaternion wxyz, then translation."""

    quaternion: tuple[float, float, float, float]
    translation: tuple[float, float, float]

    @staticmethod
    def of(numbers: tuple[float, ...]) -> Pose:
        """From the seven numbers qw qx qy qz tx ty tz."""
        qw, qx, qy, qz, tx, ty, tz = numbers
        return Pose((qw, qx, qy, qz), (tx, ty, tz))

    def matrix(self) -> np.ndarray:
        """[4, 4] float64; the quaternion is normalised first."""
        q = np.array(self.quaternion, dtype=np.float64)
        w, x, y, z = q / np.linalg.norm(q)
        transform = np.eye(4)
        transform[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
        transform[:3, 3] = self.translation
        return transform


@dataclass(frozen=True)
class Photograph:
    """One registered image: its pose (camera from world), its lens and the 3D points that it sees."""

    id: int
    name: str
    lens_id: int
    pose: Pose
    point_ids: np.ndarray  # uint64, without NO_POINT


@dataclass(frozen=True)
class Points:
    """The 3D points of a model."""

    ids: np.ndarray  # [P] uint64
    xyz: np.ndarray  # [P, 3] float64
    colors: np.ndarray  # [P, 3] uint8
    track_image_ids: np.ndarray  # uint32, all tracks one after the other


@dataclass(frozen=True)
class Rig:
    """Sensors that move together; the pose is sensor from rig, None where it is not known."""

    id: int
    sensors: dict[tuple[int, int], Pose | None]


@dataclass(frozen=True)
class Frame:
    """One instant of a rig: its pose (rig from world) and its data as (sensor type, sensor id, data id)."""

    id: int
    rig_id: int
    pose: Pose
    data: list[tuple[int, int, int]]


@dataclass(frozen=True)
class RawModel:
    """All records of a model as read, before they are checked against each other."""

    lenses: list[Lens]
    photographs: list[Photograph]
    points: Points
    rigs: list[Rig] | None
    frames: list[Frame] | None
