"""What a training step learns from: a camera and named maps of its pixels, in full size or reduced."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.scene.cameras import Camera
from splatlearn.scene.photos.masks import fitted, whole


class View(NamedTuple):
    """A camera and its maps, each [H, W] or [H, W, channels].

    image: [H, W, 3] uint8, or float32 in 0..1 where it was reduced. mask: [H, W] uint8, zero where the image is
        ignored;
    absent: nowhere. Loss terms read further maps, such as depth [H, W] float32 in normalised lengths, zero where
        unknown.
    """

    camera: Camera
    maps: Mapping[str, Tensor]

    @property
    def image(self) -> Tensor:
        return self.map("image")

    @property
    def mask(self) -> Tensor | None:
        return self.maps.get("mask")

    def map(self, name: str) -> Tensor:
        """The map `name`; raises SplatlearnError where the view has none."""
        if name not in self.maps:
            found = ", ".join(self.maps) or "none"
            raise SplatlearnError(f"the view {self.camera.name!r} must have the map '{name}', but has {found}")
        return self.maps[name]


def reduced(view: View, factor: int) -> View:
    """The view at a fraction of its size.

    The image is averaged over squares of `factor` pixels. A pixel of the mask counts only if all that it covers does.
    Of other maps the nearest pixel is taken, as a mean of depths or labels across an edge belongs to neither side.
    """
    height, width = view.camera.height // factor, view.camera.width // factor
    if factor == 1 or min(height, width) < 1:
        return view
    maps = {name: _resized(name, values, width, height) for name, values in view.maps.items()}
    return View(view.camera.scaled(width, height), maps)


def _resized(name: str, values: Tensor, width: int, height: int) -> Tensor:
    if name == "mask":
        return whole(fitted(values, width, height))
    planes = (values[:, :, None] if values.dim() == 2 else values).permute(2, 0, 1)[None]
    if name == "image":
        small = torch.nn.functional.interpolate(planes.float() / 255, size=(height, width), mode="area")
    else:
        small = torch.nn.functional.interpolate(planes, size=(height, width), mode="nearest-exact")
    found = small[0].permute(1, 2, 0).contiguous()
    return found[:, :, 0] if values.dim() == 2 else found
