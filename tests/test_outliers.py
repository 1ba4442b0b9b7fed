"""One wrong pose or point among many does not decide for the others, and is named."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_scene
from colmap_samples import load

from splatlearn.scene.cameras import Camera, far_off, scene_extent
from splatlearn.scene.gaussians import neighbour_distances
from splatlearn.scene.geometry import near_depth, outlying_cameras, outlying_points
from splatlearn.scene.paths import interpolate, orbit, spiral
from splatlearn.scene.readers.colmap import ColmapScene


def moved(root: Path, translations: dict[int, Sequence[float]]) -> Path:
    """A tiny scene in which some poses have another translation."""
    file = tiny_scene.write(root, 24) / "sparse" / "0" / "images.txt"
    lines = file.read_text().split("\n")
    for index, translation in translations.items():
        words = lines[2 * index].split()
        lines[2 * index] = " ".join([*words[:5], *map(str, translation), *words[8:]])
    file.write_text("\n".join(lines))
    return root


def with_points(root: Path, rows: Sequence[Sequence[float]]) -> Path:
    """A tiny scene with further points."""
    file = tiny_scene.write(root, 24) / "sparse" / "0" / "points3D.txt"
    more = [f"{1000 + i} {x:.17g} {y:.17g} {z:.17g} 9 9 9 0\n" for i, (x, y, z) in enumerate(rows)]
    file.write_text(file.read_text() + "".join(more))
    return root


def sizes(scene: ColmapScene) -> tuple[float, float, float]:
    """Extent, unit and near plane in lengths of the capture."""
    frame = scene.frame
    return scene.extent * frame.scale, frame.scale, frame.near * frame.scale


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> ColmapScene:
    return load(tiny_scene.write(tmp_path_factory.mktemp("sound") / "scene", 24))


WRONG = {
    "one aside": {9: (30, 0, 30)},
    "one far": {9: (1000, 0, 1000)},
    "one very far": {9: (1e17, 0, 1e17)},
    "one behind": {9: (0, 0, -400)},
    "one that sees all as a dot": {9: (0, 0, 500)},
    "three": {3: (300, 20, 10), 9: (0, 0, 1000), 17: (-40, 2, -90)},
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_poses_do_not_decide_for_the_others(tmp_path: Path, sound: ColmapScene, name: str, capsys: Any) -> None:
    scene = load(moved(tmp_path / "scene", WRONG[name]))
    assert sizes(scene) == pytest.approx(sizes(sound), rel=0.05), "every step would be too large"
    assert len(scene.train + scene.test) == 24, "a photograph was left out without a word"
    printed = capsys.readouterr().err
    named = ", ".join(sorted(f"view_{index}.png" for index in WRONG[name]))
    assert f"{len(WRONG[name])} of 24 photographs stand far off" in printed and f"wrong: {named};" in printed


def test_a_sound_capture_gives_no_warning(tmp_path: Path, capsys: Any) -> None:
    load(tiny_scene.write(tmp_path / "scene", 24))
    assert "warning" not in capsys.readouterr().err


def test_photographs_from_afar_that_see_the_scene_count() -> None:
    """A building, many photographs of a detail of it and few of the whole."""
    random = np.random.default_rng(0)
    points = np.concatenate([random.normal(size=(500, 3)) * 0.3, random.normal(size=(500, 3)) * 4]) + (0, 0, 3)
    K = np.array([[45.0, 0, 25], [0, 45.0, 18], [0, 0, 1]])
    near = [pose(K, random.normal(size=3) * 0.5) for _ in range(20)]
    afar = [pose(K, (x, 0.0, -20.0)) for x in (-2.0, 0.0, 2.0)]
    assert not outlying_cameras(near + afar, points).any(), "what fits is no error"
    assert outlying_cameras([*near, *afar, pose(K, (0.0, 0.0, 300.0))], points).tolist() == [False] * 23 + [True]


def pose(K: np.ndarray, center: Sequence[float] | np.ndarray) -> Camera:
    world_to_camera = np.eye(4)
    world_to_camera[:3, 3] = -np.asarray(center)
    return Camera("a", 50, 37, K, world_to_camera)


def test_cameras_at_one_place_and_none_far_off() -> None:
    K = np.eye(3)
    assert not far_off(np.zeros((5, 3))).any() and not far_off(np.array([[0.0, 0, 0]] * 6 + [[1.0, 0, 0]])).any()
    assert not outlying_cameras([pose(K, (0, 0, 0))] * 3, np.zeros((0, 3))).any()
    ring = [*tiny_scene.cameras(), pose(K, (0, 1e5, 0))]
    assert scene_extent(ring) == pytest.approx(scene_extent(ring[:-1])), "and that without points, too"
    assert near_depth(ring, np.zeros((0, 3))) == 0


POINTS = {
    "one": [(1e6, 3.0, -2.0)],
    "nearly infinite": [(1e30, 0.0, 0.0), (0.0, -3e38, 0.0)],
    "a sky": [(x, -3000.0, z) for x in np.linspace(-700, 700, 5) for z in np.linspace(-700, 700, 4)],
}


@pytest.mark.parametrize("name", POINTS)
def test_points_far_away_do_not_decide_for_the_others(
    tmp_path: Path, sound: ColmapScene, name: str, capsys: Any
) -> None:
    scene = load(with_points(tmp_path / "scene", POINTS[name]))
    assert sizes(scene) == pytest.approx(sizes(sound), rel=0.3)
    kept = len(POINTS[name]) if name == "a sky" else 0
    assert len(scene.points) == len(scene.point_colors) == 60 + kept
    begun, before = neighbour_distances(scene.points), neighbour_distances(sound.points)
    assert begun[:60] * scene.frame.scale == pytest.approx(before * sound.frame.scale, rel=0.5)
    away = np.linalg.norm(scene.points, axis=1)
    assert (begun[60:] <= 0.5 * away[60:]).all(), "a point far away begins as a fog over everything"
    printed = capsys.readouterr().err
    assert f"{len(POINTS[name])} of {60 + len(POINTS[name])} points" in printed
    assert ("are left out" in printed) == (name != "a sky")


def test_the_size_of_a_lone_point_is_bounded() -> None:
    points = np.random.default_rng(0).normal(size=(200, 3))
    plain = neighbour_distances(points)
    found = neighbour_distances(np.concatenate([points, [(1e4, 0, 0)]]))
    np.testing.assert_array_equal(found[:200], plain, err_msg="a stray changes the sizes of others")
    assert found[200] == pytest.approx(1e3, rel=0.01)
    far, lost = outlying_points(np.concatenate([points, [(1e3, 0, 0), (1e9, 0, 0)]]), 1.0)
    assert far.tolist() == [False] * 200 + [True, True] and lost.tolist() == [False] * 201 + [True]


def test_paths_do_not_fly_to_a_wrong_pose() -> None:
    cameras, points = tiny_scene.cameras(), tiny_scene.gaussians().means.detach().numpy()
    stray = pose(cameras[0].K, (500.0, 20.0, 0.0))
    for path in (lambda c: orbit(c, points, 12), lambda c: spiral(c, points, 12), lambda c: interpolate(c, 12)):
        plain, other = (np.stack([camera.center for camera in path(c)]) for c in (cameras, [*cameras, stray]))
        np.testing.assert_array_equal(plain, other)


def test_coordinates_that_float64_rounds_are_said(tmp_path: Path, capsys: Any) -> None:
    load(tiny_scene.write(tmp_path / "scene", scale=1e-6, shift=(4e6, 6e5, 4.9e6)))
    assert "are rounded to 9e-10 where the scene is about" in capsys.readouterr().err
