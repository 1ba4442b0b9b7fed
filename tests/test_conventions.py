"""Poses of another convention are recognised by the points or the photographs, and said; sound ones never are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colmap_samples import load, refused
from PIL import Image
from scipy.spatial.transform import Rotation

from splatlearn.scene.conventions import readings

WIDTH, HEIGHT, FOCAL = 64, 48, 50.0
FLIP, MIRROR = np.diag([1.0, -1, -1]), np.diag([-1.0, 1, 1])
Pose = tuple[np.ndarray, np.ndarray]  # wxyz and translation


def wxyz(rotation: np.ndarray) -> np.ndarray:
    return np.roll(Rotation.from_matrix(rotation).as_quat(), 1)


def room(root: Path, written: Callable[[np.ndarray, np.ndarray], Pose], observed: bool, seed: int = 0) -> Path:
    """Photographs from within a patterned sphere, their poses as a tool of another convention writes them."""
    random = np.random.default_rng(seed)
    for sub in ("images", "sparse/0"):
        (root / sub).mkdir(parents=True)
    u, v = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    rays = np.stack([(u - WIDTH / 2) / FOCAL, (v - HEIGHT / 2) / FOCAL, np.ones_like(u)], axis=-1)
    images, points = [], []
    for index in range(9):
        rotation, center = Rotation.random(random_state=random.integers(1 << 30)).as_matrix(), random.normal(size=3) / 3
        ways = rays @ rotation
        ways /= np.linalg.norm(ways, axis=-1, keepdims=True)
        half = ways @ center
        places = center + ways * (-half + np.sqrt(half**2 + 4 - center @ center))[..., None]
        rgb = ((0.5 + 0.4 * np.sin(places @ [[3, 1, 0], [0, 4, -2], [1, 0, 3]] + [0, 1, 2])) * 255).astype(np.uint8)
        Image.fromarray(rgb).save(root / f"images/{index}.png")
        quaternion, translation = written(rotation, -rotation @ center)
        seen = []
        for row, column in zip(random.integers(0, HEIGHT, 60), random.integers(0, WIDTH, 60), strict=True):
            points.append([*places[row, column], *map(int, rgb[row, column])])
            seen += [column + 0.5, row + 0.5, len(points)]
        numbers = " ".join(f"{x:.17g}" for x in (*quaternion, *translation))
        images.append(f"{index + 1} {numbers} 1 {index}.png\n{' '.join(map(str, seen)) if observed else ''}\n")
    model = root / "sparse" / "0"
    (model / "cameras.txt").write_text(f"1 PINHOLE {WIDTH} {HEIGHT} {FOCAL} {FOCAL} {WIDTH / 2} {HEIGHT / 2}\n")
    (model / "images.txt").write_text("".join(images))
    rows = [f"{i} {' '.join(map(str, point))} 0.5\n" for i, point in enumerate(points, start=1)]
    (model / "points3D.txt").write_text("".join(rows))
    return root


WRITTEN: dict[str, tuple[Callable[[np.ndarray, np.ndarray], Pose], str]] = {
    "camera to world": (lambda r, t: (wxyz(r.T), -r.T @ t), "look like camera-to-world poses:"),
    "OpenGL": (lambda r, t: (wxyz(FLIP @ r), FLIP @ t), r"look like camera axes of OpenGL and Blender \(y up, z backw"),
    "Blender": (lambda r, t: (wxyz(r.T @ FLIP), -r.T @ t), "look like camera-to-world poses and camera axes of OpenGL"),
    "xyzw": (lambda r, t: (np.roll(wxyz(r), -1), t), "look like quaternions in the order x, y, z, w:"),
    "centres": (lambda r, t: (wxyz(r), -r.T @ t), "look like world-to-camera rotations with camera centres"),
}


@pytest.mark.parametrize("observed", [True, False], ids=["observations", "colours"])
@pytest.mark.parametrize("name", WRITTEN)
def test_other_conventions_are_named(tmp_path: Path, name: str, observed: bool) -> None:
    written, sentence = WRITTEN[name]
    root = room(tmp_path / "scene", written, observed)
    refused(root, f"sparse/0 {sentence}.*--data.check_poses false takes them as they are")
    assert len(load(root, check_poses=False).train) == 7, "and there is a way to go on"


@pytest.mark.parametrize("observed", [True, False])
def test_a_mirrored_world_is_named(tmp_path: Path, observed: bool) -> None:
    """No observation tells: mirrored points stay within the images of mirrored cameras. Colours do."""
    mirrored = lambda r, t: (wxyz(MIRROR @ r @ MIRROR), MIRROR @ t)  # noqa: E731
    refused(room(tmp_path / "scene", mirrored, observed), "a world that is mirrored along x")


@pytest.mark.parametrize("observed", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_sound_capture_is_never_refused(tmp_path: Path, seed: int, observed: bool, capsys: Any) -> None:
    load(room(tmp_path / "scene", lambda r, t: (wxyz(r), t), observed, seed))
    assert "warning" not in capsys.readouterr().err


def test_points_without_colours_say_nothing(tmp_path: Path, capsys: Any) -> None:
    root = room(tmp_path / "scene", WRITTEN["camera to world"][0], observed=False)
    file = root / "sparse" / "0" / "points3D.txt"
    rows = [line.split() for line in file.read_text().splitlines()]
    file.write_text("".join(" ".join([*row[:4], "128", "128", "128", *row[7:]]) + "\n" for row in rows))
    load(root)
    random = np.random.default_rng(0)
    file.write_text("".join(" ".join([*r[:4], *map(str, random.integers(0, 256, 3)), r[7]]) + "\n" for r in rows))
    load(root)
    assert "warning" not in capsys.readouterr().err, "chance is taken for evidence"


@pytest.mark.parametrize("name", ["fox", "fern"])
def test_real_captures_are_sound(shared_scenes: Path, name: str, capsys: Any) -> None:
    load(shared_scenes / name, downscale=4)
    assert "The poses" not in capsys.readouterr().err


def test_every_reading_is_a_transform_and_has_a_name() -> None:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = Rotation.random(random_state=0).as_matrix(), [1, 2, 3]
    names = []
    for name, read in readings():
        found = read(pose)[:3, :3]
        np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-12)
        assert ("mirrored" in name) or np.linalg.det(found) > 0, name
        names.append(name)
    assert len(set(names)) == len(names) > 50
