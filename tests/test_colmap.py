"""COLMAP folders are read as COLMAP reads them, and photographs are held out as told."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from colmap_samples import CAMERA_PARAMS, SampleImage, SampleIntrinsics, load, names, snapshot, write_scene
from PIL import Image

from splatlearn.errors import SplatlearnError
from splatlearn.notices import collected
from splatlearn.scene.cameras import SMALLEST_EXTENT, Camera, scene_extent
from splatlearn.scene.readers.colmap_files import read_model
from splatlearn.scene.readers.colmap_records import CAMERA_MODELS

pycolmap = pytest.importorskip("pycolmap")


def assert_same_model(folder: Path) -> None:
    """Our reader against COLMAP's on the same files."""
    ours, theirs = read_model(folder), pycolmap.Reconstruction(str(folder))
    posed = sorted((i for i in theirs.images.values() if i.has_pose), key=lambda image: image.name)
    assert [image.name for image in ours.images] == [image.name for image in posed], "a photograph is lost or invented"
    for mine, image in zip(ours.images, posed, strict=True):
        pose = image.cam_from_world().matrix()
        np.testing.assert_allclose(mine.world_to_camera[:3], pose, atol=1e-12, err_msg="wxyz and xyzw mixed up")
        camera = theirs.cameras[image.camera_id]
        assert mine.intrinsics.model == camera.model_name, "the camera model's number is misread"
        size = (mine.intrinsics.width, mine.intrinsics.height)
        assert size == (camera.width, camera.height), "width and height are swapped"
        np.testing.assert_array_equal(mine.intrinsics.params, camera.params, err_msg="parameters are misread")
    points = [theirs.points3D[key] for key in sorted(theirs.points3D)]
    expected = np.array([[*point.xyz, *point.color] for point in points])
    got = np.concatenate([ours.points, ours.point_colors], axis=1)
    in_order = got[np.lexsort(got.T)]  # the files' order is free, and fern has points that share a place
    np.testing.assert_array_equal(in_order, expected[np.lexsort(expected.T)], err_msg="points or colours are misread")


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
        assert one.intrinsics == other.intrinsics, "17 digits of a text model restore the camera exactly"


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


def test_several_lenses_sizes_and_subfolders(tmp_path: Path) -> None:
    cameras = [SampleIntrinsics(), SampleIntrinsics("SIMPLE_PINHOLE", 24, 50, [20, 12, 25])]
    images = [
        SampleImage("right/a b.png", camera=1),
        SampleImage("left/deep/a.png"),
        SampleImage("left/é.png", camera=1),
    ]
    for text in (False, True):
        root = write_scene(tmp_path / str(text), cameras, images, text=text)
        scene = load(root, holdout="none")
        assert names(scene.train) == ["left/deep/a.png", "left/é.png", "right/a b.png"], "not sorted by whole names"
        shapes = [tuple(scene.photo(camera).shape) for camera in scene.train]
        assert shapes == [(30, 40, 3), (50, 24, 3), (50, 24, 3)], "an image got another image's camera"


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
        assert names(load(root, holdout="none").train) == ["a.png", "z.png"], "an unregistered photograph has no camera"


def test_points_and_extent(tmp_path: Path) -> None:
    images = [SampleImage("a.png", translation=(1, 0, 0)), SampleImage("b.png", translation=(-1, 0, 0))]
    write_scene(tmp_path, images=images)
    scene = load(tmp_path, holdout="none")
    assert scene.points.dtype == np.float64 and scene.points.shape == (5, 3)
    places = [(0.25 * i, -0.5 * i, 3.0 + i) for i in range(5)]
    assert sorted(map(tuple, scene.frame.capture_points(scene.points))) == places, "float64 loses nothing"
    assert scene.point_colors.dtype == np.uint8 and scene.point_colors[2].tolist() == [20, 20, 253]
    radius = scene.extent * scene.frame.scale
    assert radius == pytest.approx(1.1), "centres at x = -1 and 1: a radius of 1, and a tenth more"


