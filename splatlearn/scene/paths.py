"""Camera paths for videos: an orbit around the subject of the images, a spiral in front of it, a flight along them.

Frames and units are those of `Camera`: x right, y down, z forward, lengths of the scene. A path stays near the cameras
of the images, because the scene is only known from there. It is a full circle only if the cameras surround the subject;
otherwise it swings within the arc that they cover. `keyframes.py` contains the paths that users record in the viewer,
and their JSON files.
"""

import math
import re
from collections.abc import Sequence

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.scene.cameras import Camera, far_off

LARGEST_GAP = math.radians(100)  # cameras surround the subject if no two neighbours are further apart in azimuth
SWING = 0.8  # fraction of the covered arc that a swing uses: no image shows what lies beyond the arc's ends
SMALLEST_SWING = math.radians(2)  # so that even one camera gives a video that moves
SMOOTHING = math.radians(30)  # azimuth within which distance and height follow the cameras
SPIRAL = 0.2  # radius of a spiral around one camera, relative to its distance from the subject
NARROW = 0.9  # length of the mean unit viewing direction above which all cameras look in one direction
STEPS_PER_SEGMENT = 16  # samples between two cameras for the arc length of a flight


def orbit(cameras: Sequence[Camera], points: np.ndarray, frames: int) -> list[Camera]:
    """Build a closed path of cameras that look at the scene's centre of attention.

    The centre is the point nearest to all optical axes. If these are almost parallel, it is the point at the median
    depth of `points` in front of the cameras' mean. If the cameras surround the centre, the path is a circle at their
    distance and height. Otherwise it is an ellipse within the arc and the heights that they cover, so that it shows
    nothing that no image shows. Cameras that look outwards have no such centre; their path is that of `interpolate`.

    Args:
        cameras: the scene's cameras.
        points: [P, 3] in the world; P may be 0.
        frames: number of cameras in the path.

    Returns:
        `frames` cameras with the size and intrinsics of the camera of median field of view.

    Raises:
        SplatlearnError: there are no cameras, or `frames` is below one.
    """
    cameras = _without_strays(cameras)
    median = _median_camera(cameras, frames)
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
        angle, lift = azimuth[0] + phase, np.zeros(frames)
    else:
        swing = max(SWING * half, SMALLEST_SWING)
        low, high = np.percentile(elevation, (10, 90))
        angle = middle + swing * np.sin(phase)
        lift = np.clip((high - low) / 2, SMALLEST_SWING / 2, swing) * np.cos(phase)
    difference = np.angle(np.exp(1j * (angle[:, None] - azimuth)))
    weights = np.exp(-0.5 * (difference / SMOOTHING) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    height = np.clip(weights @ elevation + lift, math.radians(-85), math.radians(85))
    horizontal = np.cos(angle)[:, None] * east + np.sin(angle)[:, None] * north
    direction = np.cos(height)[:, None] * horizontal + np.sin(height)[:, None] * up
    eyes = focus + (weights @ distance)[:, None] * direction
    return [_frame(median, i, _look_rotation(focus - eye, up), eye) for i, eye in enumerate(eyes)]


def interpolate(cameras: Sequence[Camera], frames: int) -> list[Camera]:
    """Build a smooth path through all cameras in the order of their names (2 before 10).

    Centres and unit quaternions follow one cubic spline at constant speed: one scene radius of translation counts as
    much as one radian of rotation.

    Args:
        cameras: the scene's cameras.
        frames: number of cameras in the path.

    Returns:
        `frames` cameras with the size and intrinsics of the camera of median field of view.

    Raises:
        SplatlearnError: there are no cameras, or `frames` is below one.
    """
    from scipy.interpolate import CubicSpline
    from scipy.spatial.transform import Rotation

    cameras = _without_strays(cameras)
    median = _median_camera(cameras, frames)
    ordered = sorted(cameras, key=_natural)
    centers = np.stack([camera.center for camera in ordered])
    quats = Rotation.from_matrix([camera.world_to_camera[:3, :3] for camera in ordered]).as_quat()
    for i in range(1, len(quats)):
        quats[i] *= -1 if quats[i] @ quats[i - 1] < 0 else 1  # q and -q are the same rotation: take the nearer one
    radius = float(np.linalg.norm(centers - centers.mean(axis=0), axis=1).max()) or 1.0
    poses = np.hstack([centers / radius, 2 * quats])  # lengths along these rows are in scene radii and radians
    steps = np.linalg.norm(np.diff(poses, axis=0), axis=1)
    moved = steps > 1e-9  # two cameras with the same pose would be a segment of no length
    poses, steps = poses[[True, *moved]], steps[moved]
    if not steps.size:
        poses, steps = np.repeat(poses, 2, axis=0), np.ones(1)
    knots = np.concatenate([[0], np.cumsum(np.sqrt(steps))])  # centripetal: no loops and no cusps
    spline = CubicSpline(knots, poses, bc_type="natural")
    last = len(knots) - 1
    fine = np.interp(np.linspace(0, last, STEPS_PER_SEGMENT * last + 1), np.arange(last + 1), knots)
    travelled = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(spline(fine), axis=0), axis=1))])
    path = spline(np.interp(np.linspace(0, travelled[-1], frames), travelled, fine))
    rotations = Rotation.from_quat(path[:, 3:]).as_matrix()
    return [_frame(median, i, rotations[i], radius * path[i, :3]) for i in range(frames)]


