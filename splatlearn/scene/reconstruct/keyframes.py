"""Camera paths of keyframes, as people record them in the viewer: a small JSON file, and the flight through them.

The frame is that of `Camera`: x right, y down, z forward; quaternions wxyz turn the camera's axes into the world's.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.scene.cameras import Camera

FORMAT = {"format": "splatlearn camera path", "version": 1}
MOST_FRAMES = 100_000  # about an hour of video: more is a slip of the pen
LARGEST_FILE = 16 << 20  # bytes
SHORTEST = 1e-3  # seconds between keyframes
FARTHEST = 1e9  # from the origin, so that a spline stays within what numbers can hold


@dataclass(frozen=True, eq=False)
class Keyframe:
    """Where the camera is at a moment: `seconds` from the start, `position` [3] in the world, `wxyz` [4] the rotation
    camera to world (x right, y down, z forward; any norm but 0), `fov` the vertical field of view in degrees."""

    seconds: float
    position: np.ndarray
    wxyz: np.ndarray
    fov: float


@dataclass(frozen=True, eq=False)
class KeyframePath:
    """A camera path as `splatlearn view` records it: pictures of `width` x `height` px at `fps` a second.

    Raises SplatlearnError for values that make no path, such as times that do not rise.
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

    @property
    def seconds(self) -> float:
        """How long the flight takes."""
        return self.keyframes[-1].seconds

    def at(self, seconds: Sequence[float] | np.ndarray) -> list[Camera]:
        """The cameras at moments within the path, on a cubic spline through the keyframes.

        Where the last keyframe is the first one's pose, the path is closed and goes through it without a halt.
        """
        from scipy.interpolate import CubicSpline

        rows = np.array([self._row(key) for key in self.keyframes])
        times = np.array([key.seconds for key in self.keyframes])
        if len(rows) > 2 and same_pose(self.keyframes[0], self.keyframes[-1]):  # once more around on either side
            rows = np.concatenate([rows[:-1], rows[:-1], rows])
            times = np.concatenate([times[:-1] - self.seconds, times[:-1], times + self.seconds])
        for i in range(1, len(rows)):
            rows[i, 3:7] *= -1 if rows[i, 3:7] @ rows[i - 1, 3:7] < 0 else 1  # q and -q are one rotation
        moments = np.clip(np.asarray(seconds, np.float64), 0, self.seconds)
        if len(rows) == 1:
            found = np.repeat(rows, len(moments), axis=0)
        else:
            found = CubicSpline(times, rows, bc_type="natural")(moments)
        quats = np.roll(found[:, 3:7] / np.linalg.norm(found[:, 3:7], axis=1, keepdims=True), 1, axis=1)
        fovs = np.degrees(2 * np.arctan(np.exp(found[:, 7])))
        return [
            posed(f"frame_{i:05d}.png", self.width, self.height, fovs[i], found[i, :3], quats[i])
            for i in range(len(found))
        ]

    def cameras(self, frames: int | None = None) -> list[Camera]:
        """All frames of a video: `frames` of them, evenly in time, or as many as `fps` asks for."""
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
    """Whether two keyframes show the same picture."""
    a, b = KeyframePath._row(one), KeyframePath._row(other)
    turn = abs(float(np.dot(a[3:7], b[3:7])))
    return bool(np.allclose(a[:3], b[:3], atol=1e-9, rtol=1e-6) and turn > 1 - 1e-9 and abs(a[7] - b[7]) < 1e-6)


def posed(name: str, width: int, height: int, fov: float, position: Any, wxyz: Any) -> Camera:
    """A camera of square pixels whose axis meets the middle of the picture.

    fov: vertical, degrees; position: [3] of its centre in the world; wxyz: [4] rotation camera to world.
    """
    from scipy.spatial.transform import Rotation

    focal = height / 2 / math.tan(math.radians(fov) / 2)
    turn = Rotation.from_quat(np.roll(wxyz, -1)).as_matrix().T
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3], world_to_camera[:3, 3] = turn, -turn @ np.asarray(position, np.float64)
    return Camera(
        name, width, height, np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]), world_to_camera
    )


def rotation_of(camera: Camera) -> np.ndarray:
    """The rotation camera to world as a quaternion [4] wxyz."""
    from scipy.spatial.transform import Rotation

    return np.roll(Rotation.from_matrix(camera.world_to_camera[:3, :3].T).as_quat(), 1)


def looking(forward: np.ndarray, up: np.ndarray) -> np.ndarray:
    """The rotation camera to world [4] wxyz of a level camera that looks along `forward` [3], which `up` must not."""
    from scipy.spatial.transform import Rotation

    ahead = forward / np.linalg.norm(forward)
    right = np.cross(ahead, up)
    right /= np.linalg.norm(right)
    return np.roll(Rotation.from_matrix(np.stack([right, np.cross(ahead, right), ahead], axis=1)).as_quat(), 1)


def path_text(path: KeyframePath) -> str:
    """The path as JSON: format, version, width, height, fps, and keyframes of seconds, position, wxyz and fov."""
    keys = [
        {"seconds": k.seconds, "position": [*map(float, k.position)], "wxyz": [*map(float, k.wxyz)], "fov": k.fov}
        for k in path.keyframes
    ]
    head = FORMAT | {"width": path.width, "height": path.height, "fps": path.fps}
    return json.dumps(head | {"keyframes": keys}, indent=1) + "\n"


def write_path(file: Path | str, path: KeyframePath) -> None:
    """Writes the path as JSON, whole or not at all."""
    with replacing(Path(file)) as temporary:
        temporary.write_text(path_text(path), encoding="utf-8")


def read_path(file: Path | str) -> KeyframePath:
    """The path in a JSON file; raises SplatlearnError, one sentence, for whatever is no path."""
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
    """The path that JSON text says; `name` is for error messages."""
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
