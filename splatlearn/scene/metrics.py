"""Metrics of a rendering against its image: PSNR, SSIM and, with an extra, LPIPS.

Shapes: H rows, W columns, C cameras. An image is [H,W,3] or [C,H,W,3], a tensor or an array, float in 0..1 or
uint8 (taken as value/255); the two may be of different kinds. PSNR and SSIM clamp nothing: clamp a rendering to
0..1 first, as published figures do.
"""

import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch

from splatlearn.errors import SplatlearnError

Image = torch.Tensor | np.ndarray
Network = Literal["vgg", "alex"]
CHUNK = 1 << 16  # values that a mean is taken of at a time
HIGHEST_PSNR = 100.0  # dB; stands for the infinite PSNR of equal images, which JSON cannot hold


def psnr(image: Image, target: Image, mask: torch.Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB: 10·log10(1 / mean squared error over all pixels and channels).

    The sum is in float64, so that the result does not depend on the number of pixels. Equal images give infinity.

    Args:
        image, target: as above, of one shape.
        mask: [H,W], zero at pixels to leave out.

    Raises:
        SplatlearnError: the shapes differ or are not those of images, or no pixel is left.
    """
    x, y = _alike(image, target)
    counted = None if mask is None else _counted(mask, x)
    total, count = torch.zeros((), dtype=torch.float64, device=x.device), 0
    rows = max(1, CHUNK // (x.numel() // x.shape[-3]))
    for first in range(0, x.shape[-3], rows):  # not at once, which would take the memory of four images in float64
        part = slice(first, first + rows)
        a, b = (_in_unit(t[..., part, :, :], x.device, torch.float64) for t in (x, y))
        squares = (a - b).square_()
        if counted is not None:
            squares = squares[..., counted[part], :]
        total += squares.sum()
        count += squares.numel()
    error = total.item() / count
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(image: Image, target: Image, mask: torch.Tensor | None = None) -> float:
    """Mean structural similarity, 1 for equal images (Wang et al. 2004), with the window of the loss.

    Args:
        image, target: as above, of one shape.
        mask: [H,W], zero at pixels to leave out of the mean. Where the window of another pixel reaches one of them,
            both images hold the target there, as in the loss.

    Raises:
        SplatlearnError: as of `psnr`.
    """
    from splatlearn.ops import photometric

    x, y = _pair(image, target, torch.float32)
    with torch.no_grad():
        if mask is None:
            return float(photometric.ssim(x, y))
        counted = _counted(mask, x)
        return float(_ssim_map(torch.where(counted[:, :, None], x, y), y)[..., counted, :].mean())


def _ssim_map(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """SSIM of each pixel and channel, [..., H,W,3], with the window and the zeros beyond the border of the loss."""
    offsets = torch.arange(-5, 6, dtype=x.dtype, device=x.device)
    weights = torch.exp(-(offsets**2) / (2 * 1.5**2))
    weights = weights / weights.sum()

    def blurred(values: torch.Tensor) -> torch.Tensor:
        planes = values.movedim(-1, -3).reshape(-1, 1, *values.shape[-3:-1])
        planes = torch.nn.functional.conv2d(planes, weights.view(1, 1, 11, 1), padding=(5, 0))
        planes = torch.nn.functional.conv2d(planes, weights.view(1, 1, 1, 11), padding=(0, 5))
        return planes.reshape(*values.shape[:-3], 3, *values.shape[-3:-1]).movedim(-3, -1)

    mean_x, mean_y = blurred(x), blurred(y)
    var_x, var_y, covariance = (
        blurred(x * x) - mean_x**2,
        blurred(y * y) - mean_y**2,
        blurred(x * y) - mean_x * mean_y,
    )
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return luminance * (2 * covariance + 0.03**2) / (var_x + var_y + 0.03**2)


def colour_corrected(image: Image, target: Image, mask: torch.Tensor | None = None) -> torch.Tensor:
    """`image` [H,W,3] in the colours of `target`, fitted to other pixels than those that it is then measured on.

    An affine colour (a 3x4 matrix) is fitted by least squares on the left half and applied to the right half, and the
    other way round. So `psnr(colour_corrected(image, target), target)` measures an image of unknown exposure fairly. A
    small weight on the identity decides the fit of a half that has one colour only.

    Args:
        mask: [H,W], zero at pixels that are not fitted.

    Returns:
        [H,W,3] float32 in 0..1.

    Raises:
        SplatlearnError: as of `psnr`.
    """
    x, y = _pair(image, target, torch.float64)
    counted = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else _counted(mask, x)
    middle = x.shape[1] // 2
    halves = []
    for fitted, applied in ((slice(middle, None), slice(0, middle)), (slice(0, middle), slice(middle, None))):
        matrix = _colour_fit(x[:, fitted][counted[:, fitted]], y[:, fitted][counted[:, fitted]])
        halves.append(x[:, applied] @ matrix[:3] + matrix[3])
    return torch.cat(halves, dim=1).clamp(0, 1).float()


def _colour_fit(colors: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """[4,3]: the affine colour that brings colors [M,3] closest to those wanted, near the identity where it is free."""
    inputs = torch.nn.functional.pad(colors, (0, 1), value=1.0)
    identity = torch.eye(4, 3, dtype=colors.dtype, device=colors.device)
    weight = 1e-4 * (len(colors) + 1)
    normal = inputs.T @ inputs + weight * torch.eye(4, dtype=colors.dtype, device=colors.device)
    return torch.linalg.solve(normal, inputs.T @ wanted + weight * identity)


def _counted(mask: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """[H,W] bool of a mask for that image, on its device."""
    if tuple(mask.shape) != tuple(image.shape[-3:-1]) or not mask.any():
        raise SplatlearnError(
            f"the mask must be {list(image.shape[-3:-1])} with a pixel that counts, got {list(mask.shape)}."
        )
    return mask.to(image.device) > 0


def lpips(image: Image, target: Image, network: Network = "vgg") -> float:
    """Learned perceptual distance (Zhang et al. 2018), 0 for equal images.

    It needs the extra `lpips` and, the first time, a network connection for the weights of the network.

    Args:
        network: "vgg" or "alex".

    Raises:
        SplatlearnError: the extra or the weights are missing, or the shapes differ or are not those of images.
    """
    pair = _pair(image, target, torch.float32)
    x, y = (t.reshape(-1, *t.shape[-3:]).permute(0, 3, 1, 2).cpu() for t in pair)
    model = _lpips_model(network)
    with torch.no_grad():
        distance = float(model(x.clamp(0, 1), y.clamp(0, 1)))
    model.reset()  # the model also accumulates a mean
    return distance


@lru_cache(maxsize=1)
def _lpips_model(network: Network) -> Any:  # a torchmetrics module: its type is known only where the extra is
    if network not in ("vgg", "alex"):
        raise SplatlearnError(f"the LPIPS network must be vgg or alex, not {network!r}.")
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity(net_type=network, normalize=True).eval()
    except ImportError as error:
        raise SplatlearnError("LPIPS needs the extra lpips: pip install 'splatlearn[lpips]'.") from error
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        raise SplatlearnError(f"the weights of the LPIPS network {network} could not be had: {reason}.") from error


def _pair(image: Image, target: Image, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as contiguous tensors in 0..1 on the image's device, after checking their shapes."""
    x, y = _alike(image, target)
    a, b = (_in_unit(t, x.device, dtype) for t in (x, y))
    return a.contiguous(), b.contiguous()


def _alike(image: Image, target: Image) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as tensors of one shape, [H,W,3] or [C,H,W,3]."""
    x, y = (torch.as_tensor(t).detach() for t in (image, target))
    if x.shape != y.shape or x.ndim not in (3, 4) or x.shape[-1] != 3 or x.numel() == 0:
        raise SplatlearnError(
            f"image and target must both be [H,W,3] or [C,H,W,3], got {list(x.shape)} and {list(y.shape)}."
        )
    return x, y


def _in_unit(image: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Values 0..1, of bytes too."""
    return image.to(device, dtype) / (255 if image.dtype == torch.uint8 else 1)
