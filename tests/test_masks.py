"""Masks: ignored pixels teach nothing and are not measured, by COLMAP's naming, undistorted as their photographs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_scene
import torch
from colmap_samples import SampleIntrinsics, load, refused, write_scene
from PIL import Image

from splatlearn import config, loop
from splatlearn.errors import SplatlearnError
from splatlearn.ops.photometric import photometric_loss
from splatlearn.scene import metrics
from splatlearn.scene.evaluate import evaluate
from splatlearn.scene.photos.masks import copy_mask, fitted, masked, read_mask, whole
from splatlearn.scene.training.task import SceneTask
from splatlearn.scene.view import View, reduced

DISTORTED = SampleIntrinsics("OPENCV", 160, 120, (125, 126, 80, 59, -0.1, 0.02, 0.004, -0.003))


def save_mask(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def half(width: int, height: int) -> np.ndarray:
    """[height, width] uint8: the left half is ignored."""
    values = np.full((height, width), 255, np.uint8)
    values[:, : width // 2] = 0
    return values


class TestLoss:
    @pytest.fixture
    def pictures(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(40, 48, 3, generator=generator, requires_grad=True)
        photo = torch.randint(0, 256, (40, 48, 3), generator=generator, dtype=torch.uint8)
        return image, photo, torch.from_numpy(half(48, 40))

    @pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
    def test_ignored_pixels_have_no_gradient_at_all(self, pictures: Any, weight: float) -> None:
        image, photo, mask = pictures
        photometric_loss(*masked(image, photo, mask), weight).backward()
        assert (image.grad[mask == 0] == 0).all(), "an ignored pixel pulls at the scene, be it through SSIM's windows"
        assert (image.grad[mask > 0] != 0).any(dim=-1).all(), "a pixel that counts teaches nothing"

    def test_far_from_the_mask_nothing_changes(self, pictures: Any) -> None:
        image, photo, mask = pictures
        photometric_loss(*masked(image, photo, mask), 0.2).backward()
        got, image.grad = image.grad, None
        photometric_loss(image, photo, 0.2).backward()
        # A pixel's gradient comes from windows up to 5 px away, and those reach 5 px further.
        far = slice(48 // 2 + 10, None)
        assert torch.allclose(got[:, far], image.grad[:, far], atol=1e-9), "a mask changes what lies far from it"
        assert not torch.allclose(got[:, 25], image.grad[:, 25], atol=1e-6), "the mask has no effect"

    def test_what_the_photo_shows_under_the_mask_does_not_matter(self, pictures: Any) -> None:
        image, photo, mask = pictures
        other = torch.where((mask > 0)[:, :, None], photo, 255 - photo)
        losses = [photometric_loss(*masked(image, p, mask), 0.2) for p in (photo, other)]
        assert losses[0].item() == losses[1].item(), "the ignored part of the photograph changes the loss"

    def test_without_a_mask_nothing_is_copied(self, pictures: Any) -> None:
        image, photo, _ = pictures
        assert masked(image, photo, None) == (image, photo)


class TestMetrics:
    def test_ignored_pixels_are_not_measured(self) -> None:
        generator = torch.Generator().manual_seed(1)
        photo = torch.rand(30, 40, 3, generator=generator)
        render, mask = photo + 0.1, torch.from_numpy(half(40, 30))
        render[:, :20] = 0.0
        assert metrics.psnr(render, photo, mask) == pytest.approx(20.0, abs=1e-4), "ignored pixels spoil the PSNR"
        render[:, 20:] = photo[:, 20:]
        assert metrics.ssim(render, photo, mask) == pytest.approx(1.0, abs=1e-6), "ignored pixels spoil the SSIM"

    def test_a_mask_that_ignores_nothing_gives_the_same_figures(self) -> None:
        generator = torch.Generator().manual_seed(2)
        x, y = (torch.rand(33, 29, 3, generator=generator) for _ in range(2))
        everything = torch.full((33, 29), 255, dtype=torch.uint8)
        assert metrics.psnr(x, y, everything) == metrics.psnr(x, y)
        assert metrics.ssim(x, y, everything) == pytest.approx(metrics.ssim(x, y), abs=1e-6), "another SSIM"

    def test_a_mask_of_another_shape_is_refused(self) -> None:
        x = torch.rand(5, 6, 3)
        for mask in (torch.ones(6, 5), torch.zeros(5, 6)):
            with pytest.raises(SplatlearnError, match="the mask must be"):
                metrics.psnr(x, x, mask)


class TestFiles:
    def test_black_is_ignored_whatever_the_pixel_format(self, tmp_path: Path) -> None:
        values = np.array([[0, 127, 128, 255]], np.uint8).repeat(3, axis=0)
        for kind, array in (("grey", values), ("rgb", np.stack([values] * 3, axis=-1))):
            mask = read_mask(save_mask(tmp_path / f"{kind}.png", array), (4, 3))
            assert mask[0].tolist() == [0, 0, 255, 255], f"{kind}: the border between ignored and counted moved"

    def test_other_sizes_are_fitted_and_other_shapes_refused(self, tmp_path: Path) -> None:
        path = save_mask(tmp_path / "a.png", half(40, 30))
        assert read_mask(path, (20, 15)).shape == (15, 20) and (read_mask(path, (20, 15))[:, :10] == 0).all()
        with pytest.raises(SplatlearnError, match=r"a\.png: expected a mask of its photograph's shape, 30x40"):
            read_mask(path, (30, 40))

    def test_all_black_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SplatlearnError, match="ignores every pixel"):
            read_mask(save_mask(tmp_path / "a.png", np.zeros((5, 5), np.uint8)), (5, 5))

    def test_mixed_pixels_are_ignored(self) -> None:
        mask = torch.full((6, 6), 255, dtype=torch.uint8)
        mask[2, 2] = 0
        small = whole(fitted(mask, 3, 3))
        assert small.tolist() == [[255, 255, 255], [255, 0, 255], [255, 255, 255]], "an ignored colour leaks in"

    def test_copies_are_black_and_white(self, tmp_path: Path) -> None:
        save_mask(tmp_path / "a.png", np.array([[0, 60, 200, 255]], np.uint8))
        copy_mask(tmp_path / "a.png", tmp_path / "b.png")
        assert np.asarray(Image.open(tmp_path / "b.png")).tolist() == [[0, 0, 255, 255]]


class TestFolder:
    def test_masks_are_found_and_undistorted(self, tmp_path: Path) -> None:
        root = write_scene(tmp_path / "scene", [DISTORTED])
        photo = np.full((120, 160, 3), 200, np.uint8)
        photo[:, :80] = 0
        Image.fromarray(photo).save(root / "images" / "b.png")
        save_mask(root / "masks" / "b.png.png", half(160, 120))
        scene = load(root, masks="masks", holdout="none")
        cameras = {camera.name: camera for camera in scene.train}
        assert scene.mask(cameras["a.png"]) is None, "a photograph without a mask must count as a whole"
        mask, picture = scene.mask(cameras["b.png"]), scene.photo(cameras["b.png"])
        assert mask is not None and mask.shape == picture.shape[:2] and mask.dtype == torch.uint8
        # The photograph is black where ignored: what counts must be of the other colour, to the last pixel.
        assert (picture[mask > 0] == 200).all(), "the mask is not undistorted as its photograph is"
        assert 0.9 < (mask > 0).sum() / (picture[..., 0] == 200).sum() <= 1, "far too much is ignored"

    @pytest.mark.parametrize("factor", [2, 3, 7])
    def test_masks_are_shrunk_with_their_photographs(self, tmp_path: Path, factor: int) -> None:
        root = write_scene(tmp_path / "scene", [SampleIntrinsics("PINHOLE", 50, 37, (45, 45, 25, 18.5))])
        save_mask(root / "masks" / "a.png.png", half(50, 37))
        scene = load(root, masks="masks", downscale=factor)
        camera = scene.test[0]
        mask = scene.mask(camera)
        assert mask is not None and mask.shape == (camera.height, camera.width) == (37 // factor, 50 // factor)
        assert mask[0].tolist() == [255 if x * factor >= 25 else 0 for x in range(50 // factor)]

    def test_a_folder_without_masks_is_a_mistake(self, tmp_path: Path) -> None:
        root = write_scene(tmp_path / "scene")
        refused(root, r"masks holds no mask: expected files such as a\.png\.png in it\.", masks="masks")

    def test_a_damaged_mask_is_named(self, tmp_path: Path) -> None:
        root = write_scene(tmp_path / "scene")
        (root / "masks").mkdir()
        (root / "masks" / "b.png.png").write_bytes(b"no picture")
        refused(root, r"1 of 3 photographs in .* cannot be used: .*b\.png\.png is no image", masks="masks")


class TestTraining:
    def make(self, root: Path, **more: Any) -> SceneTask:
        settings = {"steps": 60, "sh_degree": 0, "densify.stop": 0.0, "data.path": root, **more}
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        return SceneTask(config.load(SceneTask.Config, None, words))

    def test_what_is_masked_is_not_learned(self, tmp_path: Path) -> None:
        """Somebody in green stands elsewhere in every photograph: with masks the scene is as if nobody was there."""
        root = tiny_scene.write(tmp_path / "scene")
        clean = self.make(root)
        for number, camera in enumerate([*clean.scene.train, *clean.scene.test]):
            photo = clean.scene.photo(camera).numpy().copy()
            values = np.full(photo.shape[:2], 255, np.uint8)
            left = 4 + 7 * number % 30
            photo[5:32, left : left + 14], values[5:32, left : left + 14] = [0, 255, 0], 0
            Image.fromarray(photo).save(root / "images" / camera.name)
            save_mask(root / "masks" / f"{camera.name}.png", values)
        results = {}
        tiny_scene.gaussians().save_ply(tmp_path / "truth.ply")  # what is right can only be spoiled
        for masks in ("null", "masks"):
            task = self.make(root, init=tmp_path / "truth.ply", **{"data.masks": masks})
            loop.fit(task, 60, progress=False)
            with torch.no_grad():
                renders = [(task.render(camera).image.clamp(0, 1), camera) for camera in clean.scene.train]
            results[masks] = np.mean([metrics.psnr(render, clean.scene.photo(camera)) for render, camera in renders])
        assert results["masks"] > results["null"] + 5, f"what is masked was learned: {results}"
        assert evaluate(task)["psnr"] > 30, "what is masked was measured"

    def test_reduced_masks_ignore_what_is_mixed(self, tmp_path: Path) -> None:
        task = self.make(tiny_scene.write(tmp_path / "scene", 3))
        camera = task.scene.train[0]
        mask = torch.full((camera.height, camera.width), 255, dtype=torch.uint8)
        mask[0, 0] = 0
        small = reduced(View(camera, {"image": task.scene.photo(camera), "mask": mask}), 2)
        assert small.mask is not None and small.mask.shape == small.image.shape[:2]
        assert small.mask[0, 0] == 0 and (small.mask == 0).sum() == 1, "the wrong pixels of a coarse picture count"
