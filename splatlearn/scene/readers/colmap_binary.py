"""Read COLMAP's .bin files and check every count against the file's size before using it.

The layout is COLMAP's (src/colmap/scene/reconstruction_io_binary.cc): little-endian, no padding, a 64-bit
count first. COLMAP's own reader trusts the counts, so a truncated file makes it hang or return wrong numbers.
This reader consumes each file exactly or raises.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.scene.readers.colmap_records import (
    CAMERA_MODELS,
    NO_POINT,
    PARAMETERS_OF_MODEL,
    Frame,
    ImageRecord,
    Intrinsics,
    PointRecords,
    Rig,
    Rigid3d,
)

_COUNT = struct.Struct("<Q")
_CAMERA = struct.Struct("<IiQQ")  # id, model, width, height
_IMAGE = struct.Struct("<I7dI")  # id, pose, camera id
_SENSOR = struct.Struct("<iI")  # type, id
_HAS_POSE = struct.Struct("<B")
_POSE = struct.Struct("<7d")
_RIG = struct.Struct("<II")  # id, number of sensors
_FRAME = struct.Struct("<II7dI")  # id, rig id, pose, number of data
_DATUM = struct.Struct("<iIQ")  # sensor type, sensor id, data id

_POINT2D = np.dtype([("xy", "<f8", 2), ("point_id", "<u8")])
_POINT3D = np.dtype([("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")])
_TRACK_ELEMENT = np.dtype([("image_id", "<u4"), ("index", "<u4")])
_POINT_BATCH = 1 << 16  # bounds the memory of the index arrays


class _ByteReader:
    """A file's bytes with a read offset; reading past the end raises."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path.read_bytes()
        self.offset = 0

    def require(self, size: int, what: str) -> None:
        remaining = len(self.data) - self.offset
        if size > remaining:
            raise SplatlearnError(
                f"{self.path} is cut short or damaged: {what} needs {size} bytes at byte {self.offset}, "
                f"but only {remaining} are left of {len(self.data)}."
            )

    def take(self, layout: struct.Struct, what: str) -> tuple:
        self.require(layout.size, what)
        values = layout.unpack_from(self.data, self.offset)
        self.offset += layout.size
        return values

    def count(self, layout: struct.Struct, smallest_record: int, what: str) -> int:
        """Read a count of records; raise unless that many of the smallest record fit into the remaining bytes."""
        (count,) = self.take(layout, f"the number of {what}")
        self.require(count * smallest_record, f"a list of {count} {what}")
        return count

    def array(self, dtype: np.dtype, count: int, what: str) -> np.ndarray:
        self.require(count * dtype.itemsize, what)
        values = np.frombuffer(self.data, dtype, count, self.offset)
        self.offset += count * dtype.itemsize
        return values

    def name(self, what: str) -> str:
        end = self.data.find(b"\0", self.offset)
        if end < 0:
            raise SplatlearnError(f"{self.path} is cut short or damaged: the name of {what} has no end.")
        raw = self.data[self.offset : end]
        self.offset = end + 1
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise SplatlearnError(
                f"{self.path} is damaged: the name of {what} is not UTF-8 text but {raw[:20]!r}."
            ) from None

    def finish(self) -> None:
        remaining = len(self.data) - self.offset
        if remaining:
            raise SplatlearnError(
                f"{self.path} is damaged: {remaining} bytes follow its last record, which ends at byte {self.offset}."
            )


def read_cameras(path: Path) -> list[Intrinsics]:
    """Read cameras.bin.

    Raises:
        SplatlearnError: the file does not contain exactly the records that its counts announce.
    """
    file = _ByteReader(path)
    cameras = []
    for number in range(file.count(_COUNT, _CAMERA.size, "cameras")):
        camera_id, model, width, height = file.take(_CAMERA, f"camera {number + 1}")
        if model not in CAMERA_MODELS:
            raise SplatlearnError(
                f"{path}: camera {camera_id} has the unknown camera model {model}; known are 0 to {max(CAMERA_MODELS)}."
            )
        name = CAMERA_MODELS[model][0]
        params = file.array(np.dtype("<f8"), len(PARAMETERS_OF_MODEL[name]), f"the parameters of camera {camera_id}")
        cameras.append(Intrinsics(camera_id, name, width, height, tuple(params.tolist())))
    file.finish()
    return cameras


