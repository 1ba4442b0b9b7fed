"""What users bring to structure from motion: several places, sizes and cameras, masks, folders in use, full disks."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
import sfm_photos
from PIL import Image, ImageOps
from sfm_photos import HEIGHT, WIDTH, touched

from splatlearn.errors import SplatlearnError
from splatlearn.scene.readers.colmap import ColmapScene
from splatlearn.scene.reconstruct import Settings, reconstruct
from splatlearn.scene.reconstruct.copies import copy_photo
from splatlearn.scene.reconstruct.gather import Photo, find_images
from splatlearn.scene.reconstruct.phases import camera_groups, matching_of
from splatlearn.scene.reconstruct.work import FOLDER

ALONE = Settings(threads=1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sfm_photos.make(tmp_path_factory.mktemp("photos"), 7)


class TestPlaces:
    def test_photographs_of_different_places(self, photos: Path, tmp_path: Path) -> None:
        """Seven of one place and four of another, which is the first one in a mirror, with an odd one of each kind."""
        folder = shutil.copytree(photos, tmp_path / "in")
        for index in range(4):
            ImageOps.mirror(Image.open(photos / f"photo {index}.jpg")).save(folder / f"mirror {index}.jpg", quality=95)
        Image.new("RGB", (WIDTH, HEIGHT), (2, 2, 2)).save(folder / "cap on.jpg")
        Image.fromarray(np.linspace(90, 110, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint8)).save(
            folder / "wall.png"
        )
        report = reconstruct(folder, tmp_path / "out", ALONE, progress=False)
        assert report.registered == 7 and report.models[0] == 7, "the larger place was not kept"
        reasons = {missing.name: missing.reason for missing in report.missing}
        kinds = {missing.name: missing.kind for missing in report.missing}
        assert kinds.pop("cap on.jpg") == "dark" and "too dark to show anything" in reasons["cap on.jpg"]
        assert kinds.pop("wall.png") in ("plain", "blurred") and "0 features" in reasons["wall.png"]
        assert set(kinds) == {f"mirror {index}.jpg" for index in range(4)} and set(kinds.values()) <= {"apart", "alone"}
        text = (tmp_path / "out" / "reconstruction.txt").read_text()
        assert text == report.text() and "7 of 13 photographs placed" in text and "What to do:" in text
        assert all(name in text for name in reasons), "a photograph that is missing is not named"

    def test_all_black(self, tmp_path: Path) -> None:
        for index in range(3):
            Image.new("RGB", (60, 40), (0, 0, index)).save(tmp_path / f"{index}.png")
        with pytest.raises(SplatlearnError, match="expected photographs with detail, got no features in any"):
            reconstruct(tmp_path, tmp_path / "out", ALONE, progress=False)

    def test_three_photographs_that_overlap_are_placed_with_advice(self, photos: Path, tmp_path: Path) -> None:
        for index in range(3):
            os.link(photos / f"photo {index}.jpg", tmp_path / f"{index}.jpg")
        report = reconstruct(tmp_path, tmp_path / "out", ALONE, progress=False)
        assert report.registered == 3 and "3 photographs is thin" in report.text()


class TestOut:
    def test_a_folder_within_the_photographs(self, photos: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(photos, tmp_path / "in")
        assert reconstruct(folder, folder / "out", ALONE, progress=False).total == 7
        assert find_images(folder, [folder / "out"]).names == find_images(photos).names, (
            "photographs were added or lost"
        )

    def test_in_use(self, photos: Path, tmp_path: Path) -> None:
        touched(tmp_path / "out", "thesis.tex")
        with pytest.raises(SplatlearnError, match=r"new or empty folder, got one that holds thesis\.tex"):
            reconstruct(photos, tmp_path / "out", ALONE, progress=False)
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]

    def test_a_file_the_photographs_and_a_photograph(self, photos: Path, tmp_path: Path) -> None:
        with pytest.raises(SplatlearnError, match="expected a folder, got a file"):
            reconstruct(photos, touched(tmp_path, "file") / "file", ALONE, progress=False)
        with pytest.raises(SplatlearnError, match="another folder than that of the photographs"):
            reconstruct(photos, photos, ALONE, progress=False)
        with pytest.raises(SplatlearnError, match="got a single photograph"):
            reconstruct(photos / "photo 0.jpg", tmp_path / "out", ALONE, progress=False)

    def test_too_little_room_is_told_before(self, photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1_000_000})())
        with pytest.raises(SplatlearnError, match=r"expected about 0\.1 GB of free disk space for 7 .* got 0\.0 GB"):
            reconstruct(photos, tmp_path / "out", ALONE, progress=False)

    def test_a_disk_that_is_full_in_between(self, photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
        copies = iter(range(100))

        def full(source: Path, target: Path) -> None:
            if next(copies) == 3:
                raise OSError(28, "No space left on device")
            Path(target).write_bytes(Path(source).read_bytes())

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "copyfile", full)
            with pytest.raises(SplatlearnError, match=r"photo 3\.jpg could not be written \(No space left on device\)"):
                reconstruct(photos, tmp_path / "out", ALONE, progress=False)
        assert reconstruct(photos, tmp_path / "out", ALONE, progress=False).registered == 7, "it does not go on"

    def test_a_disk_that_fills_up_while_matching(self, photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
        """pycolmap aborts the process where it cannot write, so it must be stopped before."""
        state = tmp_path / "out" / FOLDER / "state.json"

        def usage(_: Path) -> Any:
            matching = state.exists() and '"matches"' in state.read_text()
            return type("Usage", (), {"free": (40 << 20) if matching else 1 << 40})()

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", usage)
            with pytest.raises(SplatlearnError, match="at least 64 MiB of free disk space, got 40 MiB; make room"):
                reconstruct(photos, tmp_path / "out", ALONE, progress=False)
        report = reconstruct(photos, tmp_path / "out", ALONE, progress=False)
        assert report.registered == 7 and "features" not in report.seconds_of_phases, "it does not go on"


class TestCameras:
    @staticmethod
    def photo(name: str, width: int = 40, lens: str = "") -> Photo:
        return Photo(name, 1, 1, width, 30, lens, 1.0, 100.0, name)

    def test_groups(self) -> None:
        photos = [self.photo("a"), self.photo("b", lens="X 5mm"), self.photo("c", 30), self.photo("d")]
        assert camera_groups(photos, "auto") == [["a", "d"], ["b"], ["c"]], "sizes or lenses are mixed"
        assert camera_groups(photos, "per-image") == [["a"], ["b"], ["c"], ["d"]]
        assert camera_groups([photos[0], photos[1]], "shared") == [["a", "b"]]
        with pytest.raises(SplatlearnError, match="photographs of one size, got 2 .30x30, 40x30"):
            camera_groups(photos, "shared")

    def test_matching_by_count(self) -> None:
        ways = [matching_of(Settings(), count, video) for count, video in ((200, False), (201, False), (60, True))]
        assert ways == ["exhaustive", "sequential", "exhaustive"] and matching_of(Settings(), 61, True) == "sequential"
        assert matching_of(Settings(matching="exhaustive"), 999, True) == "exhaustive"

    def test_photographs_of_two_sizes(self, photos: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(photos, tmp_path / "in")
        for name in ("photo 1.jpg", "photo 4.jpg"):
            copy_photo(photos / name, folder / name, 300)
        report = reconstruct(folder, tmp_path / "out", ALONE, progress=False)
        told = {(camera["width"], camera["photographs"]) for camera in report.cameras}
        assert report.registered == 7 and told == {(WIDTH, 5), (300, 2)}, "each size needs a camera"

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("max_size", 10),
            ("threads", 0),
            ("seed", -1),
            ("frames", 2),
            ("matching", "all"),
            ("masks", Path("nowhere")),
        ],
    )
    def test_settings_that_make_no_sense(self, tmp_path: Path, name: str, value: Any) -> None:
        with pytest.raises(SplatlearnError, match=f"^{name}: expected"):
            reconstruct(tmp_path, tmp_path / "out", Settings(**{name: value}))

    def test_a_card_is_used_where_pycolmap_can(self, photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
        import torch

        seen: dict[str, Any] = {}

        def stop(*_: Any, extraction_options: Any, device: Any, **__: Any) -> None:
            seen.update(gpu=extraction_options.use_gpu, device=device)
            raise RuntimeError("enough")

        monkeypatch.setattr(pycolmap, "extract_features", stop)
        for built, card in ((True, True), (True, False), (False, True)):
            monkeypatch.setattr(pycolmap, "has_cuda", built)
            monkeypatch.setattr(torch.cuda, "is_available", lambda card=card: card)
            with pytest.raises(SplatlearnError, match="find features: pycolmap failed: enough"):
                reconstruct(photos, tmp_path / "out", ALONE, progress=False)
            wanted = (True, pycolmap.Device.auto) if built and card else (False, pycolmap.Device.cpu)
            assert (seen["gpu"], seen["device"]) == wanted, "the card is not used, or used where there is none"


class TestMasks:
    def test_masked_features_are_left_out_and_the_scene_finds_the_masks(self, photos: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(photos, tmp_path / "in")
        values = np.full((HEIGHT, WIDTH), 255, np.uint8)
        values[: HEIGHT // 3] = 60  # ignored, though not quite black
        (folder / "masks").mkdir()
        for index in range(6):  # the seventh has none
            Image.fromarray(values).save(folder / "masks" / f"photo {index}.jpg.png")
        report = reconstruct(folder, tmp_path / "out", Settings(threads=1, masks=folder / "masks"), progress=False)
        assert report.total == 7, "masks were taken for photographs"
        assert report.registered >= 5
        model = pycolmap.Reconstruction(tmp_path / "out" / "sparse" / "0")
        for image in model.images.values():
            rows = [point.xy[1] for point in image.points2D]
            limit = 0 if image.name == "photo 6.jpg" else HEIGHT // 3 - 1
            assert min(rows) >= limit, f"{image.name} has features where its mask ignores it"
        scene = ColmapScene(ColmapScene.Config(path=str(tmp_path / "out"), masks="masks", holdout="none"))
        for camera in scene.train:
            mask = scene.mask(camera)
            assert (mask is None) == (camera.name == "photo 6.jpg")
            assert mask is None or (mask[:60] == 0).all() and (mask[100:] > 0).all()

    def test_masks_that_do_not_fit(self, photos: Path, tmp_path: Path) -> None:
        (tmp_path / "masks").mkdir()
        with pytest.raises(SplatlearnError, match=r"files such as photo 0\.jpg\.png in .*masks, got none"):
            reconstruct(photos, tmp_path / "out", Settings(masks=tmp_path / "masks"), progress=False)
        Image.new("L", (WIDTH, HEIGHT + 1), 255).save(tmp_path / "masks" / "photo 3.jpg.png")
        with pytest.raises(SplatlearnError, match=r"masks of their photographs' sizes, got others: photo 3\.jpg\.png"):
            reconstruct(photos, tmp_path / "out", Settings(masks=tmp_path / "masks"), progress=False)
        assert not (tmp_path / "out").exists(), "a refused run made its folder"
