"""Read COLMAP's .txt files line by line; an error names the file and the line of the first fault.

The layout is COLMAP's (src/colmap/scene/reconstruction_io_text.cc): fields are separated by blanks, and lines
that start with "#" are comments. In images.txt a line of 2D points, possibly empty, follows each image.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.scene.readers.colmap_records import (
    PARAMETERS_OF_MODEL,
    Frame,
    ImageRecord,
    Intrinsics,
    PointRecords,
    Rig,
    Rigid3d,
)

_SENSOR_TYPES = {"INVALID": -1, "CAMERA": 0, "IMU": 1}
_UNSIGNED_32, _UNSIGNED_64 = 2**32, 2**64


class _Line:
    """One line's fields, read from left to right; a missing field or an invalid number raises."""

    def __init__(self, path: Path, number: int, text: str) -> None:
        self.location = f"{path}, line {number}"
        self.fields = text.split()
        self.position = 0

    def fail(self, what: str) -> SplatlearnError:
        return SplatlearnError(f"{self.location}: {what}.")

    @property
    def remaining(self) -> int:
        return len(self.fields) - self.position

    def word(self, what: str) -> str:
        if self.remaining < 1:
            raise self.fail(f"{what} is missing")
        self.position += 1
        return self.fields[self.position - 1]

    def integer(self, what: str, below: int = _UNSIGNED_32) -> int:
        word = self.word(what)
        # Python's int() also accepts "1_000" and digits of other alphabets; the length limit excludes absurd ids.
        value = int(word) if word.isascii() and word.isdigit() and len(word) <= 20 else below
        if value >= below:
            raise self.fail(f"{what} must be a whole number from 0 to {below - 1}, but is {word[:40]!r}")
        return value

    def number(self, what: str) -> float:
        word = self.word(what)
        try:
            if "_" in word:
                raise ValueError
            return float(word)
        except ValueError:
            raise self.fail(f"{what} must be a number, but is {word[:40]!r}") from None

    def pose(self, what: str) -> Rigid3d:
        return Rigid3d.of(tuple(self.number(what) for _ in range(7)))

    def sensor(self) -> tuple[int, int]:
        kind = self.word("a sensor's type")
        if kind not in _SENSOR_TYPES:
            raise self.fail(f"a sensor's type must be one of {', '.join(_SENSOR_TYPES)}, but is {kind[:40]!r}")
        return _SENSOR_TYPES[kind], self.integer("a sensor's id")

    def finish(self) -> None:
        if self.remaining:
            raise self.fail(f"expected {self.position} fields, but there are {len(self.fields)}")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise SplatlearnError(f"{path} is not a text file: byte {error.start} is not UTF-8.") from None


def _records(path: Path) -> list[_Line]:
    """Return the lines that are neither empty nor comments."""
    numbered = ((number, line.strip()) for number, line in enumerate(_lines(path), 1))
    return [_Line(path, number, line) for number, line in numbered if line and not line.startswith("#")]


def _check_count(path: Path, lines: list[str], got: int) -> None:
    """Raise if the file has fewer records than its header comment announces: it was truncated between two lines."""
    for line in lines[:10]:
        announced = re.match(r"#\s*Number of \w+:\s*(\d{1,18})\b", line)
        if announced and got < int(announced[1]):
            raise SplatlearnError(
                f"{path} is cut short: its comment {line.split(',')[0].strip()!r} announces more than the "
                f"{got} that follow (if you removed some by hand, correct that comment)."
            )


def read_cameras(path: Path) -> list[Intrinsics]:
    """Read cameras.txt.

    Raises:
        SplatlearnError: a line, which the message names, is not CAMERA_ID MODEL WIDTH HEIGHT PARAMS[].
    """
    cameras = []
    for line in _records(path):
        camera_id = line.integer("the camera's id")
        model = line.word("the camera's model")
        if model not in PARAMETERS_OF_MODEL:
            nearest = difflib.get_close_matches(model, PARAMETERS_OF_MODEL, 1, 0)[0]
            raise line.fail(f"unknown camera model {model[:40]!r}; the nearest one is {nearest}")
        width = line.integer("the width", _UNSIGNED_64)
        height = line.integer("the height", _UNSIGNED_64)
        names = PARAMETERS_OF_MODEL[model]
        if line.remaining != len(names):
            raise line.fail(f"{model} has {len(names)} parameters ({', '.join(names)}), but there are {line.remaining}")
        cameras.append(
            Intrinsics(camera_id, model, width, height, tuple(line.number(f"parameter {name}") for name in names))
        )
    _check_count(path, _lines(path), len(cameras))
    return cameras


