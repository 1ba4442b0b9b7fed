"""Reads COLMAP's .bin files byte by byte: every count is held against the file's size before it is believed.

The layout is COLMAP's (src/colmap/scene/reconstruction_io_binary.cc): little-endian, no padding, a 64-bit
count first. COLMAP's own reader trusts the counts, so a cut file makes it hang or return wrong numbers; this
one must use up each file exactly or raise.
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
    Lens,
    Photograph,
    Points,
    Pose,
    Rig,
)

_COUNT = struct.Struct("<Q")
_SHORT_COUNT = struct.Struct("<I")
_LENS = struct.Struct("<IiQQ")  # id, model, width, height
_PHOTOGRAPH = struct.Struct("<I7dI")  # id, pose, lens id
_SENSOR = struct.Struct("<iI")  # type, id
_HAS_POSE = struct.Struct("<B")
_POSE = struct.Struct("<7d")
_RIG = struct.Struct("<II")  # id, number of sensors
_FRAME = struct.Struct("<II7dI")  # id, rig id, pose, number of data
_DATUM = struct.Struct("<iIQ")  # sensor type, sensor id, data id

_POINT2D = np.dtype([("xy", "<f8", 2), ("point_id", "<u8")])
_POINT3D = np.dtype([("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")])
_TRACK_ELEMENT = np.dtype([("image_id", "<u4"), ("index", "<u4")])
_POINTS_AT_ONCE = 1 << 16  # bounds the memory of the index arrays


class _Bytes:
    """A file's bytes with a place to read from; whatever would go past the end raises."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path.read_bytes()
        self.at = 0

    def need(self, size: int, what: str) -> None:
        left = len(self.data) - self.at
        if size > left:
            raise SplatlearnError(
                f"{self.path} is cut short or damaged: {what} needs {size} bytes at byte {self.at}, "
                f"but only {left} are left of {len(self.data)}."
            )

    def take(self, layout: struct.Struct, what: str) -> tuple:
        self.need(layout.size, what)
        values = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return values

    def count(self, layout: struct.Struct, smallest_record: int, what: str) -> int:
        """A count of records to come, believed only if as many of the smallest ones fit into what is left."""
        (count,) = self.take(layout, f"the number of {what}")
        self.need(count * smallest_record, f"a list of {count} {what}")
        return count

    def array(self, dtype: np.dtype, count: int, what: str) -> np.ndarray:
        self.need(count * dtype.itemsize, what)
        values = np.frombuffer(self.data, dtype, count, self.at)
        self.at += count * dtype.itemsize
        return values

    def name(self, what: str) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise SplatlearnError(f"{self.path} is cut short or damaged: the name of {what} has no end.")
        raw = self.data[self.at : end]
        self.at = end + 1
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise SplatlearnError(
                f"{self.path} is damaged: the name of {what} is not UTF-8 text but {raw[:80]!r}."
            ) from None

    def finish(self) -> None:
        left = len(self.data) - self.at
        if left:
            raise SplatlearnError(
                f"{self.path} is damaged: {left} bytes follow its last record, which ends at byte {self.at}."
            )


def read_lenses(path: Path) -> list[Lens]:
    """cameras.bin. Raises SplatlearnError for a file that does not hold exactly the records it announces."""
    file = _Bytes(path)
    lenses = []
    for number in range(file.count(_COUNT, _LENS.size, "cameras")):
        lens_id, model, width, height = file.take(_LENS, f"camera {number + 1}")
        if model not in CAMERA_MODELS:
            raise SplatlearnError(
                f"{path}: camera {lens_id} has the unknown camera model {model}; known are 0 to {max(CAMERA_MODELS)}."
            )
        name = CAMERA_MODELS[model][0]
        params = file.array(np.dtype("<f8"), len(PARAMETERS_OF_MODEL[name]), f"the parameters of camera {lens_id}")
        lenses.append(Lens(lens_id, name, width, height, tuple(params.tolist())))
    file.finish()
    return lenses


