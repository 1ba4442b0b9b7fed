"""Adaptive density control: who is cloned, split and pruned, what happens to moments, and the bounds on the count."""

import math

import pytest
import tiny_scene
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.scene.gaussians import Gaussians
from splatlearn.scene.order import morton_order
from splatlearn.scene.training import densify
from splatlearn.scene.training.densify import AdaptiveDensity, quaternion_rotations
from splatlearn.scene.training.optimizer import GaussianAdam

EXTENT = 10.0


@pytest.fixture(autouse=True)
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gaussians that stay keep their order, and new ones follow them, so that tests can tell them apart."""
    monkeypatch.setattr(densify, "morton_order", lambda means: torch.arange(len(means)))


def make(count: int = 8, **settings: float) -> tuple[Gaussians, GaussianAdam, AdaptiveDensity]:
    gaussians = tiny_scene.gaussians(count)
    with torch.no_grad():
        gaussians.scales.fill_(math.log(0.01))
        gaussians.opacities.fill_(0.0)
    optimizer = GaussianAdam(gaussians)
    for name in gaussians.schema.names:
        for moment in optimizer.moments[name]:
            moment += torch.arange(1.0, count + 1).reshape(-1, *[1] * (moment.dim() - 1))
    config = AdaptiveDensity.Config(start=0, every=1, stop=1.0, **settings)  # type: ignore[arg-type]
    return gaussians, optimizer, AdaptiveDensity(config, gaussians, optimizer, EXTENT, 10**6)


def raise_score(strategy: AdaptiveDensity, *which: int) -> None:
    strategy.visible_count += 1
    strategy.grad2d_sum[list(which)] = 1.0


def test_a_small_gaussian_is_cloned() -> None:
    gaussians, optimizer, strategy = make()
    before = gaussians.means.detach().clone()
    raise_score(strategy, 3)
    strategy.resize(1, torch.Generator())
    assert len(gaussians) == 9, "one clone was due"
    assert torch.equal(gaussians.means[:8], before) and torch.equal(gaussians.means[8], before[3]), "not a copy"
    first = optimizer.moments["means"][0]
    assert first[3, 0] == 4 and first[8].abs().max() == 0, "the original keeps its moments, the clone begins at zero"


def test_a_large_gaussian_is_split() -> None:
    gaussians, optimizer, strategy = make()
    with torch.no_grad():
        gaussians.scales[5] = torch.tensor([0.5, 0.0, -3.0])
    parent = {name: tensor[5].clone() for name, tensor in gaussians.tensors().items()}
    raise_score(strategy, 5)
    strategy.resize(1, torch.Generator().manual_seed(1))
    assert len(gaussians) == 9, "the parent is replaced by two"
    for child in (7, 8):
        assert torch.allclose(gaussians.scales[child], parent["scales"] - math.log(1.6)), "children are 1.6 times less"
        local = quaternion_rotations(parent["quats"][None])[0].T @ (gaussians.means[child] - parent["means"])
        assert 0 < (local / parent["scales"].exp()).abs().max() < 5, "a child was not drawn from its parent"
        assert optimizer.moments["sh0"][0][child].abs().max() == 0, "a child begins without moments"
    assert not torch.equal(gaussians.means[7], gaussians.means[8]), "the children coincide"


def test_rotations_are_those_of_the_rasterizer() -> None:
    from splatlearn.ops import reference

    quats = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rotations = quaternion_rotations(quats)
    assert torch.allclose(rotations @ rotations.mT, torch.eye(3, dtype=torch.float64)), "not a rotation"
    assert torch.allclose(rotations, reference.rotation(quats)), "another convention than the rasterizer's"


def test_what_is_useless_is_pruned_but_never_all() -> None:
    gaussians, optimizer, strategy = make()
    with torch.no_grad():
        gaussians.opacities[[1, 4]] = -9.0
    strategy.resize(1, torch.Generator())
    assert len(gaussians) == 6 and optimizer.moments["quats"][1][1, 0] == 3, "moments must follow their Gaussians"
    with torch.no_grad():
        gaussians.opacities.fill_(-9.0)
        gaussians.opacities[2] = -8.0
    strategy.resize(2, torch.Generator())
    assert len(gaussians) == 1 and gaussians.opacities[0] == -8.0, "the most opaque one must stay"


def test_huge_gaussians_are_pruned_after_a_reset_only() -> None:
    gaussians, _, strategy = make(reset_every=5)
    with torch.no_grad():
        gaussians.scales[2] = math.log(0.2 * EXTENT)
    strategy.resize(4, torch.Generator())
    assert len(gaussians) == 8, "pruned by size before the first reset"
    strategy.resize(6, torch.Generator())
    assert len(gaussians) == 7, "not pruned by size after the first reset"


def test_never_is_a_number_of_steps_too() -> None:
    gaussians, _, strategy = make(reset_every=0)
    with torch.no_grad():
        gaussians.scales[2] = math.log(0.2 * EXTENT)
    before = gaussians.opacities.detach().clone()
    for step in (1, 5000):
        strategy.resize(step, torch.Generator())
    assert torch.equal(gaussians.opacities, before), "opacities were reset"
    assert len(gaussians) == 8, "pruned by size, though there was no reset"


@pytest.mark.parametrize("settings", [{"every": 0}, {"reset_every": -1}])
def test_intervals_out_of_range_are_named(settings: dict[str, int]) -> None:
    with pytest.raises(SplatlearnError, match="densify.every must be at least 1 and densify.reset_every at least 0"):
        AdaptiveDensity.Config(**settings)


def test_opacities_are_reset_with_their_moments() -> None:
    gaussians, optimizer, strategy = make(reset_every=5)
    with torch.no_grad():
        gaussians.opacities[0] = -5.0
    strategy.resize(5, torch.Generator())
    assert torch.allclose(gaussians.opacities[1:].sigmoid(), torch.tensor(0.01)), "reset to twice the pruning opacity"
    assert gaussians.opacities[0] == -5.0, "a lower opacity must not rise"
    assert optimizer.moments["opacities"][0].abs().max() == 0 and optimizer.moments["means"][0].abs().max() > 0


def test_what_stays_is_put_in_order_with_its_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    gaussians, optimizer, strategy = make(50)
    before = gaussians.means.detach().clone()
    monkeypatch.setattr(densify, "morton_order", morton_order)
    strategy.resize(1, torch.Generator())
    order = morton_order(before)
    assert not torch.equal(order, torch.arange(50)), "the scene is in order already, and shows nothing"
    assert torch.equal(gaussians.means, before[order]), "neighbours in space are not neighbours in memory"
    assert torch.equal(optimizer.moments["means"][0][:, 0], order + 1.0), "moments must follow their Gaussians"


@pytest.mark.parametrize(("cap", "wanted"), [(8, 8), (10, 10), (100, 16), (5, 8)])
def test_the_cap_holds_and_takes_the_highest_scores(cap: int, wanted: int) -> None:
    gaussians, _, strategy = make(cap=cap)
    strategy.visible_count += 1
    strategy.grad2d_sum += torch.arange(1.0, 9.0)
    before = gaussians.means.detach().clone()
    strategy.resize(1, torch.Generator())
    assert len(gaussians) == wanted, "the cap is not kept"
    if cap == 10:
        assert torch.equal(gaussians.means[8:], before[6:]), "room went to Gaussians of a lower score"


def by_error(shares: list[float], **settings: float) -> tuple[Gaussians, AdaptiveDensity]:
    gaussians, optimizer, _ = make()
    config = AdaptiveDensity.Config(score="error", start=0, every=1, stop=1.0, **settings)  # type: ignore[arg-type]
    survey = lambda views: torch.tensor(shares)  # noqa: E731
    return gaussians, AdaptiveDensity(config, gaussians, optimizer, EXTENT, 100, survey)


def test_the_budget_goes_to_the_largest_errors() -> None:
    gaussians, strategy = by_error([0.0, 3, 1, 7, 2, 5, 6, 4], cap=108)
    before = gaussians.means.detach().clone()
    strategy.resize(2, torch.Generator())  # 8 + 100 (1 - 0.98^2) = 11.96
    assert torch.equal(gaussians.means[8:], before[[3, 5, 6]]), "the room went elsewhere than to the largest errors"


def test_the_budget_rises_to_the_cap_fast_at_first() -> None:
    _, strategy = by_error([1.0] * 8, cap=108)
    budgets = [strategy._budget(step) for step in range(1, 101)]
    assert budgets == sorted(budgets) and budgets[-1] == 108, "the cap is not reached, or room is taken back"
    assert budgets[49] > (8 + 108) / 2, "half way more than half of the room is to be given"


def test_a_gaussian_without_errors_is_left_alone() -> None:
    gaussians, strategy = by_error([0.0] * 8, cap=1000)
    strategy.resize(50, torch.Generator())
    assert len(gaussians) == 8, "there was nothing to mend"


def test_a_score_by_error_needs_a_survey() -> None:
    gaussians, optimizer, _ = make()
    with pytest.raises(SplatlearnError, match="needs a survey"):
        AdaptiveDensity(AdaptiveDensity.Config(score="error"), gaussians, optimizer, EXTENT, 100)


def test_a_score_by_error_needs_no_gradients() -> None:
    gaussians, optimizer, _ = make()
    config = AdaptiveDensity.Config(score="error")
    strategy = AdaptiveDensity(config, gaussians, optimizer, EXTENT, 100, lambda count: torch.zeros(8))
    rendering = gaussians(tiny_scene.cameras()[0])
    rendering.means2d.retain_grad()
    rendering.image.sum().backward()
    strategy.observe(rendering)
    assert not strategy.grad2d_sum.any() and not strategy.visible_count.any(), "a step pays for what nobody reads"


def test_observed_gradients_are_in_ndc() -> None:
    gaussians, _, strategy = make()
    camera = tiny_scene.cameras()[0]
    rendering = gaussians(camera)
    rendering.means2d.retain_grad()
    rendering.image.sum().backward()
    strategy.observe(rendering)
    gradient = rendering.means2d.grad[0]
    wanted = ((gradient[:, 0] * tiny_scene.WIDTH / 2) ** 2 + (gradient[:, 1] * tiny_scene.HEIGHT / 2) ** 2).sqrt()
    assert wanted.max() > 0 and torch.allclose(strategy.grad2d_sum, wanted), "not the gradient in NDC"
    assert torch.equal(strategy.visible_count > 0, (rendering.radii[0] > 0).all(-1)), "visible ones are counted wrongly"
