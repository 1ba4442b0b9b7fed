"""Landscapes: grids, planes and paths are what they claim, for a neuron, a small network and a scene of Gaussians."""

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tiny_scene
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.landscape import Trajectory, describe, hessian_plane, landscape, random_plane, trajectory_plane
from splatlearn.landscape.parameters import flatten, unflatten
from splatlearn.line import LineTask, hard
from splatlearn.line.landscape import NeuronPath, bowl_grid, grid, surface
from splatlearn.loop import fit
from splatlearn.ops.photometric import photometric_loss
from splatlearn.text.corpus import Corpus
from splatlearn.text.evaluation import cross_entropy
from splatlearn.text.task import TextTask
from splatlearn.text.transformer import Transformer


def line() -> tuple[LineTask, Trajectory]:
    task, trajectory = LineTask(LineTask.Config(device="cpu", steps=60)), Trajectory(every=5)
    fit(task, 60, callbacks=[trajectory], progress=False)
    return task, trajectory


def line_loss(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return torch.nn.functional.mse_loss(model(batch[0]), batch[1])


def network() -> torch.nn.Module:
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    return model.double()


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    draw = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    return draw[:, :3], draw[:, 3:]


@pytest.mark.parametrize("kind", ["random", "trajectory", "hessian"])
def test_a_neurons_landscape_is_its_bowl(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    task, trajectory = line()
    before = [value.clone() for value in task.neuron.parameters()]
    found = landscape(
        task.neuron, line_loss, task.points, plane=kind, trajectory=trajectory.snapshots, size=7,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    for value, old in zip(task.neuron.parameters(), before, strict=True):
        assert torch.equal(value, old), "the parameters were left elsewhere"
    one, two = (flatten(direction) for direction in found.plane.directions)
    where = flatten(found.plane.origin) + found.a[:, None] * one + found.b[:, None, None] * two
    assert torch.allclose(found.losses, task.bowl.loss(where), rtol=1e-4), "a loss is not that of its place"
    back = flatten(found.plane.origin) + found.path @ torch.stack([one, two])
    walked = torch.stack([flatten(snapshot) for snapshot in trajectory.snapshots])
    assert torch.allclose(back, walked, atol=1e-5), "the path lies elsewhere than it was walked"
    told = capsys.readouterr().out
    if kind == "trajectory":
        assert sum(found.plane.explained or ()) == pytest.approx(1.0), "two of two dimensions hold all the variance"
        assert "100.0% of its variance" in told, "the explained variance is not printed"
        assert found.a[0] < found.path[:, 0].min() and found.a[-1] > found.path[:, 0].max(), "the path leaves the grid"
    if kind == "hessian":
        expected = task.bowl.eigenvalues.flip(0).tolist()
        assert found.plane.eigenvalues == pytest.approx(expected, rel=1e-4), "eigenvalues are not the bowl's"
        assert "curvature along the top two" in told, "the eigenvalues are not printed"


def test_random_directions_are_as_long_as_the_filters() -> None:
    model = network()
    with torch.no_grad():
        model[0].weight[2] = 0.0
    parameters = dict(model.named_parameters())
    plane = random_plane(parameters, torch.Generator().manual_seed(0))
    for direction in plane.directions:
        for name, value in parameters.items():
            along = (1,) if value.dim() == 2 else ()
            got = direction[name].norm(dim=along) if along else direction[name].norm()
            want = value.norm(dim=along) if along else value.norm()
            assert torch.allclose(got, want), f"a filter of '{name}' is not normalised"
    again = random_plane(parameters, torch.Generator().manual_seed(0))
    assert torch.equal(flatten(again.directions[1]), flatten(plane.directions[1])), "a seed is no seed"
    assert not torch.equal(flatten(plane.directions[0]), flatten(plane.directions[1])), "the plane is a line"


def dense_hessian(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    values = list(model.parameters())
    slope = torch.cat([g.flatten() for g in torch.autograd.grad(line_loss(model, batch), values, create_graph=True)])
    rows = [torch.autograd.grad(entry, values, retain_graph=True) for entry in slope]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


class OnceOnly(torch.autograd.Function):
    """A loss without second derivative, as native stages are."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x.square().mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, v):  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return 2 * x / x.numel() * v


@pytest.mark.parametrize("twice", [True, False])
def test_top_eigenvectors_are_those_of_the_dense_hessian(twice: bool) -> None:
    model, batch = network(), data()
    values, vectors = torch.linalg.eigh(dense_hessian(model, batch))

    def once(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return OnceOnly.apply(model(batch[0]) - batch[1])

    plane = hessian_plane(model, line_loss if twice else once, batch, torch.Generator().manual_seed(0), rounds=30)
    assert plane.eigenvalues == pytest.approx(values.flip(0)[:2].tolist(), rel=1e-4), "eigenvalues are wrong"
    for direction, vector in zip(plane.directions, vectors.T.flip(0), strict=False):
        assert abs(float(flatten(direction) @ vector)) > 0.999, "an eigenvector points elsewhere"


def test_the_plane_of_a_path_explains_what_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(20, 3, generator=generator, dtype=torch.float64)).Q.T
    weights = torch.randn(50, 3, generator=generator, dtype=torch.float64) * torch.tensor([5.0, 2.0, 0.5])
    path = [{"w": row.reshape(4, 5)} for row in weights @ directions]
    plane = trajectory_plane(path)
    spread = torch.linalg.eigvalsh(torch.cov((weights @ directions).T)).flip(0)
    assert plane.explained == pytest.approx((spread[:2] / spread.sum()).tolist()), "explained variance is wrong"
    assert "of its variance" in describe(plane)
    centred = plane.project(path)
    assert torch.allclose(centred[-1], torch.zeros(2, dtype=torch.float64)), "the last point is not the origin"


def test_a_scenes_landscape() -> None:
    truth, camera = tiny_scene.gaussians(), tiny_scene.cameras()[0]
    model = tiny_scene.gaussians()
    with torch.no_grad():
        target = truth(camera).image.clone()
        model.means.add_(0.02 * torch.randn(model.means.shape, generator=torch.Generator().manual_seed(0)))

    def loss(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return photometric_loss(model(camera).image, batch)

    snapshots = []
    optimizer = torch.optim.SGD([model.means], lr=0.5)
    for _ in range(6):
        snapshots.append({name: value.detach().clone() for name, value in model.named_parameters()})
        optimizer.zero_grad()
        loss(model, target).backward()
        optimizer.step()
    for kind in ("random", "trajectory", "hessian"):
        found = landscape(model, loss, target, plane=kind, trajectory=snapshots, size=5, progress=False)
        middle = float(found.losses[2, 2])
        assert torch.isfinite(found.losses).all() and found.losses.std() > 1e-6, f"{kind}: the landscape is flat"
        if kind == "random":
            assert middle == pytest.approx(float(loss(model, target).detach()), abs=1e-6), "the middle is elsewhere"
            assert middle == found.losses.min(), "a random step improves a trained scene"
        if kind == "hessian":
            assert found.plane.eigenvalues is not None and found.plane.eigenvalues[0] > 0, "no curvature is found"


def test_a_growing_scenes_path_begins_anew() -> None:
    class Growing:
        def __init__(self) -> None:
            self.value = torch.zeros(3, 2)

        def named_parameters(self) -> list[tuple[str, torch.Tensor]]:
            return [("means", self.value)]

    task, trajectory = Growing(), Trajectory(every=2)
    trajectory.on_start(0, task)  # type: ignore[arg-type]
    for step in range(1, 11):
        task.value = torch.full((3 if step < 5 else 4, 2), float(step * step))
        task.value[0, 0] = step
        trajectory.on_step(step, 0.0, task)  # type: ignore[arg-type]
    assert [len(snapshot["means"]) for snapshot in trajectory.snapshots] == [4, 4, 4], "spaces are mixed"
    assert trajectory.begun == 6, "the path's beginning is told wrongly"
    plane = trajectory_plane(trajectory.snapshots)
    assert sum(plane.explained or ()) == pytest.approx(1.0), "the path after growth spans no plane"


# ---- a Transformer ----


def transformer(attention: Literal["fused", "written"] = "written") -> Transformer:
    config = Transformer.Config(7, 8, 8, 2, 1, feed_forward=8, attention=attention)
    return Transformer(config, torch.Generator().manual_seed(0)).double()


def text_loss(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]) / tokens[:, 1:].numel()


TOKENS = torch.arange(36).square().remainder(7).reshape(4, 9)


@pytest.fixture(scope="module")
def path() -> list[dict[str, torch.Tensor]]:
    """Snapshots of a training of `transformer`."""
    model, snapshots = transformer(), []
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(25):
        snapshots.append({name: value.detach().clone() for name, value in model.named_parameters()})
        optimizer.zero_grad()
        text_loss(model, TOKENS).backward()
        optimizer.step()
    return snapshots


@pytest.mark.parametrize("kind", ["random", "trajectory", "hessian"])
def test_a_transformers_landscape(kind: Any, path: list[dict[str, torch.Tensor]]) -> None:
    model = transformer()
    model.load_state_dict(path[-1], strict=False)
    before = flatten(dict(model.named_parameters()))
    found = landscape(
        model, text_loss, TOKENS, plane=kind, trajectory=path, size=5, progress=False,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert torch.equal(flatten(dict(model.named_parameters())), before), "the parameters were left elsewhere"
    assert found.losses.std() > 1e-3, "the landscape is flat"
    one, two = (flatten(direction) for direction in found.plane.directions)
    for row, column in ((0, 0), (2, 2), (4, 1)):
        place = before + found.a[column] * one + found.b[row] * two
        moved = transformer()
        moved.load_state_dict(unflatten(place, dict(model.named_parameters())), strict=False)
        with torch.no_grad():
            expected = float(text_loss(moved, TOKENS))
        assert float(found.losses[row, column]) == pytest.approx(expected, abs=1e-9), "a loss is not that of its place"
    if kind == "random":
        weight, filters = (
            model.embedding.token_embedding.weight,
            found.plane.directions[0]["embedding.token_embedding.weight"],
        )
        assert torch.allclose(filters.norm(dim=1), weight.norm(dim=1)), "a token's direction has another length"
    if kind == "trajectory":
        walked = torch.stack([flatten(snapshot) for snapshot in path])
        spread = torch.linalg.svdvals(walked - walked.mean(dim=0)).square()
        assert found.plane.explained == pytest.approx((spread[:2] / spread.sum()).tolist()), "another share is told"
        assert found.path[0].norm() > 1 and found.path[-1].norm() < 1e-9, "the path does not end at the model"


@pytest.mark.parametrize("attention", ["fused", "written"])
def test_a_transformers_curvature(attention: Literal["fused", "written"], path: list[dict[str, torch.Tensor]]) -> None:
    exact = transformer()
    exact.load_state_dict(path[-1], strict=False)
    values = list(exact.parameters())
    slope = torch.autograd.grad(text_loss(exact, TOKENS), values, create_graph=True)
    flat = torch.cat([each.flatten() for each in slope])
    rows = (torch.autograd.grad(each, values, retain_graph=True) for each in flat)
    dense = torch.linalg.eigvalsh(torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]))
    model = transformer(attention)
    model.load_state_dict(path[-1], strict=False)
    plane = hessian_plane(model, text_loss, TOKENS, torch.Generator().manual_seed(0), rounds=60)
    assert plane.eigenvalues == pytest.approx(dense[-2:].flip(0).tolist(), rel=1e-4), "not the largest curvatures"


def test_a_text_tasks_path(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat, and the dog sat on the log.\n" * 60)
    data = Corpus.Config(path=str(text), cache=str(tmp_path / "cache"))
    shape = Transformer.Config(context=16, width=16, heads=2, layers=1)
    task = TextTask(TextTask.Config(data=data, model=shape, steps=40, device="cpu"))
    trajectory = Trajectory(every=4)
    fit(task, 40, callbacks=[trajectory], progress=False)
    batch = task.test.batch(np.arange(4) * 16)

    def loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        return cross_entropy(model(batch.tokens), batch.targets) / batch.targets.numel()

    found = landscape(
        task.model, loss, batch, plane="trajectory", trajectory=trajectory.snapshots, size=5, progress=False
    )
    assert len(found.path) == 11 and sum(found.plane.explained or ()) > 0.7, "the plane misses where training went"
    begin, end = (loss_at(task.model, loss, batch, trajectory.snapshots[i]) for i in (0, -1))
    assert end < begin, "training goes uphill"


def loss_at(model: torch.nn.Module, loss: Any, batch: torch.Tensor, snapshot: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        model.load_state_dict(snapshot, strict=False)  # what is tied is there once
        value: torch.Tensor = loss(model, batch)
        return value


def test_what_makes_no_landscape_is_named() -> None:
    task, trajectory = line()
    some = trajectory.snapshots
    cases = [
        (dict(size=1), "at least 2 x 2, got 1"),
        (dict(plane="sideways"), "random, trajectory or hessian, got 'sideways'"),
        (dict(plane="trajectory"), "at least 3 snapshots, got 0"),
        (dict(plane="trajectory", trajectory=[some[0]] * 4), "straight line"),
        (dict(trajectory=[{"weight": torch.zeros(2, 1), "bias": torch.zeros(1)}]), "'weight' is .2, 1. in one"),
        (dict(trajectory=[{"weight": torch.zeros(1, 1)}]), "'bias' is missing in one"),
    ]
    for keywords, message in cases:
        with pytest.raises(SplatlearnError, match=message):
            landscape(task.neuron, line_loss, task.points, progress=False, **keywords)
    with pytest.raises(SplatlearnError, match="no trainable parameters"):
        landscape(torch.nn.ReLU(), line_loss, task.points, progress=False)


# ---- two parameters ----


def test_the_bowl_on_a_grid() -> None:
    task, path = LineTask(LineTask.Config(device="cpu")), NeuronPath()
    fit(task, 20, callbacks=[path], progress=False)
    points = bowl_grid(task.bowl, path.points, size=11)
    losses = surface(task.bowl.loss, points)
    assert points.shape == (11, 11, 2) and losses.shape == (11, 11)
    assert torch.allclose(points[5, 5], task.bowl.minimum), "the minimum is not in the middle"
    assert losses[5, 5] == pytest.approx(task.bowl.floor) and losses.min() == losses[5, 5], "the middle is not lowest"
    inside = (path.points > points[0, 0]) & (path.points < points[-1, -1])
    assert inside.all() and len(path.points) == 21 and len(path.losses) == 20, "the path leaves the grid"
    assert path.points[0].tolist() == [-1.0, 8.0], "the path lacks its start"
    corners = grid((0, 10), (1, 20), 3)
    assert corners[0, 2].tolist() == [1, 10] and corners[2, 0].tolist() == [0, 20], "rows and columns are swapped"


# ---- the hard landscape ----


def test_the_written_gradient_is_the_slope() -> None:
    points = hard.starts(9).requires_grad_()
    (slope,) = torch.autograd.grad(hard.loss(points).sum(), points)
    assert torch.allclose(hard.gradient(points), slope, rtol=1e-12, atol=1e-12), "the formula in the docs is wrong"
    assert torch.autograd.gradcheck(hard.loss, (hard.starts(3).requires_grad_(),)), "the slope is not numeric"


def test_there_is_one_global_minimum_and_several_local_ones() -> None:
    found = hard.minima()
    losses = hard.loss(found)
    assert len(found) == 5, "the landscape has another number of minima than its figure says"
    assert hard.gradient(found).abs().max() < 1e-12, "a minimum is not where the slope is zero"
    assert losses[1] - losses[0] > 1.0 and (losses.diff() > 0).all(), "the global minimum does not stand out"
    for point in found:
        curvature = torch.linalg.eigvalsh(torch.autograd.functional.hessian(hard.loss, point))
        assert curvature.min() > 0.1, "a saddle is called a minimum"
    fine = surface(hard.loss, hard.starts(161).reshape(161, 161, 2))
    assert fine.min() >= losses[0], "a lower place was missed"


def test_basins_over_a_thousand_starts() -> None:
    begin = hard.starts(34)
    assert len(begin) >= 1000, "fewer starts than promised"
    share = {walk.name: hard.success(hard.ends(walk, begin)) for walk in hard.WALKS}
    assert 0.25 < share["gradient descent"] < 0.45, "plain descent is trapped more or less often than the docs say"
    assert share["momentum"] > 2 * share["gradient descent"], "momentum does not roll out of local minima"
    assert share["large steps"] < 0.1 < share["large steps, then small"], "a falling rate makes no difference"
    assert share["Adam, large steps, cosine"] > 0.9 > share["Adam"] + 0.3, "Adam with a schedule does not escape"


def test_walks_do_not_touch_each_other() -> None:
    begin = hard.starts(6)
    for walk in hard.WALKS:
        together, alone = hard.paths(walk, begin, 40)[:, 7:8], hard.paths(walk, begin[7:8], 40)
        assert torch.allclose(together, alone, atol=1e-12), f"{walk.name}: a walk depends on its neighbours"
    assert not math.isclose(float(together[0, 0, 0]), float(together[-1, 0, 0])), "nothing walks"
