"""A COLMAP model whose numbers, ids or names cannot be true ends in one clear sentence."""

import struct
from pathlib import Path

import numpy as np
import pytest
from colmap_samples import CAMERA_PARAMS, SampleImage, SampleIntrinsics, load, refused, write_scene

from splatlearn.errors import SplatlearnError

pytest.importorskip("pycolmap")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "scene")


@pytest.fixture
def sparse(root: Path) -> Path:
    return root / "sparse" / "0"


def pack_camera(lens_id: int, model: int, width: int, height: int, *params: float) -> bytes:
    return struct.pack(f"<IiQQ{len(params)}d", lens_id, model, width, height, *params)


class TestImpossibleNumbers:
    @pytest.mark.parametrize(
        "record, sentence",
        [
            (pack_camera(1, 99, 40, 30, 1, 1, 1, 1), "unknown camera model 99"),
            (pack_camera(1, -1, 40, 30, 1, 1, 1, 1), "unknown camera model -1"),
            (
                pack_camera(1, 1, 0, 30, 35, 35, 20, 15),
                r"camera 1 \(PINHOLE\) .* size must be .* but is 0x30",
            ),
            (pack_camera(1, 1, 40, 2**63, 35, 35, 20, 15), "size must be"),
            (pack_camera(1, 1, 40, 30, 0, 35, 20, 15), "focal length fx must be above zero, but is 0"),
            (pack_camera(1, 1, 40, 30, 35, -1, 20, 15), "focal length fy must be above zero, but is -1"),
            (pack_camera(1, 0, 40, 30, -2, 20, 15), "focal length f must be above zero, but is -2"),
            (
                pack_camera(1, 1, 40, 30, 35, 35, float("nan"), 15),
                "parameters must be finite numbers.*cx=nan",
            ),
            (
                pack_camera(1, 1, 40, 30, float("inf"), 35, 20, 15),
                "parameters must be finite numbers.*fx=inf",
            ),
            (pack_camera(1, 17, 40, 30, 80, 30), "parameters must be its size 40x30"),
            (
                pack_camera(7, 1, 40, 30, 35, 35, 20, 15),
                r"image 1 \('a.png'\) uses camera 1, which is not there",
            ),
        ],
    )
    def test_cameras(self, root: Path, sparse: Path, record: bytes, sentence: str) -> None:
        (sparse / "cameras.bin").write_bytes(struct.pack("<Q", 1) + record)
        refused(root, rf"(cameras|images)\.bin.*{sentence}")

    def test_doubled_camera(self, root: Path, sparse: Path) -> None:
        record = pack_camera(1, 1, 40, 30, 35, 35, 20, 15)
        (sparse / "cameras.bin").write_bytes(struct.pack("<Q", 2) + record + record)
        refused(root, r"cameras\.bin is damaged: camera 1 appears more than once")

    @pytest.mark.parametrize(
        "at, value, sentence",
        [
            (0, float("nan"), "pose of image 1 .* must be finite"),
            (5, float("nan"), "pose of image 1 .* must be finite"),
            (4, float("inf"), "pose of image 1 .* must be finite"),
            (0, 0.0, "quaternion of image 1 .* must have length 1, but .* has 0"),
            (1, 0.5, "quaternion of image 1 .* must have length 1, but .* has 1.118"),
            (6, 1e200, "translation of image 1 .* is out of range"),
        ],
    )
    def test_poses(self, root: Path, sparse: Path, at: int, value: float, sentence: str) -> None:
        path = sparse / "images.bin"
        content = bytearray(path.read_bytes())
        struct.pack_into("<d", content, 8 + 4 + 8 * at, value)
        path.write_bytes(content)
        refused(root, rf"images\.bin.*{sentence}")

    def test_poses_of_frames(self, root: Path, sparse: Path) -> None:
        path = sparse / "frames.bin"
        whole = path.read_bytes()
        for value, sentence in (
            (float("nan"), "frame 1 must be finite"),
            (7.0, "give image 1 .* different poses"),
        ):
            content = bytearray(whole)
            struct.pack_into("<d", content, 8 + 8 + 8 * 6, value)
            path.write_bytes(content)
            refused(root, rf"frames\.bin.*{sentence}")

    def test_frames_that_lead_nowhere(self, root: Path, sparse: Path) -> None:
        path = sparse / "frames.bin"
        whole = path.read_bytes()
        for layout, at, value, sentence in (
            ("<I", 12, 9, "frame 1 belongs to rig 9, which is not there"),
            ("<I", 8 + 8 + 56 + 4 + 4, 9, "frame 1 names sensor 9 of type 0, which rig 1 lacks"),
            ("<Q", 8 + 8 + 56 + 4 + 8, 9, r"no frame holds image 1 \('a.png'\)"),
        ):
            content = bytearray(whole)
            struct.pack_into(layout, content, at, value)
            path.write_bytes(content)
            refused(root, rf"frames\.bin: {sentence}")

    @pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e300])
    def test_points(self, root: Path, sparse: Path, value: float) -> None:
        path = sparse / "points3D.bin"
        content = bytearray(path.read_bytes())
        struct.pack_into("<d", content, 8 + 8 + 16, value)
        path.write_bytes(content)
        refused(root, r"points3D\.bin: the position of point \d must be finite")

    def test_points_of_other_models(self, root: Path, sparse: Path) -> None:
        path = sparse / "points3D.bin"
        whole = path.read_bytes()
        first = struct.unpack_from("<Q", whole, 8)[0]
        record = 51 + 8 * 3
        second = struct.unpack_from("<Q", whole, 8 + record)[0]
        for at, layout, value, sentence in (
            (8, "<Q", 77, rf"image 1 sees point {first}, which is not there"),
            (8, "<Q", second, rf"point {second} appears more than once"),
            (8 + 51, "<I", 77, "a point is seen by image 77, which is not there"),
        ):
            content = bytearray(whole)
            struct.pack_into(layout, content, at, value)
            path.write_bytes(content)
            refused(root, sentence)

    def test_doubled_images(self, root: Path, sparse: Path) -> None:
        path = sparse / "images.bin"
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b"b.png\0", b"a.png\0"))
        refused(root, r"images\.bin is damaged: image name 'a.png' appears more than once")
        size = (len(whole) - 8) // 3
        path.write_bytes(whole[: 8 + size] + whole[8 : 8 + 4] + whole[8 + size + 4 :])
        refused(root, r"images\.bin is damaged: image 1 appears more than once")

    @pytest.mark.parametrize("params", [(1e300, 1e300, 20, 15), (1e-300, 1e-300, 20, 15), (35, 35, 1e300, -1e300)])
    @pytest.mark.parametrize("model", ["OPENCV", "FULL_OPENCV", "FOV", "OPENCV_FISHEYE", "EUCM", "DIVISION"])
    def test_absurd_lenses_end(self, tmp_path: Path, model: str, params: tuple[float, ...]) -> None:
        for bend in (0.5, 1e3, 1e300, -1e300):
            root = write_scene(tmp_path / str(bend), [SampleIntrinsics()], [SampleImage("a.png")])
            rest = [bend] * (len(CAMERA_PARAMS[model]) - 4)
            number = {
                "OPENCV": 4,
                "FULL_OPENCV": 6,
                "FOV": 7,
                "OPENCV_FISHEYE": 5,
                "EUCM": 16,
                "DIVISION": 13,
            }[model]
            record = pack_camera(1, number, 40, 30, *params, *rest)
            (root / "sparse" / "0" / "cameras.bin").write_bytes(struct.pack("<Q", 1) + record)
            try:
                scene = load(root, holdout="none")
            except SplatlearnError as error:
                assert "camera 1" in str(error).lower() and "\n" not in str(error), f"not one sentence: {error}"
                continue
            camera = scene.train[0]
            assert np.isfinite(camera.K).all() and scene.photo(camera).shape == (
                camera.height,
                camera.width,
                3,
            )


