"""Damaged, hostile or misplaced COLMAP folders end in one clear sentence: no hang, crash or wrong number."""

import io
import re
import shutil
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from colmap_samples import (
    FILES,
    SampleImage,
    SampleIntrinsics,
    load,
    noise,
    refused,
    sound,
    write_model,
    write_scene,
)
from PIL import Image

from splatlearn.errors import SplatlearnError
from splatlearn.notices import collected
from splatlearn.scene.readers.colmap import ColmapScene
from splatlearn.scene.readers.colmap_files import read_model

pytest.importorskip("pycolmap")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "scene")


@pytest.fixture
def sparse(root: Path) -> Path:
    return root / "sparse" / "0"


class TestFolders:
    def test_path_is_not_set(self) -> None:
        with pytest.raises(SplatlearnError, match="path is not set: expected a COLMAP folder"):
            ColmapScene(ColmapScene.Config())

    def test_the_current_folder_is_a_path(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(root)
        assert len(load(Path("."), holdout="none").train) == 3, "'.' was taken for no path"

    def test_path_is_missing(self, tmp_path: Path) -> None:
        refused(tmp_path / "nowhere", "nowhere is not there or is no folder: expected .*images/.*sparse/0/")

    def test_empty_folder(self, tmp_path: Path) -> None:
        refused(tmp_path, "holds no model in sparse/0/ or sparse/: expected .*images/")

    def test_no_photographs(self, root: Path) -> None:
        shutil.rmtree(root / "images")
        refused(root, "scene/images is not there or is no folder: expected")
        refused(root, "scene/images_4 is not there", images="images_4")

    @pytest.mark.parametrize("name", FILES[:2])
    def test_incomplete_model(self, root: Path, sparse: Path, name: str) -> None:
        (sparse / f"{name}.bin").unlink()
        refused(root, r"sparse/0 holds no COLMAP model: expected cameras\.bin, images\.bin and points3D\.bin")

    def test_model_without_points(self, root: Path, sparse: Path) -> None:
        (sparse / "points3D.bin").unlink()
        refused(root, r"sparse/0 holds no points \(points3D\.bin or points3D\.txt\); .*--init FILE")

    def test_no_points(self, tmp_path: Path) -> None:
        for text in (False, True):
            write_model(tmp_path / str(text) / "sparse" / "0", [SampleIntrinsics()], [SampleImage("a.png")], 0, text)
            (tmp_path / str(text) / "images").mkdir()
            refused(tmp_path / str(text), "points3D.* holds no points; Gaussians start at the points .*--init FILE")

    def test_no_registered_images(self, tmp_path: Path) -> None:
        write_model(tmp_path / "sparse" / "0", [SampleIntrinsics()], [SampleImage("a.png", posed=False)], 0)
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
            with pytest.raises(SplatlearnError, match=rf"{name}\.bin is cut short or damaged: a list of {count}"):
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
            r"2 of 3 photographs in .* cannot be used: .*b\.png cannot be decoded: .*; .*c\.png is missing \(skip",
        )

    def test_skip_missing_goes_on(self, root: Path) -> None:
        self.damage(root)
        scene = load(root, skip_missing=True, holdout="none")
        assert re.search(r"2 of 3 photographs in .* cannot be used: .*b\.png.*c\.png.*going on without", *collected())
        assert [camera.name for camera in scene.train] == ["a.png"]

    def test_nothing_left(self, root: Path) -> None:
        for path in (root / "images").iterdir():
            path.write_bytes(b"")
        refused(root, "3 of 3 photographs in .* cannot be used: .*so that none is left", skip_missing=True)

    def test_cut_jpeg(self, tmp_path: Path) -> None:
        root = write_scene(
            tmp_path, [SampleIntrinsics(width=200, height=150)], [SampleImage("a.jpg"), SampleImage("b.jpg")]
        )
        path = root / "images" / "b.jpg"
        whole = path.read_bytes()
        for size in (len(whole) - 300, len(whole) // 2, 700):  # the header is whole, so that it opens
            path.write_bytes(whole[:size])
            refused(root, r"1 of 2 photographs in .* cannot be used: .*b\.jpg cannot be decoded")

    def test_folder_in_place_of_a_photograph(self, root: Path) -> None:
        (root / "images" / "b.png").unlink()
        (root / "images" / "b.png").mkdir()
        refused(root, r"1 of 3 photographs in .* cannot be used: .*b\.png is a folder")

    @pytest.mark.parametrize("size", [(30, 40), (40, 20), (20, 30), (43, 30)])
    def test_wrong_size(self, root: Path, size: tuple[int, int]) -> None:
        Image.fromarray(noise(*size)).save(root / "images" / "b.png")
        refused(root, rf"both sides scaled alike .*b\.png is {size[0]}x{size[1]} and not 40x30\.$")

    def test_turned_by_exif(self, tmp_path: Path) -> None:
        root = write_scene(tmp_path, [SampleIntrinsics()], [SampleImage("a.jpg"), SampleImage("b.jpg")])
        exif = Image.Exif()
        exif[0x0112] = 6
        buffer = io.BytesIO()
        Image.fromarray(noise(30, 40)).save(buffer, "JPEG", exif=exif)  # 40x30 only once it is turned
        (root / "images" / "b.jpg").write_bytes(buffer.getvalue())
        refused(root, r"EXIF rotation is not applied.*b\.jpg is 30x40 and not 40x30")

    def test_test_txt_that_is_no_text(self, root: Path, sparse: Path) -> None:
        (sparse / "test.txt").write_bytes(b"\xff\xfe\x00")
        refused(root, r"holdout 'auto' needs .*test\.txt, one name a line, but cannot read it")
