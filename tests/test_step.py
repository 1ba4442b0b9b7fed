"""The training step: direct gradients beside the cut, retries, noise of a strategy, and the place of a reducer."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny_scene
import torch
from torch import Tensor, nn

from splatlearn import config, loop, rasterization
from splatlearn.errors import SplatlearnError
from splatlearn.ops import capacity as capacities
from splatlearn.ops.photometric import photometric_loss
from splatlearn.scene.gaussians import Gaussians, Rendering, camera_tensors
from splatlearn.scene.training.losses import (
    Learned,
    Losses,
    OpacityRegulariser,
    Photometric,
    ScaleRegulariser,
    Term,
    TermConfig,
)
from splatlearn.scene.training.optimizer import Numbers
from splatlearn.scene.training.step import TrainingStep
from splatlearn.scene.training.strategy import Strategy
from splatlearn.scene.training.task import SceneTask
from splatlearn.scene.view import View

RATES = {"means": 1e-3, "scales": 2e-3, "quats": 3e-3, "opacities": 4e-3, "sh0": 5e-3, "shN": 6e-3}
TARGET = torch.tensor([0.3, -0.2, 0.5])


class MeansTerm(Term):
    """Pulls the means to a point."""

    def __call__(self, rendering: Rendering, view: View, step: int) -> Tensor:
        means = self.learned.gaussians.means
        return (means - TARGET.to(means)).square().mean()


def model(dtype: torch.dtype = torch.float64) -> Gaussians:
    """Gaussians that no gradient is zero of: one of a sphere by its rotation would be rounding, which Adam enlarges."""
    gaussians, random = tiny_scene.gaussians(40), torch.Generator().manual_seed(1)
    with torch.no_grad():
        gaussians.quats.normal_(generator=random)
        gaussians.scales += 0.4 * torch.randn(40, 3, generator=random)
    return gaussians.to(dtype)


def views(count: int = 3, dtype: torch.dtype = torch.float64) -> list[View]:
    shape = (tiny_scene.HEIGHT, tiny_scene.WIDTH, 3)
    random = torch.Generator().manual_seed(0)
    cameras = tiny_scene.cameras(count)
    return [View(camera, {"image": torch.rand(shape, generator=random, dtype=dtype)}) for camera in cameras]


def training_step(gaussians: Gaussians, terms: dict[str, Term] | None = None, **options: Any) -> TrainingStep:
    losses = Losses({"photometric": Photometric(Photometric.Config()), **(terms or {})})
    return TrainingStep(gaussians, losses, **options)


def learn(step: TrainingStep, count: int = 4) -> None:
    given = views(dtype=step.gaussians.means.dtype)
    for number in range(1, count + 1):
        step.resolve()
        step(given[number % len(given)], Numbers(number, 1, RATES))
    step.resolve()


def values(gaussians: Gaussians) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in gaussians.tensors().items()}


# ---- the gradient trap ----

DIRECT = {
    "scale": (ScaleRegulariser, lambda g: g.scales.exp().mean(), 0.7),
    "opacity": (OpacityRegulariser, lambda g: g.opacities.sigmoid().mean(), 0.4),
    "means": (MeansTerm, lambda g: (g.means - TARGET.to(g.means)).square().mean(), 2.5),
}


@pytest.mark.parametrize("name", DIRECT)
def test_a_term_on_parameters_is_that_of_autograd_and_torch_adam(name: str) -> None:
    """In float64, against a graph that is never cut and PyTorch's own Adam."""
    term, formula, weight = DIRECT[name]
    ours, theirs, plain = model(), model(), model()
    learn(training_step(ours, {"direct": term(TermConfig(weight=weight), Learned(ours))}))
    learn(training_step(plain))
    groups = [{"params": [getattr(theirs, key)], "lr": rate} for key, rate in RATES.items()]
    adam, given = torch.optim.Adam(groups, eps=1e-15), views()
    for number in range(1, 5):
        view = given[number % len(given)]
        adam.zero_grad()
        loss = photometric_loss(theirs(view.camera).image, view.image) + weight * formula(theirs)
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
    for key, value in theirs.tensors().items():
        torch.testing.assert_close(ours.tensors()[key], value, rtol=1e-9, atol=1e-11, msg=f"{key} differs from PyTorch")
    changed = {"scale": "scales", "opacity": "opacities", "means": "means"}[name]
    moved = (ours.tensors()[changed] - plain.tensors()[changed]).abs().max()
    assert moved > 1e-5, "the term does nothing, so that this proves little"


