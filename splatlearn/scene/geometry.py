"""Robust measures of a capture: how deep it is, and what a camera sees of its points."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from splatlearn.scene.cameras import Camera

MOST_POINTS = 4000  # of which depths are taken
MOST_CAMERAS = 200
FEWEST = 8  # points in view from which a camera has a depth
FIRST = 5  # percentile of a camera's depths that is its first surface: nearer ones are errors of matching
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


def evenly(values: Any, most: int) -> Any:
    """At most so many of a sequence or of the rows of an array, evenly chosen."""
    return values[:: max(1, -(-len(values) // most))]
