"""Cameras and points of a scene as JSON, for the report to draw in three dimensions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from splatlearn.scene.cameras import Camera
from splatlearn.scene.frame import Frame

MOST_POINTS = 4000  # of the sparse model


def space_record(
    train: Sequence[Camera], test: Sequence[Camera], points: np.ndarray, colors: np.ndarray, frame: Frame | None = None
) -> dict[str, Any]:
    """The content of eval/space.json: every camera, and at most MOST_POINTS points, evenly chosen.

    Args:
        train, test: The cameras of the scene.
        points: [P, 3].
        colors: [P, 3] uint8.
        frame: The way back from their frame to that of the capture; None: they are in it.

    Returns:
        In the frame of the capture. cameras: name, split ("train" or "test"), width and height in pixels, focal [2] and
        principal [2] in pixels, world_to_camera [16] row by row. points: [x, y, z, red, green, blue], colours 0..255.
    """
    some, frame = slice(None, None, max(1, -(-len(points) // MOST_POINTS))), frame or Frame()
    places = frame.capture_points([[_rounded(x) for x in p] for p in points[some]])
    rows = [[*map(float, p), *map(int, c)] for p, c in zip(places, colors[some], strict=True)]
    groups = (("train", train), ("test", test))
    cameras = [_camera_record(frame.capture_camera(c), split) for split, group in groups for c in group]
    return {"cameras": cameras, "points": rows}


def _camera_record(camera: Camera, split: str) -> dict[str, Any]:
    K = camera.K
    return {
        "name": camera.name,
        "split": split,
        "width": camera.width,
        "height": camera.height,
        "focal": [float(K[0, 0]), float(K[1, 1])],
        "principal": [float(K[0, 2]), float(K[1, 2])],
        "world_to_camera": [float(v) for v in camera.world_to_camera.flatten()],
    }


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
