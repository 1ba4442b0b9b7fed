"""Masks: which pixels of a photograph say nothing about the scene, such as people who walk by, or the sky.

They are found by COLMAP's naming: the mask of `sub/photo.jpg` is `sub/photo.jpg.png` in the folder of masks. Black is
ignored (grey values below 128), all else counts. A photograph without a mask counts as a whole.

A mask is shrunk and undistorted as its photograph is, and then a pixel counts only if all that it was mixed from does:
no ignored colour leaks in at the border.

In the loss, ignored pixels are taken out of picture and photograph alike: both hold the render's own colours there, as
constants. So their gradient is exactly zero, L1 and SSIM are as if the render were right there, and a pixel whose
11x11 windows of SSIM reach no ignored one has the very gradient that it would have without a mask. The means are
taken over all pixels, so that a photograph with a large mask has a smaller loss, and no other weight a pixel.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.scene.photos.decode import read_image

COUNTS_FROM = 128  # grey value from which a pixel counts
ALL = 255  # the value of a pixel of which everything counts


def mask_path(folder: Path, name: str) -> Path:
    """Where the mask of the photograph `name` is, if it has one."""
    return folder / f"{name}.png"


def read_mask(path: Path, size: tuple[int, int]) -> Tensor:
    """[H, W] uint8 of a mask file, 255 where the photograph counts and 0 where it is ignored.

    size: width and height of the photograph; a mask of the same shape in another size is fitted to it, in favour of
    what is ignored. Raises SplatlearnError for a file that cannot be read or has another shape, and for one that is
    black all over.
    """
    mask = torch.where(read_image(path).amax(dim=2) >= COUNTS_FROM, ALL, 0).to(torch.uint8)
    width, height = size
    if mask.shape != (height, width):
        if abs(mask.shape[1] * height - mask.shape[0] * width) > max(mask.shape[0] + height, mask.shape[1] + width):
            raise SplatlearnError(
                f"{path}: expected a mask of its photograph's shape, {width}x{height} pixels, got "
                f"{mask.shape[1]}x{mask.shape[0]}."
            )
        mask = whole(fitted(mask, width, height))
    if not mask.any():
        raise SplatlearnError(f"{path} ignores every pixel of its photograph; leave the photograph out instead.")
    return mask


def fitted(mask: Tensor, width: int, height: int) -> Tensor:
    """[height, width] float32, 0 to 255: the mean of [H, W] over the area of each new pixel."""
    return torch.nn.functional.interpolate(mask[None, None].float(), size=(height, width), mode="area")[0, 0]


def whole(mask: Tensor) -> Tensor:
    """[H, W] uint8 0 or 255 of a mask that was mixed: 255 where all that was mixed counts."""
    return torch.where(mask.round() >= ALL, ALL, 0).to(torch.uint8)


def copy_mask(source: Path, target: Path, smaller: Callable[[tuple[int, int]], tuple[int, int]] | None = None) -> None:
    """Writes a mask of black and white alone, in the size that `smaller` makes of its own."""
    from PIL import Image

    mask = torch.where(read_image(source).amax(dim=2) >= COUNTS_FROM, ALL, 0).to(torch.uint8)
    if smaller:
        width, height = smaller((mask.shape[1], mask.shape[0]))
        mask = whole(fitted(mask, width, height))
    with replacing(target) as path:
        Image.fromarray(np.ascontiguousarray(mask.numpy())).save(path)


def masked(image: Tensor, photo: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Render and photo for the loss, with what the mask ignores taken out of both (see above).

    Args:
        image: [H, W, 3] float in the graph. photo: [H, W, 3] uint8 or float in 0..1.
        mask: [H, W] uint8, zero where ignored; None: everything counts.

    Returns:
        image and photo, both [H, W, 3]; the photo as float where there is a mask.
    """
    if mask is None:
        return image, photo
    counts = (mask > 0)[:, :, None]
    constant = image.detach()
    target = photo.to(image.dtype) / 255 if photo.dtype == torch.uint8 else photo
    return torch.where(counts, image, constant), torch.where(counts, target, constant)