def spiral(cameras: Sequence[Camera], points: np.ndarray, frames: int, turns: int = 2) -> list[Camera]:
    """Build a closed spiral about the mean of the cameras that looks at the centre of attention.

    It suits scenes that were captured from one side. The spiral widens until it contains four of five cameras, and
    narrows again. If the cameras surround their subject, it runs about the camera of median field of view. For cameras
    that look outwards the path is that of `interpolate`.

    Args:
        cameras: the scene's cameras.
        points: [P, 3] in the world; P may be 0.
        frames: number of cameras in the path.
        turns: revolutions in all.

    Returns:
        `frames` cameras with the size and intrinsics of the camera of median field of view.

    Raises:
        SplatlearnError: there are no cameras, or `frames` is below one.
    """
    cameras = _without_strays(cameras)
    median = _median_camera(cameras, frames)
    centers = np.stack([camera.center for camera in cameras])
    axes = np.stack([camera.world_to_camera[:3, :3] for camera in cameras])
    focus = _center_of_attention(centers, axes[:, 2], np.asarray(points, np.float64).reshape(-1, 3))
    if focus is None:
        return interpolate(cameras, frames)
    up = _up(centers, axes, focus)
    middle = centers.mean(axis=0)
    typical = float(np.median(np.linalg.norm(centers - focus, axis=1)))
    rotation = _look_rotation(focus - middle, up) if np.linalg.norm(focus - middle) > typical / 2 else None
    if rotation is None:
        middle = median.center
        rotation, reach = _look_rotation(focus - middle, up), np.full(3, SPIRAL * typical)
    else:
        reach = np.percentile(np.abs((centers - middle) @ rotation.T), 80, axis=0).clip(SPIRAL * typical / 10)
    share = np.arange(frames) / frames
    angle, radius = 2 * math.pi * turns * share, 0.2 + 0.8 * np.sin(math.pi * share) ** 2
    offsets = radius[:, None] * np.stack([np.cos(angle), np.sin(angle), 0.5 * np.sin(angle / turns)], axis=1)
    eyes = middle + (offsets * reach) @ rotation
    return [_frame(median, i, _look_rotation(focus - eye, up), eye) for i, eye in enumerate(eyes)]


def _without_strays(cameras: Sequence[Camera]) -> list[Camera]:
    """The cameras that are not far off: a path must not fly to where a wrong pose put one."""
    if not cameras:
        return []
    far = far_off(np.stack([camera.center for camera in cameras]))
    return [camera for camera, stray in zip(cameras, far, strict=True) if not stray]


def _median_camera(cameras: Sequence[Camera], frames: int) -> Camera:
    """Return the camera of median horizontal field of view; raise without cameras or frames."""
    if not cameras:
        raise SplatlearnError("a camera path needs at least one camera, got none.")
    if frames < 1:
        raise SplatlearnError(f"a camera path needs at least one frame, got {frames}.")
    ordered = sorted(cameras, key=lambda camera: (camera.width / camera.K[0, 0], camera.name))
    return ordered[len(ordered) // 2]


def _frame(median: Camera, index: int, rotation: np.ndarray, center: np.ndarray) -> Camera:
    """Return a frame's camera at `center` with the size and K of `median`; `rotation` [3,3] is world to camera."""
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = rotation
    world_to_camera[:3, 3] = -rotation @ center
    return Camera(f"frame_{index:05d}.png", median.width, median.height, median.K, world_to_camera)


def _look_rotation(forward: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return the rotation world to camera [3,3] of a level camera that looks along `forward`."""
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def _center_of_attention(centers: np.ndarray, forwards: np.ndarray, points: np.ndarray) -> np.ndarray | None:
    """Return the point [3] that the cameras look at, or None if they look outwards.

    The squared distance of a point p to an axis through c along the unit d is |(I - dd^T)(p - c)|². Its sum over the
    cameras is least where the sum of (I - dd^T) times p equals the sum of (I - dd^T)c.
    """
    projections = np.eye(3) - forwards[:, :, None] * forwards[:, None, :]
    matrix = projections.mean(axis=0)
    sample = points[:: len(points) // 1000 + 1]
    depths = np.einsum("nd,npd->np", forwards, sample[None] - centers[:, None])
    spread = float(np.linalg.norm(centers.std(axis=0)))
    in_front = depths[depths > 0]
    typical = float(np.median(in_front)) if in_front.size else max(3 * spread, 1.0)
    if np.linalg.eigvalsh(matrix)[0] > 1e-3:  # sin² of the angle, about 2 degrees, by which axes must differ
        focus = np.linalg.solve(matrix, np.einsum("nij,nj->i", projections, centers) / len(centers))
        if np.median(np.einsum("nd,nd->n", forwards, focus - centers)) > 0.1 * typical:
            return focus
    mean = forwards.mean(axis=0)
    length = float(np.linalg.norm(mean))
    return centers.mean(axis=0) + typical / length * mean if length > NARROW else None


def _up(centers: np.ndarray, axes: np.ndarray, focus: np.ndarray) -> np.ndarray:
    """Estimate the unit vertical [3]: orthogonal to all right vectors, as cameras are mostly held level.

    If the right vectors are parallel, the vertical is the mean of the cameras' ups. If those cancel (images on their
    side around a subject), it is the normal of the cameras' plane, towards the cameras.
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
    """Return middle and half width in radians of the smallest arc that contains all azimuths; half is pi if they
    surround the subject."""
    ordered = np.sort(azimuth % (2 * math.pi))
    gaps = np.diff(np.append(ordered, ordered[0] + 2 * math.pi))
    widest = int(np.argmax(gaps))
    if gaps[widest] <= LARGEST_GAP:
        return float(azimuth[0]), math.pi
    half = (2 * math.pi - gaps[widest]) / 2
    return float(ordered[(widest + 1) % len(ordered)] + half), float(half)


def _natural(camera: Camera) -> list[tuple[int, str]]:
    """Sort key that orders img_2 before img_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", camera.name)]
