"""Camera paths through keyframes, as the viewer records them: interpolation, and a small JSON file.

The frame is that of `Camera`: x right, y down, z forward. Quaternions wxyz rotate from the camera to the world.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.scene.cameras import Camera

FORMAT = {"format": "splatlearn camera path", "version": 1}
MOST_FRAMES = 100_000  # about an hour of video: more is a typing error
LARGEST_FILE = 16 << 20  # bytes
SHORTEST = 1e-3  # seconds between keyframes
FARTHEST = 1e18  # distance from the origin, so that a spline does not overflow


@dataclass(frozen=True, eq=False)
class Keyframe:
    """The camera at one time of a path.

    Attributes:
        seconds: time from the start.
        position: [3], the camera's centre in the world.
        wxyz: [4], the rotation camera to world (x right, y down, z forward), of any norm but 0.
        fov: vertical field of view in degrees.
    """

    seconds: float
    position: np.ndarray
    wxyz: np.ndarray
    fov: float


@dataclass(frozen=True, eq=False)
class KeyframePath:
    """A camera path as `splatlearn view` records it.

    Attributes:
        width, height: size of the frames in pixels.
        fps: frames per second.
        keyframes: at least one; their times start at 0 and increase.

    Raises:
        SplatlearnError: a value is out of range, such as times that do not increase.
    """

    width: int
    height: int
    fps: float
    keyframes: tuple[Keyframe, ...]

    def __post_init__(self) -> None:
        times = [key.seconds for key in self.keyframes]
        for name, value, low, high in (
            ("width", self.width, 1, 16384),
            ("height", self.height, 1, 16384),
            ("fps", self.fps, 0.01, 1000),
            ("number of keyframes", len(times), 1, MOST_FRAMES),
            *((f"fov of keyframe {i}", key.fov, 1, 170) for i, key in enumerate(self.keyframes)),
        ):
            if not low <= value <= high:
                raise SplatlearnError(f"a camera path's {name} must be from {low:g} to {high:g}, got {value:g}")
        if times[0] != 0 or any(b - a < SHORTEST for a, b in zip(times, times[1:], strict=False)):
            raise SplatlearnError(f"a camera path's seconds must begin at 0 and rise by {SHORTEST:g}, got {times[:8]}")
        if not times[-1] * self.fps < MOST_FRAMES:
            raise SplatlearnError(
                f"a camera path has at most {MOST_FRAMES} frames, got {times[-1]:g} s at {self.fps:g} fps"
            )
        for i, key in enumerate(self.keyframes):
            if not (np.abs(key.position) < FARTHEST).all() or not 1e-6 < np.linalg.norm(key.wxyz) < FARTHEST:
                raise SplatlearnError(f"keyframe {i} of a camera path must have a finite position and a rotation")

    def mapped(self, move: Callable[[np.ndarray], np.ndarray]) -> "KeyframePath":
        """The path in another frame: `move` maps positions [N, 3], as `Frame.normalised_points` does."""
        places = move(np.array([key.position for key in self.keyframes], np.float64))
        keys = (replace(key, position=place) for key, place in zip(self.keyframes, places, strict=True))
        return replace(self, keyframes=tuple(keys))

    @property
    def seconds(self) -> float:
        """Duration of the path in seconds."""
        return self.keyframes[-1].seconds

    def at(self, seconds: Sequence[float] | np.ndarray) -> list[Camera]:
        """Interpolate the cameras at times within the path on a cubic spline through the keyframes.

        If the last keyframe has the first one's pose, the path is closed and continues there without a stop.
        """
        from scipy.interpolate import CubicSpline

        rows = np.array([self._row(key) for key in self.keyframes])
        times = np.array([key.seconds for key in self.keyframes])
        if len(rows) > 2 and same_pose(self.keyframes[0], self.keyframes[-1]):  # one more round on either side
            rows = np.concatenate([rows[:-1], rows[:-1], rows])
            times = np.concatenate([times[:-1] - self.seconds, times[:-1], times + self.seconds])
        for i in range(1, len(rows)):
            rows[i, 3:7] *= -1 if rows[i, 3:7] @ rows[i - 1, 3:7] < 0 else 1  # q and -q are the same rotation
        moments = np.clip(np.asarray(seconds, np.float64), 0, self.seconds)
        if len(rows) == 1:
            found = np.repeat(rows, len(moments), axis=0)
        else:
            found = CubicSpline(times, rows, bc_type="natural")(moments)
        quats = np.roll(found[:, 3:7] / np.linalg.norm(found[:, 3:7], axis=1, keepdims=True), 1, axis=1)
        fovs = np.degrees(2 * np.arctan(np.exp(found[:, 7])))
        return [
            pinhole_camera(f"frame_{i:05d}.png", self.width, self.height, fovs[i], found[i, :3], quats[i])
            for i in range(len(found))
        ]

    def cameras(self, frames: int | None = None) -> list[Camera]:
        """Return the cameras of a video: `frames` evenly spaced in time, or as many as `fps` requires."""
        count = max(1, round(self.seconds * self.fps)) if frames is None else frames
        if count < 1:
            raise SplatlearnError(f"a camera path needs at least one frame, got {count}.")
        closed = len(self.keyframes) > 2 and same_pose(self.keyframes[0], self.keyframes[-1])
        return self.at(np.linspace(0, self.seconds, count, endpoint=not closed))

    @staticmethod
    def _row(key: Keyframe) -> list[float]:
        w, x, y, z = np.asarray(key.wxyz, np.float64) / np.linalg.norm(key.wxyz)
        return [*key.position, x, y, z, w, math.log(math.tan(math.radians(key.fov) / 2))]


def same_pose(one: Keyframe, other: Keyframe) -> bool:
    """Return whether two keyframes have the same position, rotation and field of view."""
    a, b = KeyframePath._row(one), KeyframePath._row(other)
    dot = abs(float(np.dot(a[3:7], b[3:7])))
    return bool(np.allclose(a[:3], b[:3], atol=1e-9, rtol=1e-6) and dot > 1 - 1e-9 and abs(a[7] - b[7]) < 1e-6)


def pinhole_camera(name: str, width: int, height: int, fov: float, position: Any, wxyz: Any) -> Camera:
    """Build a pinhole camera with square pixels and the principal point at the image's centre.

    Args:
        name: the camera's name.
        width, height: image size in pixels.
        fov: vertical field of view in degrees.
        position: [3], the camera's centre in the world.
        wxyz: [4], the rotation camera to world.
    """
    from scipy.spatial.transform import Rotation

    focal = height / 2 / math.tan(math.radians(fov) / 2)
    rotation = Rotation.from_quat(np.roll(wxyz, -1)).as_matrix().T
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3], world_to_camera[:3, 3] = rotation, -rotation @ np.asarray(position, np.float64)
    return Camera(
        name, width, height, np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]), world_to_camera
    )


def rotation_of(camera: Camera) -> np.ndarray:
    """Return the rotation camera to world as a quaternion [4] wxyz."""
    from scipy.spatial.transform import Rotation

    return np.roll(Rotation.from_matrix(camera.world_to_camera[:3, :3].T).as_quat(), 1)


def look_rotation(forward: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return the rotation camera to world [4] wxyz of a level camera that looks along `forward` [3].

    `up` [3] must not be parallel to `forward`.
    """
    from scipy.spatial.transform import Rotation

    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    return np.roll(Rotation.from_matrix(np.stack([right, np.cross(forward, right), forward], axis=1)).as_quat(), 1)


