"""Camera paths for videos: a turntable around what the photographs look at, a spiral before it, a flight along them.

Frames and units are those of `Camera`: world_to_camera of x right, y down, z forward, lengths of the scene. A
path keeps to where photographs were taken, because a scene is only known from there: it is a full circle only
where they surround the subject, and else sways within the arc that they cover. Paths that people record in the
viewer, and their JSON files, are in `keyframes.py` (`read_path(file).cameras()`).
"""

import math
import re
from collections.abc import Sequence

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.scene.cameras import Camera

LARGEST_GAP = math.radians(100)  # photographs surround the subject if neighbours are nowhere further apart
SWAY = 0.8  # the part of the covered arc that a sway uses: at its ends there is nothing to look at beyond
SMALLEST_SWAY = math.radians(2)  # even one photograph gives a video that moves
SMOOTHING = math.radians(30)  # distance and height follow the photographs within about this azimuth
SPIRAL = 0.2  # reach of a spiral around one camera, by its distance from the subject
NARROW = 0.9  # length of the mean unit viewing direction above which all views look the same way
STEPS_A_SEGMENT = 16  # samples between two photographs from which the speed of a flight is evened out


def orbit(cameras: Sequence[Camera], points: np.ndarray, frames: int) -> list[Camera]:
    """A closed turntable of `frames` cameras that look at the scene's centre of attention.

    The centre is the point nearest to all optical axes, or, where they are almost parallel, the point in the
    middle of the views at the median depth of `points` [P,3] (P may be 0). Where the cameras surround it, the
    path is a circle at their distance and height; else an ellipse within the arc and the heights that they
    cover, so that it never shows what no photograph saw. Where they look outwards there is no such centre and
    the path is that of `interpolate`.
    All frames have the size and the intrinsics of the camera of median field of view.
    Raises SplatlearnError without cameras or for fewer than one frame.
    """
    lens = _median_lens(cameras, frames)
    centers = np.stack([camera.center for camera in cameras])
    axes = np.stack([camera.world_to_camera[:3, :3] for camera in cameras])  # rows: right, down, forward
    focus = _center_of_attention(centers, axes[:, 2], np.asarray(points, np.float64).reshape(-1, 3))
    if focus is None:
        return interpolate(cameras, frames)
    up = _up(centers, axes, focus)
    east, north = np.linalg.svd(up[None])[2][1:]
    offsets = centers - focus
    distance = np.linalg.norm(offsets, axis=1).clip(1e-12)
    azimuth = np.arctan2(offsets @ north, offsets @ east)
    elevation = np.arcsin(np.clip(offsets @ up / distance, -1, 1))
    phase = np.linspace(0, 2 * math.pi, frames, endpoint=False)
    middle, half = _covered_arc(azimuth)
    if half == math.pi:
        turn, lift = azimuth[0] + phase, np.zeros(frames)
    else:
        sway = max(SWAY * half, SMALLEST_SWAY)
        low, high = np.percentile(elevation, (10, 90))
        turn = middle + sway * np.sin(phase)
        lift = np.clip((high - low) / 2, SMALLEST_SWAY / 2, sway) * np.cos(phase)
    apart = np.angle(np.exp(1j * (turn[:, None] - azimuth)))
    weights = np.exp(-0.5 * (apart / SMOOTHING) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    height = np.clip(weights @ elevation + lift, math.radians(-85), math.radians(85))
    flat = np.cos(turn)[:, None] * east + np.sin(turn)[:, None] * north
    way = np.cos(height)[:, None] * flat + np.sin(height)[:, None] * up
    eyes = focus + (weights @ distance)[:, None] * way
    return [_posed(lens, i, _looking(focus - eye, up), eye) for i, eye in enumerate(eyes)]


def interpolate(cameras: Sequence[Camera], frames: int) -> list[Camera]:
    """A smooth flight of `frames` cameras through the given ones in the order of their names (2 before 10).

    Centres and unit quaternions follow one cubic spline through every camera, at an even speed (one scene
    radius of travel counts as much as one radian of turn). All frames have the size and the intrinsics of the
    camera of median field of view. Raises SplatlearnError without cameras or for fewer than one frame.
    """
    from scipy.interpolate import CubicSpline
    from scipy.spatial.transform import Rotation

    lens = _median_lens(cameras, frames)
    ordered = sorted(cameras, key=_natural)
    centers = np.stack([camera.center for camera in ordered])
    quats = Rotation.from_matrix([camera.world_to_camera[:3, :3] for camera in ordered]).as_quat()
    for i in range(1, len(quats)):
        quats[i] *= -1 if quats[i] @ quats[i - 1] < 0 else 1  # q and -q are one rotation: take the near one
    radius = float(np.linalg.norm(centers - centers.mean(axis=0), axis=1).max()) or 1.0
    poses = np.hstack([centers / radius, 2 * quats])  # lengths along these rows are in radii and radians
    steps = np.linalg.norm(np.diff(poses, axis=0), axis=1)
    moved = steps > 1e-9  # a photograph taken twice from one place would be a knot of no length
    poses, steps = poses[[True, *moved]], steps[moved]
    if not steps.size:
        poses, steps = np.repeat(poses, 2, axis=0), np.ones(1)
    knots = np.concatenate([[0], np.cumsum(np.sqrt(steps))])  # centripetal: no loops and no cusps
    spline = CubicSpline(knots, poses, bc_type="natural")
    last = len(knots) - 1
    fine = np.interp(np.linspace(0, last, STEPS_A_SEGMENT * last + 1), np.arange(last + 1), knots)
    travelled = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(spline(fine), axis=0), axis=1))])
    path = spline(np.interp(np.linspace(0, travelled[-1], frames), travelled, fine))
    rotations = Rotation.from_quat(path[:, 3:]).as_matrix()
    return [_posed(lens, i, rotations[i], radius * path[i, :3]) for i in range(frames)]


