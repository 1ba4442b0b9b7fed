"""The schema of a Gaussian's parameters: a further one is one entry, which everything else follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_scene
import torch
from torch import Tensor

from splatlearn import checkpoint, config, loop, run
from splatlearn.errors import SplatlearnError
from splatlearn.ops.project_update import PARAMETERS
from splatlearn.scene.formats.ply import read_ply, write_ply
from splatlearn.scene.gaussians import Gaussians, Rendering
from splatlearn.scene.order import morton_order
from splatlearn.scene.schema import GAUSSIAN, Parameter, Schema
from splatlearn.scene.training.losses import Term, TermConfig
from splatlearn.scene.training.optimizer import GaussianAdam
from splatlearn.scene.training.recipe import Recipe, rates_of
from splatlearn.scene.training.task import SceneTask
from splatlearn.scene.view import View

SCHEMA = GAUSSIAN.extended(
    Parameter("features", (2, 3), rate=0.05, initial=0.0, help="of the features"),
    Parameter("radius", (), rate=0.01, initial=1.5),
)


class Follow(Term):
    """Pulls each Gaussian's features to its mean, and its radius to 2: what follows its Gaussian can be seen."""

    def __call__(self, rendering: Rendering, view: View, step: int) -> Tensor:
        g = self.learned.gaussians
        features, radius = g.features, g.radius
        assert isinstance(features, Tensor) and isinstance(radius, Tensor)
        return (features - g.means.detach()[:, None]).square().mean() + (radius - 2).square().mean()


class FeatureTask(SceneTask):
    """A scene whose Gaussians have features and a radius."""

    schema = SCHEMA

    def __init__(self, config: Recipe) -> None:
        super().__init__(config)
        self.losses["follow"] = Follow(TermConfig(), self.learned)


