"""Masks: pixels of an image to ignore, such as people who walk by, or the sky.

COLMAP's naming finds them: the mask of `sub/photo.jpg` is `sub/photo.jpg.png` in the folder of masks. Black (grey
values below 128) is ignored, all else counts. Of an image without a mask every pixel counts.

A mask is shrunk and undistorted like its image. Then a pixel counts only if all pixels that it was mixed from count, so
that no ignored colour leaks in at the border.

In the loss, rendering and image both hold the colours of the rendering at ignored pixels, as constants. So the gradient
of these is exactly zero, and L1 and SSIM are as if the rendering were right there. A pixel whose 11x11 windows of SSIM
reach no ignored pixel has exactly the gradient that it would have without a mask. The means are over all pixels: an
image with a large mask has a smaller loss, and each of its pixels the same weight.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.notices import warn
from splatlearn.scene.photos.decode import read_image
from splatlearn.scene.photos.opening import HUGE_PIXELS, open_image
from splatlearn.scene.photos.suffixes import is_image, some

COUNTS_FROM = 128  # grey value from which a pixel counts
LARGER = 16  # times the pixels of its photograph that a huge mask may have
ALL = 255  # the value of a pixel of which everything counts


def mask_path(folder: Path, name: str) -> Path:
    """The path of the mask of the image `name`, if it has one."""
    return folder / f"{name}.png"


def read_mask(path: Path, size: tuple[int, int]) -> Tensor:
    """Read a mask file as [H, W] uint8, 255 where the image counts and 0 where it is ignored.

    Args:
        size: width and height of the image. A mask of this shape in another size is resized; a mixed pixel is ignored.

    Raises:
        SplatlearnError: the file cannot be read, has another shape, or is black all over.
    """
    width, height = size
    mask_width, mask_height = mask_size(path)
    if abs(mask_width * height - mask_height * width) > max(mask_height + height, mask_width + width):
        raise SplatlearnError(
            f"{path}: expected a mask of its photograph's shape, {width}x{height} pixels, got "
            f"{mask_width}x{mask_height}."
        )
    if mask_width * mask_height > max(HUGE_PIXELS, LARGER * width * height):
        raise SplatlearnError(
            f"{path}: expected a mask of its photograph's size, {width}x{height} pixels, got "
            f"{mask_width}x{mask_height}."
        )
    mask = _decoded(path)
    if mask.shape != (height, width):
        mask = whole(fitted(mask, width, height))
    if not mask.any():
        raise SplatlearnError(f"{path} ignores every pixel of its photograph; leave the photograph out instead.")
    return mask


def warn_of_unused(folder: Path, used: Iterable[Path]) -> None:
    """Warn of images in a folder of masks that are the mask of no photograph.

    Args:
        folder: of masks. used: the files that are.
    """
    taken = set(used)
    unused = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if is_image(path) and path not in taken]
    if unused:
        files = "file is" if len(unused) == 1 else "files are"
        warn(
            f"{len(unused):,} {files} the mask of no photograph in {folder}: {some(sorted(unused))}; the mask of "
            "photo.jpg is photo.jpg.png."
        )


def mask_size(path: Path) -> tuple[int, int]:
    """Read width and height of a mask in pixels from the file's header."""
    with open_image(path, is_mask=True) as image:
        return image.size


def _decoded(path: Path) -> Tensor:
    """Decode a mask file as [H, W] uint8, ALL or 0."""
    return (read_image(path, is_mask=True).amax(dim=2) >= COUNTS_FROM).to(torch.uint8).mul_(ALL)


def fitted(mask: Tensor, width: int, height: int) -> Tensor:
    """Resize a mask [H, W] to [height, width] float32, 0 to 255: the mean over the area of each new pixel."""
    return torch.nn.functional.interpolate(mask[None, None].float(), size=(height, width), mode="area")[0, 0]


def whole(mask: Tensor) -> Tensor:
    """Round a resized mask to [H, W] uint8, 0 or 255: 255 where all pixels that were mixed count."""
    return torch.where(mask.round() >= ALL, ALL, 0).to(torch.uint8)


def copy_mask(source: Path, target: Path, smaller: Callable[[tuple[int, int]], tuple[int, int]] | None = None) -> None:
    """Write a mask in black and white only, in the size that `smaller` returns for its own."""
    from PIL import Image

    mask = _decoded(source)
    if smaller:
        width, height = smaller((mask.shape[1], mask.shape[0]))
        mask = whole(fitted(mask, width, height))
    with replacing(target) as path:
        Image.fromarray(np.ascontiguousarray(mask.numpy())).save(path)


def masked(image: Tensor, photo: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rendering and image for the loss, with the ignored pixels taken out of both (see above).

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