def spiral(cameras: Sequence[Camera], points: np.ndarray, frames: int, turns: int = 2) -> list[Camera]:
    """A closed spiral of `frames` cameras about the middle of the views, always towards the centre of attention.

    It winds out to where four of five photographs were taken, and in again, `turns` times around in all: the way
    to look at what was photographed from one side. Where the cameras surround their subject it winds about the
    camera of median field of view. `points` and the errors are those of `orbit`, as is the path of cameras that
    look outwards.
    """
    lens = _median_lens(cameras, frames)
    centers = np.stack([camera.center for camera in cameras])
    axes = np.stack([camera.world_to_camera[:3, :3] for camera in cameras])
    focus = _center_of_attention(centers, axes[:, 2], np.asarray(points, np.float64).reshape(-1, 3))
    if focus is None:
        return interpolate(cameras, frames)
    up = _up(centers, axes, focus)
    middle = centers.mean(axis=0)
    typical = float(np.median(np.linalg.norm(centers - focus, axis=1)))
    frame = _looking(focus - middle, up) if np.linalg.norm(focus - middle) > typical / 2 else None
    if frame is None:
        middle = lens.center
        frame, reach = _looking(focus - middle, up), np.full(3, SPIRAL * typical)
    else:
        reach = np.percentile(np.abs((centers - middle) @ frame.T), 80, axis=0).clip(SPIRAL * typical / 10)
    share = np.arange(frames) / frames
    angle, radius = 2 * math.pi * turns * share, 0.2 + 0.8 * np.sin(math.pi * share) ** 2
    offsets = radius[:, None] * np.stack([np.cos(angle), np.sin(angle), 0.5 * np.sin(angle / turns)], axis=1)
    eyes = middle + (offsets * reach) @ frame
    return [_posed(lens, i, _looking(focus - eye, up), eye) for i, eye in enumerate(eyes)]


