"""Damaged, hostile or misplaced COLMAP folders end in one clear sentence: never a hang, a crash or wrong numbers."""

import io
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from colmap_samples import LENSES, SampleImage, SampleLens, noise, write_model, write_scene
from PIL import Image

from splatlearn.errors import SplatlearnError
from splatlearn.scene.colmap import ColmapScene
from splatlearn.scene.colmap_files import Model, read_model

pytest.importorskip("pycolmap")

FILES = ("cameras", "images", "points3D", "rigs", "frames")


def load(path: Path, **options: object) -> ColmapScene:
    return ColmapScene(ColmapScene.Config(path=str(path), **options))  # type: ignore[arg-type]


def refused(path: Path, sentence: str, **options: object) -> None:
    """Loading must fail with one sentence (one line, ending with a full stop) that matches."""
    with pytest.raises(SplatlearnError, match=sentence) as caught:
        load(path, **options)
    message = str(caught.value)
    assert "\n" not in message and message.endswith("."), f"not one sentence: {message}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "scene")


@pytest.fixture
def sparse(root: Path) -> Path:
    return root / "sparse" / "0"


@pytest.fixture
def text_root(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "text", text=True)


class TestFolders:
    def test_path_is_not_set(self) -> None:
        refused(Path(""), "path is not set: expected a COLMAP folder")

    def test_path_is_missing(self, tmp_path: Path) -> None:
        refused(tmp_path / "nowhere", "nowhere is not there or is no folder: expected .*images/.*sparse/0/")

    def test_empty_folder(self, tmp_path: Path) -> None:
        refused(tmp_path, "holds no model in sparse/0/ or sparse/: expected .*images/")

    def test_no_photographs(self, root: Path) -> None:
        shutil.rmtree(root / "images")
        refused(root, "scene/images is not there or is no folder: expected")
        refused(root, "scene/images_4 is not there", images="images_4")

    @pytest.mark.parametrize("name", FILES[:3])
    def test_incomplete_model(self, root: Path, sparse: Path, name: str) -> None:
        (sparse / f"{name}.bin").unlink()
        refused(root, r"sparse/0 holds no COLMAP model: expected cameras\.bin, images\.bin and points3D\.bin")

    def test_no_points(self, tmp_path: Path) -> None:
        for text in (False, True):
            write_model(
                tmp_path / str(text) / "sparse" / "0", [SampleLens()], [SampleImage("a.png")], 0, text
            )
            (tmp_path / str(text) / "images").mkdir()
            refused(tmp_path / str(text), "points3D.* holds no points, but Gaussians start at the points")

    def test_no_registered_images(self, tmp_path: Path) -> None:
        write_model(tmp_path / "sparse" / "0", [SampleLens()], [SampleImage("a.png", posed=False)], 0)
        (tmp_path / "images").mkdir()
        refused(tmp_path, "images.bin holds no registered image")

    def test_model_found_in_the_wild(self, shared_scenes: Path) -> None:
        with pytest.raises(SplatlearnError, match=r"images\.bin is cut short or damaged"):
            read_model(shared_scenes / "malformed")

    @pytest.mark.parametrize(
        "options, sentence",
        [
            ({"downscale": 0}, "downscale must be a whole number of at least 1"),
            ({"downscale": 64}, r"a\.png is 40x30, too small for downscale 64"),
            ({"memory_gib": float("nan")}, "memory_gib must be"),
            ({"background": [0.0, 2.0, 0.0]}, "background must be three numbers from 0 to 1"),
            ({"background": [0.0]}, "background must be three numbers"),
        ],
    )
    def test_settings(self, root: Path, options: dict, sentence: str) -> None:
        refused(root, sentence, **options)


