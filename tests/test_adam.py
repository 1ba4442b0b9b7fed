"""The native Adam against torch.optim.Adam, alone, in groups and of visible rows only; threads change no bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.ops.adam import Group, adam_step, adam_steps, step_rates

pytestmark = pytest.mark.usefixtures("backend")
DTYPES = {torch.float64: 1e-13, torch.float32: 1e-6}


def gradients(shape: tuple[int, ...], steps: int) -> list[Tensor]:
    """Gradients over many magnitudes, some exactly zero, exact in float32."""
    rng = torch.Generator().manual_seed(1)
    scale = 10.0 ** torch.randint(-9, 3, shape, generator=rng)
    values = [torch.randn(shape, generator=rng) * scale * (i != 2) for i in range(steps)]
    return [value.float() for value in values]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", [1e-15, 1e-3])
@pytest.mark.parametrize("shape", [(1,), (7, 3), (1001,), (3, 15, 3), (0, 3)], ids=str)
def test_steps_are_those_of_torch(shape: tuple[int, ...], eps: float, dtype: torch.dtype) -> None:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    theirs = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.02, betas=(0.8, 0.99), eps=eps)
    ours, first, second = (start.to(dtype).clone(), *(torch.zeros(shape, dtype=dtype) for _ in range(2)))
    where = ours.data_ptr()
    for step, gradient in enumerate(gradients(shape, 6), start=1):
        theirs.grad = gradient.double()
        optimizer.step()
        adam_step(ours, gradient.to(dtype), first, second, step=step, lr=0.02, betas=(0.8, 0.99), eps=eps)
        difference = (ours.double() - theirs.detach()).abs()
        assert (difference <= DTYPES[dtype] * (1 + start.abs())).all(), f"step {step} differs from torch"
    assert ours.data_ptr() == where, "the parameter is not updated in place"
    if start.numel() > 1:
        assert (ours.double() - start).abs().max() > 0.01, "nothing moved, so this proves nothing"
        moments = optimizer.state[theirs]
        assert torch.allclose(first.double(), moments["exp_avg"], rtol=1e-5), "the first moment differs"
        assert torch.allclose(second.double(), moments["exp_avg_sq"], rtol=1e-5), "the second moment differs"


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
def test_bits_do_not_depend_on_threads() -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            state = [torch.linspace(-1, 1, 70001), torch.zeros(70001), torch.zeros(70001)]
            for step, gradient in enumerate(gradients((70001,), 3), start=1):
                adam_step(state[0], gradient, state[1], state[2], step=step, lr=0.1)
            results.append(state)
    finally:
        torch.set_num_threads(before)
    for state in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(state, results[0], strict=True)), "threads change the bits"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_groups_are_updated_as_each_alone(dtype: torch.dtype) -> None:
    """Ten groups, an empty one among them: more than one launch takes."""
    rng = torch.Generator().manual_seed(2)
    shapes = [(300, 3), (0, 3), (300,), (300, 15, 3), (1,), (257,), (256,), (2, 2), (5, 1), (300, 4)]
    make = [[torch.rand(shape, generator=rng).to(dtype) for _ in range(4)] for shape in shapes]
    together = [[tensor.clone() for tensor in tensors] for tensors in make]
    for index, tensors in enumerate(make):
        adam_step(*tensors, step=3, lr=0.01 * (index + 1))
    groups = [Group(*tensors, lr=0.01 * (index + 1)) for index, tensors in enumerate(together)]
    adam_steps(groups, step=3)
    for alone, beside in zip(make, together, strict=True):
        for one, other in zip(alone, beside, strict=True):
            assert torch.equal(one, other), f"a group of shape {tuple(one.shape)} is updated differently among others"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_that_were_not_visible_stay(dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(3)
    visible = torch.rand(301, generator=rng) < 0.4
    shapes = [(301,), (301, 3), (301, 15, 3)]
    groups = [Group(*(torch.rand(shape, generator=rng).to(dtype) for _ in range(4)), lr=0.1) for shape in shapes]
    dense = [group._replace(**{n: getattr(group, n).clone() for n in group._fields[:4]}) for group in groups]
    before = [[tensor.clone() for tensor in group[:4]] for group in groups]
    adam_steps(groups, step=2, visible=visible)
    adam_steps(dense, step=2)
    for group, whole, old in zip(groups, dense, before, strict=True):
        for now, all_moved, was in zip(group[:4], whole[:4], old, strict=True):
            assert torch.equal(now[~visible], was[~visible]), "a row that was not visible moves"
            difference = (now[visible] - all_moved[visible]).abs().max()
            assert difference <= DTYPES[dtype], "a visible row is updated differently"
        assert (group.parameter[visible] != old[0][visible]).any(), "nothing moved, so this proves nothing"
    with pytest.raises(SplatlearnError, match="visible"):
        adam_steps(groups, step=2, visible=visible[:-1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rates_may_come_from_the_device(backend: str, dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(4)
    shapes = [(300, 3), (0, 3), (7,), (3, 1), (5,), (257,), (2, 2), (1,), (300, 4)]  # more than one launch takes
    state = [[torch.rand(shape, generator=rng).to(dtype) for _ in range(4)] for shape in shapes]
    lrs = [10.0 ** -(index + 1) for index in range(len(shapes))]
    live = torch.tensor([step_rates(lr, 5) for lr in lrs], dtype=torch.float64).to(dtype)
    other = [Group(*(t.clone() for t in tensors), lr=7.0) for tensors in state]
    if backend == "cpu":
        with pytest.raises(SplatlearnError, match="^rates are read by the CUDA kernels alone"):
            adam_steps(other, step=1, rates=live)
        return
    adam_steps([Group(*tensors, lr=lr) for tensors, lr in zip(state, lrs, strict=True)], step=5)
    adam_steps(other, step=1, rates=live)
    for by_value, by_device in zip(state, other, strict=True):
        for one, two in zip(by_value, by_device[:4], strict=True):
            assert torch.equal(one, two), "rates read from the device are other rates, or another group's"
    with pytest.raises(SplatlearnError, match=r"^rates must have shape \[9, 2\]"):
        adam_steps(other, step=1, rates=live[:-1])


BAD = {
    "gradient of another shape": ([1], lambda v: v[:-1], "gradient"),
    "gradient of another dtype": ([1], lambda v: v.double(), "gradient"),
    "gradient elsewhere": ([1], lambda v: v.to("meta"), "gradient"),
    "gradient no tensor": ([1], lambda v: None, "gradient"),
    "moment of another shape": ([2], lambda v: v[:-1], "exp_avg"),
    "moment of another dtype": ([3], lambda v: v.double(), "exp_avg_sq"),
    "moment with holes": ([3], lambda v: v.repeat_interleave(2)[::2], "exp_avg_sq"),
    "all of integers": ([0, 1, 2, 3], lambda v: v.long(), "parameter"),
    "all of half": ([0, 1, 2, 3], lambda v: v.half(), "parameter"),
    "parameter with holes": ([0], lambda v: v.repeat_interleave(2)[::2], "parameter"),
    "parameter elsewhere": ([0], lambda v: v.to("meta"), "parameter"),
}


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named_in_one_sentence(name: str) -> None:
    indices, spoil, word = BAD[name]
    state = [torch.ones(8), torch.ones(8), torch.zeros(8), torch.zeros(8)]
    for index in indices:
        state[index] = spoil(state[index])
    with pytest.raises(SplatlearnError, match=f"^{word} ") as caught:
        adam_step(*state, step=1, lr=0.1)
    assert "\n" not in str(caught.value), "the error is not one sentence"


def test_step_counts_from_one() -> None:
    state = [torch.ones(8), torch.ones(8), torch.zeros(8), torch.zeros(8)]
    with pytest.raises(SplatlearnError, match="step"):
        adam_step(*state, step=0, lr=0.1)
