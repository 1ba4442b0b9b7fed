"""Stage photometric: (1 - lambda) L1 + lambda (1 - SSIM) of a rendering and a photo, with its gradient in one pass."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from splatlearn.errors import SplatlearnError
from splatlearn.ops import native, workspace
from splatlearn.ops.checks import check_like, check_number, check_tensor


def photometric_loss(image: Tensor, target: Tensor, lambda_dssim: float = 0.2) -> Tensor:
    """The training loss of 3D Gaussian splatting (Kerbl et al. 2023, eq. 7), with 1 - SSIM for D-SSIM as in their code.

    Args:
        image: [H, W, D] or [C, H, W, D] float, values in 0..1.
        target: of the same shape; of the same dtype, or uint8, of which 255 stands for 1.
        lambda_dssim: weight of 1 - SSIM. SSIM (Wang et al. 2004) has an 11x11 Gaussian window of sigma 1.5 with zeros
            outside the image, and is averaged over all pixels and channels.

    Returns:
        A scalar; its gradient flows to `image` only.

    Raises:
        SplatlearnError: shapes, dtypes or devices differ, the image is empty, or lambda_dssim is not in 0..1.
    """
    check_number("lambda_dssim", lambda_dssim, 0, 1)
    return _Photometric.apply(*_checked(image, target), lambda_dssim)


def ssim(image: Tensor, target: Tensor) -> float:
    """Mean structural similarity, with the window and borders of `photometric_loss`.

    Args:
        image, target: as in `photometric_loss`.

    Returns:
        The mean over all pixels and channels, at most 1.

    Raises:
        SplatlearnError: as in `photometric_loss`.
    """
    image, target = _checked(image, target)
    _, means = _evaluate(image.detach(), target, 1.0, None)
    return means[1].item()


def _checked(image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if not isinstance(image, Tensor):
        raise SplatlearnError(f"image must be a tensor, but is a {type(image).__name__}")
    shape: tuple[int | str, ...] = ("H", "W", "D") if image.dim() == 3 else ("C", "H", "W", "D")
    image = check_tensor("image", image, shape)
    if image.numel() == 0:
        raise SplatlearnError(f"image must have at least one value, but has shape {list(image.shape)}")
    if isinstance(target, Tensor) and target.dtype == torch.uint8:
        return image, check_like("target", target, torch.uint8, tuple(image.shape), image)
    return image, check_tensor("target", target, tuple(image.shape), image).detach()


def _evaluate(image: Tensor, target: Tensor, lambda_dssim: float, v_image: Tensor | None) -> tuple[Tensor, Tensor]:
    """The loss, of the image's dtype, and [2] float64, the means of |x - y| and of SSIM. Writes `v_image`."""
    means, loss = image.new_empty(2, dtype=torch.float64), image.new_empty(())
    height, width, channels = image.shape[-3:]
    params = native.Photometric(
        context=native.context(image),
        n_images=image.numel() // (height * width * channels),
        width=width,
        height=height,
        channels=channels,
        target_is_uint8=target.dtype == torch.uint8,
        lambda_dssim=lambda_dssim,
        image=image,
        target=target,
        v_image=v_image,
        l1=means[0],
        ssim=means[1],
        loss=loss,
    )
    native.call("photometric", params, image)
    return loss, means


class _Photometric(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor, lambda_dssim: float) -> Tensor:
        space = workspace.current(image)
        v_image = workspace.empty(space, "v_image", image.shape, image) if ctx.needs_input_grad[0] else None
        loss, _ = _evaluate(image, target, lambda_dssim, v_image)
        ctx.save_for_backward(v_image)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_loss: Tensor) -> tuple[Tensor, None, None]:
        (v_image,) = ctx.saved_tensors
        if not v_loss.is_cuda and v_loss.item() == 1:  # almost always; on CUDA reading it would block
            return v_image, None, None
        return v_image * v_loss, None, None