class TestDamagedBinaries:
    @pytest.mark.parametrize("name", FILES)
    def test_cut_anywhere(self, sparse: Path, name: str) -> None:
        path = sparse / f"{name}.bin"
        whole = path.read_bytes()
        for size in range(len(whole)):
            path.write_bytes(whole[:size])
            with pytest.raises(SplatlearnError, match=rf"{name}\.bin is cut short or damaged"):
                read_model(sparse)

    @pytest.mark.parametrize("name", FILES)
    def test_bytes_at_the_end(self, sparse: Path, name: str) -> None:
        path = sparse / f"{name}.bin"
        whole = path.read_bytes()
        for extra in (b"\0", bytes(64), whole):
            path.write_bytes(whole + extra)
            with pytest.raises(SplatlearnError, match=rf"{name}\.bin is damaged: {len(extra)} bytes follow"):
                read_model(sparse)

    @pytest.mark.parametrize("count", [2**16, 2**32, 2**40, 2**63, 2**64 - 1])
    @pytest.mark.parametrize("name", FILES)
    def test_hostile_counts_allocate_nothing(self, sparse: Path, name: str, count: int) -> None:
        path = sparse / f"{name}.bin"
        path.write_bytes(struct.pack("<Q", count) + path.read_bytes()[8:])
        tracemalloc.start()
        try:
            with pytest.raises(
                SplatlearnError, match=rf"{name}\.bin is cut short or damaged: a list of {count}"
            ):
                read_model(sparse)
            assert tracemalloc.get_traced_memory()[1] < 4 << 20, "memory was taken on the word of a count"
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("count", [2**31, 2**61, 2**64 - 1])
    def test_hostile_inner_counts(self, sparse: Path, count: int) -> None:
        for name, at in (("images", 8 + 64 + len("a.png") + 1), ("points3D", 8 + 43)):
            path = sparse / f"{name}.bin"
            whole = path.read_bytes()
            path.write_bytes(whole[:at] + struct.pack("<Q", count) + whole[at + 8 :])
            with pytest.raises(SplatlearnError, match=rf"{name}\.bin is cut short or damaged"):
                read_model(sparse)
            path.write_bytes(whole)

    @pytest.mark.parametrize("name", FILES)
    def test_random_bytes_never_get_through_unseen(self, sparse: Path, name: str) -> None:
        generator = np.random.default_rng(len(name))
        path = sparse / f"{name}.bin"
        whole = path.read_bytes()
        refusals = 0
        for _ in range(400):
            damaged = bytearray(whole)
            for at in generator.integers(0, len(whole), generator.integers(1, 6)):
                damaged[at] = generator.integers(0, 256)
            path.write_bytes(damaged)
            refusals += not sound(sparse)
        assert refusals > 40, "hardly any damage was noticed"
        for _ in range(50):
            path.write_bytes(generator.bytes(int(generator.integers(0, 300))))
            assert not sound(sparse), "noise was taken for a model"


def sound(folder: Path) -> bool:
    """Whether a damaged model still loads; what loads must hold usable numbers."""
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
        assert np.isfinite(image.lens.params).all() and image.lens.width > 0 and image.lens.height > 0
        assert not image.name.startswith("/") and ".." not in image.name.split("/"), (
            "a name that escapes got through"
        )


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

    @pytest.mark.parametrize(
        "params", [(1e300, 1e300, 20, 15), (1e-300, 1e-300, 20, 15), (35, 35, 1e300, -1e300)]
    )
    @pytest.mark.parametrize("model", ["OPENCV", "FULL_OPENCV", "FOV", "OPENCV_FISHEYE", "EUCM", "DIVISION"])
    def test_absurd_lenses_end(self, tmp_path: Path, model: str, params: tuple[float, ...]) -> None:
        for bend in (0.5, 1e3, 1e300, -1e300):
            root = write_scene(tmp_path / str(bend), [SampleLens()], [SampleImage("a.png")])
            rest = [bend] * (len(LENSES[model]) - 4)
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
                assert "camera 1" in str(error).lower() and "\n" not in str(error), (
                    f"not one sentence: {error}"
                )
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

    def test_names_that_leave_the_folder_in_text(self, text_root: Path) -> None:
        path = text_root / "sparse" / "0" / "images.txt"
        whole = path.read_text()
        for name, sentence in (
            ("../b.png", "leaves the image folder"),
            ("/b.png", "absolute"),
            ("b\0.png", "printed"),
        ):
            path.write_text(whole.replace("b.png", name))
            refused(text_root, rf"images\.txt: the name .* of image 2 .*{sentence}")

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


