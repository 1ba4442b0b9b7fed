"""Robust measures of a capture: how deep it is, what a camera sees of it, and which cameras and points are far off."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from splatlearn.scene.cameras import Camera

MOST_POINTS = 4000  # of which depths are taken
MOST_CAMERAS = 200
FEWEST = 8  # points in view from which a camera has a depth
FIRST = 5  # percentile of a camera's depths that is its first surface: nearer ones are errors of matching
ASIDE = 4.0  # times the typical distance beyond which a camera must see the scene to count
DOT = 0.05  # of an image's width: what is smaller is a dot
DISTANT = 300.0  # times the typical distance beyond which points are named
LOST = 1e4  # and beyond which they are left out
LOWEST = 10  # percentile over the cameras: some stand closer than most


def in_view(camera: Camera, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The depths [K] and pixels [K, 2] of those points [P, 3] that lie in front of a camera and inside its image."""
    local = points @ camera.world_to_camera[:3, :3].T + camera.world_to_camera[:3, 3]
    local = local[local[:, 2] > 0]
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        pixels = local[:, :2] / local[:, 2:] * camera.K[[0, 1], [0, 1]] + camera.K[:2, 2]
        inside = ((pixels >= 0) & (pixels < (camera.width, camera.height))).all(axis=1)
    return local[inside, 2], pixels[inside]


def near_depth(cameras: Sequence[Camera], points: np.ndarray) -> float:
    """The depth at which most cameras see their first points; 0 where no camera sees enough."""
    some, few = evenly(points, MOST_POINTS), evenly(cameras, MOST_CAMERAS)
    seen = [depths for depths, _ in (in_view(camera, some) for camera in few) if len(depths) >= FEWEST]
    return float(np.percentile([np.percentile(depths, FIRST) for depths in seen], LOWEST)) if seen else 0.0


def outlying_cameras(cameras: Sequence[Camera], points: np.ndarray) -> np.ndarray:
    """Find cameras that stand far off and do not see the scene, as a wrong pose leaves them; [C] bool.

    Those that see as many points as others, and not as a dot, may stand where they are: a building from afar.
    """
    centers = np.stack([camera.center for camera in cameras])
    distances = np.linalg.norm(centers - np.median(centers, axis=0), axis=1)
    typical = max(float(np.median(distances)), near_depth(cameras, points))
    suspects = distances > ASIDE * typical if typical > 0 else np.zeros(len(cameras), bool)
    if not suspects.any():
        return suspects
    some = evenly(points, MOST_POINTS)
    usual = np.median([len(in_view(camera, some)[0]) for camera in evenly(cameras, MOST_CAMERAS)])
    shown = [far and _shows(camera, some, float(usual)) for camera, far in zip(cameras, suspects, strict=True)]
    return np.asarray(suspects & ~np.array(shown, bool))


def _shows(camera: Camera, points: np.ndarray, usual: float) -> bool:
    """Whether a camera sees a quarter of the usual number of points, and these over a part of its image."""
    _, pixels = in_view(camera, points)
    if len(pixels) < max(FEWEST, usual / 4):
        return False
    return bool((np.ptp(np.percentile(pixels, (10, 90), axis=0), axis=0) > DOT * camera.width).any())


def outlying_points(points: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Find points [P, 3] that are far off, and those so far off that nothing can be learned from them; each [P] bool.

    Args:
        points: in any frame.
        radius: that of the cameras: what they move through is near.
    """
    if not len(points):
        return np.zeros(0, bool), np.zeros(0, bool)
    distances = np.abs(points - np.median(points, axis=0)).max(axis=1)
    typical = max(float(np.median(distances)), radius)
    return distances > DISTANT * typical, distances > LOST * typical


def evenly(values: Any, most: int) -> Any:
    """At most so many of a sequence or of the rows of an array, evenly chosen."""
    return values[:: max(1, -(-len(values) // most))]