def test_nothing_is_written_into_the_folder(tmp_path: Path) -> None:
    cameras = [SampleIntrinsics("OPENCV", 160, 120, CAMERA_PARAMS["OPENCV"])]
    write_scene(tmp_path, cameras)
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

    @pytest.mark.parametrize("fraction, count", [("0.1", 2), ("0.25", 5), ("0.5", 10), ("0.001", 1), ("0.9", 18)])
    def test_fraction(self, root: Path, fraction: str, count: int) -> None:
        scene = load(root, holdout=f"fraction:{fraction}")
        assert len(scene.test) == count, "not that part of the photographs"
        assert len(scene.train) + len(scene.test) == 20
        positions = [int(name[:2]) for name in names(scene.test)]
        gaps = np.diff([-1, *positions, 20])
        assert gaps.max() <= 20 / count + 1, f"not spread over the names: {positions}"
        assert names(load(root, holdout=f"fraction:{fraction}").test) == names(scene.test), "a split must not be random"

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
        assert names(load(root).test) == ["03.png"]
        assert re.search(r"have no pose and stay out: extra\.png", " ".join(collected()))

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
        cameras = [SampleIntrinsics("OPENCV", 160, 120, CAMERA_PARAMS["OPENCV"])]
        write_scene(tmp_path, cameras, [SampleImage(f"{number}.png") for number in range(6)])
        roomy = load(tmp_path, holdout="none")
        tight = load(tmp_path, holdout="none", memory_gib=2.5 * 160 * 120 * 3 / 2**30)
        for _ in range(2):
            for one, other in zip(roomy.train, tight.train, strict=True):
                assert torch.equal(roomy.photo(one), tight.photo(other)), "decoding again gave other bits"
        tight.prefetch(tight.train)
        assert torch.equal(tight.photo(tight.train[0]), roomy.photo(roomy.train[0])), "prefetching gave other bits"

    def test_cameras_of_elsewhere(self, tmp_path: Path) -> None:
        scene = load(write_scene(tmp_path), holdout="none")
        stranger = Camera("orbit/1", 40, 30, np.eye(3), np.eye(4))
        with pytest.raises(SplatlearnError, match="'orbit/1' took no photograph"):
            scene.photo(stranger)
        with pytest.raises(SplatlearnError, match="is 40x30 pixels, but the camera is 20x15"):
            scene.photo(scene.train[0].scaled(20, 15))


class TestCamera:
    def test_center_and_scaling(self) -> None:
        rotation = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
        world_to_camera = np.eye(4)
        world_to_camera[:3, :3], world_to_camera[:3, 3] = rotation, -rotation @ np.array([1.0, 2.0, 3.0])
        camera = Camera("a", 100, 50, np.array([[80.0, 0, 49], [0, 81, 26], [0, 0, 1]]), world_to_camera)
        np.testing.assert_allclose(camera.center, [1, 2, 3], err_msg="the centre is -R^T t")
        small = camera.scaled(33, 25)
        np.testing.assert_allclose(small.K, [[26.4, 0, 16.17], [0, 40.5, 13], [0, 0, 1]], err_msg="axes scale apart")
        assert (small.width, small.height, small.name) == (33, 25, "a")
        assert camera.K[0, 0] == 80, "the original was changed"

    def test_extent_of_one_camera_is_positive(self) -> None:
        camera = Camera("a", 4, 4, np.eye(3), np.eye(4))
        assert scene_extent([camera]) == SMALLEST_EXTENT == scene_extent([]), "a rate of zero would learn nothing"


def test_links_out_of_the_folder_are_fine(tmp_path: Path) -> None:
    write_scene(tmp_path / "data")
    (tmp_path / "data" / "images").rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "images")
    assert len(load(tmp_path / "data", holdout="none").train) == 3, "a folder of links is a usual way to save space"
