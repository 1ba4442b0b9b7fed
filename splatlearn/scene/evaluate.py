"""How good a scene is: renders of photographs that training never saw, measured against them."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from splatlearn.scene import metrics
from splatlearn.scene.cameras import Camera
from splatlearn.scene.metrics import HIGHEST_PSNR
from splatlearn.scene.training.task import SceneTask


@torch.no_grad()
def evaluate(
    task: SceneTask,
    *,
    lpips: bool = False,
    progress: bool = False,
    each: Callable[[Camera, Tensor, Tensor], object] | None = None,
) -> dict[str, Any]:
    """Means over the held-out photographs, or over those of training where none is held out.

    Pixels that a photograph's mask ignores are left out (LPIPS sees the photograph in their place).

    Args:
        lpips: also the perceptual distance; needs the extra `lpips`.
        each: called with camera, render [H, W, 3] in 0..1 and photo [H, W, 3] uint8.

    Returns:
        psnr (dB) and ssim of the render as it is; psnr_corrected, the same in the photograph's colours (see
        metrics.colour_corrected), far above psnr where exposures vary; maybe lpips; split ("test" or "train"),
        resolution [width, height] of the first picture, num_gaussians, and views: the figures of each picture.
    """
    split, cameras = ("test", task.scene.test) if task.scene.test else ("train", task.scene.train)
    views = []
    for camera in tqdm(cameras, desc="evaluating", unit="photo", disable=not progress):
        render, photo = task.render(camera).image.clamp(0, 1), task.scene.photo(camera).to(task.device)
        mask = task.scene.mask(camera)
        corrected = metrics.colour_corrected(render, photo, mask)
        view: dict[str, Any] = {
            "name": camera.name,
            "psnr": min(metrics.psnr(render, photo, mask), HIGHEST_PSNR),
            "ssim": metrics.ssim(render, photo, mask),
            "psnr_corrected": min(metrics.psnr(corrected, photo, mask), HIGHEST_PSNR),
        }
        if lpips:
            seen = render if mask is None else torch.where((mask > 0)[:, :, None].to(task.device), render, photo / 255)
            view["lpips"] = metrics.lpips(seen, photo)
        views.append(view)
        if each:
            each(camera, render, photo)
    names = [name for name in ("psnr", "ssim", "psnr_corrected", "lpips") if name in views[0]]
    means: dict[str, Any] = {name: math.fsum(view[name] for view in views) / len(views) for name in names}
    return means | {
        "split": split,
        "resolution": [cameras[0].width, cameras[0].height],
        "num_gaussians": len(task.gaussians),
        "views": views,
    }