SETTINGS = {
    "steps": 30, "sh_degree": 1, "device": "cpu", "densify.start": 4, "densify.every": 5, "densify.stop": 0.9,
    "densify.gradient": 1e-6, "densify.cap": 90, "densify.reset_every": 12,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_scene.write(tmp_path_factory.mktemp("tiny") / "scene")


def make(folder: Path, cls: type[SceneTask] = FeatureTask, **more: Any) -> SceneTask:
    settings = SETTINGS | {"data.path": folder} | more
    return cls(config.load(cls.Config, None, [word for k, v in settings.items() for word in (f"--{k}", str(v))]))


def further(gaussians: Gaussians) -> tuple[Tensor, Tensor]:
    return gaussians.tensors()["features"], gaussians.tensors()["radius"]


# ---- a further parameter through SceneTask ----


def test_it_is_learned_and_follows_its_gaussian(folder: Path) -> None:
    task = make(folder)
    start = len(task.gaussians)
    features, radius = further(task.gaussians)
    assert features.shape == (start, 2, 3) and not features.any() and radius.eq(1.5).all(), "not the initial values"
    loop.fit(task, 30, progress=False)
    features, radius = further(task.gaussians)
    assert len(task.gaussians) > start and len(features) == len(radius) == len(task.gaussians), "it does not follow N"
    means = task.gaussians.means.detach()[:, None]
    off, shuffled = (features - means).abs().mean(), (features - means.roll(1, 0)).abs().mean()
    assert off < 0.5 * shuffled, "features do not follow their Gaussians through growth, pruning and Morton order"
    assert (radius - 1.5).abs().max() > 0.1, "the radius was not learned"
    first = task.optimizer.moments["features"][0]
    assert first.shape == features.shape and first.any(), "moments do not follow"


def test_it_leaves_the_bits_of_the_rest(folder: Path) -> None:
    plain, extended = make(folder, SceneTask), make(folder)
    for task in (plain, extended):
        loop.fit(task, 30, progress=False)
    for name, value in plain.gaussians.tensors().items():
        assert torch.equal(value, extended.gaussians.tensors()[name]), f"{name} has other bits beside a further one"


def test_it_is_saved_and_resumed(folder: Path, tmp_path: Path) -> None:
    whole, part = make(folder), make(folder)
    loop.fit(whole, 30, callbacks=[run.Checkpoints(tmp_path, 11, keep=9)], progress=False)
    part.load_state(*checkpoint.load(tmp_path / "checkpoints" / "step_0000011"))
    loop.fit(part, 30, start=11, progress=False)
    (wanted, _), (found, _) = whole.state(), part.state()
    assert {"features", "exp_avg.radius", "adam_steps.features"} <= set(found), "a further parameter is not saved"
    for name, value in wanted.items():
        assert torch.equal(value, found[name]), f"{name} of a resumed run differs"


def test_a_run_without_it_is_not_resumed_with_it(folder: Path) -> None:
    with pytest.raises(SplatlearnError, match="^a scene's checkpoint must hold 'features' as .*, got none"):
        make(folder).load_state(*make(folder, SceneTask).state())


def test_it_starts_from_a_file(folder: Path, tmp_path: Path) -> None:
    task = make(folder)
    with torch.no_grad():
        for name in ("features", "radius"):
            getattr(task.gaussians, name).normal_()
    wanted = further(task.gaussians)
    task.gaussians.save_ply(tmp_path / "start.ply")
    for got, value in zip(further(make(folder, init=tmp_path / "start.ply").gaussians), wanted, strict=True):
        assert torch.equal(got, value), "a further parameter is not read from PLY"
    tiny_scene.gaussians().save_ply(tmp_path / "plain.ply")
    features, radius = further(make(folder, init=tmp_path / "plain.ply").gaussians)
    assert not features.any() and radius.eq(1.5).all(), "a file without it does not give the initial values"


def test_its_rate_is_a_key_of_the_config(folder: Path) -> None:
    task = make(folder, **{"rates.features": 0.0, "rates.radius": 0.25})
    loop.fit(task, 1, progress=False)
    features, radius = further(task.gaussians)
    assert not features.any() and torch.allclose(radius, torch.tensor(1.75)), "the rate is not read from the config"
    assert "--rates.features float" in config.help_text(FeatureTask.Config)
    with pytest.raises(SplatlearnError, match="unknown key '--rates.features'"):
        make(folder, SceneTask, **{"rates.features": 0.1})


def test_a_parameter_that_no_step_reaches_stays_with_its_moments(folder: Path) -> None:
    """As in torch.optim.Adam, whose count of a parameter grows with its gradients alone."""
    task = make(folder, **{"densify.stop": 0})
    task.losses["follow"] = Follow(TermConfig(start=3, stop=5), task.learned)
    leaf = torch.full((len(task.gaussians),), 1.5, requires_grad=True)
    adam = torch.optim.Adam([leaf], lr=0.01, eps=1e-15)
    loop.fit(task, 3, progress=False)
    assert further(task.gaussians)[1].eq(1.5).all() and task.optimizer.counts["radius"] == 0
    loop.fit(task, 8, start=3, progress=False)
    for _ in range(2):
        (leaf - 2).square().mean().backward()  # type: ignore[no-untyped-call]
        adam.step()
        adam.zero_grad()
    assert task.optimizer.counts["radius"] == 2 and task.optimizer.steps == 8
    torch.testing.assert_close(further(task.gaussians)[1], leaf.detach(), rtol=1e-6, atol=1e-6)


# ---- lengths ----


def test_a_tensor_that_does_not_follow_n_is_an_error(folder: Path) -> None:
    tensors = tiny_scene.gaussians(9).tensors()
    wrong = {"features": torch.zeros(8, 2, 3), "radius": torch.zeros(9)}
    with pytest.raises(SplatlearnError, match=r"features must have shape \[9, 2, 3\], but has \[8, 2, 3\]"):
        Gaussians(tensors | wrong, SCHEMA)
    gaussians = Gaussians(tensors, SCHEMA)
    optimizer = GaussianAdam(gaussians)
    kept = torch.arange(8)
    with pytest.raises(SplatlearnError, match=r"features must have shape \[8, 2, 3\], but has \[9, 2, 3\]"):
        optimizer.rearrange(kept, {"features": torch.zeros(9, 2, 3)}, torch.zeros(8, dtype=torch.bool))
    task = make(folder)
    tensors, state = task.state()
    for name in ("radius", "exp_avg.radius", "grad2d_sum"):
        with pytest.raises(SplatlearnError, match=name.removeprefix("exp_avg.")):
            make(folder).load_state(tensors | {name: tensors[name][:-1]}, state)


def test_a_parameter_outside_of_the_schema_is_an_error(folder: Path) -> None:
    task = make(folder)
    task.gaussians.register_parameter("extra", torch.nn.Parameter(torch.zeros(len(task.gaussians))))
    with pytest.raises(SplatlearnError, match="^parameter 'extra' of the Gaussians must be an entry of their schema"):
        loop.fit(task, 6, progress=False)


# ---- the schema itself ----


def test_the_rasterizer_reads_what_the_native_update_updates() -> None:
    assert {parameter.name for parameter in GAUSSIAN if parameter.rendered} == set(PARAMETERS)
    assert SCHEMA.further == ("features", "radius")


def test_rates_are_those_of_the_entries() -> None:
    rates = rates_of(SCHEMA)()
    for parameter in SCHEMA:
        assert getattr(rates, parameter.name) == parameter.rate
    means = GAUSSIAN["means"]
    assert means.rate_at(rates, 0.0, 3.0) == pytest.approx(3 * means.rate)
    assert means.rate_at(rates, 1.0, 3.0) == pytest.approx(3 * rates.means_final)
    assert SCHEMA["radius"].rate_at(rates, 0.5, 3.0) == 0.01


def test_activations() -> None:
    g = tiny_scene.gaussians(5)
    assert torch.equal(g.activated("scales"), g.scales.exp()) and torch.equal(g.activated("means"), g.means)
    assert torch.equal(g.activated("opacities"), g.opacities.sigmoid())
    assert torch.allclose(g.activated("quats").norm(dim=-1), torch.ones(5))


def test_columns_of_a_further_parameter(tmp_path: Path) -> None:
    g = Gaussians(tiny_scene.gaussians(5).tensors(), SCHEMA)
    with torch.no_grad():
        g.features.copy_(torch.arange(30.0).view(5, 2, 3))
    g.save_ply(tmp_path / "a.ply")
    head = (tmp_path / "a.ply").read_bytes().split(b"end_header")[0].decode()
    wanted = [f"property float features_{index}" for index in range(6)] + ["property float radius_0"]
    assert head.splitlines()[-7:] == wanted, "further columns do not follow those of 3DGS"
    assert torch.equal(read_ply(tmp_path / "a.ply", schema=SCHEMA)["features"], g.tensors()["features"])
    assert set(read_ply(tmp_path / "a.ply")) == set(GAUSSIAN.names), "others read it as a plain file"
    with pytest.raises(SplatlearnError, match="'radius' is missing"):
        write_ply(
            tmp_path / "b.ply", tiny_scene.gaussians(5).tensors() | {"features": torch.zeros(5, 2, 3)}, None, SCHEMA
        )


def test_morton_order_takes_it_along() -> None:
    g = Gaussians(tiny_scene.gaussians(30).tensors() | {"radius": torch.arange(30.0)}, SCHEMA)
    order = morton_order(g.means.detach())
    assert torch.equal(further(g.arranged())[1], order.float())


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: Parameter("two words", (), rate=1.0, initial=0.0), "must be an identifier, but is 'two words'"),
        (lambda: Parameter("size", (3,), rate=1.0), "'size' must have an initial value and a fixed shape"),
        (lambda: Parameter("size", ((1, 2),), rate=1.0, initial=0.0), "'size' must have an initial value and a fixed"),
        (lambda: Schema((*GAUSSIAN, GAUSSIAN["sh0"])), "each parameter once, but has 'sh0' twice"),
    ],
)
def test_a_bad_entry_is_named(make_it: Any, message: str) -> None:
    with pytest.raises(SplatlearnError, match=message):
        make_it()