def read_images(path: Path) -> list[ImageRecord]:
    """Read images.txt; raises SplatlearnError naming the first line that is not in COLMAP's format."""
    lines = _lines(path)
    images = []
    index = 0
    while index < len(lines):
        text = lines[index].strip()
        index += 1
        if not text or text.startswith("#"):
            continue
        line = _Line(path, index, text)
        image_id = line.integer("the image's id")
        pose = line.pose("the pose")
        camera_id = line.integer("the camera's id")
        line.word("the image's name")
        name = text.split(None, 9)[9]  # the rest of the line: a name may contain blanks
        points_line = _Line(path, index + 1, lines[index] if index < len(lines) else "")
        index += 1
        images.append(ImageRecord(image_id, name, camera_id, pose, _observed_point_ids(points_line, image_id)))
    _check_count(path, lines, len(images))
    return images


def _observed_point_ids(line: _Line, image_id: int) -> np.ndarray:
    if len(line.fields) % 3:
        raise line.fail(
            f"the 2D points of image {image_id} must be triples X Y POINT3D_ID, but there are {len(line.fields)} fields"
        )
    ids = []
    while line.remaining:
        line.number("a 2D point's X")
        line.number("a 2D point's Y")
        if line.fields[line.position] == "-1":
            line.position += 1
        else:
            ids.append(line.integer("a 2D point's POINT3D_ID", _UNSIGNED_64))
    return np.array(ids, dtype=np.uint64)


def read_points(path: Path) -> PointRecords:
    """Read points3D.txt.

    Raises:
        SplatlearnError: a line, which the message names, is not POINT3D_ID X Y Z R G B ERROR TRACK[].
    """
    ids, xyz, colors, tracks = [], [], [], []
    for line in _records(path):
        ids.append(line.integer("the point's id", _UNSIGNED_64))
        xyz.append([line.number("a coordinate") for _ in range(3)])
        colors.append([line.integer("a colour", 256) for _ in range(3)])
        line.number("the error")
        if line.remaining % 2:
            raise line.fail("a track must be pairs IMAGE_ID POINT2D_IDX, but has an odd number of fields")
        while line.remaining:
            tracks.append(line.integer("a track's IMAGE_ID"))
            line.integer("a track's POINT2D_IDX")
    _check_count(path, _lines(path), len(ids))
    return PointRecords(
        np.array(ids, dtype=np.uint64),
        np.array(xyz, dtype=np.float64).reshape(-1, 3),
        np.array(colors, dtype=np.uint8).reshape(-1, 3),
        np.array(tracks, dtype=np.uint32),
    )


def read_rigs(path: Path) -> list[Rig]:
    """Read rigs.txt; raises SplatlearnError naming the first line that is not in COLMAP's format."""
    rigs = []
    for line in _records(path):
        rig_id = line.integer("the rig's id")
        count = line.integer("the number of sensors")
        sensors: dict[tuple[int, int], Rigid3d | None] = {}
        for number in range(count):
            sensor = line.sensor()
            pose: Rigid3d | None = Rigid3d((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
            if number > 0:  # the first sensor is the rig's own frame
                pose = line.pose("a sensor's pose") if line.integer("HAS_POSE", 2) else None
            sensors[sensor] = pose
        line.finish()
        rigs.append(Rig(rig_id, sensors))
    return rigs


def read_frames(path: Path) -> list[Frame]:
    """Read frames.txt; raises SplatlearnError naming the first line that is not in COLMAP's format."""
    frames = []
    for line in _records(path):
        frame_id = line.integer("the frame's id")
        rig_id = line.integer("the rig's id")
        pose = line.pose("the frame's pose")
        count = line.integer("the number of data")
        data = [(*line.sensor(), line.integer("a data id", _UNSIGNED_64)) for _ in range(count)]
        line.finish()
        frames.append(Frame(frame_id, rig_id, pose, data))
    return frames
