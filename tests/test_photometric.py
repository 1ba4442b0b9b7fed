"""The native photometric loss: value and image gradient against the oracle and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from splatlearn.errors import SplatlearnError
from splatlearn.ops import reference
from splatlearn.ops.photometric import photometric_loss, ssim

pytestmark = pytest.mark.usefixtures("backend")
DTYPES = {torch.float64: 1e-10, torch.float32: 1e-5}
SHAPES = (
    (1, 1, 3),
    (5, 7, 3),
    (11, 11, 1),
    (16, 17, 3),
    (3, 33, 3),
    (67, 31, 4),
    (2, 13, 18, 3),
    (3, 1, 40, 3),
    (12, 343, 3),  # two strips and a bit of a third on the CPU, which cuts rows of more than 512 scalars
    (2, 37, 110, 3),  # three strips and three bands of each picture on CUDA
    (21, 187, 2),  # two strips and two bands of each channel there
)


def pair(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """An image and a target that resembles it, nowhere closer than 0.01, where |x - y| has its kink."""
    rng = torch.Generator().manual_seed(seed)
    image = torch.rand(shape, generator=rng, dtype=torch.float64)
    step = 0.01 + 0.2 * torch.rand(shape, generator=rng, dtype=torch.float64)
    target = torch.where(image > 0.5, image - step, image + step)
    return image.float().double(), target.float().double()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_loss_and_gradient_are_those_of_the_oracle(shape: tuple[int, ...], weight: float, dtype: torch.dtype) -> None:
    image, target = pair(shape)
    image.requires_grad_()
    wanted = reference.photometric_loss(image, target, weight)
    wanted.backward()
    ours = image.detach().to(dtype).requires_grad_()
    loss = photometric_loss(ours, target.to(dtype), weight)
    (3 * loss).backward()
    assert loss.dtype == dtype and loss.shape == (), "the loss is not a scalar of the image's dtype"
    assert abs(loss.item() - wanted.item()) <= DTYPES[dtype] * max(1.0, wanted.item()), "the loss differs"
    assert ours.grad is not None and image.grad is not None and image.grad.any()
    difference = float((ours.grad.double() - 3 * image.grad).norm())
    limit = 1e-4 if dtype == torch.float32 else 1e-9
    assert difference <= limit * float(3 * image.grad.norm()), "the image gradient differs from the oracle"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ssim_is_that_of_the_oracle(dtype: torch.dtype) -> None:
    image, target = pair((2, 19, 23, 3))
    value = ssim(image.to(dtype), target.to(dtype))
    wanted = float(reference.ssim(image, target))
    assert 0.1 < wanted < 0.99, "this pair proves nothing"
    assert abs(float(value) - wanted) <= DTYPES[dtype], "SSIM differs from the oracle"
    assert abs(float(ssim(image, image)) - 1) < 1e-12, "SSIM(x, x) is not 1"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bytes_are_a_255th(dtype: torch.dtype) -> None:
    image, target = pair((12, 17, 3))
    photo = (target * 255).round().clamp(0, 255).to(torch.uint8)
    loss = photometric_loss(image.to(dtype), photo)
    wanted = float(reference.photometric_loss(image, photo))
    assert abs(float(loss) - wanted) <= DTYPES[dtype], "a uint8 target is not value / 255"


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 5, 3), (13, 12, 1), (2, 6, 9, 3)], ids=str)
@pytest.mark.parametrize("weight", [0.2, 1.0])
def test_gradient_is_that_of_finite_differences(shape: tuple[int, ...], weight: float) -> None:
    for seed in range(3):
        image, target = pair(shape, seed)

        def loss(image: Tensor, target: Tensor = target) -> Tensor:
            return photometric_loss(image, target, weight)

        image.requires_grad_()
        assert torch.autograd.grad(loss(image), image)[0].any(), "no gradient reaches the image"
        assert gradcheck(loss, (image,), atol=1e-8, rtol=1e-5), "the image gradient is wrong"


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
def test_bits_do_not_depend_on_threads() -> None:
    image, target = pair((2, 67, 245, 3))  # two strips on the CPU
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            leaf = image.float().requires_grad_()
            loss = photometric_loss(leaf, target.float())
            loss.backward()
            assert leaf.grad is not None
            results.append((loss.detach(), leaf.grad))
    finally:
        torch.set_num_threads(before)
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0]), "the loss depends on the number of threads"
        assert torch.equal(gradient, results[0][1]), "so does its gradient"


BAD = {
    "target of another shape": (lambda x: x, lambda y: y[:-1], "target"),
    "target of another dtype": (lambda x: x, lambda y: y.float(), "target"),
    "target of int32": (lambda x: x, lambda y: y.to(torch.int32), "target"),
    "image of bytes": (lambda x: x.to(torch.uint8), lambda y: y, "image"),
    "image of half": (lambda x: x.half(), lambda y: y.half(), "image"),
    "image of two axes": (lambda x: x[..., 0], lambda y: y[..., 0], "image"),
    "image elsewhere": (lambda x: x.to("meta"), lambda y: y, "image"),
    "target no tensor": (lambda x: x, lambda y: y.tolist(), "target"),
    "image no tensor": (lambda x: x.tolist(), lambda y: y, "image"),
    "empty image": (lambda x: x[:0], lambda y: y[:0], "image"),
}


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named_in_one_sentence(name: str) -> None:
    image, target = pair((6, 5, 3))
    spoil_image, spoil_target, word = BAD[name]
    with pytest.raises(SplatlearnError, match=f"^{word} ") as caught:
        photometric_loss(spoil_image(image), spoil_target(target))
    assert "\n" not in str(caught.value), "the error is not one sentence"
