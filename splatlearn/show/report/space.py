"""The cameras and points of a scene in a canvas to turn, and the scene itself in a page inside the report."""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np

from splatlearn.scene.cameras import Camera
from splatlearn.scene.frame import frame_of_cameras
from splatlearn.scene.space import MOST_POINTS
from splatlearn.show.report.format import byte_size, decibels
from splatlearn.show.report.run_folder import RunFolder, is_number
from splatlearn.show.report.views import picture_stem

MOST_CAMERAS = 2000
MOST_GAUSSIANS = 100_000  # of the scene inside a page; more make it slow to open


@dataclass(frozen=True)
class Space:
    """The section of the cameras: what the canvas draws, and the counts of its legend."""

    data: dict[str, Any]
    trained: int
    held_out: int


@dataclass(frozen=True)
class EmbeddedScene:
    """The section of the scene itself: a scene page in base64, which starts with a click."""

    content: str
    size: str
    shown: int
    total: int


def space_section(run: RunFolder) -> Space | None:
    """The cameras and points, or None for a run that does not say where its cameras are."""
    captured, points = read_cameras(run), _read_points(run)
    if not captured:
        return None
    places = np.array([row[:3] for row in points], np.float64).reshape(-1, 3)
    frame = frame_of_cameras([camera for camera, _ in captured], places)  # a canvas has five digits
    places = frame.normalised_points(places)
    points = [[*map(_rounded, place), *row[3:]] for place, row in zip(places.tolist(), points, strict=True)]
    cameras = [(frame.normalised_camera(camera), split) for camera, split in captured]
    tested = {camera.name for camera, split in cameras if split == "test"}
    rows = {str(row["name"]): row for row in run.view_scores()[1]}
    drawn = []
    for camera, split in cameras[:MOST_CAMERAS]:
        row = rows.get(camera.name, {})
        drawn.append(
            {
                "name": camera.name,
                "held": split == "test",
                "view": picture_stem({**row, "name": camera.name}),
                "psnr": decibels(row.get("psnr")),
                "center": [_rounded(v) for v in camera.center],
                "corners": [[_rounded(v) for v in corner] for corner in _corners(camera)],
            }
        )
    up = -np.mean([camera.world_to_camera[1, :3] for camera, _ in cameras], axis=0)
    data = {"cameras": drawn, "points": points, "up": [_rounded(v) for v in up]}
    return Space(data, len(cameras) - len(tested), len(tested))


def scene_section(run: RunFolder) -> EmbeddedScene | None:
    """The scene as a page of its own inside the report; None if there is no point_cloud.ply to read."""
    from splatlearn.errors import SplatlearnError
    from splatlearn.scene.formats.ply import read_ply
    from splatlearn.show.scene_page import scene_html

    path = run.folder / "point_cloud.ply"
    if not path.is_file():
        return None
    try:
        tensors = read_ply(path)
        cameras = [camera for camera, _ in read_cameras(run)]
        antialiased = run.config.get("antialiased") is True
        document = scene_html(
            tensors, cameras, title=run.folder.resolve().name, antialiased=antialiased, sh_degree=1,
            limit=MOST_GAUSSIANS,
        )  # fmt: skip
    except (SplatlearnError, OSError):
        return None
    count = len(tensors["means"])
    content = base64.b64encode(document.encode("utf-8")).decode("ascii")
    return EmbeddedScene(content, byte_size(len(content)), min(count, MOST_GAUSSIANS), count)


def read_cameras(run: RunFolder) -> list[tuple[Camera, str]]:
    """The cameras of eval/space.json with their split; [] where that is damaged."""
    found = []
    try:
        for row in run.space.get("cameras", []):
            pose = np.array(row["world_to_camera"], dtype=np.float64).reshape(4, 4)
            (fx, fy), (cx, cy) = row["focal"], row["principal"]
            K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)
            size = int(row["width"]), int(row["height"])
            if np.isfinite(pose).all() and np.isfinite(K).all() and min(*size, fx, fy) > 0:
                found.append((Camera(str(row["name"]), *size, K, pose), str(row["split"])))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return []
    return found


def _read_points(run: RunFolder) -> list[list[float]]:
    rows = run.space.get("points")
    if not isinstance(rows, list):
        return []
    return [row for row in rows[:MOST_POINTS] if isinstance(row, list) and len(row) == 6 and all(map(is_number, row))]


def _corners(camera: Camera) -> np.ndarray:
    """The rays through the four corners of the image, [4, 3] in world axes, at depth 1 from the centre."""
    pixels = np.array([[0, 0, 1], [camera.width, 0, 1], [camera.width, camera.height, 1], [0, camera.height, 1.0]])
    rays = pixels @ np.linalg.inv(camera.K).T
    return np.asarray(rays @ camera.world_to_camera[:3, :3])


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