def format_path(path: KeyframePath) -> str:
    """Format a path as JSON: format, version, width, height, fps, and keyframes of seconds, position, wxyz and fov."""
    keys = [
        {"seconds": k.seconds, "position": [*map(float, k.position)], "wxyz": [*map(float, k.wxyz)], "fov": k.fov}
        for k in path.keyframes
    ]
    head = FORMAT | {"width": path.width, "height": path.height, "fps": path.fps}
    return json.dumps(head | {"keyframes": keys}, indent=1) + "\n"


def write_path(file: Path | str, path: KeyframePath) -> None:
    """Write the path to a JSON file atomically."""
    with replacing(Path(file)) as temporary:
        temporary.write_text(format_path(path), encoding="utf-8")


def read_path(file: Path | str) -> KeyframePath:
    """Read the path in a JSON file; raises SplatlearnError if it cannot be read or does not contain a valid path."""
    try:
        size = Path(file).stat().st_size
        if size > LARGEST_FILE:
            raise SplatlearnError(f"{file} is no camera path: it has {size:,} bytes, more than {LARGEST_FILE:,}")
        text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise SplatlearnError(f"cannot read the camera path {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SplatlearnError(f"{file} is no camera path: it is not text") from error
    return parse_path(text, str(file))


def parse_path(text: str, name: str) -> KeyframePath:
    """Parse a path from JSON; raises SplatlearnError with `name` in the message if it is invalid."""
    try:
        found = json.loads(text)
        if not isinstance(found, dict) or {key: found.get(key) for key in FORMAT} != FORMAT:
            raise SplatlearnError(f"expected {json.dumps(FORMAT)[1:-1]} in it")
        keys = tuple(_keyframe(key) for key in found["keyframes"])
        sizes = [_number(found[key]) for key in ("width", "height", "fps")]
        if any(size != int(size) for size in sizes[:2]):
            raise SplatlearnError(f"width and height must be whole numbers, got {sizes[:2]}")
        return KeyframePath(int(sizes[0]), int(sizes[1]), sizes[2], keys)
    except KeyError as error:
        raise SplatlearnError(f"{name} is no camera path: {error.args[0]!r} is missing") from error
    except (ValueError, TypeError, OverflowError, RecursionError, SplatlearnError) as error:
        raise SplatlearnError(f"{name} is no camera path: {error}") from error


def _keyframe(found: dict[str, Any]) -> Keyframe:
    position, wxyz = ([_number(value) for value in found[key]] for key in ("position", "wxyz"))
    if (len(position), len(wxyz)) != (3, 4):
        raise SplatlearnError(f"a position has 3 numbers and wxyz 4, got {len(position)} and {len(wxyz)}")
    return Keyframe(_number(found["seconds"]), np.array(position), np.array(wxyz), _number(found["fov"]))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise SplatlearnError(f"expected a finite number, got {str(value)[:40]!r}")
    return float(value)
