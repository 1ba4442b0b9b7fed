"""What a step of a scene learns from: a photograph with its camera, in full size or reduced."""

from typing import NamedTuple

import torch
from torch import Tensor

from splatlearn.scene.cameras import Camera
from splatlearn.scene.photos.masks import fitted, whole


class View(NamedTuple):
    """What a step learns from."""

    camera: Camera
    photo: Tensor  # [H, W, 3] uint8, or float32 in 0..1 where it was reduced
    mask: Tensor | None = None  # [H, W] uint8, zero where the photo is ignored; None: nowhere


def reduced(view: View, factor: int) -> View:
    """The view at a fraction of its size, the photo averaged over squares of `factor` pixels."""
    height, width = view.camera.height // factor, view.camera.width // factor
    if factor == 1 or min(height, width) < 1:
        return view
    planes = view.photo.permute(2, 0, 1)[None].float() / 255
    small = torch.nn.functional.interpolate(planes, size=(height, width), mode="area")
    mask = None if view.mask is None else whole(fitted(view.mask, width, height))
    return View(view.camera.scaled(width, height), small[0].permute(1, 2, 0).contiguous(), mask)
