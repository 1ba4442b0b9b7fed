"""Small COLMAP folders for tests, written by pycolmap so that COLMAP itself defines the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from splatlearn.errors import SplatlearnError
from splatlearn.scene.cameras import Camera
from splatlearn.scene.readers.colmap import ColmapScene
from splatlearn.scene.readers.colmap_files import Model, read_model

FILES = ("cameras", "images", "points3D", "rigs", "frames")

# Parameters of each camera model with moderate distortion, for images of 160x120 pixels.
CAMERA_PARAMS: dict[str, list[float]] = {
    "SIMPLE_PINHOLE": [125, 80, 60],
    "PINHOLE": [125, 128, 78, 61],
    "SIMPLE_RADIAL": [125, 80, 60, -0.1],
    "RADIAL": [125, 81, 60, -0.1, 0.02],
    "OPENCV": [125, 126, 80, 59, -0.1, 0.02, 0.004, -0.003],
    "OPENCV_FISHEYE": [90, 91, 80, 60, 0.02, -0.004, 0.001, 0.0],
    "FULL_OPENCV": [125, 126, 80, 60, -0.1, 0.02, 0.004, -0.003, 0.001, 0.01, 0.01, 0.002],
    "FOV": [110, 111, 80, 60, 0.8],
    "SIMPLE_RADIAL_FISHEYE": [90, 80, 60, 0.02],
    "RADIAL_FISHEYE": [90, 80, 60, 0.02, -0.003],
    "THIN_PRISM_FISHEYE": [90, 91, 80, 60, 0.01, 0.002, 0.001, 0.002, 0.0, 0.0, 0.003, 0.002],
    "RAD_TAN_THIN_PRISM_FISHEYE": [90, 91, 80, 60, 0.01, 0.001, 0, 0, 0, 0, 0.002, 0.001, 0.001, 0, 0.001, 0],
    "SIMPLE_DIVISION": [125, 80, 60, -0.1],
    "DIVISION": [125, 127, 80, 60, -0.1],
    "SIMPLE_FISHEYE": [90, 80, 60],
    "FISHEYE": [90, 92, 80, 60],
    "EUCM": [110, 111, 80, 60, 0.6, 1.1],
    "EQUIRECTANGULAR": [160, 120],
}


@dataclass
class SampleIntrinsics:
    """A camera of the sample model: COLMAP's model name, the image size and the parameters."""

    model: str = "PINHOLE"
    width: int = 40
    height: int = 30
    params: Sequence[float] = (35.0, 36.0, 19.0, 15.5)


@dataclass
class SampleImage:
    """An image of the sample model; without a pose it is not registered."""

    name: str
    camera: int = 0
    quaternion: Sequence[float] = (1.0, 0.0, 0.0, 0.0)  # wxyz
    translation: Sequence[float] = (0.0, 0.0, 0.0)
    posed: bool = True


def write_model(
    folder: Path,
    cameras: Sequence[SampleIntrinsics],
    images: Sequence[SampleImage],
    points: int = 5,
    text: bool = False,
) -> None:
    """Write a model in which every posed image observes every point."""
    import pycolmap

    model = pycolmap.Reconstruction()
    for number, sample in enumerate(cameras, 1):
        camera = pycolmap.Camera(
            model=sample.model, width=sample.width, height=sample.height, params=list(sample.params)
        )
        camera.camera_id = number
        model.add_camera_with_trivial_rig(camera)
    seen = [pycolmap.Point2D(np.array([1.5 + index, 2.5])) for index in range(points)]
    for number, image in enumerate(images, 1):
        record = pycolmap.Image(name=image.name, camera_id=image.camera + 1, image_id=number)
        record.points2D = pycolmap.Point2DList(seen)
        if not image.posed:
            model.add_image_with_trivial_frame(record)
            continue
        w, x, y, z = np.array(image.quaternion) / np.linalg.norm(image.quaternion)
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([x, y, z, w])), np.array(image.translation))
        model.add_image_with_trivial_frame(record, pose)
    posed = [number for number, image in enumerate(images, 1) if image.posed]
    for index in range(points):
        track = pycolmap.Track([pycolmap.TrackElement(number, index) for number in posed])
        position = np.array([0.25 * index, -0.5 * index, 3.0 + index])
        model.add_point3D(position, track, np.array([10 * index, 20, 255 - index], dtype=np.uint8))
    folder.mkdir(parents=True, exist_ok=True)
    if text:
        model.write_text(str(folder))
    else:
        model.write_binary(str(folder))


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Return random colours, [height, width, 3] uint8, so that no two places look alike."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_scene(
    root: Path,
    cameras: Sequence[SampleIntrinsics] = (SampleIntrinsics(),),
    images: Sequence[SampleImage] = (SampleImage("a.png"), SampleImage("b.png"), SampleImage("c.png")),
    text: bool = False,
    sparse: str = "sparse/0",
) -> Path:
    """Write a complete COLMAP folder with noise images."""
    write_model(root / sparse, cameras, images, text=text)
    for number, image in enumerate(images):
        intrinsics = cameras[image.camera]
        path = root / "images" / image.name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(intrinsics.width, intrinsics.height, number)).save(path)
    return root


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return the modification time and content of every file below `root`, to prove that nothing was written."""
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(root.rglob("*"))
    }


def load(path: Path, **options: object) -> ColmapScene:
    """Load the folder as a scene with the given options."""
    return ColmapScene(ColmapScene.Config(path=str(path), **options))  # type: ignore[arg-type]


def names(cameras: Sequence[Camera]) -> list[str]:
    """Return the cameras' names in order."""
    return [camera.name for camera in cameras]


def refused(path: Path, sentence: str, **options: object) -> None:
    """Assert that loading fails with one sentence (one line, ending with a full stop) that matches."""
    with pytest.raises(SplatlearnError, match=sentence) as caught:
        load(path, **options)
    message = str(caught.value)
    assert "\n" not in message and message.endswith("."), f"not one sentence: {message}"


def sound(folder: Path) -> bool:
    """Return whether a damaged model still loads; assert that a loaded model contains usable numbers."""
    try:
        model = read_model(folder)
    except SplatlearnError as error:
        assert "\n" not in str(error) and len(str(error)) < 600, f"not one sentence: {error}"
        return False
    assert_usable(model)
    return True


def assert_usable(model: Model) -> None:
    assert len(model.points) and np.isfinite(model.points).all(), "points that are not finite got through"
    for image in model.images:
        rotation = image.world_to_camera[:3, :3]
        assert np.isfinite(image.world_to_camera).all(), "a pose that is not finite got through"
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9, err_msg="not a rotation")
        assert np.isfinite(image.intrinsics.params).all() and image.intrinsics.width > 0 and image.intrinsics.height > 0
        assert not image.name.startswith("/") and ".." not in image.name.split("/"), "a name that escapes got through"