def read_photographs(path: Path) -> list[Photograph]:
    """images.bin. Raises SplatlearnError as read_lenses does."""
    file = _Bytes(path)
    photographs = []
    smallest = _PHOTOGRAPH.size + 1 + _COUNT.size
    for number in range(file.count(_COUNT, smallest, "images")):
        image_id, *pose, lens_id = file.take(_PHOTOGRAPH, f"image {number + 1}")
        name = file.name(f"image {image_id}")
        count = file.count(_COUNT, _POINT2D.itemsize, f"2D points of image {image_id}")
        point_ids = file.array(_POINT2D, count, f"the 2D points of image {image_id}")["point_id"]
        seen = point_ids[point_ids != NO_POINT]
        photographs.append(Photograph(image_id, name, lens_id, Pose.of(tuple(pose)), seen))
    file.finish()
    return photographs


def read_points(path: Path) -> Points:
    """points3D.bin. Raises SplatlearnError as read_lenses does."""
    file = _Bytes(path)
    count = file.count(_COUNT, _POINT3D.itemsize, "points")
    starts = _starts_of_points(file, count)
    file.finish()

    content = np.frombuffer(file.data, np.uint8)
    is_track = np.ones(len(content), dtype=bool)
    is_track[: _COUNT.size] = False
    records = np.empty(count, _POINT3D)
    for first in range(0, count, _POINTS_AT_ONCE):
        some = slice(first, first + _POINTS_AT_ONCE)
        fixed_part = starts[some, None] + np.arange(_POINT3D.itemsize)
        records[some] = content[fixed_part].view(_POINT3D)[:, 0]
        is_track[fixed_part] = False
    image_ids = content[is_track].view(_TRACK_ELEMENT)["image_id"]
    return Points(records["id"], records["xyz"], records["rgb"], image_ids)


def _starts_of_points(file: _Bytes, count: int) -> np.ndarray:
    """The byte at which each point's record starts, [count] int64; the track before it decides."""
    starts = np.empty(count, dtype=np.int64)
    at, end = file.at, len(file.data)
    for number in range(count):
        record_end = at + _POINT3D.itemsize
        if record_end > end:
            file.at = min(at, end)
            file.need(record_end - file.at, f"point {number + 1} of {count}")
        starts[number] = at
        (track_length,) = _COUNT.unpack_from(file.data, record_end - _COUNT.size)
        at = record_end + track_length * _TRACK_ELEMENT.itemsize
    if at > end:
        file.need(at - file.at, f"the track of point {count}")
    file.at = at
    return starts


def read_rigs(path: Path) -> list[Rig]:
    """rigs.bin. Raises SplatlearnError as read_lenses does."""
    file = _Bytes(path)
    rigs = []
    for _ in range(file.count(_COUNT, _RIG.size, "rigs")):
        rig_id, count = file.take(_RIG, "a rig")
        file.need(count * _SENSOR.size, f"a list of {count} sensors of rig {rig_id}")
        sensors: dict[tuple[int, int], Pose | None] = {}
        for number in range(count):
            kind, sensor_id = file.take(_SENSOR, f"a sensor of rig {rig_id}")
            pose: Pose | None = Pose((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
            if number > 0:  # the first sensor is the rig's own frame
                (has_pose,) = file.take(_HAS_POSE, f"a sensor of rig {rig_id}")
                pose = Pose.of(file.take(_POSE, f"a sensor's pose in rig {rig_id}")) if has_pose else None
            sensors[kind, sensor_id] = pose
        rigs.append(Rig(rig_id, sensors))
    file.finish()
    return rigs


def read_frames(path: Path) -> list[Frame]:
    """frames.bin. Raises SplatlearnError as read_lenses does."""
    file = _Bytes(path)
    frames = []
    for _ in range(file.count(_COUNT, _FRAME.size, "frames")):
        frame_id, rig_id, *pose, count = file.take(_FRAME, "a frame")
        file.need(count * _DATUM.size, f"a list of {count} data of frame {frame_id}")
        data = [file.take(_DATUM, f"the data of frame {frame_id}") for _ in range(count)]
        frames.append(Frame(frame_id, rig_id, Pose.of(tuple(pose)), [(kind, s, d) for kind, s, d in data]))
    file.finish()
    return frames
