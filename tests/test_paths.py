"""Camera paths look at the subject, stay where photographs were taken, and survive odd sets of cameras."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from splatlearn.errors import SplatlearnError
from splatlearn.scene.cameras import Camera
from splatlearn.scene.paths import _look_rotation, interpolate, orbit

UPWARD, ACROSS = math.sin(0.52), math.cos(0.52)  # 30 degrees above the subject
NO_POINTS = np.zeros((0, 3), np.float32)


def camera(center: np.ndarray, target: np.ndarray, name: str = "a.jpg", focal: float = 100.0) -> Camera:
    """A level camera at `center` that looks at `target` in a world whose y points down, as COLMAP's may."""
    pose = np.eye(4)
    pose[:3, :3] = _look_rotation(np.asarray(target, float) - center, np.array([0.0, -1.0, 0.0]))
    pose[:3, 3] = -pose[:3, :3] @ center
    return Camera(name, 64, 48, np.array([[focal, 0, 32], [0, focal, 24], [0, 0, 1.0]]), pose)


def ring(count: int, arc: float = 2 * math.pi, radius: float = 4.0, seed: int = 0) -> list[Camera]:
    """Cameras 30 degrees above a subject at (1, 2, 3), along an arc around it, held by a shaking hand."""
    rng = np.random.default_rng(seed)
    target = np.array([1.0, 2.0, 3.0])
    cameras = []
    for i in range(count):
        a = arc * i / count
        away = radius * np.array([math.cos(a) * ACROSS, -UPWARD, math.sin(a) * ACROSS])
        cameras.append(camera(target + away, target + rng.normal(0, 0.05, 3), f"img_{i}.jpg"))
    return cameras


def grid() -> list[Camera]:
    """Cameras in a plane that look straight ahead, as a forward-facing capture."""
    places = [np.array([x, y, 0.0]) for x in (-1, 0, 1) for y in (-0.5, 0, 0.5)]
    return [camera(p, p + np.array([0, 0, 9.0]), f"{i}.jpg") for i, p in enumerate(places)]


def centers(cameras: list[Camera]) -> np.ndarray:
    return np.stack([c.center for c in cameras])


def assert_rigid(cameras: list[Camera], frames: int) -> None:
    assert len(cameras) == frames, "another number of frames than asked for"
    for c in cameras:
        rotation = c.world_to_camera[:3, :3]
        assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-9), "a sheared pose"
        assert np.linalg.det(rotation) > 0, "a pose is mirrored"
    assert len({c.name for c in cameras}) == frames, "frames of one name overwrite each other"


def test_looking_is_upright() -> None:
    rotation = _look_rotation(np.array([0.0, 0.0, 2.0]), np.array([0.0, -1.0, 0.0]))
    assert np.allclose(rotation, np.eye(3)), "x right, y down, z forward is mixed up"


def test_orbit_of_a_ring_is_a_turntable() -> None:
    cameras = ring(24)
    path = orbit(cameras, NO_POINTS, 36)
    assert_rigid(path, 36)
    target, places = np.array([1.0, 2.0, 3.0]), centers(path)
    assert np.allclose(np.linalg.norm(places - target, axis=1), 4, atol=0.1), "not at the photos' distance"
    assert np.allclose(places[:, 1], 2 - 4 * UPWARD, atol=0.1), "not at the photos' height or not level"
    for c in path:
        point = c.world_to_camera @ np.append(target, 1)
        assert point[2] > 0 and np.abs(point[:2] / point[2]).max() < 0.03, "a frame looks past the subject"
        assert c.world_to_camera[1, 1] > 0.5, "a frame is upside down"
    steps = np.linalg.norm(np.diff(places, axis=0, append=places[:1]), axis=1)
    assert steps.max() < 1.1 * steps.min(), "the turntable jumps, or its end does not meet its beginning"
    assert steps.sum() == pytest.approx(2 * math.pi * 4 * ACROSS, rel=0.05), "not one whole turn"


