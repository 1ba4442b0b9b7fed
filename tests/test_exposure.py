"""Exposure compensation: photographs of varying gain are learned better with it, measured fairly, resumed exactly."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_scene
import torch
from PIL import Image

from splatlearn import checkpoint, config, loop, run
from splatlearn.errors import SplatlearnError
from splatlearn.scene import metrics
from splatlearn.scene.evaluate import evaluate
from splatlearn.scene.photos.exposure import Exposures
from splatlearn.scene.training.task import SceneTask

CPU = torch.device("cpu")


def make(root: Path, **more: Any) -> SceneTask:
    settings = {"steps": 120, "sh_degree": 0, "densify.stop": 0.0, "data.path": root, "exposure": "true", **more}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return SceneTask(config.load(SceneTask.Config, None, words))


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Gaussians that the pictures were made of."""
    path = tmp_path_factory.mktemp("truth") / "truth.ply"
    tiny_scene.gaussians().save_ply(path)
    return path


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """The tiny scene with a gain of its own for each channel of each photograph, and those gains by name."""
    root = tiny_scene.write(tmp_path_factory.mktemp("varied") / "scene", 12)
    generator, gains = np.random.default_rng(3), {}
    for path in sorted((root / "images").iterdir()):
        gains[path.name] = generator.uniform(0.6, 1.0, size=3)
        photo = np.asarray(Image.open(path), dtype=float)
        Image.fromarray((photo * gains[path.name]).round().astype(np.uint8)).save(path)
    return root, gains


def test_photographs_of_random_gain_are_learned_better(varied: Any, truth: Path) -> None:
    root, gains = varied
    results, tasks = {}, {}
    for exposure in ("false", "true"):
        tasks[exposure] = make(root, exposure=exposure, init=truth, steps=220)
        loop.fit(tasks[exposure], 220, progress=False)
        results[exposure] = evaluate(tasks[exposure])["psnr_corrected"]
    assert results["true"] > results["false"] + 3, f"held-out views are not better with exposures: {results}"
    exposures = tasks["true"].exposures
    assert exposures is not None and tasks["false"].exposures is None
    with torch.no_grad():  # what each does to the scene's mean colour, as channels may well stand in for each other
        color = torch.stack(
            [tasks["true"].render(camera).image.mean(dim=(0, 1)) for camera in tasks["true"].scene.train]
        )
        color = color.mean(dim=0)
        learned = [exposures(color[None, None], name)[0, 0] / color for name in exposures.rows]
    wanted = np.stack([gains[name] for name in exposures.rows])
    alike = np.corrcoef(torch.stack(learned).numpy().ravel(), wanted.ravel())[0, 1]
    assert alike > 0.9, f"the exposures learned are not the gains of the photographs: {alike}"


def test_the_scene_keeps_what_all_photographs_share(varied: Any, truth: Path) -> None:
    """Twice as bright and half the exposure is the same picture: the pull to the identity decides it."""
    task = make(varied[0], init=truth, steps=220)
    loop.fit(task, 220, progress=False)
    assert task.exposures is not None
    mean = task.exposures.affine.detach().mean(dim=0)
    assert (mean - torch.eye(3, 4)).abs().max() < 0.25, "exposures wander off together"


def test_resume_is_bit_exact(varied: Any, tmp_path: Path) -> None:
    whole = make(varied[0], steps=30)
    loop.fit(whole, 30, callbacks=[run.Checkpoints(tmp_path, 13, keep=9)], progress=False)
    resumed = make(varied[0], steps=30)
    resumed.load_state(*checkpoint.load(tmp_path / "checkpoints" / "step_0000013"))
    loop.fit(resumed, 30, start=13, progress=False)
    (one, _), (other, _) = whole.state(), resumed.state()
    assert one.keys() == other.keys() and {"exposure", "exposure_moments", "exposure_counts"} <= one.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), f"{name} differs after a resume"
    moved = (one["exposure"] != torch.eye(3, 4)).flatten(1).any(dim=1)
    assert moved.all(), "an exposure never moved, so that this proves little"


