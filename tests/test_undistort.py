"""Every camera model is undistorted to the right ideal pinhole: each pixel shows the colour along its ray."""

from pathlib import Path

import numpy as np
import pytest
from colmap_samples import CAMERA_PARAMS, SampleImage, SampleIntrinsics, load, names, noise, write_model, write_scene
from PIL import Image

from splatlearn.scene.photos.undistort import WIDEST_VIEW_DEGREES
from splatlearn.scene.readers.colmap import ColmapScene

pycolmap = pytest.importorskip("pycolmap")


def pattern(directions: np.ndarray) -> np.ndarray:
    """Return a smooth colour, 0 to 255, for world directions [..., 3]; it changes by about 10 levels per pixel."""
    unit = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    x, y, z = np.moveaxis(unit, -1, 0)
    waves = [np.sin(9 * x + 2 * y), np.sin(8 * y - 3 * z), np.cos(7 * z + 5 * x)]
    return 127.5 + 120 * np.stack(waves, axis=-1)


def render_pattern(intrinsics: SampleIntrinsics, rotation: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Render the pattern through a camera rotated by `rotation` (world to camera), with COLMAP's own unprojection."""
    width, height = intrinsics.width, intrinsics.height
    camera = pycolmap.Camera(model=intrinsics.model, width=width, height=height, params=list(intrinsics.params))
    columns, rows = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    pixels = np.stack([columns * width / size[0], rows * height / size[1]], axis=-1)
    rays = camera.cam_ray_from_img(pixels.reshape(-1, 2)).reshape(size[1], size[0], 3)
    return np.nan_to_num(np.rint(pattern(rays @ rotation))).astype(np.uint8)


def assert_shows_pattern(scene: ColmapScene, tolerance: float = 2.5) -> None:
    for camera in scene.train:
        columns, rows = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
        pixels = np.stack([columns, rows, np.ones_like(columns)], axis=-1)
        rays = pixels @ np.linalg.inv(camera.K).T @ camera.world_to_camera[:3, :3]
        error = np.abs(scene.photo(camera).numpy() - pattern(rays))
        # A pixel at the image's border has no neighbour to interpolate with.
        assert np.quantile(error, 0.995) <= tolerance, f"{camera.name}: pixels are not where the pinhole says"


QUATERNION = (0.8, 0.3, -0.4, 0.33)


def rotation_matrix() -> np.ndarray:
    w, x, y, z = np.array(QUATERNION) / np.linalg.norm(QUATERNION)
    return pycolmap.Rotation3d(np.array([x, y, z, w])).matrix()


@pytest.mark.parametrize("model", sorted(CAMERA_PARAMS))
def test_every_camera_model_becomes_the_right_pinhole(tmp_path: Path, model: str) -> None:
    intrinsics = SampleIntrinsics(model, 160, 120, CAMERA_PARAMS[model])
    write_model(tmp_path / "sparse" / "0", [intrinsics], [SampleImage("a.png", quaternion=QUATERNION)])
    (tmp_path / "images").mkdir()
    Image.fromarray(render_pattern(intrinsics, rotation_matrix(), (160, 120))).save(tmp_path / "images" / "a.png")
    scene = load(tmp_path, holdout="none")
    if model == "EQUIRECTANGULAR":
        faces = ["a.png#back", "a.png#down", "a.png#front", "a.png#left", "a.png#right", "a.png#up"]
        assert sorted(names(scene.train)) == faces, "a panorama becomes six images"
        # 160 pixels for 360 degrees: the sampling itself is coarse.
        assert_shows_pattern(scene, tolerance=6)
        return
    assert names(scene.train) == ["a.png"], "expected one pinhole image for one source image"
    camera = scene.train[0]
    assert 0.9 * 160 <= camera.width <= 2 * 160 and 0.9 * 120 <= camera.height <= 2 * 120, (
        "the size is far from COLMAP's choice"
    )
    if model not in ("SIMPLE_PINHOLE", "PINHOLE"):
        distorted = pycolmap.Camera(model=model, width=160, height=120, params=list(intrinsics.params))
        expected = pycolmap.undistort_camera(pycolmap.UndistortCameraOptions(), distorted)
        assert (camera.width, camera.height) == (expected.width, expected.height), "not the pinhole that COLMAP chooses"
    assert_shows_pattern(scene)


@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV", "SIMPLE_RADIAL", "FISHEYE"])
@pytest.mark.parametrize("size", [(80, 60), (81, 60), (53, 40), (320, 240)])
def test_folders_of_another_size(tmp_path: Path, model: str, size: tuple[int, int]) -> None:
    intrinsics = SampleIntrinsics(model, 160, 120, CAMERA_PARAMS[model])
    write_model(tmp_path / "sparse" / "0", [intrinsics], [SampleImage("a.png", quaternion=QUATERNION)])
    (tmp_path / "images_x").mkdir()
    Image.fromarray(render_pattern(intrinsics, rotation_matrix(), size)).save(tmp_path / "images_x" / "a.png")
    scene = load(tmp_path, images="images_x", holdout="none")
    # The two axes of 81x60 have different scales: one factor for both would be wrong by half a pixel at the border.
    assert_shows_pattern(scene, tolerance=2.5 if size[0] >= 80 else 5)


def test_pinholes_keep_principal_point_and_pixels(tmp_path: Path) -> None:
    write_scene(tmp_path)
    scene = load(tmp_path, holdout="none")
    camera = scene.train[1]
    expected = [[35, 0, 19], [0, 36, 15.5], [0, 0, 1]]
    np.testing.assert_array_equal(camera.K, expected, err_msg="the principal point was moved to the image's centre")
    np.testing.assert_array_equal(scene.photo(camera).numpy(), noise(40, 30, 1), err_msg="a pinhole was resampled")


def test_zero_distortion_is_a_pinhole_but_a_plain_fisheye_is_not(tmp_path: Path) -> None:
    cameras = [
        SampleIntrinsics("OPENCV", 40, 30, [35, 36, 19, 15.5, 0, 0, 0, 0]),
        SampleIntrinsics("FISHEYE", 40, 30, [25, 25, 20, 15]),
    ]
    write_scene(tmp_path, cameras, [SampleImage("a.png"), SampleImage("b.png", camera=1)])
    plain, fisheye = load(tmp_path, holdout="none").train
    assert (plain.width, plain.height) == (40, 30) and plain.K[0, 2] == 19, "an image without distortion was resampled"
    assert fisheye.width > 44, "pycolmap's is_undistorted() is wrong for a fisheye"


@pytest.mark.parametrize(
    "intrinsics",
    [
        SampleIntrinsics("SIMPLE_FISHEYE", 160, 120, [30, 80, 60]),  # 305 degrees wide
        SampleIntrinsics("FOV", 160, 120, [50, 50, 80, 60, 1.2]),  # COLMAP's own choice is 32 pixels wide here
    ],
)
def test_wide_fisheyes_are_cropped_to_the_widest_view(tmp_path: Path, intrinsics: SampleIntrinsics) -> None:
    write_model(tmp_path / "sparse" / "0", [intrinsics], [SampleImage("a.png", quaternion=QUATERNION)])
    (tmp_path / "images").mkdir()
    Image.fromarray(render_pattern(intrinsics, rotation_matrix(), (160, 120))).save(tmp_path / "images" / "a.png")
    scene = load(tmp_path, holdout="none")
    camera = scene.train[0]
    middle, focal = camera.K[0, 2], camera.K[0, 0]
    left, right = np.degrees(np.arctan([middle / focal, (camera.width - middle) / focal]))
    assert 45 < left <= WIDEST_VIEW_DEGREES / 2, f"{left} degrees to the left of the axis"
    assert 45 < right <= WIDEST_VIEW_DEGREES / 2, f"{right} degrees to the right of the axis"
    assert_shows_pattern(scene, tolerance=5)  # such a camera has few pixels per degree


def test_one_camera_with_images_of_several_sizes(tmp_path: Path) -> None:
    intrinsics = SampleIntrinsics("OPENCV", 160, 120, CAMERA_PARAMS["OPENCV"])
    images = [SampleImage(name, quaternion=QUATERNION) for name in ("a.png", "b.png", "c.png")]
    write_model(tmp_path / "sparse" / "0", [intrinsics], images)
    (tmp_path / "images").mkdir()
    for image, size in zip(images, [(160, 120), (80, 60), (159, 120)], strict=True):
        Image.fromarray(render_pattern(intrinsics, rotation_matrix(), size)).save(tmp_path / "images" / image.name)
    scene = load(tmp_path, holdout="none")
    widths = [camera.width for camera in scene.train]
    assert widths[1] < 100 < widths[2] < widths[0], f"images of different sizes share one pinhole: {widths}"
    assert_shows_pattern(scene)


def test_undistortion_equals_colmaps(tmp_path: Path) -> None:
    intrinsics = SampleIntrinsics("OPENCV", 160, 120, CAMERA_PARAMS["OPENCV"])
    write_scene(tmp_path, [intrinsics], [SampleImage("a.png")])
    scene = load(tmp_path, holdout="none")
    ours = scene.photo(scene.train[0]).numpy().astype(int)
    distorted = pycolmap.Camera(model="OPENCV", width=160, height=120, params=list(intrinsics.params))
    bitmap, camera = pycolmap.undistort_image(
        pycolmap.UndistortCameraOptions(), pycolmap.Bitmap.from_array(noise(160, 120)), distorted
    )
    np.testing.assert_allclose(scene.train[0].K, camera.calibration_matrix(), err_msg="not COLMAP's pinhole")
    difference = np.abs(ours - bitmap.to_array().astype(int))
    assert difference.shape == (camera.height, camera.width, 3)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-2, (
        "the images differ, as by a shift of a hundredth of a pixel"
    )


def test_downscale_averages_before_undistortion(tmp_path: Path) -> None:
    write_scene(tmp_path, [SampleIntrinsics(width=41, height=31)], [SampleImage("a.png")])
    scene = load(tmp_path, holdout="none", downscale=2)
    camera = scene.train[0]
    assert (camera.width, camera.height) == (20, 15), "sizes must be divided and rounded down"
    np.testing.assert_allclose(
        camera.K, [[17.5, 0, 9.5], [0, 18, 7.75], [0, 0, 1]], err_msg="not the scale of the pixels"
    )
    blocks = noise(41, 31)[:30, :40].reshape(15, 2, 20, 2, 3).mean(axis=(1, 3))
    error = np.abs(scene.photo(camera).numpy() - blocks)
    assert error.max() <= 0.5, "not the mean of the four pixels"


@pytest.mark.parametrize("model", ["OPENCV", "SIMPLE_RADIAL", "EQUIRECTANGULAR"])
def test_downscaled_distorted_images_keep_their_geometry(tmp_path: Path, model: str) -> None:
    params = [323, 243] if model == "EQUIRECTANGULAR" else [2 * p if p > 5 else p for p in CAMERA_PARAMS[model]]
    intrinsics = SampleIntrinsics(model, 323, 243, params)  # odd: a column and a row are dropped
    write_model(tmp_path / "sparse" / "0", [intrinsics], [SampleImage("a.png", quaternion=QUATERNION)])
    (tmp_path / "images").mkdir()
    Image.fromarray(render_pattern(intrinsics, rotation_matrix(), (323, 243))).save(tmp_path / "images" / "a.png")
    scene = load(tmp_path, holdout="none", downscale=2)
    assert max(camera.width for camera in scene.train) < 200, "the images were not downscaled"
    assert_shows_pattern(scene, tolerance=6 if model == "EQUIRECTANGULAR" else 2.5)
