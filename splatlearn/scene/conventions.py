"""Whether poses are in COLMAP's convention: world to camera, x right, y down, z forward, quaternions wxyz.

Poses of other tools are easily written in another one, and nothing in the files says so. Each reading of the poses is
tried: it is right where the points that a photograph observed lie in front of its camera and inside of it, and where
photographs have the colours of the points at their pixels. A model need not have observations, and these do not tell a
mirrored world.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from splatlearn.scene.cameras import Camera
from splatlearn.scene.geometry import evenly

FEWEST_PHOTOS, MOST_PHOTOS = 3, 8  # whose colours are compared
MOST_POINTS = 1500  # whose colours are compared
FEWEST = 24  # points of a camera that say something
WRONG, RIGHT = 0.2, 0.9  # shares of observed points inside the images: as given, and in another convention
SHADES = 4.0  # standard deviation of the points' colours, 0 to 255, from which they say something
MATCHED = 0.25  # share of the difference of colours that a right reading explains at least
BETTER, LEAD = 1.5, 4.0  # times what the given one explains: for a warning, and to be certain
OPENGL = "camera axes of OpenGL and Blender (y up, z backward)"
Reading = Callable[[np.ndarray], np.ndarray]  # of a pose [4, 4] as given to world to camera
Observed = Mapping[str, np.ndarray]  # points [K, 3] by the name of the camera
Pixels = Callable[[Camera], np.ndarray]  # the photograph [H, W, 3] uint8 of a camera


@dataclass(frozen=True)
class Finding:
    """Another reading of the poses that fits where the given one does not.

    name: what the poses look like. given, other: shares from 0 to 1 that the two readings explain. evidence: of what.
    certain: whether the given reading explains next to nothing.
    """

    name: str
    given: float
    other: float
    evidence: str
    certain: bool


def other_convention(
    cameras: Sequence[Camera],
    points: np.ndarray,
    colors: np.ndarray,
    observed: Observed,
    photo: Pixels | None = None,
) -> Finding | None:
    """Find the convention in which poses are plausible, where as given they are not; None where nothing is wrong.

    Args:
        cameras: as they were read, in the frame of the points.
        points: [P, 3]; colors: [P, 3] uint8.
        observed: the points that each camera observed, where the model says so.
        photo: reads a photograph; None: colours are not compared.
    """
    tracks = [(camera, observed[camera.name]) for camera in cameras if len(observed.get(camera.name, ())) >= FEWEST]
    by_tracks = None
    if tracks:
        what = "of the points that the photographs observed"
        by_tracks = _best(lambda read: _inside(tracks, read), WRONG, RIGHT, what)
        if by_tracks is not None and by_tracks.certain:
            return by_tracks
    if photo is None or min(len(cameras), len(points)) < FEWEST_PHOTOS or colors.std(axis=0).max() < SHADES:
        return by_tracks
    seen = [(camera, photo(camera)) for camera in evenly(cameras, MOST_PHOTOS)]
    chosen = evenly(np.arange(len(points)), MOST_POINTS)
    values = colors[chosen].astype(np.float64)
    what = "of the points' colours in the photographs"
    by_colors = _best(lambda read: _matched(seen, points[chosen], values, read), MATCHED, MATCHED, what)
    return by_colors or by_tracks


def _best(score: Callable[[Reading], float], wrong: float, right: float, evidence: str) -> Finding | None:
    """The simplest reading that is about as good as the best one, if that is clearly better than the given one."""
    given = max(score(lambda pose: pose), 0.0)
    if BETTER * given >= 1:
        return None
    scores = [(name, score(read)) for name, read in readings()]
    best = max(value for _, value in scores)
    if best < max(right, BETTER * given):
        return None
    name, value = next((name, value) for name, value in scores if value >= 0.95 * best)
    return Finding(name, given, value, evidence, certain=given < wrong and best >= LEAD * given)


def _inside(tracks: Sequence[tuple[Camera, np.ndarray]], read: Reading) -> float:
    """The share of observed points that lie in front of their cameras and inside of the images."""
    found = [float(_pixels(camera, points, read)[1].mean()) for camera, points in tracks]
    return float(np.mean(found))


def _matched(seen: Sequence[tuple[Camera, np.ndarray]], points: np.ndarray, colors: np.ndarray, read: Reading) -> float:
    """How much nearer the colours of points are to those of their own pixels than to those of other points' pixels.

    1 where they agree, 0 where the pixels say nothing. A reading under which few points are seen says nothing.
    """
    found = []
    for camera, image in seen:
        pixels, inside = _pixels(camera, points, read)
        if inside.sum() < FEWEST:
            found.append(0.0)
            continue
        x, y = pixels[inside].astype(np.int64).T
        there, own = image[y, x].astype(np.float64), colors[inside]
        chance = float(np.abs(own - np.roll(there, len(there) // 2 + 1, axis=0)).mean())
        found.append(1 - float(np.abs(own - there).mean()) / chance if chance > 0 else 0.0)
    return float(np.median(found))


def _pixels(camera: Camera, points: np.ndarray, read: Reading) -> tuple[np.ndarray, np.ndarray]:
    """The pixels [K, 2] of points [K, 3], and which lie in front of the camera and inside of its image."""
    pose = read(camera.world_to_camera)
    local = points @ pose[:3, :3].T + pose[:3, 3]
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        pixels = local[:, :2] / local[:, 2:] * camera.K[[0, 1], [0, 1]] + camera.K[:2, 2]
        inside = (local[:, 2] > 0) & ((pixels >= 0) & (pixels < (camera.width, camera.height))).all(axis=1)
    return pixels, inside


# ---- readings, the simplest first ----


def readings() -> Iterator[tuple[str, Reading]]:
    """Name other conventions, and how a pose that is written in each becomes world to camera."""
    rotations = {"": lambda r: r, "quaternions in the order x, y, z, w": _reordered}
    kinds = {
        "": lambda r, t: (r, t),
        "camera-to-world poses": lambda r, t: (r.T, -r.T @ t),
        "world-to-camera rotations with camera centres for translations": lambda r, t: (r, -r @ t),
        "camera-to-world rotations with world-to-camera translations": lambda r, t: (r.T, t),
    }
    axes = {"": np.eye(3), OPENGL: np.diag([1.0, -1.0, -1.0])}
    mirrors = {"": np.eye(3), "a world that is turned about x (y up, z backward)": axes[OPENGL]}
    mirrors |= {f"a world that is mirrored along {'xyz'[i]}": _flip(i) for i in range(3)}
    lenses = {"": np.eye(3)} | {f"cameras that are mirrored along {'xyz'[i]}": _flip(i) for i in range(3)}
    found = []
    for names in ((a, b, c, d, e) for a in kinds for b in axes for c in rotations for d in mirrors for e in lenses):
        kind, axis, rotation, mirror, lens = names
        parts = [name for name in names if name]
        if parts and len(parts) <= 2 + bool(mirror and lens):
            found.append((len(parts), " and ".join(parts), _reading(
                rotations[rotation], kinds[kind], axes[axis] @ lenses[lens], mirrors[mirror],
            )))  # fmt: skip
    return ((name, read) for _, name, read in sorted(found, key=lambda item: (item[0], "mirrored" in item[1])))


def _reading(rotate: Callable[..., np.ndarray], kind: Callable[..., tuple[np.ndarray, np.ndarray]],
             axes: np.ndarray, mirror: np.ndarray) -> Reading:  # fmt: skip
    def read(pose: np.ndarray) -> np.ndarray:
        rotation, translation = kind(rotate(pose[:3, :3]), pose[:3, 3])
        found = np.eye(4)
        found[:3, :3], found[:3, 3] = axes @ rotation @ mirror, axes @ translation
        return found

    return read


def _reordered(rotation: np.ndarray) -> np.ndarray:
    """The rotation whose quaternion x, y, z, w was read as w, x, y, z."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return np.asarray(Rotation.from_quat([w, x, y, z]).as_matrix())


def _flip(axis: int) -> np.ndarray:
    matrix = np.eye(3)
    matrix[axis, axis] = -1
    return matrix
