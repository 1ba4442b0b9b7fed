"""Photographs stay within the budget of memory, whoever asks in whatever order, and a cache folder saves the work."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from colmap_samples import SampleImage, SampleIntrinsics, load, noise, write_scene
from PIL import Image

from splatlearn.errors import SplatlearnError
from splatlearn.notices import collected
from splatlearn.scene.photos.store import MAX_PREFETCHED, ImageSource, ImageStore
from splatlearn.scene.photos.undistort import undistortions
from splatlearn.scene.readers.colmap_records import Intrinsics


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class TestImageStore:
    def store(self, tmp_path: Path, count: int, memory_bytes: int, masks: bool = False, **more: object) -> ImageStore:
        intrinsics = Intrinsics(1, "OPENCV", 160, 120, (125, 126, 80, 59, -0.1, 0.02, 0.004, -0.003))
        (undistortion,) = undistortions(intrinsics, (160, 120), (1.0, 1.0))
        sources = {}
        for number in range(count):
            path = tmp_path / f"{number}.png"
            Image.fromarray(noise(160, 120, number)).save(path)
            mask = tmp_path / f"mask_{number}.png" if masks else None
            if mask:
                Image.fromarray(np.full((120, 160), 255, np.uint8)).save(mask)
            sources[str(number)] = ImageSource(path, (160, 120), undistortion, mask)
        self.bytes = undistortion.width * undistortion.height * 3
        return ImageStore(sources, memory_bytes=memory_bytes, **more)  # type: ignore[arg-type]

    def test_what_fits_is_decoded_once(self, tmp_path: Path) -> None:
        store = self.store(tmp_path, 5, 1 << 30)
        assert store.check() == {} and store.decoded == 5
        for name in list(store.sources) * 2:
            store.load(name)
        assert store.decoded == 5, "decoded again though it was in memory"

    def test_the_budget_holds_and_the_oldest_goes(self, tmp_path: Path) -> None:
        self.store(tmp_path, 1, 0)
        store = self.store(tmp_path, 4, 2 * self.bytes + 100)
        for name in ("0", "1", "0", "2"):
            store.load(name)
        assert store.kept_bytes == 2 * self.bytes, "more is kept than the budget allows"
        assert store.decoded == 3
        store.load("0")
        assert store.decoded == 3, "0 was used after 1, so 1 had to go"
        store.load("1")
        assert store.decoded == 4

    def test_no_budget_keeps_nothing(self, tmp_path: Path) -> None:
        store = self.store(tmp_path, 2, 0)
        first = store.load("0")
        assert torch.equal(first, store.load("0")) and store.decoded == 2 and store.kept_bytes == 0

    def test_prefetched_pictures_are_the_same(self, tmp_path: Path) -> None:
        store, calm = self.store(tmp_path, 6, 1 << 30), self.store(tmp_path, 6, 1 << 30)
        store.prefetch(store.sources)
        store.prefetch(store.sources)
        for name in store.sources:
            assert torch.equal(store.load(name), calm.load(name)), "threads changed a picture"
        assert store.decoded == 6, "a picture on its way was decoded twice"

    def test_files_that_change_meanwhile(self, tmp_path: Path) -> None:
        store = self.store(tmp_path, 2, 0)
        Image.fromarray(noise(80, 60)).save(tmp_path / "0.png")
        (tmp_path / "1.png").unlink()
        with pytest.raises(SplatlearnError, match=r"0\.png changed its size"):
            store.load("0")
        store.prefetch(["1"])
        with pytest.raises(SplatlearnError, match=r"1\.png is missing"):
            store.load("1")
        Image.fromarray(noise(160, 120, 1)).save(tmp_path / "1.png")
        assert store.load("1").shape[2] == 3, "a failure of the past must not stick"

    def test_fetching_ahead_is_not_in_vain_where_nothing_is_kept(self, tmp_path: Path) -> None:
        store = self.store(tmp_path, 6, 0)
        for name in store.sources:
            store.prefetch([name])
            store.load(name)
        assert store.decoded == 6 and store.kept_bytes == 0, "what was fetched ahead was thrown away and decoded again"

    def test_fetching_everything_ahead_does_not_fill_the_memory(self, tmp_path: Path) -> None:
        store = self.store(tmp_path, 20, 0)
        for _ in range(5):
            store.prefetch(store.sources)
            assert len(store._pending) <= MAX_PREFETCHED, "pictures that nobody asked for pile up"
        assert torch.equal(store.load("19"), self.store(tmp_path, 20, 0).load("19"))

    def test_the_budget_holds_with_masks_and_threads(self, tmp_path: Path) -> None:
        self.store(tmp_path, 1, 0)
        budget = 3 * self.bytes + 1000
        store, calm = self.store(tmp_path, 12, budget, masks=True), self.store(tmp_path, 12, 1 << 30, masks=True)
        wrong: list[str] = []

        def work(seed: int) -> None:
            for name in np.random.default_rng(seed).choice(list(store.sources), 40):
                store.prefetch([name, str((int(name) + 1) % 12)])
                mask, expected = store.load_mask(name), calm.load_mask(name)
                if (
                    not torch.equal(store.load(name), calm.load(name))
                    or mask is None
                    or not torch.equal(mask, expected)
                ):
                    wrong.append(name)
                if store.kept_bytes > budget:
                    wrong.append("budget")

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong, f"threads changed pictures or broke the budget: {set(wrong)}"


class TestCacheFolder:
    @staticmethod
    def store(sources: dict[str, ImageSource], cache: Path, **more: object) -> ImageStore:
        return ImageStore(sources, memory_bytes=0, cache=cache, **more)  # type: ignore[arg-type]

    @pytest.fixture
    def sources(self, tmp_path: Path) -> dict[str, ImageSource]:
        return TestImageStore().store(tmp_path, 2, 0).sources

    def test_a_second_run_decodes_nothing(self, sources: dict[str, ImageSource], tmp_path: Path) -> None:
        plain = ImageStore(sources, memory_bytes=0)
        for decoded in (2, 0):
            store = self.store(sources, tmp_path / "cache")
            assert all(torch.equal(store.load(name), plain.load(name)) for name in sources), "another picture"
            assert store.decoded == decoded, "the cache was not written, or not read"

    def test_what_a_picture_depends_on_is_not_mixed_up(self, sources: dict[str, ImageSource], tmp_path: Path) -> None:
        self.store(sources, tmp_path / "cache").load("0")
        lit = self.store(sources, tmp_path / "cache", background=(1.0, 0.0, 0.0))
        lit.load("0")
        assert lit.decoded == 1, "another background must give another file"
        Image.fromarray(noise(160, 120, 77)).save(tmp_path / "0.png")  # another photograph of the same name
        changed = self.store(sources, tmp_path / "cache")
        assert torch.equal(changed.load("0"), ImageStore(sources).load("0")), "an old picture was shown"

    def test_damaged_files_are_made_again(self, sources: dict[str, ImageSource], tmp_path: Path) -> None:
        picture = self.store(sources, tmp_path / "cache").load("0")
        (file,) = (tmp_path / "cache").iterdir()
        for content in (b"", file.read_bytes()[:-9], b"no array"):
            file.write_bytes(content)
            again = self.store(sources, tmp_path / "cache")
            assert torch.equal(again.load("0"), picture) and again.decoded == 1, "a damaged file was believed"

    def test_a_cache_that_cannot_be_written_is_done_without(
        self, sources: dict[str, ImageSource], tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        store = self.store(sources, tmp_path / "file" / "cache")
        store.load("0")
        store.load("1")
        (warning,) = collected()
        assert warning.startswith("going on without the cache of photographs")
        assert store.decoded == 2


class TestFolders:
    @pytest.mark.parametrize("factor", [3, 5, 15])  # what divides both sides
    def test_smaller_copies_and_downscale_agree_on_the_camera(self, tmp_path: Path, factor: int) -> None:
        """images_N holds copies reduced by N, in whole pixels; downscale N of the originals is the same picture."""
        root = write_scene(tmp_path / "scene", [SampleIntrinsics("PINHOLE", 60, 45, (50, 51, 29, 22))])
        (root / f"images_{factor}").mkdir()
        for path in (root / "images").iterdir():
            with Image.open(path) as image:
                image.reduce(factor).save(root / f"images_{factor}" / path.name)
        copies, shrunk = load(root, images=f"images_{factor}"), load(root, downscale=factor)
        for a, b in zip(copies.train, shrunk.train, strict=True):
            assert (a.width, a.height) == (b.width, b.height) == (60 // factor, 45 // factor)
            np.testing.assert_allclose(a.K, b.K, rtol=1e-12, err_msg="the focal length is not that of the copies")
            difference = copies.photo(a).int() - shrunk.photo(b).int()
            assert difference.abs().max() <= 1, "another picture"

    @pytest.mark.parametrize("factor", [4, 7, 11])
    def test_any_whole_factor(self, tmp_path: Path, factor: int) -> None:
        """Sides that the factor does not divide: what fills no block is cut off, and pixels keep their size."""
        root = write_scene(tmp_path / "scene", [SampleIntrinsics("PINHOLE", 61, 47, (50, 51, 29, 22))])
        scene = load(root, downscale=factor)
        camera = scene.train[0]
        assert (camera.width, camera.height) == (61 // factor, 47 // factor)
        np.testing.assert_allclose(camera.K[:2] * factor, [[50, 0, 29], [0, 51, 22]], rtol=1e-12)
        assert scene.photo(camera).shape == (camera.height, camera.width, 3)

    def test_unicode_blanks_and_links(self, tmp_path: Path) -> None:
        names = ["ä b/日本 語.png", "link.png", "c d.png"]
        root = write_scene(tmp_path / "Szene mit Bildern", images=[SampleImage(name) for name in names])
        outside = tmp_path / "elsewhere.png"
        (root / "images" / "link.png").rename(outside)
        (root / "images" / "link.png").symlink_to(outside)
        (root / "images" / "loop").symlink_to(root / "images")
        cache = str(tmp_path / "Zwischen lager")
        scene, _ = load(root, holdout="none"), load(root, holdout="none", cache=cache)
        assert sorted(camera.name for camera in scene.train) == sorted(names)
        again = load(root, holdout="none", cache=cache)
        for one, other in zip(scene.train, again.train, strict=True):
            assert torch.equal(scene.photo(one), again.photo(other))
        assert again._store.decoded == 0, "names of any letters must find their files in the cache"


def test_dropped_images_return_their_memory(tmp_path: Path) -> None:
    """The budget limits the process, not a counter: decoding in threads must not fragment malloc's heap."""
    intrinsics = Intrinsics(1, "OPENCV", 1200, 900, (900, 910, 600, 450, -0.1, 0.02, 0.004, -0.003))
    undistortion = undistortions(intrinsics, (1200, 900), (1.0, 1.0))
    Image.fromarray(noise(1200, 900)).save(tmp_path / "a.jpg")
    source = ImageSource(tmp_path / "a.jpg", (1200, 900), undistortion[0])
    store = ImageStore({str(number): source for number in range(60)}, memory_bytes=8 << 20)
    store.load("0")
    before = resident_bytes()
    assert store.check() == {}
    grown = resident_bytes() - before
    assert store.decoded > 55 and store.kept_bytes <= 8 << 20
    # Two threads with their planes of floats and what the decoder needs take 80 to 92 MiB, malloc's heap 135 to 230.
    assert grown < 115 << 20, f"memory has grown by {grown >> 20} MiB where 8 may be kept"