def test_a_run_without_exposures_cannot_go_on_with_them(varied: Any) -> None:
    tensors, state = make(varied[0], exposure="false").state()
    with pytest.raises(SplatlearnError, match="cannot be switched on"):
        make(varied[0]).load_state(tensors, state)
    fewer = make(varied[0], **{"data.holdout": "every:2"})
    with pytest.raises(SplatlearnError, match="exposures of 10 training images, but there are 6"):
        fewer.load_state(*make(varied[0]).state())


class TestExposures:
    def test_the_formula(self) -> None:
        exposures = Exposures(["a", "b"], CPU)
        with torch.no_grad():
            exposures.affine[1] = torch.tensor([[2.0, 0, 0, 0.1], [0, 1, 0.5, 0], [0, 0, 1, -0.2]])
        got = exposures(torch.tensor([[[0.1, 0.2, 0.4]]]), "b")
        assert torch.allclose(got, torch.tensor([[[0.3, 0.4, 0.2]]])), "rows and columns are swapped"

    def test_it_begins_without_effect_and_leaves_other_views_alone(self) -> None:
        exposures, image = Exposures(["a"], CPU), torch.rand(4, 5, 3)
        assert torch.allclose(exposures(image, "a"), image, atol=1e-7) and exposures.penalty().item() == 0
        assert exposures(image, "held out") is image

    def test_only_the_photograph_of_a_step_is_updated(self) -> None:
        exposures = Exposures(["a", "b"], CPU)
        for name in ("a", "a", "b"):
            (exposures(torch.ones(2, 2, 3), name).sum() + exposures.penalty()).backward()
            exposures.step(0.01)
        a, b = exposures.affine.detach() - torch.eye(3, 4)
        assert torch.allclose(a, torch.tensor(-0.02), atol=1e-5), "Adam's first steps have the size of the rate"
        assert torch.allclose(b, torch.tensor(-0.01), atol=1e-5), "b counts the steps of a, or moves with them"


class TestCorrectedColours:
    def test_a_gain_is_undone_and_a_blur_is_not(self) -> None:
        photo = torch.rand(20, 30, 3, generator=torch.Generator().manual_seed(0)) * 0.5
        assert metrics.psnr(metrics.colour_corrected(photo * 1.6 + 0.1, photo), photo) > 50
        other = torch.rand(20, 30, 3, generator=torch.Generator().manual_seed(1)) * 0.5
        assert metrics.psnr(metrics.colour_corrected(other, photo), photo) < 20, "what is wrong was made right"

    def test_no_pixel_is_measured_by_a_fit_to_itself(self) -> None:
        """A half that has a colour of its own cannot be fitted from the other half."""
        photo = torch.rand(20, 30, 3, generator=torch.Generator().manual_seed(0))
        render = photo.clone()
        render[:, 15:] *= 0.5
        assert metrics.psnr(metrics.colour_corrected(render, photo), photo) < 20, "fitted to what it is measured on"

    def test_a_flat_half_stays_finite(self) -> None:
        photo = torch.rand(20, 30, 3, generator=torch.Generator().manual_seed(0))
        render = torch.zeros_like(photo)
        assert metrics.colour_corrected(render, photo).isfinite().all()

    def test_masked_pixels_are_not_fitted(self) -> None:
        photo = torch.rand(20, 30, 3, generator=torch.Generator().manual_seed(0)) * 0.5
        render, mask = photo * 1.5, torch.ones(20, 30, dtype=torch.uint8)
        render[:8], mask[:8] = torch.rand(8, 30, 3, generator=torch.Generator().manual_seed(2)), 0
        assert metrics.psnr(metrics.colour_corrected(render, photo, mask), photo, mask) > 50
