"""The order of Gaussians in memory: near in space is near in memory, and the bits never depend on threads."""

import math

import pytest
import tiny_scene
import torch

from splatlearn.scene.order import morton_order


def cloud(n: int = 2000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, generator=generator) * torch.tensor([1.0, 10.0, 0.1]) + 5


def test_the_order_is_a_permutation() -> None:
    order = morton_order(cloud())
    assert torch.equal(order.sort().values, torch.arange(2000)), "a Gaussian is lost or doubled"


def test_neighbours_in_memory_are_neighbours_in_space() -> None:
    means = cloud()
    scaled = means / torch.tensor([1.0, 10.0, 0.1])
    before = (scaled[1:] - scaled[:-1]).norm(dim=1).median()
    after = scaled[morton_order(means)].diff(dim=0).norm(dim=1).median()
    assert after < 0.25 * before, "the order does not bring neighbours together"


def test_eight_corners_come_in_the_order_of_the_curve() -> None:
    corners = torch.tensor([[x, y, z] for z in (0.0, 1.0) for y in (0.0, 1.0) for x in (0.0, 1.0)])
    shuffled = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])
    order = morton_order(corners[shuffled])
    assert torch.equal(shuffled[order], torch.arange(8)), "x is not the fastest axis of the curve, and z the slowest"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_means_that_are_not_finite_have_a_place(value: float) -> None:
    means = cloud(50)
    means[7, 1] = value
    assert torch.equal(morton_order(means).sort().values, torch.arange(50)), "a Gaussian is lost or doubled"


def test_one_place_or_none() -> None:
    assert morton_order(torch.zeros(0, 3)).shape == (0,), "no Gaussians have no order"
    assert torch.equal(morton_order(torch.ones(4, 3)), torch.arange(4)), "Gaussians in one place change their order"


def test_the_order_does_not_depend_on_threads() -> None:
    means, before = cloud(100_000), torch.get_num_threads()
    try:
        orders = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            orders.append(morton_order(means))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(order, orders[0]) for order in orders), "the order depends on the number of threads"


def test_all_of_a_gaussian_moves_together() -> None:
    given = tiny_scene.gaussians()
    before = given.tensors()
    arranged = given.arranged().tensors()
    order = morton_order(before["means"])
    assert not torch.equal(order, torch.arange(len(order))), "these lie in order already, which would prove nothing"
    for name, value in before.items():
        assert torch.equal(arranged[name], value[order]), f"{name} of one Gaussian went to another"