def _median_lens(cameras: Sequence[Camera], frames: int) -> Camera:
    """The camera of median field of view across, after checking that there is something to do."""
    if not cameras:
        raise SplatlearnError("a camera path needs at least one camera, got none.")
    if frames < 1:
        raise SplatlearnError(f"a camera path needs at least one frame, got {frames}.")
    ordered = sorted(cameras, key=lambda camera: (camera.width / camera.K[0, 0], camera.name))
    return ordered[len(ordered) // 2]


def _posed(lens: Camera, index: int, rotation: np.ndarray, center: np.ndarray) -> Camera:
    """A camera with the lens' size and intrinsics at `center`; `rotation` [3,3] is world to camera."""
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = rotation
    world_to_camera[:3, 3] = -rotation @ center
    return Camera(f"frame_{index:05d}.png", lens.width, lens.height, lens.K, world_to_camera)


def _looking(forward: np.ndarray, up: np.ndarray) -> np.ndarray:
    """World to camera rotation [3,3] of a level camera that looks along `forward`."""
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def _center_of_attention(centers: np.ndarray, forwards: np.ndarray, points: np.ndarray) -> np.ndarray | None:
    """The point [3] that the cameras look at, or None where they look outwards and there is none.

    The squared distance of a point p to an axis through c along the unit d is |(I - dd^T)(p - c)|²; its sum
    over the cameras is least where the sum of (I - dd^T) times p equals the sum of (I - dd^T)c.
    """
    across = np.eye(3) - forwards[:, :, None] * forwards[:, None, :]
    matrix = across.mean(axis=0)
    some = points[:: len(points) // 1000 + 1]
    depths = np.einsum("nd,npd->np", forwards, some[None] - centers[:, None])
    spread = float(np.linalg.norm(centers.std(axis=0)))
    seen = depths[depths > 0]
    typical = float(np.median(seen)) if seen.size else max(3 * spread, 1.0)
    if np.linalg.eigvalsh(matrix)[0] > 1e-3:  # sin² of the angle, about 2 degrees, by which axes must differ
        focus = np.linalg.solve(matrix, np.einsum("nij,nj->i", across, centers) / len(centers))
        if np.median(np.einsum("nd,nd->n", forwards, focus - centers)) > 0.1 * typical:
            return focus
    mean = forwards.mean(axis=0)
    length = float(np.linalg.norm(mean))
    return centers.mean(axis=0) + typical / length * mean if length > NARROW else None


def _up(centers: np.ndarray, axes: np.ndarray, focus: np.ndarray) -> np.ndarray:
    """The unit vertical [3]: across all right vectors, as people hold cameras level, on the cameras' side.

    Right vectors that are all alike do not tell; then it is the mean up. Where the ups cancel (photographs on
    their side, around a subject) it is the normal of the cameras' plane, on the side where they are.
    """
    mean = -axes[:, 1].mean(axis=0)
    if np.linalg.norm(mean) < 0.3:
        normal = np.linalg.svd(centers - centers.mean(axis=0))[2][2]
        return normal if (centers.mean(axis=0) - focus) @ normal >= 0 else -normal
    spread, vectors = np.linalg.eigh(np.einsum("ni,nj->ij", axes[:, 0], axes[:, 0]) / len(axes))
    level = vectors[:, 0] * np.sign(vectors[:, 0] @ mean)
    if spread[1] > 0.05 and spread[0] < 0.2 * spread[1] and level @ mean > 0.5 * np.linalg.norm(mean):
        return level
    return mean / np.linalg.norm(mean)


def _covered_arc(azimuth: np.ndarray) -> tuple[float, float]:
    """Middle and half width in radians of the smallest arc of all azimuths; half is pi if they surround."""
    around = np.sort(azimuth % (2 * math.pi))
    gaps = np.diff(np.append(around, around[0] + 2 * math.pi))
    widest = int(np.argmax(gaps))
    if gaps[widest] <= LARGEST_GAP:
        return float(azimuth[0]), math.pi
    half = (2 * math.pi - gaps[widest]) / 2
    return float(around[(widest + 1) % len(around)] + half), float(half)


def _natural(camera: Camera) -> list[tuple[int, str]]:
    """A sorting key by which img_2 comes before img_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", camera.name)]