class Silhouette(Term):
    """Reads the opacity alone: the 2D Gaussians get no gradient of their colours."""

    def __call__(self, rendering: Rendering, view: View, step: int) -> Tensor:
        return rendering.alpha.square().mean()


@pytest.mark.parametrize(
    ("term", "moved"), [(Silhouette, {"means", "scales", "quats", "opacities"}), (ScaleRegulariser, {"scales"})]
)
def test_terms_need_not_read_the_image(term: type[Term], moved: set[str]) -> None:
    ours, theirs = model(), model()
    before = values(ours)
    step = TrainingStep(ours, Losses(only=term(TermConfig(), Learned(ours))))
    learn(step, 2)
    groups = [{"params": [getattr(theirs, key)], "lr": rate} for key, rate in RATES.items()]
    adam, given = torch.optim.Adam(groups, eps=1e-15), views()
    for number in (1, 2):
        adam.zero_grad()
        rendering, view = theirs(given[number].camera), given[number]
        term(TermConfig(), Learned(theirs))(rendering, view, number).backward()  # type: ignore[no-untyped-call]
        adam.step()
    for name, value in theirs.tensors().items():
        torch.testing.assert_close(ours.tensors()[name], value, rtol=1e-9, atol=1e-11, msg=f"{name} differs")
        assert torch.equal(value, before[name]) == (name not in moved), f"{name} shows nothing"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_fused_and_unfused_updates_have_the_same_bits(dtype: torch.dtype) -> None:
    fused, unfused = model(dtype), model(dtype)
    met: list[set[str]] = []
    learn(training_step(fused))
    learn(training_step(unfused, reduce=lambda gradients: met.append(set(gradients))))
    assert met == [set(RATES)] * 4, "the unfused update did not see all gradients"
    for name, value in fused.tensors().items():
        assert torch.equal(value, unfused.tensors()[name]), f"{name} has other bits"


def test_a_gradient_that_nobody_would_apply_is_an_error() -> None:
    gaussians = model()
    step, view = training_step(gaussians), views()[0]
    gaussians.register_parameter("decoder", nn.Parameter(torch.ones(3, dtype=torch.float64)))

    class Decoded(Term):
        def __call__(self, rendering: Rendering, view: View, step: int) -> Tensor:
            decoder = gaussians.decoder
            assert isinstance(decoder, Tensor)
            return (rendering.image * decoder).mean()

    step.losses["decoded"] = Decoded(TermConfig(), Learned(gaussians))
    with pytest.raises(SplatlearnError, match="^the gradient of 'decoder' would never be applied"):
        step(view, Numbers(1, 1, RATES))


def test_a_background_that_wants_a_gradient_is_an_error() -> None:
    background = torch.full((3,), 0.5, dtype=torch.float64, requires_grad=True)
    step = training_step(model(), background=background)
    with pytest.raises(SplatlearnError, match="^the gradient of 'background' would never be applied"):
        step(views()[0], Numbers(1, 1, RATES))


def test_gradients_never_reach_the_next_step() -> None:
    clean, spoiled = model(), model()
    for gaussians in (clean, spoiled):
        step, given = training_step(gaussians), views()
        for number in (1, 2, 3):
            if gaussians is spoiled:  # something else leaves gradients, and a step that is given up does
                gaussians(given[0].camera).image.sum().backward()
                gaussians.scales.sum().backward()  # type: ignore[no-untyped-call]
                step.render(given[1], Numbers(number, 1, RATES))
                step.backward()
            step(given[number % 3], Numbers(number, 1, RATES))
            assert all(parameter.grad is None for parameter in gaussians.parameters()), "a gradient is left"
    for name, value in clean.tensors().items():
        assert torch.equal(value, spoiled.tensors()[name]), f"{name} moved by a gradient of another time"


