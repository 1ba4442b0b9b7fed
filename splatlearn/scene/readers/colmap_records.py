"""Records of a COLMAP model's files: the binary and the text reader fill them, `colmap_files` checks them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from splatlearn.ops.quaternions import rotation_rows

# COLMAP's camera models by their id in cameras.bin, with the parameter names in file order
# (src/colmap/sensor/models.h). A parameter whose name starts with "f" is a focal length in pixels.
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

# COLMAP writes this id for a 2D point that belongs to no 3D point.
NO_POINT = 2**64 - 1


@dataclass(frozen=True)
class Intrinsics:
    """A camera of a COLMAP model (its "camera"): model, image size and parameters, shared by many images."""

    id: int
    model: str
    width: int
    height: int
    params: tuple[float, ...]

    def named(self) -> dict[str, float]:
        """Return the parameters by name, in file order."""
        return dict(zip(PARAMETERS_OF_MODEL[self.model], self.params, strict=True))


@dataclass(frozen=True)
class Rigid3d:
    """A rigid transform: quaternion wxyz, then translation."""

    quaternion: tuple[float, float, float, float]
    translation: tuple[float, float, float]

    @staticmethod
    def of(numbers: tuple[float, ...]) -> Rigid3d:
        """Build the transform from the seven numbers qw qx qy qz tx ty tz."""
        qw, qx, qy, qz, tx, ty, tz = numbers
        return Rigid3d((qw, qx, qy, qz), (tx, ty, tz))

    def matrix(self) -> np.ndarray:
        """Return the transform as [4, 4] float64; the quaternion is normalised first."""
        q = np.array(self.quaternion, dtype=np.float64)
        transform = np.eye(4)
        transform[:3, :3] = rotation_rows(*(q / np.linalg.norm(q)))
        transform[:3, 3] = self.translation
        return transform


@dataclass(frozen=True)
class ImageRecord:
    """A registered image: name, camera id, pose (camera from world) and the ids of the 3D points it observes."""

    id: int
    name: str
    camera_id: int
    pose: Rigid3d
    point_ids: np.ndarray  # uint64, without NO_POINT


@dataclass(frozen=True)
class PointRecords:
    """The P 3D points of a model."""

    ids: np.ndarray  # [P] uint64
    xyz: np.ndarray  # [P, 3] float64
    colors: np.ndarray  # [P, 3] uint8
    track_image_ids: np.ndarray  # uint32, all tracks concatenated


@dataclass(frozen=True)
class Rig:
    """Sensors on one rigid rig by (type, id): the pose is sensor from rig, None where it is unknown."""

    id: int
    sensors: dict[tuple[int, int], Rigid3d | None]


@dataclass(frozen=True)
class Frame:
    """One instant of a rig: its pose (rig from world) and its data as (sensor type, sensor id, data id)."""

    id: int
    rig_id: int
    pose: Rigid3d
    data: list[tuple[int, int, int]]


@dataclass(frozen=True)
class ModelRecords:
    """All records of a model as read, before `colmap_files` checks them against each other."""

    cameras: list[Intrinsics]
    images: list[ImageRecord]
    points: PointRecords
    rigs: list[Rig] | None
    frames: list[Frame] | None