@pytest.mark.parametrize("arc", [0.3, 1.5, 3.0])
def test_orbit_stays_in_the_arc_of_the_photographs(arc: float) -> None:
    cameras = ring(20, arc)
    path = orbit(cameras, NO_POINTS, 48)
    assert_rigid(path, 48)
    target, places, photos = np.array([1.0, 2.0, 3.0]), centers(path), centers(cameras)
    directions = [(p - target) / np.linalg.norm(p - target, axis=1, keepdims=True) for p in (places, photos)]
    nearest = np.arccos(np.clip(directions[0] @ directions[1].T, -1, 1)).min(axis=1)
    assert nearest.max() < 0.15, "a frame looks at what no photograph saw"
    azimuth = np.arctan2(*(places - target)[:, [2, 0]].T)
    assert np.ptp(azimuth) > 0.6 * arc, "the camera hardly moves"
    steps = np.linalg.norm(np.diff(places, axis=0, append=places[:1]), axis=1)
    assert steps.max() < 0.2 * steps.sum(), "the loop is not closed"


def test_orbit_of_parallel_views_uses_the_depth_of_the_points() -> None:
    points = np.random.default_rng(0).normal((0, 0, 10), 0.5, (500, 3)).astype(np.float32)
    path = orbit(grid(), points, 30)
    assert_rigid(path, 30)
    places = centers(path)
    assert np.abs(places[:, 0]).max() < 1.1 and np.abs(places[:, 1]).max() < 0.7, "it leaves the photos"
    assert np.ptp(places[:, 0]) > 0.8 and np.ptp(places[:, 1]) > 0.2, "it does not move in both directions"
    aims = np.stack([c.center + c.world_to_camera[2, :3] * 10 for c in path])
    assert np.abs(aims - [0, 0, 10]).max() < 0.2, "it does not look at the points"


def outward() -> list[Camera]:
    return [camera(np.zeros(3), np.array([math.cos(a), 0, math.sin(a)]), f"{a:.2f}") for a in np.arange(0, 6, 0.5)]


def test_orbit_of_a_panorama_looks_around() -> None:
    path = orbit(outward(), np.random.default_rng(0).normal(0, 5, (100, 3)), 40)
    assert_rigid(path, 40)
    assert np.allclose(centers(path), 0, atol=1e-9), "a panorama is left"
    assert np.abs(np.diff([c.world_to_camera[2, 0] for c in path])).max() < 0.3, "it jumps"


def test_orbit_of_photos_on_their_side_turns_about_the_vertical() -> None:
    quarter = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1.0]])
    turned = []
    for c in ring(12):
        pose = c.world_to_camera.copy()
        pose[:3] = quarter @ pose[:3]
        turned.append(Camera(c.name, c.height, c.width, c.K, pose))
    places = centers(orbit(turned, NO_POINTS, 24))
    assert np.ptp(places[:, 1]) < 0.1, "the turntable stands on its edge"