NAMES = [
    ("", "is empty"),
    (".", "is empty"),
    ("/etc/passwd", "is an absolute path"),
    ("../../x.png", r"leaves the image folder by '\.\.'"),
    ("a/../../x.png", r"leaves the image folder by '\.\.'"),
    ("..", r"leaves the image folder by '\.\.'"),
    ("..\\..\\x.png", "holds a backslash"),
    ("C:\\x.png", "holds a backslash"),
    ("a\nb.png", "holds characters that cannot be printed"),
    ("\x1b[31mred.png", "holds characters that cannot be printed"),
    ("x" * 3000, "is longer than"),
]


class TestNames:
    @pytest.mark.parametrize("name, sentence", NAMES)
    def test_names_that_leave_the_folder(self, root: Path, sparse: Path, name: str, sentence: str) -> None:
        path = sparse / "images.bin"
        path.write_bytes(path.read_bytes().replace(b"b.png\0", name.encode() + b"\0"))
        refused(root, rf"images\.bin: the name .* of image 2 {sentence}")

    def test_name_without_an_end(self, root: Path, sparse: Path) -> None:
        path = sparse / "images.bin"
        content = path.read_bytes()
        path.write_bytes(content[: content.index(b"c.png") + 5].replace(b"\0\0", b"\1\1") + b"x" * 1000)
        with pytest.raises(SplatlearnError, match=r"images\.bin"):
            load(root)

    def test_name_that_is_no_text(self, root: Path, sparse: Path) -> None:
        path = sparse / "images.bin"
        path.write_bytes(path.read_bytes().replace(b"b.png\0", b"\xff\xfe.png\0"))
        refused(root, r"images\.bin is damaged: the name of image 2 is not UTF-8")
