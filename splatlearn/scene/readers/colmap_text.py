"""Reads COLMAP's .txt files line by line, and names file and line of the first thing that is wrong.

The layout is COLMAP's (src/colmap/scene/reconstruction_io_text.cc): fields parted by blanks, lines that start
with "#" are comments, and in images.txt a line of 2D points (perhaps empty) follows each image.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.scene.readers.colmap_records import PARAMETERS_OF_MODEL, Frame, Lens, Photograph, Points, Pose, Rig

_SENSOR_TYPES = {"INVALID": -1, "CAMERA": 0, "IMU": 1}
_UNSIGNED_32, _UNSIGNED_64 = 2**32, 2**64


class _Line:
    """One line's fields, taken from the left; whatever is missing or no number raises."""

    def __init__(self, path: Path, number: int, text: str) -> None:
        self.place = f"{path}, line {number}"
        self.fields = text.split()
        self.at = 0

    def fail(self, what: str) -> SplatlearnError:
        return SplatlearnError(f"{self.place}: {what}.")

    @property
    def left(self) -> int:
        return len(self.fields) - self.at

    def word(self, what: str) -> str:
        if self.left < 1:
            raise self.fail(f"{what} is missing")
        self.at += 1
        return self.fields[self.at - 1]

    def integer(self, what: str, below: int = _UNSIGNED_32) -> int:
        word = self.word(what)
        # Python's int() also takes "1_000" and other alphabets' digits; a hundred digits are no id either.
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

    def pose(self, what: str) -> Pose:
        return Pose.of(tuple(self.number(what) for _ in range(7)))

    def sensor(self) -> tuple[int, int]:
        kind = self.word("a sensor's type")
        if kind not in _SENSOR_TYPES:
            raise self.fail(f"a sensor's type must be one of {', '.join(_SENSOR_TYPES)}, but is {kind[:40]!r}")
        return _SENSOR_TYPES[kind], self.integer("a sensor's id")

    def finish(self) -> None:
        if self.left:
            raise self.fail(f"expected {self.at} fields, but there are {len(self.fields)}")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise SplatlearnError(f"{path} is not a text file: byte {error.start} is not UTF-8.") from None


def _records(path: Path) -> list[_Line]:
    """The lines that are neither empty nor comments."""
    numbered = ((number, line.strip()) for number, line in enumerate(_lines(path), 1))
    return [_Line(path, number, line) for number, line in numbered if line and not line.startswith("#")]


def _check_count(path: Path, lines: list[str], got: int) -> None:
    """COLMAP writes the number of records into a comment; fewer records mean a file cut at a line's end."""
    for line in lines[:10]:
        announced = re.match(r"#\s*Number of \w+:\s*(\d{1,18})\b", line)
        if announced and got < int(announced[1]):
            raise SplatlearnError(
                f"{path} is cut short: its comment {line.split(',')[0].strip()!r} announces more than the "
                f"{got} that follow (if you removed some by hand, correct that comment)."
            )


def read_lenses(path: Path) -> list[Lens]:
    """cameras.txt. Raises SplatlearnError naming a line that is not CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]."""
    lenses = []
    for line in _records(path):
        lens_id = line.integer("the camera's id")
        model = line.word("the camera's model")
        if model not in PARAMETERS_OF_MODEL:
            raise line.fail(f"unknown camera model {model[:40]!r}; known are {', '.join(PARAMETERS_OF_MODEL)}")
        width = line.integer("the width", _UNSIGNED_64)
        height = line.integer("the height", _UNSIGNED_64)
        names = PARAMETERS_OF_MODEL[model]
        if line.left != len(names):
            raise line.fail(f"{model} has {len(names)} parameters ({', '.join(names)}), but there are {line.left}")
        lenses.append(Lens(lens_id, model, width, height, tuple(line.number(f"parameter {name}") for name in names)))
    _check_count(path, _lines(path), len(lenses))
    return lenses


def read_photographs(path: Path) -> list[Photograph]:
    """images.txt. Raises SplatlearnError naming the line that is not as COLMAP writes it."""
    lines = _lines(path)
    photographs = []
    at = 0
    while at < len(lines):
        text = lines[at].strip()
        at += 1
        if not text or text.startswith("#"):
            continue
        line = _Line(path, at, text)
        image_id = line.integer("the image's id")
        pose = line.pose("the pose")
        lens_id = line.integer("the camera's id")
        line.word("the image's name")
        name = text.split(None, 9)[9]  # the rest of the line: a name may hold blanks
        seen = _Line(path, at + 1, lines[at] if at < len(lines) else "")
        at += 1
        photographs.append(Photograph(image_id, name, lens_id, pose, _points_seen(seen, image_id)))
    _check_count(path, lines, len(photographs))
    return photographs


def _points_seen(line: _Line, image_id: int) -> np.ndarray:
    if len(line.fields) % 3:
        raise line.fail(
            f"the 2D points of image {image_id} must be triples X Y POINT3D_ID, but there are {len(line.fields)} fields"
        )
    ids = []
    while line.left:
        line.number("a 2D point's X")
        line.number("a 2D point's Y")
        if line.fields[line.at] == "-1":
            line.at += 1
        else:
            ids.append(line.integer("a 2D point's POINT3D_ID", _UNSIGNED_64))
    return np.array(ids, dtype=np.uint64)


def read_points(path: Path) -> Points:
    """points3D.txt. Raises SplatlearnError naming a line that is not POINT3D_ID X Y Z R G B ERROR TRACK[]."""
    ids, xyz, colors, tracks = [], [], [], []
    for line in _records(path):
        ids.append(line.integer("the point's id", _UNSIGNED_64))
        xyz.append([line.number("a coordinate") for _ in range(3)])
        colors.append([line.integer("a colour", 256) for _ in range(3)])
        line.number("the error")
        if line.left % 2:
            raise line.fail("a track must be pairs IMAGE_ID POINT2D_IDX, but has an odd number of fields")
        while line.left:
            tracks.append(line.integer("a track's IMAGE_ID"))
            line.integer("a track's POINT2D_IDX")
    _check_count(path, _lines(path), len(ids))
    return Points(
        np.array(ids, dtype=np.uint64),
        np.array(xyz, dtype=np.float64).reshape(-1, 3),
        np.array(colors, dtype=np.uint8).reshape(-1, 3),
        np.array(tracks, dtype=np.uint32),
    )


def read_rigs(path: Path) -> list[Rig]:
    """rigs.txt. Raises SplatlearnError naming the line that is not as COLMAP writes it."""
    rigs = []
    for line in _records(path):
        rig_id = line.integer("the rig's id")
        count = line.integer("the number of sensors")
        sensors: dict[tuple[int, int], Pose | None] = {}
        for number in range(count):
            sensor = line.sensor()
            pose: Pose | None = Pose((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
            if number > 0:  # the first sensor is the rig's own frame
                pose = line.pose("a sensor's pose") if line.integer("HAS_POSE", 2) else None
            sensors[sensor] = pose
        line.finish()
        rigs.append(Rig(rig_id, sensors))
    return rigs


def read_frames(path: Path) -> list[Frame]:
    """frames.txt. Raises SplatlearnError naming the line that is not as COLMAP writes it."""
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
