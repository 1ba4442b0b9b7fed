"""COLMAP folders are read as COLMAP reads them, every lens becomes the right pinhole, and photographs are held out as told."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from colmap_samples import LENSES, SampleImage, SampleLens, noise, snapshot, write_model, write_scene
from PIL import Image

from splatlearn.errors import SplatlearnError
from splatlearn.scene.cameras import SMALLEST_EXTENT, Camera, scene_extent
from splatlearn.scene.colmap import ColmapScene
from splatlearn.scene.colmap_files import read_model
from splatlearn.scene.colmap_records import CAMERA_MODELS
from splatlearn.scene.lens import WIDEST_VIEW_DEGREES

pycolmap = pytest.importorskip("pycolmap")


def load(path: Path, **options: object) -> ColmapScene:
    return ColmapScene(ColmapScene.Config(path=str(path), **options))  # type: ignore[arg-type]


def names(cameras: list[Camera]) -> list[str]:
    return [camera.name for camera in cameras]


def assert_same_model(folder: Path) -> None:
    """Our reader against COLMAP's on the same files."""
    ours, theirs = read_model(folder), pycolmap.Reconstruction(str(folder))
    posed = sorted((i for i in theirs.images.values() if i.has_pose), key=lambda image: image.name)
    assert [image.name for image in ours.images] == [image.name for image in posed], (
        "a photograph is lost or invented"
    )
    for mine, image in zip(ours.images, posed, strict=True):
        pose = image.cam_from_world().matrix()
        np.testing.assert_allclose(
            mine.world_to_camera[:3], pose, atol=1e-12, err_msg="wxyz and xyzw mixed up"
        )
        camera = theirs.cameras[image.camera_id]
        assert mine.lens.model == camera.model_name, "the camera model's number is misread"
        assert (mine.lens.width, mine.lens.height) == (camera.width, camera.height), (
            "width and height are swapped"
        )
        np.testing.assert_array_equal(mine.lens.params, camera.params, err_msg="parameters are misread")
    points = [theirs.points3D[key] for key in sorted(theirs.points3D)]
    expected = np.array([[*np.float32(point.xyz), *point.color] for point in points])
    got = np.concatenate([ours.points.astype(np.float64), ours.point_colors], axis=1)
    in_order = got[np.lexsort(got.T)]  # the files' order is free, and fern has points that share a place
    np.testing.assert_array_equal(
        in_order, expected[np.lexsort(expected.T)], err_msg="points or colours are misread"
    )


@pytest.mark.parametrize("name", ["fox", "fern"])
def test_real_models_read_as_colmap_reads_them(shared_scenes: Path, name: str) -> None:
    assert_same_model(shared_scenes / name / "sparse" / "0")


def test_text_and_binary_models_are_the_same(tmp_path: Path, shared_scenes: Path) -> None:
    folder = shared_scenes / "fox" / "sparse" / "0"
    pycolmap.Reconstruction(str(folder)).write_text(str(tmp_path))
    assert_same_model(tmp_path)
    binary, text = read_model(folder), read_model(tmp_path)
    for one, other in zip(binary.images, text.images, strict=True):
        np.testing.assert_allclose(
            one.world_to_camera, other.world_to_camera, atol=1e-12, err_msg="pose fields shifted"
        )
        assert one.lens == other.lens, "17 digits of a text model are enough to get the lens back"


def test_rigs_of_several_cameras(tmp_path: Path) -> None:
    options = pycolmap.SyntheticDatasetOptions()
    options.num_cameras_per_rig, options.num_frames_per_rig, options.num_points3D = 2, 3, 20
    model = pycolmap.synthesize_dataset(options)
    for writer, name in ((model.write_binary, "binary"), (model.write_text, "text")):
        (tmp_path / name).mkdir()
        writer(str(tmp_path / name))
        assert_same_model(tmp_path / name)


