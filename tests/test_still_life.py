"""The still life's photographs agree with COLMAP's camera, their own geometry and their seed."""

from pathlib import Path

import numpy as np
import pytest

from splatlearn.demo import still_life
from splatlearn.demo.light import GAMMA, Skin, lamp_light
from splatlearn.demo.solids import Solid, cast
from splatlearn.errors import SplatlearnError

GLOBE = 2  # index among the solids that stand in the room: table, vase, globe, ...
NAMES = ["room", "table", "vase", "globe", "lower book", "upper book", "ball", "doughnut", "block", "cone"]


@pytest.fixture(scope="module")
def scene() -> still_life.StillLife:
    return still_life.StillLife(seed=0, detail=0.5)


def colmap_pixels(lens: still_life.Lens, pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Where COLMAP says that a camera sees world points [M, 3]: pixels [M, 2]."""
    import pycolmap

    camera = pycolmap.Camera(model="OPENCV", width=lens.width, height=lens.height, params=list(lens.params))
    return np.asarray(camera.img_from_cam(points @ pose[:3, :3].T + pose[:3, 3]))


def surface_points(solid: Solid, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Random skin coordinates u, v [count], clear of edges and poles, and their local points and normals."""
    generator = np.random.default_rng(5)
    u, v = generator.uniform(0.02, 0.98, (2, count)).astype(np.float32)
    return u, v, *solid.surface(u, v)


def test_rays_invert_the_lens_of_colmap() -> None:
    lens = still_life.lens(480, 360)
    px, py = np.meshgrid(np.linspace(0.0, 480.0, 25), np.linspace(0.0, 360.0, 19))
    rays = lens.rays(px.ravel(), py.ravel())
    miss = colmap_pixels(lens, np.eye(4), rays.T) - np.stack([px.ravel(), py.ravel()], axis=1)
    assert np.abs(miss).max() < 1e-9, "rays are not the inverse of OPENCV's lens"
    straight = np.stack([(px - lens.cx) / lens.fx, (py - lens.cy) / lens.fy]).reshape(2, -1)
    assert np.abs(rays[:2] / rays[2] - straight).max() > 0.03, "the lens has no distortion worth the name"


def test_pixel_rays_average_to_the_pixel_centre() -> None:
    lens = still_life.lens(48, 36)
    mean = still_life.pixel_rays(lens).mean(axis=1)
    centre = lens.rays(np.arange(48)[None, :] + 0.5 + np.zeros((36, 1)), np.arange(36)[:, None] + 0.5 + np.zeros(48))
    # A pixel is about 0.026 here: rays through corners instead of centres would be off by half of it.
    assert np.abs(mean - centre).max() < 1e-3, "samples are not centred on pixel + 0.5"


@pytest.mark.parametrize("k", range(len(NAMES)), ids=NAMES)
def test_skin_and_solid_are_inverse(k: int) -> None:
    solid = still_life.composition(0)[k].solid
    u, v, p, n = surface_points(solid, 400)
    again = solid.surface(*solid.unroll(p))[0]
    assert np.abs(again - p).max() < 0.02 * solid.bound, "unroll and surface name different points"
    assert np.abs((n * n).sum(axis=0) - 1).max() < 1e-4, "a normal is not of unit length"
    t = solid.distance(p + 0.004 * n, -n)
    # A profile's corner or a face's rim may come first; all but a few rays must come back to where they left.
    assert np.mean(np.abs(t - 0.004) < 1e-3) > 0.97, "a ray shot back along the normal misses its own surface"


@pytest.mark.parametrize("k", [1, 2, 3, 7], ids=["table", "vase", "globe", "doughnut"])
def test_a_surface_point_has_its_colour_in_the_photograph(scene: still_life.StillLife, k: int) -> None:
    """World point -> COLMAP's projection -> pixel: its colour is what the skin says at that point."""
    lens, pose = still_life.lens(), still_life.camera_poses()[30]
    solid, skin = scene.solids[k - 1], scene.skins[k - 1]
    u, v, p, _ = surface_points(solid, 2000)
    points = solid.world(p).T.astype(np.float64)
    pixels = colmap_pixels(lens, pose, points)
    center = -pose[:3, :3].T @ pose[:3, 3]
    d = points - center
    reach = np.linalg.norm(d, axis=1)
    start = center[:, None].astype(np.float32)
    seen = np.abs(cast(scene.solids, start, (d / reach[:, None]).T.astype(np.float32))[0] - reach) < 2e-3
    seen &= ((pixels > 8) & (pixels < [lens.width - 8, lens.height - 8])).all(axis=1)
    assert seen.sum() > 60, "too few of the solid's points are visible to tell anything"
    picture = scene.photograph(still_life.pixel_rays(lens), pose)
    truth = 255 * np.clip(skin.read(u[seen], v[seen]), 0, 1) ** (1 / GAMMA)

    def error(shift: int) -> float:
        x, y = np.floor(pixels[seen]).astype(int).T
        return float(np.abs(picture[y, x + shift] - truth).mean())

    assert error(0) < 15, "the photograph shows another colour than the surface has"
    assert error(0) < 0.5 * min(error(-5), error(5)), "the photograph is shifted against COLMAP's projection"


def test_the_nearest_surface_is_seen(scene: still_life.StillLife) -> None:
    globe = scene.solids[GLOBE]
    away = np.array([[1.0], [0.66], [0.3]], dtype=np.float32)
    away /= np.linalg.norm(away)
    for start, expected in ((globe.center + 1.2 * away, GLOBE), (globe.center, GLOBE)):
        _, t, which = scene.trace(start.astype(np.float32), -away)
        assert which[0] == expected, "a solid behind the globe, or the room, was taken for the nearest"
        assert t[0] == pytest.approx(1.2 - globe.bound if start is not globe.center else globe.bound, abs=1e-4)
    _, t, which = scene.trace(globe.center + 1.2 * away, away)
    assert which[0] == -1 and 0.5 < t[0] < 4.0, "a ray away from everything must end at the room's wall"


def test_two_views_agree_on_what_they_both_see(scene: still_life.StillLife) -> None:
    """A point seen by one camera has, if another sees it, the same colour there: light does not depend on the view."""
    lens, poses = still_life.lens(80, 60), still_life.camera_poses()
    centers = [(-pose[:3, :3].T @ pose[:3, 3])[:, None].astype(np.float32) for pose in poses]
    d = poses[0][:3, :3].T.astype(np.float32) @ still_life.pixel_rays(lens, samples=1).reshape(3, -1)
    color, t, _ = scene.trace(centers[0], d)
    points = centers[0] + t * d
    to = points - centers[2]
    reach = np.linalg.norm(to, axis=0)
    other, t2, _ = scene.trace(centers[2], (to / reach).astype(np.float32))
    both = np.abs(t2 - reach) < 1e-3
    assert both.mean() > 0.5, "two neighbouring cameras share less than half of what they see"
    assert np.quantile(np.abs(other[both] - color[both]), 0.99) < 0.02, "the same point has two colours"
    # Sphere tracing may lose a ray that only grazes the doughnut: one in a thousand is forgiven.
    assert np.mean(t2 > reach + 5e-3) < 1e-3, "rays went through surfaces that the other camera sees"


def test_the_globe_casts_a_shadow(scene: still_life.StillLife) -> None:
    globe = scene.solids[GLOBE]
    shaded = globe.center + np.array([[-0.25], [0.30], [0.0]], dtype=np.float32)  # beyond it, seen from the lamp
    p = np.concatenate([shaded, [[0.9], [-0.6], [0.0]]], axis=1).astype(np.float32)
    p[2] = 0.004
    n = np.tile(np.array([[0.0], [0.0], [1.0]], dtype=np.float32), (1, 2))
    light = lamp_light(scene.solids, p, n, np.full((2, 2), 0.5, dtype=np.float32))
    assert (light[:, 0] < 0.4 * light[:, 1]).all(), "no shadow lies behind the globe"
    assert (lamp_light(scene.solids, p, -n, np.full((2, 2), 0.5, np.float32)) == 0).all(), "light reaches an underside"


def test_skin_reads_texels_and_closes_in_u() -> None:
    picture = np.random.default_rng(0).random((4, 6, 3)).astype(np.float32)
    skin = Skin(picture, wraps_v=False)
    centre = skin.read(np.array([3.5 / 6]), np.array([1.5 / 4]))
    assert np.allclose(centre, picture[1, 3], atol=1e-5), "a texel's centre does not give the texel"
    seam = skin.read(np.array([0.0, 1.0]), np.array([2.5 / 4, 2.5 / 4]))
    assert np.allclose(seam, 0.5 * (picture[2, 0] + picture[2, 5]), atol=1e-5), "the skin has a seam at u = 0"


def test_cameras_surround_the_table_and_held_out_ones_have_neighbours() -> None:
    poses = still_life.camera_poses(40, seed=3)
    centers = np.stack([-pose[:3, :3].T @ pose[:3, 3] for pose in poses])
    inside = (np.abs(centers[:, :2]) < 3.2).all() and (centers[:, 2] > 0.4).all()
    assert inside, "a camera stands in a wall or the table"
    lens = still_life.lens()
    middle = np.stack([colmap_pixels(lens, pose, np.zeros((1, 3)))[0] for pose in poses])
    assert (np.abs(middle - [240, 180]) < [60, 90]).all(), "a camera does not look at the table"
    held_out = np.arange(40) % 8 == 0
    units = centers / np.linalg.norm(centers, axis=1, keepdims=True)
    nearest = (units[held_out] @ units[~held_out].T).max(axis=1)
    assert np.degrees(np.arccos(nearest)).max() < 26, "a held-out view is far from all training views"
    assert not np.allclose(poses, still_life.camera_poses(40, seed=4)), "the seed does not move the cameras"


def test_photographs_are_jpegs_with_a_focal_length_and_repeat_with_the_seed(tmp_path: Path) -> None:
    import pycolmap
    from PIL import Image

    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        still_life.make_photographs(tmp_path / folder, count=2, width=96, height=72, seed=seed, progress=False)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["photo_00.jpg", "photo_01.jpg"], "files are not named as promised"
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), "one seed, two pictures"
        assert (tmp_path / "a" / name).read_bytes() != (tmp_path / "c" / name).read_bytes(), "the seed changes nothing"
    with Image.open(tmp_path / "a" / names[0]) as picture:
        assert picture.format == "JPEG" and picture.size == (96, 72), "not a JPEG of the size asked for"
        assert np.asarray(picture).std() > 20, "the photograph shows next to nothing"
    camera = pycolmap.infer_camera_from_image(tmp_path / "a" / names[0])
    assert camera.has_prior_focal_length, "COLMAP finds no focal length in the EXIF"
    focal = still_life.lens(96, 72).fx
    assert camera.mean_focal_length() == pytest.approx(focal, rel=0.05), "the EXIF's focal length is wrong"


@pytest.mark.parametrize(("count", "width", "height"), [(0, 96, 72), (2, 8, 72), (2, 96, 8)])
def test_impossible_photographs_are_refused(tmp_path: Path, count: int, width: int, height: int) -> None:
    with pytest.raises(SplatlearnError, match="photographs: expected"):
        still_life.make_photographs(tmp_path / "x", count=count, width=width, height=height)
    assert not (tmp_path / "x").exists(), "a refused call still made its folder"