def test_a_retried_step_with_a_direct_term_has_the_bits_of_one_with_capacity(
    emulated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for lacking in ((), (2, 4)):
        monkeypatch.setattr(capacities, "_capacities", {})
        gaussians, given = model(torch.float32), views(dtype=torch.float32)
        step = training_step(gaussians, {"scale": ScaleRegulariser(TermConfig(weight=0.5), Learned(gaussians))})
        retried = 0
        for number in range(1, 6):
            retried += step.resolve() is not None
            if number in lacking:
                capacities._capacities.update(dict.fromkeys(capacities._capacities, capacities.ListSize(10, 10)))
            step(given[number % 3], Numbers(number, 1, RATES))
        retried += step.resolve() is not None
        assert retried == len(lacking), "a step that lacked capacity is not retried, or another is"
        results.append(values(gaussians))
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), f"{name} differs where steps were retried"


# ---- options of the public function ----


class SumsAbsgrad(Strategy):
    """Needs an option that only the public function had."""

    options = {"absgrad": True}

    def observe(self, rendering: Rendering, skip: Tensor | None = None) -> None:
        absgrad, gradient = rendering.means2d.absgrad, rendering.means2d.grad  # type: ignore[attr-defined]
        assert gradient is not None and (absgrad >= gradient.abs() - 1e-12).all()
        self.observed = absgrad.sum().item()


def test_options_of_rasterization_reach_training() -> None:
    gaussians, view = model(), views()[0]
    far = Numbers(1, 1, RATES)
    plain = training_step(gaussians).render(view, far).image.detach().clone()
    near = training_step(gaussians, options={"near_plane": 3.4}).render(view, far).image.detach()
    assert not torch.equal(plain, near), "an option of the task is not part of the rendering"
    step = training_step(gaussians)
    step.strategy = strategy = SumsAbsgrad(SumsAbsgrad.Config(), gaussians, step.optimizer, 1.0, 9)
    step(view, far)
    assert strategy.observed > 0


@pytest.mark.parametrize("mode", ["RGB", "RGB+D", "RGB+ED"])
def test_a_rendering_is_that_of_the_public_function(mode: str) -> None:
    g, camera = model(), tiny_scene.cameras()[0]
    tensors = camera_tensors(camera, torch.device("cpu"), torch.float64)
    options: dict[str, Any] = {"render_mode": mode, "rasterize_mode": "antialiased", "eps2d": 0.2}
    wanted, alphas, _ = rasterization(
        g.means, g.quats, g.scales, g.opacities, (g.sh0, g.shN), tensors.viewmat, tensors.K, camera.width,
        camera.height, sh_degree=1, raw=True, packed=False, camera_centers=tensors.center, **options,
    )  # fmt: skip
    found = g(camera, **options)
    assert torch.equal(found.image, wanted[0, ..., :3]) and torch.equal(found.alpha, alphas[0])
    assert found.depth is None if mode == "RGB" else torch.equal(found.depth, wanted[0, ..., 3])


def test_values_are_composited_as_colours_are() -> None:
    g, camera = model(), tiny_scene.cameras()[0]
    values, tensors = (
        torch.rand(len(g), 5, dtype=torch.float64),
        camera_tensors(camera, torch.device("cpu"), torch.float64),
    )
    wanted, _, _ = rasterization(
        g.means, g.quats, g.scales, g.opacities, values, tensors.viewmat, tensors.K, camera.width, camera.height,
        raw=True, packed=False,
    )  # fmt: skip
    torch.testing.assert_close(g(camera).composite(values), wanted[0], rtol=1e-12, atol=1e-12)


# ---- a strategy with noise in each step ----


class Noise(Strategy):
    """Adds noise to the means in each step."""

    @dataclass
    class Config:
        size: float = config.key(1e-3, "standard deviation of the noise")

    noted: list[int] = []

    def perturb(self, step: int, generator: torch.Generator) -> None:
        self.noted.append(step)
        means = self.gaussians.means
        noise = torch.empty_like(means).normal_(generator=generator)
        means.add_(self.config.size * noise)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_scene.write(tmp_path_factory.mktemp("tiny") / "scene")


def task_of(folder: Path, **more: Any) -> SceneTask:
    settings = {"data.path": folder, "steps": 12, "sh_degree": 1, "device": "cpu"} | more
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return SceneTask(config.load(SceneTask.Config, None, words))


