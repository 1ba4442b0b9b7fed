"""Loss terms: their values, weights and schedules, from the config and in code, recorded and not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny_scene
import torch
from tape import Tape
from torch import Tensor

from splatlearn import config, loop
from splatlearn.errors import SplatlearnError
from splatlearn.ops import capacity as capacities
from splatlearn.scene.cameras import Camera
from splatlearn.scene.gaussians import Rendering
from splatlearn.scene.training.losses import Depth, Learned, Losses, Photometric, Term, TermConfig, merged
from splatlearn.scene.training.optimizer import Numbers
from splatlearn.scene.training.replay import Replays
from splatlearn.scene.training.step import TrainingStep
from splatlearn.scene.training.task import SceneTask
from splatlearn.scene.view import View, reduced

SETTINGS = {"steps": 12, "sh_degree": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_scene.write(tmp_path_factory.mktemp("tiny") / "scene")


def words(folder: Path, **more: Any) -> list[str]:
    settings = SETTINGS | {"data.path": folder} | more
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


def make(folder: Path, cls: type[SceneTask] = SceneTask, **more: Any) -> SceneTask:
    return cls(config.load(cls.Config, None, words(folder, **more)))


def first_loss(task: SceneTask) -> float:
    view = task.batch(1)
    return float(task.loss(task.forward(view), view).detach())


class Brightness(Term):
    """A term of a test, with a key of its own."""

    @dataclass
    class Config(TermConfig):
        target: float = config.key(0.5, "mean value of the image")

    recordable = True

    def __call__(self, rendering: Rendering, view: View, step: int) -> Tensor:
        return (rendering.image.mean() - self.config.target).abs()


# ---- schedules ----


def test_a_weight_rises_stays_and_ends() -> None:
    term = TermConfig(weight=2.0, start=3, stop=10, ramp=4)
    found = [term.weight_at(step) for step in range(1, 13)]
    assert found == [0, 0, 0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 0, 0]
    assert TermConfig().weight_at(1) == TermConfig().weight_at(10**9) == 1.0


BAD: dict[str, dict[str, Any]] = {
    "weight": {"weight": -1.0}, "a number": {"weight": float("nan")}, "stop": {"start": 5, "stop": 5},
    "ramp": {"ramp": -1},
}  # fmt: skip


@pytest.mark.parametrize("word", BAD)
def test_a_bad_schedule_is_named(word: str) -> None:
    with pytest.raises(SplatlearnError, match=word):
        TermConfig(**BAD[word])


def test_a_term_that_does_not_count_is_not_computed() -> None:
    class Fails(Term):
        options = {"render_mode": "RGB+ED"}

        def __call__(self, rendering: Rendering, view: View, step: int) -> Tensor:
            raise AssertionError("computed for nothing")

    learned = Learned(tiny_scene.gaussians(3))
    losses = Losses(photometric=Photometric(Photometric.Config()), fails=Fails(TermConfig(stop=2), learned))
    assert losses.options(2) == {"render_mode": "RGB+ED"} and losses.options(3) == {}
    image = torch.rand(12, 12, 3)
    rendering: Any = Rendering(image, image[..., :1], image, image, image)
    losses(rendering, View(tiny_scene.cameras()[0], {"image": image}), 3)
    with pytest.raises(AssertionError):
        losses(rendering, View(tiny_scene.cameras()[0], {"image": image}), 2)
    with pytest.raises(SplatlearnError, match="a loss needs a term, but none of fails counts at step 3"):
        Losses(fails=losses["fails"])(rendering, View(tiny_scene.cameras()[0], {"image": image}), 3)


def test_terms_that_need_different_renderings_are_named() -> None:
    with pytest.raises(SplatlearnError, match="render_mode must be the same for all, but a needs 'RGB.D' and b needs"):
        merged([("a", {"render_mode": "RGB+D"}), ("b", {"render_mode": "RGB+ED"})])


# ---- from the config ----


def test_terms_are_listed_in_the_config(folder: Path) -> None:
    plain = first_loss(make(folder))
    weight = first_loss(make(folder, **{"losses.photometric.weight": 2}))
    assert weight == pytest.approx(2 * plain), "the weight of a term is not that of the config"
    task = make(folder, **{"losses.scale.weight": 0.5, "losses.opacity.weight": 0.25})
    g = task.gaussians
    wanted = plain + 0.5 * g.scales.exp().mean().item() + 0.25 * g.opacities.sigmoid().mean().item()
    assert first_loss(task) == pytest.approx(wanted), "terms do not add up"


def test_a_term_of_another_module_has_keys_of_its_own(folder: Path) -> None:
    more = {"losses.dark.term": f"{__name__}:Brightness", "losses.dark.target": 0.0, "losses.dark.weight": 3}
    task, plain = make(folder, **more), make(folder)
    mean = plain.training_step.render(plain.batch(1), plain._numbers(1)).image.mean().item()
    assert first_loss(task) == pytest.approx(first_loss(make(folder)) + 3 * mean, rel=1e-5)


def test_terms_are_added_in_code(folder: Path) -> None:
    plain, task = make(folder), make(folder)
    task.losses["dark"] = Brightness(Brightness.Config(target=0.0), task.learned)
    loop.fit(plain, 12, progress=False)
    loop.fit(task, 12, progress=False)
    assert not torch.equal(plain.gaussians.sh0, task.gaussians.sh0), "the term is not part of training"


def test_the_short_form_of_lambda_stays(folder: Path, tmp_path: Path) -> None:
    """Run folders of earlier versions have `lambda_dssim` and no `losses`."""
    (tmp_path / "old.yaml").write_text("task: scene\nlambda_dssim: 0.4\n")
    old = config.load(SceneTask.Config, tmp_path / "old.yaml", words(folder))
    assert old.losses["photometric"].lambda_dssim == 0.4
    config.dump(old, tmp_path / "new.yaml")
    again = config.load(SceneTask.Config, tmp_path / "new.yaml", ["--losses.photometric.lambda_dssim", "0.1"])
    assert again.losses["photometric"].lambda_dssim == 0.1, "a resumed run cannot change it"
    assert first_loss(SceneTask(old)) == first_loss(make(folder, **{"losses.photometric.lambda_dssim": 0.4}))


def test_the_exposure_penalty_is_a_term(folder: Path) -> None:
    task = make(folder, exposure="true")
    assert list(task.losses) == ["photometric", "exposure"] and task.losses["exposure"].config.weight == 0.01
    assert make(folder, exposure="true", **{"losses.exposure.weight": 0.5}).losses["exposure"].config.weight == 0.5
    with pytest.raises(SplatlearnError, match="loss term 'exposure' needs learned exposures: set 'exposure: true'"):
        first_loss(make(folder, **{"losses.exposure.weight": 0.5}))


def test_two_photometric_terms_do_not_share_a_gradient(folder: Path) -> None:
    """Each in memory of its own: half L1 and half SSIM are the gradient of one term with a lambda of a half."""
    halves = {"losses.photometric.lambda_dssim": 0, "losses.photometric.weight": 0.5, "losses.ssim.term": "photometric",
              "losses.ssim.lambda_dssim": 1, "losses.ssim.weight": 0.5}  # fmt: skip
    found = []
    for more in (halves, {"losses.photometric.lambda_dssim": 0.5}):
        task = make(folder, **more)
        view = task.batch(1)
        task.loss(task.forward(view), view).backward()  # type: ignore[no-untyped-call]
        found.append(dict(task.named_gradients())["2D colors"])
    assert found[0].any()
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-8)


# ---- depth ----


class DepthTask(SceneTask):
    """A scene whose views have a depth map, that of a plane 3 units of the capture away, unknown in the upper half."""

    def maps(self, camera: Camera) -> dict[str, Tensor]:
        depth = torch.full((camera.height, camera.width), 3.0)
        depth[: camera.height // 2] = 0
        return super().maps(camera) | {"depth": depth}


def depth_error(task: SceneTask) -> float:
    errors = []
    for camera in task.scene.train:
        with torch.no_grad():
            depth = task.gaussians(camera, render_mode="RGB+ED").depth
        assert depth is not None
        lower = task.frame.scale * depth[camera.height // 2 :]
        errors.append(float((lower - 3)[lower > 0].abs().mean()))
    return sum(errors) / len(errors)


def test_depth_is_learned(folder: Path) -> None:
    plain, task = (make(folder, DepthTask, steps=60, **more) for more in ({}, {"losses.depth.weight": 8}))
    for each in (plain, task):
        loop.fit(each, 60, progress=False)
    assert depth_error(task) < 0.7 * depth_error(plain), "depth is no nearer to its map than without the term"


def test_the_depth_term_is_the_mean_over_known_pixels() -> None:
    gaussians, camera = tiny_scene.gaussians(), tiny_scene.cameras()[0]
    rendering = gaussians(camera, render_mode="RGB+ED")
    assert rendering.depth is not None
    target = rendering.depth.detach() + 0.5
    target[:10] = 0
    mask = torch.full(target.shape, 255, dtype=torch.uint8)
    mask[:, :20] = 0
    target[15, 5] += 100  # masked
    term = Depth(Depth.Config(), Learned(gaussians))
    view = View(camera, {"image": rendering.image.detach(), "mask": mask, "depth": target})
    assert float(term(rendering, view, 1).detach()) == pytest.approx(0.5, rel=1e-4)
    with pytest.raises(SplatlearnError, match="'view_0.png' must have the map 'depth', but has image"):
        term(rendering, View(camera, {"image": rendering.image}), 1)


def test_a_reduced_view_reduces_all_its_maps() -> None:
    camera = tiny_scene.cameras()[0]
    shape = (tiny_scene.HEIGHT, tiny_scene.WIDTH)
    depth = torch.zeros(shape)
    depth[:, 25:] = 8.0
    normal = torch.nn.functional.normalize(torch.ones(*shape, 3), dim=-1)
    view = View(camera, {"image": torch.zeros(*shape, 3, dtype=torch.uint8), "depth": depth, "normal": normal})
    small = reduced(view, 2)
    assert small.map("depth").shape == (18, 25) and small.map("normal").shape == (18, 25, 3)
    assert set(small.map("depth").unique().tolist()) == {0.0, 8.0}, "depths are mixed across an edge"


# ---- recorded ----


def learned_losses(terms: dict[str, Term], recorder: Tape | None) -> tuple[list[float], TrainingStep]:
    gaussians = tiny_scene.gaussians(40)
    losses = Losses({"photometric": Photometric(Photometric.Config())})
    step = TrainingStep(gaussians, losses, recorder=recorder)
    for name, term in terms.items():
        term.learned = Learned(gaussians)
        losses[name] = term
    image = torch.rand(tiny_scene.HEIGHT, tiny_scene.WIDTH, 3, generator=torch.Generator().manual_seed(0))
    view, rates, found = (
        View(tiny_scene.cameras()[0], {"image": image}),
        dict.fromkeys(gaussians.schema.names, 1e-2),
        [],
    )
    for number in range(1, 13):
        step.resolve()
        found.append(float(step(view, Numbers(number, 1, rates))))
    step.resolve()
    return found, step


def replays_of(step: TrainingStep) -> Replays:
    assert step.replays is not None
    return step.replays


def test_terms_with_schedules_are_recorded(emulated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight that rises is learned without a recording; direct gradients are part of one."""
    from splatlearn.scene.training.losses import ScaleRegulariser

    def terms() -> dict[str, Term]:
        any_learned: Any = None
        return {
            "scale": ScaleRegulariser(TermConfig(weight=0.5, start=3, ramp=3), any_learned),
            "dark": Brightness(Brightness.Config(stop=8), any_learned),
        }

    results = []
    for recorder in (None, Tape()):
        monkeypatch.setattr(capacities, "_capacities", {})
        results.append(learned_losses(terms(), recorder))
    (wanted, plain), (found, recorded) = results
    assert found == wanted, "a replay has another loss"
    for name, value in plain.gaussians.tensors().items():
        assert torch.equal(value, recorded.gaussians.tensors()[name]), f"{name} has other bits where it was recorded"
    assert replays_of(recorded).made == 3, "not one recording for each set of weights that stays"


def test_a_term_that_cannot_be_recorded_is_refused(emulated: None) -> None:
    class Annealed(Term):
        def __call__(self, rendering: Rendering, view: View, step: int) -> Tensor:
            return rendering.image.mean() / step

    any_learned: Any = None
    with pytest.raises(SplatlearnError, match="'cuda_graph' does not go with the loss term 'annealed'"):
        learned_losses({"annealed": Annealed(TermConfig(), any_learned)}, Tape())