ODD: dict[str, Callable[[], list[Camera]]] = {
    "one": lambda: ring(1),
    "two": lambda: ring(2, 1.0),
    "two opposite": lambda: ring(2),
    "three": lambda: ring(3),
    "the same twice": lambda: ring(1) * 2,
    "one centre": lambda: outward()[:2],
    "all of two places": lambda: ring(2, 1.0) * 5,
    "back to back": lambda: [camera(np.zeros(3), np.array([0, 0, z]), str(z)) for z in (1.0, -1.0)],
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("frames", [1, 2, 9])
def test_odd_sets_of_cameras(name: str, frames: int) -> None:
    cameras = ODD[name]()
    assert_rigid(orbit(cameras, NO_POINTS, frames), frames)
    assert_rigid(interpolate(cameras, frames), frames)


def test_one_photograph_still_moves_a_little() -> None:
    places = centers(orbit(ring(1), NO_POINTS, 16))
    assert 0.05 < np.linalg.norm(np.ptp(places, axis=0)) < 1, "it stands still or flies off"


def test_interpolate_passes_through_the_photographs() -> None:
    cameras = ring(11, 4.0)
    shuffled = [cameras[i] for i in np.random.default_rng(0).permutation(11)]
    path = interpolate(shuffled, 501)
    assert_rigid(path, 501)
    assert np.allclose(path[0].world_to_camera, cameras[0].world_to_camera, atol=1e-9), "img_0 is not first"
    assert np.allclose(path[-1].world_to_camera, cameras[10].world_to_camera, atol=1e-9), "img_10 is not last"
    poses = np.stack([c.world_to_camera for c in path])
    near = [np.abs(poses - c.world_to_camera).max(axis=(1, 2)) for c in cameras]
    assert max(n.min() for n in near) < 0.05, "it misses a photograph"
    assert np.all(np.diff([n.argmin() for n in near]) > 0), "img_10 comes before img_2"
    speed = np.linalg.norm(np.diff(centers(path), axis=0), axis=1)
    assert speed.max() < 2 * speed.mean(), "it rushes from one photograph to the next and waits there"


def test_interpolate_turns_the_short_way() -> None:
    angles = [0.0, 2.0, 4.0, 6.0]  # the quaternion changes its sign on the way
    cameras = [camera(np.zeros(3), np.array([math.cos(a), 0, math.sin(a)]), f"{a}") for a in angles]
    forward = np.stack([c.world_to_camera[2, :3] for c in interpolate(cameras, 100)])
    turned = np.arccos(np.clip((forward[1:] * forward[:-1]).sum(1), -1, 1)).sum()
    assert turned == pytest.approx(6.0, rel=0.1), "it turns the long way round"


def test_frames_share_the_median_lens() -> None:
    cameras = [camera(np.array([i, 0, 0.0]), np.array([i, 0, 5.0]), str(i), f) for i, f in enumerate((50, 70, 400))]
    for path in (orbit(cameras, NO_POINTS, 3), interpolate(cameras, 3)):
        assert {c.K[0, 0] for c in path} == {70}, "not the lens of median field of view"


def test_nothing_to_make_a_path_of() -> None:
    for path in (lambda c, n: orbit(c, NO_POINTS, n), interpolate):
        with pytest.raises(SplatlearnError, match="one camera"):
            path([], 3)
        with pytest.raises(SplatlearnError, match="one frame"):
            path(ring(2), 0)


@pytest.mark.parametrize("scene", ["fox", "fern"])
def test_orbit_of_real_captures(shared_scenes: Path, scene: str) -> None:
    import pycolmap

    model = pycolmap.Reconstruction(str(shared_scenes / scene / "sparse" / "0"))
    cameras = []
    for image in model.images.values():
        lens, pose = model.cameras[image.camera_id], np.eye(4)
        pose[:3] = image.cam_from_world().matrix()
        cameras.append(Camera(image.name, lens.width, lens.height, lens.calibration_matrix(), pose))
    cameras.sort(key=lambda c: c.name)
    points = np.array([p.xyz for p in model.points3D.values()], np.float32)
    path = orbit(cameras, points, 60)
    assert_rigid(path, 60)
    photos = centers(cameras)
    size = np.linalg.norm(photos - photos.mean(0), axis=1).max()
    nearest = np.linalg.norm(centers(path)[:, None] - photos, axis=2).min(axis=1)
    assert nearest.max() < 0.5 * size, "a frame is far from every photograph"
    for c in path:
        x = points @ c.world_to_camera[:3, :3].T + c.world_to_camera[:3, 3]
        pixel = (x @ c.K.T)[:, :2] / x[:, 2:]
        inside = (x[:, 2] > 0) & (pixel > 0).all(1) & (pixel < [c.width, c.height]).all(1)
        assert inside.mean() > 0.3, "a frame looks past the scene"
        up = cameras[0].world_to_camera[1, :3] @ c.world_to_camera[1, :3]
        assert up > 0.5, "a frame is tilted away from how the photographs were held"