NOISE = {"strategy": f"{__name__}:Noise"}


def test_a_strategy_of_another_module_makes_noise_in_each_step(folder: Path) -> None:
    tasks = [task_of(folder, **more) for more in (NOISE, NOISE, {"strategy": "fixed"})]
    Noise.noted.clear()
    loop.fit(tasks[0], 12, progress=False)
    assert Noise.noted == list(range(1, 13)), "noise is not made once in each step"
    loop.fit(tasks[1], 5, progress=False)
    resumed = task_of(folder, **NOISE)
    resumed.load_state(*tasks[1].state())
    loop.fit(resumed, 12, start=5, progress=False)
    loop.fit(tasks[2], 12, progress=False)
    for name, value in tasks[0].gaussians.tensors().items():
        assert torch.equal(value, resumed.gaussians.tensors()[name]), f"{name}: a resumed run makes other noise"
    moved = (tasks[0].gaussians.means - tasks[2].gaussians.means).abs().mean()
    assert moved > 1e-3 and len(tasks[2].gaussians) == len(tasks[0].gaussians), "the noise has no effect"
    sized = task_of(folder, **NOISE, **{"densify.size": 0.0})
    loop.fit(sized, 12, progress=False)
    assert torch.equal(sized.gaussians.means, tasks[2].gaussians.means), "the strategy's own key is not read"


def test_noise_waits_for_a_retried_step_and_keeps_recordings(emulated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from tape import Tape

    results = []
    for lacking, recorder in (((), None), ((4, 6), None), ((), Tape())):
        monkeypatch.setattr(capacities, "_capacities", {})
        gaussians, given = model(torch.float32), views(1, torch.float32)
        step = training_step(gaussians, recorder=recorder)
        step.strategy = Noise(Noise.Config(1e-2), gaussians, step.optimizer, 1.0, 9)
        for number in range(1, 9):
            step.resolve()
            if number in lacking:
                capacities._capacities.update(dict.fromkeys(capacities._capacities, capacities.ListSize(10, 10)))
            step(given[0], Numbers(number, 1, RATES))
        step.resolve()
        results.append(values(gaussians))
    assert step.replays is not None and step.replays.made == 1, "noise drops recordings"
    for other in results[1:]:
        for name, value in results[0].items():
            assert torch.equal(value, other[name]), f"{name}: noise came before the update that it follows, or twice"


# ---- between backward and update ----

TWO = """
import sys
import torch
import torch.distributed as distributed
sys.path.insert(0, sys.argv[1])
import test_step

distributed.init_process_group("gloo", init_method=sys.argv[2], rank=int(sys.argv[3]), world_size=2)
rank = distributed.get_rank()

def reduce(gradients):
    for name in sorted(gradients):
        distributed.all_reduce(gradients[name])
        gradients[name] /= 2

gaussians = test_step.model()
step = test_step.training_step(gaussians, reduce=reduce)
given = test_step.views(2)
for number in (1, 2, 3):
    step(given[rank], test_step.Numbers(number, 1, test_step.RATES))
torch.save(test_step.values(gaussians), sys.argv[4])
"""


def test_two_processes_sum_their_gradients_between_backward_and_update(tmp_path: Path) -> None:
    """Each has a view of its own; one process that learns from the mean of both losses is the reference."""
    script, meeting = tmp_path / "two.py", f"file://{tmp_path / 'meeting'}"
    script.write_text(TWO)
    here = str(Path(__file__).parent)
    started = [
        subprocess.Popen([sys.executable, str(script), here, meeting, str(rank), str(tmp_path / f"{rank}.pt")])
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    wanted, given = model(), views(2)
    adam = torch.optim.Adam([{"params": [getattr(wanted, key)], "lr": rate} for key, rate in RATES.items()], eps=1e-15)
    for _ in range(3):
        adam.zero_grad()
        for view in given:
            loss = photometric_loss(wanted(view.camera).image, view.image) / 2
            loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
    for name, value in wanted.tensors().items():
        assert torch.equal(found[0][name], found[1][name]), f"{name} differs between the processes"
        torch.testing.assert_close(found[0][name], value, rtol=1e-9, atol=1e-11, msg=f"{name} is of another gradient")