def test_table_of_camera_models_is_colmaps() -> None:
    known = {}
    for name, model in pycolmap.CameraModelId.__members__.items():
        if name != "INVALID":
            info = pycolmap.Camera.create_from_model_name(1, name, 1.0, 4, 3).params_info
            known[int(model)] = (name, " ".join(info.replace(",", " ").split()))
    assert CAMERA_MODELS == known, "a model's number, name or parameters differ from COLMAP's"


def pattern(directions: np.ndarray) -> np.ndarray:
    """A smooth colour for every direction in the world, [..., 3] to [..., 3] in 0..255; it changes ~10 levels a pixel."""
    unit = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    x, y, z = np.moveaxis(unit, -1, 0)
    waves = [np.sin(9 * x + 2 * y), np.sin(8 * y - 3 * z), np.cos(7 * z + 5 * x)]
    return 127.5 + 120 * np.stack(waves, axis=-1)


def photograph(lens: SampleLens, rotation: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What `lens`, turned by `rotation` (world to camera), sees of the pattern, by COLMAP's inverse equations."""
    camera = pycolmap.Camera(model=lens.model, width=lens.width, height=lens.height, params=list(lens.params))
    columns, rows = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    places = np.stack([columns * lens.width / size[0], rows * lens.height / size[1]], axis=-1)
    rays = camera.cam_ray_from_img(places.reshape(-1, 2)).reshape(size[1], size[0], 3)
    return np.nan_to_num(np.rint(pattern(rays @ rotation))).astype(np.uint8)


def assert_shows_pattern(scene: ColmapScene, tolerance: float = 2.5) -> None:
    for camera in scene.train:
        columns, rows = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
        pixels = np.stack([columns, rows, np.ones_like(columns)], axis=-1)
        rays = pixels @ np.linalg.inv(camera.K).T @ camera.world_to_camera[:3, :3]
        error = np.abs(scene.photo(camera).numpy() - pattern(rays))
        # A pixel at the photograph's border has no neighbour to blend with.
        assert np.quantile(error, 0.995) <= tolerance, f"{camera.name}: pixels are not where the pinhole says"


QUATERNION = (0.8, 0.3, -0.4, 0.33)


def rotation_matrix() -> np.ndarray:
    w, x, y, z = np.array(QUATERNION) / np.linalg.norm(QUATERNION)
    return pycolmap.Rotation3d(np.array([x, y, z, w])).matrix()


@pytest.mark.parametrize("model", sorted(LENSES))
def test_every_lens_becomes_the_right_pinhole(tmp_path: Path, model: str) -> None:
    lens = SampleLens(model, 160, 120, LENSES[model])
    write_model(tmp_path / "sparse" / "0", [lens], [SampleImage("a.png", quaternion=QUATERNION)])
    (tmp_path / "images").mkdir()
    Image.fromarray(photograph(lens, rotation_matrix(), (160, 120))).save(tmp_path / "images" / "a.png")
    scene = load(tmp_path, holdout="none")
    if model == "EQUIRECTANGULAR":
        faces = ["a.png#back", "a.png#down", "a.png#front", "a.png#left", "a.png#right", "a.png#up"]
        assert sorted(names(scene.train)) == faces, "a panorama is six views"
        # 160 pixels for 360 degrees: the sampling itself is coarse.
        assert_shows_pattern(scene, tolerance=6)
        return
    assert names(scene.train) == ["a.png"], "one photograph, one view"
    camera = scene.train[0]
    assert 0.9 * 160 <= camera.width <= 2 * 160 and 0.9 * 120 <= camera.height <= 2 * 120, (
        "far from COLMAP's choice"
    )
    if model not in ("SIMPLE_PINHOLE", "PINHOLE"):
        distorted = pycolmap.Camera(model=model, width=160, height=120, params=list(lens.params))
        expected = pycolmap.undistort_camera(pycolmap.UndistortCameraOptions(), distorted)
        assert (camera.width, camera.height) == (expected.width, expected.height), (
            "not the pinhole that COLMAP takes"
        )
    assert_shows_pattern(scene)


@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV", "SIMPLE_RADIAL", "FISHEYE"])
@pytest.mark.parametrize("size", [(80, 60), (81, 60), (53, 40), (320, 240)])
def test_folders_of_another_size(tmp_path: Path, model: str, size: tuple[int, int]) -> None:
    lens = SampleLens(model, 160, 120, LENSES[model])
    write_model(tmp_path / "sparse" / "0", [lens], [SampleImage("a.png", quaternion=QUATERNION)])
    (tmp_path / "images_x").mkdir()
    Image.fromarray(photograph(lens, rotation_matrix(), size)).save(tmp_path / "images_x" / "a.png")
    scene = load(tmp_path, images="images_x", holdout="none")
    # The two axes of 81x60 differ in scale: one factor for both would be off by half a pixel at the border.
    assert_shows_pattern(scene, tolerance=2.5 if size[0] >= 80 else 5)


def test_pinholes_keep_principal_point_and_pixels(tmp_path: Path) -> None:
    write_scene(tmp_path)
    scene = load(tmp_path, holdout="none")
    camera = scene.train[1]
    expected = [[35, 0, 19], [0, 36, 15.5], [0, 0, 1]]
    np.testing.assert_array_equal(camera.K, expected, err_msg="the principal point was moved to the middle")
    np.testing.assert_array_equal(
        scene.photo(camera).numpy(), noise(40, 30, 1), err_msg="a pinhole was resampled"
    )


def test_zero_distortion_is_a_pinhole_but_a_plain_fisheye_is_not(tmp_path: Path) -> None:
    lenses = [
        SampleLens("OPENCV", 40, 30, [35, 36, 19, 15.5, 0, 0, 0, 0]),
        SampleLens("FISHEYE", 40, 30, [25, 25, 20, 15]),
    ]
    write_scene(tmp_path, lenses, [SampleImage("a.png"), SampleImage("b.png", lens=1)])
    plain, fisheye = load(tmp_path, holdout="none").train
    assert (plain.width, plain.height) == (40, 30) and plain.K[0, 2] == 19, "resampled for nothing"
    assert fisheye.width > 44, "pycolmap's is_undistorted() was believed for a fisheye"


def test_wide_fisheyes_are_cut_to_a_sensible_view(tmp_path: Path) -> None:
    lenses = [
        SampleLens("SIMPLE_FISHEYE", 160, 120, [30, 80, 60]),
        SampleLens("FOV", 160, 120, [50, 50, 80, 60, 1.2]),
    ]
    write_scene(tmp_path, lenses, [SampleImage("a.png"), SampleImage("b.png", lens=1)])
    for camera in load(tmp_path, holdout="none").train:
        view = np.degrees(
            np.arctan(camera.K[0, 2] / camera.K[0, 0])
            + np.arctan((camera.width - camera.K[0, 2]) / camera.K[0, 0])
        )
        assert 90 < view <= WIDEST_VIEW_DEGREES, f"{camera.name}: {view} degrees"


def test_undistortion_is_colmaps(tmp_path: Path) -> None:
    lens = SampleLens("OPENCV", 160, 120, LENSES["OPENCV"])
    write_scene(tmp_path, [lens], [SampleImage("a.png")])
    scene = load(tmp_path, holdout="none")
    ours = scene.photo(scene.train[0]).numpy().astype(int)
    distorted = pycolmap.Camera(model="OPENCV", width=160, height=120, params=list(lens.params))
    bitmap, camera = pycolmap.undistort_image(
        pycolmap.UndistortCameraOptions(), pycolmap.Bitmap.from_array(noise(160, 120)), distorted
    )
    np.testing.assert_allclose(
        scene.train[0].K, camera.calibration_matrix(), err_msg="another pinhole than COLMAP's"
    )
    difference = np.abs(ours - bitmap.to_array().astype(int))
    assert difference.shape == (camera.height, camera.width, 3)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-2, (
        "noise shows a shift of a hundredth of a pixel"
    )


def test_downscale_averages_before_undistortion(tmp_path: Path) -> None:
    write_scene(tmp_path, [SampleLens(width=41, height=31)], [SampleImage("a.png")])
    scene = load(tmp_path, holdout="none", downscale=2)
    camera = scene.train[0]
    assert (camera.width, camera.height) == (20, 15), "sizes are divided and rounded down"
    np.testing.assert_allclose(
        camera.K, [[17.5, 0, 9.5], [0, 18, 7.75], [0, 0, 1]], err_msg="not the scale of the pixels"
    )
    blocks = noise(41, 31)[:30, :40].reshape(15, 2, 20, 2, 3).mean(axis=(1, 3))
    error = np.abs(scene.photo(camera).numpy() - blocks)
    assert error.max() <= 0.5, "not the average of the four pixels"


@pytest.mark.parametrize("model", ["OPENCV", "SIMPLE_RADIAL", "EQUIRECTANGULAR"])
def test_downscaled_distorted_photographs_keep_their_geometry(tmp_path: Path, model: str) -> None:
    params = [323, 243] if model == "EQUIRECTANGULAR" else [2 * p if p > 5 else p for p in LENSES[model]]
    lens = SampleLens(model, 323, 243, params)  # odd: a column and a row are cut off
    write_model(tmp_path / "sparse" / "0", [lens], [SampleImage("a.png", quaternion=QUATERNION)])
    (tmp_path / "images").mkdir()
    Image.fromarray(photograph(lens, rotation_matrix(), (323, 243))).save(tmp_path / "images" / "a.png")
    scene = load(tmp_path, holdout="none", downscale=2)
    assert max(camera.width for camera in scene.train) < 200, "nothing was shrunk"
    assert_shows_pattern(scene, tolerance=6 if model == "EQUIRECTANGULAR" else 2.5)


def test_several_lenses_sizes_and_subfolders(tmp_path: Path) -> None:
    lenses = [SampleLens(), SampleLens("SIMPLE_PINHOLE", 24, 50, [20, 12, 25])]
    images = [
        SampleImage("right/a b.png", lens=1),
        SampleImage("left/deep/a.png"),
        SampleImage("left/é.png", lens=1),
    ]
    for text in (False, True):
        root = write_scene(tmp_path / str(text), lenses, images, text=text)
        scene = load(root, holdout="none")
        assert names(scene.train) == ["left/deep/a.png", "left/é.png", "right/a b.png"], (
            "not sorted by whole names"
        )
        shapes = [tuple(scene.photo(camera).shape) for camera in scene.train]
        assert shapes == [(30, 40, 3), (50, 24, 3), (50, 24, 3)], "a photograph got another one's lens"


def test_model_directly_in_sparse(tmp_path: Path) -> None:
    write_scene(tmp_path, sparse="sparse")
    assert len(load(tmp_path, holdout="none").train) == 3


def test_old_models_without_rigs(tmp_path: Path) -> None:
    write_scene(tmp_path)
    for name in ("rigs.bin", "frames.bin"):
        (tmp_path / "sparse" / "0" / name).unlink()
    assert len(load(tmp_path, holdout="none").train) == 3, "models before COLMAP 3.12 have three files"


def test_images_without_a_pose_are_left_out(tmp_path: Path) -> None:
    images = [SampleImage("a.png"), SampleImage("lost.png", posed=False), SampleImage("z.png")]
    for text in (False, True):
        root = write_scene(tmp_path / str(text), images=images, text=text)
        assert names(load(root, holdout="none").train) == ["a.png", "z.png"], (
            "an unregistered photograph has no camera"
        )


def test_points_and_extent(tmp_path: Path) -> None:
    images = [SampleImage("a.png", translation=(1, 0, 0)), SampleImage("b.png", translation=(-1, 0, 0))]
    write_scene(tmp_path, images=images)
    scene = load(tmp_path, holdout="none")
    assert scene.points.dtype == np.float32 and scene.points.shape == (5, 3)
    assert scene.point_colors.dtype == np.uint8 and scene.point_colors[2].tolist() == [20, 20, 253]
    assert scene.extent == pytest.approx(1.1), "centres at x = -1 and 1: a radius of 1, and a tenth more"


def test_nothing_is_written_into_the_folder(tmp_path: Path) -> None:
    lenses = [SampleLens("OPENCV", 160, 120, LENSES["OPENCV"])]
    write_scene(tmp_path, lenses)
    before = snapshot(tmp_path)
    scene = load(tmp_path, memory_gib=0)
    for camera in scene.train + scene.test:
        scene.photo(camera)
    assert snapshot(tmp_path) == before, "the user's folder was touched"


class TestHoldout:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return write_scene(tmp_path, images=[SampleImage(f"{number:02}.png") for number in range(20)])

    def test_every_eighth_by_name(self, root: Path) -> None:
        scene = load(root)
        assert names(scene.test) == ["00.png", "08.png", "16.png"], "not the field's convention"
        assert names(scene.train) == [f"{number:02}.png" for number in range(20) if number % 8]

    def test_every_n(self, root: Path) -> None:
        assert names(load(root, holdout="every:7").test) == ["00.png", "07.png", "14.png"]

    def test_none(self, root: Path) -> None:
        scene = load(root, holdout="none")
        assert len(scene.train) == 20 and scene.test == []

    @pytest.mark.parametrize(
        "fraction, count", [("0.1", 2), ("0.25", 5), ("0.5", 10), ("0.001", 1), ("0.9", 18)]
    )
    def test_fraction(self, root: Path, fraction: str, count: int) -> None:
        scene = load(root, holdout=f"fraction:{fraction}")
        assert len(scene.test) == count, "not that part of the photographs"
        assert len(scene.train) + len(scene.test) == 20
        assert names(load(root, holdout=f"fraction:{fraction}").test) == names(scene.test), (
            "a split must not be random"
        )

    def test_file(self, root: Path) -> None:
        (root / "sparse" / "0" / "test.txt").write_text("03.png\r\n\n 11.png \n")
        for holdout in ("auto", "file"):
            assert names(load(root, holdout=holdout).test) == ["03.png", "11.png"], holdout
        assert len(load(root, holdout="every:8").test) == 3, "an explicit choice comes before the file"

    def test_file_with_unknown_names(self, root: Path) -> None:
        (root / "sparse" / "0" / "test.txt").write_text("03.png\nnever.png\n")
        with pytest.raises(
            SplatlearnError, match=r"test\.txt names photographs that the model does not hold: never\.png"
        ):
            load(root)

    def test_file_with_photographs_without_a_pose(self, root: Path) -> None:
        shutil.copy(root / "images" / "03.png", root / "images" / "extra.png")
        (root / "sparse" / "0" / "test.txt").write_text("03.png\nextra.png\n")
        with pytest.warns(UserWarning, match=r"without a pose.*extra\.png"):
            assert names(load(root).test) == ["03.png"]

    def test_file_is_missing(self, root: Path) -> None:
        with pytest.raises(SplatlearnError, match=r"'file' needs .*test\.txt"):
            load(root, holdout="file")

    @pytest.mark.parametrize(
        "holdout",
        ["every", "every:0", "every:x", "fraction:0", "fraction:1", "fraction:nan", "some", "none:1"],
    )
    def test_nonsense(self, root: Path, holdout: str) -> None:
        with pytest.raises(SplatlearnError, match=f"holdout must be .* but is '{holdout}'"):
            load(root, holdout=holdout)

    def test_nothing_left_to_learn_from(self, root: Path) -> None:
        with pytest.raises(SplatlearnError, match="none is left to learn from"):
            load(root, holdout="every:1")


class TestPhotos:
    def test_fox_as_colmap_undistorts_it(self, shared_scenes: Path) -> None:
        scene = load(shared_scenes / "fox")
        assert (len(scene.train), len(scene.test)) == (43, 7), "50 photographs, every eighth held out"
        assert {(camera.width, camera.height) for camera in scene.train + scene.test} == {(530, 946)}
        camera = scene.test[3]
        model = pycolmap.Reconstruction(str(shared_scenes / "fox" / "sparse" / "0"))
        photo = np.array(Image.open(shared_scenes / "fox" / "images" / camera.name))
        bitmap, _ = pycolmap.undistort_image(
            pycolmap.UndistortCameraOptions(), pycolmap.Bitmap.from_array(photo), model.cameras[1]
        )
        difference = np.abs(scene.photo(camera).numpy().astype(int) - bitmap.to_array().astype(int))
        assert difference.max() <= 1 and difference.mean() < 1e-3, "not COLMAP's picture"

    def test_fern_split_by_file(self, shared_scenes: Path) -> None:
        scene = load(shared_scenes / "fern", downscale=4)
        assert names(scene.test) == ["IMG_4026.png", "IMG_4034.png", "IMG_4042.png"]
        assert len(scene.train) == 17 and scene.points.shape == (10091, 3)

    def test_budget_and_determinism(self, tmp_path: Path) -> None:
        lenses = [SampleLens("OPENCV", 160, 120, LENSES["OPENCV"])]
        write_scene(tmp_path, lenses, [SampleImage(f"{number}.png") for number in range(6)])
        roomy = load(tmp_path, holdout="none")
        tight = load(tmp_path, holdout="none", memory_gib=2.5 * 160 * 120 * 3 / 2**30)
        for _ in range(2):
            for one, other in zip(roomy.train, tight.train, strict=True):
                assert torch.equal(roomy.photo(one), tight.photo(other)), "decoding again gave other bits"
        tight.prefetch(tight.train)
        assert torch.equal(tight.photo(tight.train[0]), roomy.photo(roomy.train[0])), (
            "prefetching gave other bits"
        )

    def test_cameras_of_elsewhere(self, tmp_path: Path) -> None:
        scene = load(write_scene(tmp_path), holdout="none")
        stranger = Camera("orbit/1", 40, 30, np.eye(3), np.eye(4))
        with pytest.raises(SplatlearnError, match="'orbit/1' took no photograph"):
            scene.photo(stranger)
        with pytest.raises(SplatlearnError, match="is 40x30 pixels, but the camera is 20x15"):
            scene.photo(scene.train[0].scaled(20, 15))


class TestCamera:
    def test_center_and_scaling(self) -> None:
        rotation = rotation_matrix()
        world_to_camera = np.eye(4)
        world_to_camera[:3, :3], world_to_camera[:3, 3] = rotation, -rotation @ np.array([1.0, 2.0, 3.0])
        camera = Camera("a", 100, 50, np.array([[80.0, 0, 49], [0, 81, 26], [0, 0, 1]]), world_to_camera)
        np.testing.assert_allclose(camera.center, [1, 2, 3], err_msg="the centre is -R^T t")
        small = camera.scaled(33, 25)
        np.testing.assert_allclose(
            small.K, [[26.4, 0, 16.17], [0, 40.5, 13], [0, 0, 1]], err_msg="axes scale apart"
        )
        assert (small.width, small.height, small.name) == (33, 25, "a")
        assert camera.K[0, 0] == 80, "the original was changed"

    def test_extent_of_one_camera_is_positive(self) -> None:
        camera = Camera("a", 4, 4, np.eye(3), np.eye(4))
        assert scene_extent([camera]) == SMALLEST_EXTENT == scene_extent([]), (
            "a rate of zero would learn nothing"
        )


def test_links_out_of_the_folder_are_fine(tmp_path: Path) -> None:
    write_scene(tmp_path / "data")
    (tmp_path / "data" / "images").rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "images")
    assert len(load(tmp_path / "data", holdout="none").train) == 3, (
        "a folder of links is a usual way to save space"
    )
