"""How close a render is to its photograph: PSNR, SSIM and, with an extra, LPIPS.

Shapes: H rows, W columns, C cameras. An image is [H,W,3] or [C,H,W,3], a tensor or an array, float in 0..1 or
uint8 (taken as value/255); the two may be of different kinds. Nothing is clamped in PSNR and SSIM: clamp a
render to 0..1 first, as published figures do.
"""

import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch

from splatlearn.errors import SplatlearnError

Image = torch.Tensor | np.ndarray
Network = Literal["vgg", "alex"]


def psnr(image: Image, target: Image) -> float:
    """Peak signal-to-noise ratio in dB: 10·log10(1 / mean squared error over all pixels and channels).

    Summed in float64, so that the figure does not depend on the number of pixels; infinity for equal images.
    Raises SplatlearnError where the shapes differ or are not those of images.
    """
    x, y = _pair(image, target, torch.float64)
    error = torch.mean((x - y) ** 2).item()
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(image: Image, target: Image) -> float:
    """Mean structural similarity, 1 for equal images (Wang et al. 2004), of the same window as the loss.

    Raises SplatlearnError where the shapes differ or are not those of images.
    """
    from splatlearn.ops import photometric

    with torch.no_grad():
        return float(photometric.ssim(*_pair(image, target, torch.float32)))


def lpips(image: Image, target: Image, network: Network = "vgg") -> float:
    """Learned perceptual distance (Zhang et al. 2018), 0 for equal images; `network` is "vgg" or "alex".

    Needs the extra `lpips` and, the first time, a network connection for the weights of the network. Raises
    SplatlearnError where either is missing, or where the shapes differ or are not those of images.
    """
    pair = _pair(image, target, torch.float32)
    x, y = (t.reshape(-1, *t.shape[-3:]).permute(0, 3, 1, 2).cpu() for t in pair)
    model = _lpips_model(network)
    with torch.no_grad():
        distance = float(model(x.clamp(0, 1), y.clamp(0, 1)))
    model.reset()  # the model also sums up what it has seen
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
    x, y = (torch.as_tensor(t).detach() for t in (image, target))
    if x.shape != y.shape or x.ndim not in (3, 4) or x.shape[-1] != 3 or x.numel() == 0:
        raise SplatlearnError(
            f"image and target must both be [H,W,3] or [C,H,W,3], got {list(x.shape)} and {list(y.shape)}."
        )
    a, b = (t.to(x.device, dtype) / (255 if t.dtype == torch.uint8 else 1) for t in (x, y))
    return a.contiguous(), b.contiguous()