def edited(file: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / file
        content = path.read_text()
        assert old in content, "the test's own edit no longer fits the file"
        path.write_text(content.replace(old, new, 1))

    return edit


class TestText:
    @pytest.mark.parametrize(
        "edit, sentence",
        [
            (
                edited("cameras.txt", "1 PINHOLE", "1 PINHOLES"),
                "cameras.txt, line 4: unknown camera model 'PINHOLES'",
            ),
            (
                edited("cameras.txt", "1 PINHOLE", "one PINHOLE"),
                "line 4: the camera's id must be a whole number",
            ),
            (
                edited("cameras.txt", "PINHOLE 40", "PINHOLE 40.5"),
                "the width must be a whole number .* '40.5'",
            ),
            (
                edited("cameras.txt", " 15.5", ""),
                r"PINHOLE has 4 parameters \(fx, fy, cx, cy\), but there are 3",
            ),
            (edited("cameras.txt", " 15.5", " 15.5 1"), "PINHOLE has 4 parameters .* but there are 5"),
            (edited("cameras.txt", " 15.5", " 1_5"), "parameter cy must be a number, but is '1_5'"),
            (edited("cameras.txt", " 35", " nan"), "parameters must be finite"),
            (
                edited("images.txt", "1 1 0 0 0 0 0 0 1 a.png", "1 1 0 0 0 0"),
                "images.txt, line 5: the pose is missing",
            ),
            (
                edited("images.txt", "1 1 0 0 0 0 0 0 1 a.png", "1 1 0 0 x 0 0 0 1 a.png"),
                "the pose must be a number",
            ),
            (
                edited("images.txt", "1 1 0 0 0 0 0 0 1 a.png", "1 1 0 0 0 0 0 0 1"),
                "the image's name is missing",
            ),
            (edited("images.txt", "1.5 2.5 ", "2.5 "), "the 2D points of image 1 must be triples"),
            (edited("images.txt", "1.5 2.5 ", "1.5 z "), "a 2D point's Y must be a number, but is 'z'"),
            (edited("images.txt", "1.5 2.5 1 ", "1.5 2.5 -2 "), "POINT3D_ID must be a whole number"),
            (
                edited("images.txt", "images: 3", "images: 4"),
                "images.txt is cut short: its comment '# Number of images: 4'",
            ),
            (
                edited("points3D.txt", "1 0 -0 3 0", "1 0 -0 3 256"),
                "line 4: a colour must be a whole number from 0 to 255",
            ),
            (edited("points3D.txt", "1 0 -0 3", "1 0 inf 3"), "position of point 1 must be finite"),
            (edited("points3D.txt", " 3 0\n", " 3\n"), "a track must be pairs"),
            (edited("points3D.txt", "points: 5", "points: 50"), "points3D.txt is cut short"),
            (
                edited("rigs.txt", "1 1 CAMERA", "1 1 CAMCORDER"),
                "rigs.txt, line 4: a sensor's type must be one of",
            ),
            (
                edited("rigs.txt", "1 1 CAMERA", "1 4000000000 CAMERA"),
                "rigs.txt, line 4: a sensor's type is missing",
            ),
            (
                edited("frames.txt", "CAMERA 1 1", "CAMERA 1 1 1"),
                "frames.txt, line 4: expected 13 fields, but there are 14",
            ),
        ],
    )
    def test_one_wrong_field(self, text_root: Path, edit: Callable[[Path], None], sentence: str) -> None:
        edit(text_root / "sparse" / "0")
        refused(text_root, sentence)

    @pytest.mark.parametrize("name", FILES[:3])
    def test_no_text_at_all(self, text_root: Path, name: str) -> None:
        path = text_root / "sparse" / "0" / f"{name}.txt"
        path.write_bytes(np.random.default_rng(0).bytes(500))
        refused(text_root, rf"{name}\.txt is not a text file")
        path.write_text("lorem ipsum dolor\nsit amet\n")
        refused(text_root, rf"{name}\.txt, line 1: .* must be a whole number")

    @pytest.mark.parametrize("name", FILES)
    def test_random_edits_never_get_through_unseen(self, text_root: Path, name: str) -> None:
        generator = np.random.default_rng(len(name))
        folder = text_root / "sparse" / "0"
        path = folder / f"{name}.txt"
        whole = path.read_text()
        words = ["", "nan", "-1", "1e999", "x", "99999999999999999999999", "\t", "\n", "#", "0", "..", "\0"]
        for _ in range(200):
            fields = whole.split(" ")
            for at in generator.integers(0, len(fields), generator.integers(1, 4)):
                fields[at] = words[generator.integers(len(words))]
            path.write_text(" ".join(fields))
            sound(folder)

    def test_cut_at_a_line(self, text_root: Path) -> None:
        folder = text_root / "sparse" / "0"
        for name in ("cameras", "images", "points3D"):
            path = folder / f"{name}.txt"
            whole = path.read_text()
            lines = whole.splitlines(keepends=True)
            for count in range(3, len(lines) - 1):
                path.write_text("".join(lines[:count]))
                assert not sound(folder), f"{name}.txt with {count} of {len(lines)} lines"
            path.write_text(whole)


class TestPhotographs:
    def damage(self, root: Path) -> None:
        """b.png is cut, c.png is gone."""
        path = root / "images" / "b.png"
        path.write_bytes(path.read_bytes()[:-200])
        (root / "images" / "c.png").unlink()

    def test_all_bad_photographs_in_one_error(self, root: Path) -> None:
        self.damage(root)
        refused(
            root,
            r"2 of 3 photographs cannot be used: .*b\.png cannot be decoded: .*; .*c\.png is missing \(skip_missing",
        )

    def test_skip_missing_goes_on(self, root: Path) -> None:
        self.damage(root)
        with pytest.warns(
            UserWarning, match=r"2 of 3 photographs cannot be used: .*b\.png.*c\.png.*going on without"
        ):
            scene = load(root, skip_missing=True, holdout="none")
        assert [camera.name for camera in scene.train] == ["a.png"]

    def test_nothing_left(self, root: Path) -> None:
        for path in (root / "images").iterdir():
            path.write_bytes(b"")
        refused(root, "3 of 3 photographs cannot be used: .*so that none is left", skip_missing=True)

    def test_cut_jpeg(self, tmp_path: Path) -> None:
        root = write_scene(
            tmp_path, [SampleLens(width=200, height=150)], [SampleImage("a.jpg"), SampleImage("b.jpg")]
        )
        path = root / "images" / "b.jpg"
        whole = path.read_bytes()
        for size in (len(whole) - 300, len(whole) // 2, 700):  # the header is whole, so that it opens
            path.write_bytes(whole[:size])
            refused(root, r"1 of 2 photographs cannot be used: .*b\.jpg cannot be decoded")

    def test_folder_in_place_of_a_photograph(self, root: Path) -> None:
        (root / "images" / "b.png").unlink()
        (root / "images" / "b.png").mkdir()
        refused(root, r"1 of 3 photographs cannot be used: .*b\.png is missing")

    @pytest.mark.parametrize("size", [(30, 40), (40, 20), (20, 30), (43, 30)])
    def test_wrong_size(self, root: Path, size: tuple[int, int]) -> None:
        Image.fromarray(noise(*size)).save(root / "images" / "b.png")
        refused(root, rf"both sides scaled alike .*b\.png is {size[0]}x{size[1]} and not 40x30\.$")

    def test_turned_by_exif(self, tmp_path: Path) -> None:
        root = write_scene(tmp_path, [SampleLens()], [SampleImage("a.jpg"), SampleImage("b.jpg")])
        exif = Image.Exif()
        exif[0x0112] = 6
        buffer = io.BytesIO()
        Image.fromarray(noise(30, 40)).save(buffer, "JPEG", exif=exif)  # 40x30 only once it is turned
        (root / "images" / "b.jpg").write_bytes(buffer.getvalue())
        refused(root, r"EXIF rotation is not applied.*b\.jpg is 30x40 and not 40x30")

    def test_test_txt_that_is_no_text(self, root: Path, sparse: Path) -> None:
        (sparse / "test.txt").write_bytes(b"\xff\xfe\x00")
        refused(root, r"holdout 'auto' needs .*test\.txt, one name a line, which cannot be read")