def read_images(path: Path) -> list[ImageRecord]:
    """Read images.bin; raises as `read_cameras` does."""
    file = _ByteReader(path)
    images = []
    smallest = _IMAGE.size + 1 + _COUNT.size
    for number in range(file.count(_COUNT, smallest, "images")):
        image_id, *pose, camera_id = file.take(_IMAGE, f"image {number + 1}")
        name = file.name(f"image {image_id}")
        count = file.count(_COUNT, _POINT2D.itemsize, f"2D points of image {image_id}")
        point_ids = file.array(_POINT2D, count, f"the 2D points of image {image_id}")["point_id"]
        observed = point_ids[point_ids != NO_POINT]
        images.append(ImageRecord(image_id, name, camera_id, Rigid3d.of(tuple(pose)), observed))
    file.finish()
    return images


def read_points(path: Path) -> PointRecords:
    """Read points3D.bin; raises as `read_cameras` does."""
    file = _ByteReader(path)
    count = file.count(_COUNT, _POINT3D.itemsize, "points")
    starts = _starts_of_points(file, count)
    file.finish()

    content = np.frombuffer(file.data, np.uint8)
    is_track = np.ones(len(content), dtype=bool)
    is_track[: _COUNT.size] = False
    records = np.empty(count, _POINT3D)
    for first in range(0, count, _POINT_BATCH):
        batch = slice(first, first + _POINT_BATCH)
        fixed_part = starts[batch, None] + np.arange(_POINT3D.itemsize)
        records[batch] = content[fixed_part].view(_POINT3D)[:, 0]
        is_track[fixed_part] = False
    image_ids = content[is_track].view(_TRACK_ELEMENT)["image_id"]
    return PointRecords(records["id"], records["xyz"], records["rgb"], image_ids)


def _starts_of_points(file: _ByteReader, count: int) -> np.ndarray:
    """Find the byte offset of each point's record, [count] int64; tracks of varying length separate the records."""
    starts = np.empty(count, dtype=np.int64)
    offset, end = file.offset, len(file.data)
    for number in range(count):
        record_end = offset + _POINT3D.itemsize
        if record_end > end:
            file.offset = min(offset, end)
            file.require(record_end - file.offset, f"point {number + 1} of {count}")
        starts[number] = offset
        (track_length,) = _COUNT.unpack_from(file.data, record_end - _COUNT.size)
        offset = record_end + track_length * _TRACK_ELEMENT.itemsize
    if offset > end:
        file.require(offset - file.offset, f"the track of point {count}")
    file.offset = offset
    return starts


def read_rigs(path: Path) -> list[Rig]:
    """Read rigs.bin; raises as `read_cameras` does."""
    file = _ByteReader(path)
    rigs = []
    for _ in range(file.count(_COUNT, _RIG.size, "rigs")):
        rig_id, count = file.take(_RIG, "a rig")
        file.require(count * _SENSOR.size, f"a list of {count} sensors of rig {rig_id}")
        sensors: dict[tuple[int, int], Rigid3d | None] = {}
        for number in range(count):
            kind, sensor_id = file.take(_SENSOR, f"a sensor of rig {rig_id}")
            pose: Rigid3d | None = Rigid3d((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
            if number > 0:  # the first sensor is the rig's own frame
                (has_pose,) = file.take(_HAS_POSE, f"a sensor of rig {rig_id}")
                pose = Rigid3d.of(file.take(_POSE, f"a sensor's pose in rig {rig_id}")) if has_pose else None
            sensors[kind, sensor_id] = pose
        rigs.append(Rig(rig_id, sensors))
    file.finish()
    return rigs


def read_frames(path: Path) -> list[Frame]:
    """Read frames.bin; raises as `read_cameras` does."""
    file = _ByteReader(path)
    frames = []
    for _ in range(file.count(_COUNT, _FRAME.size, "frames")):
        frame_id, rig_id, *pose, count = file.take(_FRAME, "a frame")
        file.require(count * _DATUM.size, f"a list of {count} data of frame {frame_id}")
        data = [file.take(_DATUM, f"the data of frame {frame_id}") for _ in range(count)]
        frames.append(Frame(frame_id, rig_id, Rigid3d.of(tuple(pose)), [(kind, s, d) for kind, s, d in data]))
    file.finish()
    return frames
