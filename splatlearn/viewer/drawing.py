"""What a page can show of a scene: colour, depth, opacity, normals, solid ellipsoids, how many splats were blended.

Every mode is a call of `rasterization` with its own channels; the number of splats alone, which no sum of channels
gives, is counted from the lists that the call returns. Shapes: N Gaussians, H x W pixels.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from splatlearn.ops.quaternions import rotation_rows
from splatlearn.ops.rasterization import rasterization
from splatlearn.scene.cameras import Camera
from splatlearn.scene.frame import Frame
from splatlearn.scene.gaussians import Gaussians
from splatlearn.show.pictures import ERROR_COLORS
from splatlearn.viewer.count import blended

SOLID = 0.99  # alpha within an ellipsoid; the rasterizer's own limit is 0.999
ELLIPSOID_SIGMAS = 1.5  # an ellipsoid ends at so many standard deviations
SHELLS = (
    (0.72, 1.0),
    (0.9, 0.8),
    (1.0, 0.4),
)  # of an ellipsoid, inside first: size, brightness: so that it looks round
FAINT = 0.1  # Gaussians below this opacity are fog, which would hide the ellipsoids behind it


@dataclass(frozen=True)
class Look:
    """How to show the scene, as the controls of a page say."""

    mode: str = "colour"
    sh_degree: int = 4  # bases up to this degree, as far as there are any
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)  # RGB, 0..1
    size: float = 1.0  # factor on the standard deviations
    crop: tuple[tuple[float, float], ...] | None = None  # lowest and highest x, y, z of the means shown


class Picture(NamedTuple):
    """A rendered view, and what its colours mean."""

    image: np.ndarray  # [H, W, 3] uint8
    legend: str  # a sentence in Markdown; "" where colours are colours


class Shown(NamedTuple):
    """Gaussians after activation, as `rasterization` takes them."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh0: Tensor
    shN: Tensor


class Snapshot:
    """The Gaussians of one moment: a copy, so that no later training step changes what a thread is drawing.

    step: updates made until then, None where it is not known. antialiased: how they were trained. frame: the way back
    from their frame, in which all cameras of the viewer are too, to that of the capture, for what users read and save.
    """

    def __init__(
        self, gaussians: Gaussians, *, step: int | None = None, antialiased: bool = False, frame: Frame | None = None
    ) -> None:
        self.tensors = {name: value.clone() for name, value in gaussians.tensors().items()}
        self.sh_degree = gaussians.sh_degree
        self.step = step
        self.antialiased = antialiased
        self.frame = frame or Frame()
        self._shown: dict[Any, Shown] = {}

    def __len__(self) -> int:
        return self.tensors["means"].shape[0]

    def shown(self, look: Look) -> Shown:
        """The Gaussians that a look lets through; the last few answers are kept, as a moving camera asks often."""
        key = (look.size, look.crop)
        if key not in self._shown:
            if len(self._shown) >= 3:
                self._shown.pop(next(iter(self._shown)))
            self._shown[key] = self._activated(look)
        return self._shown[key]

    def _activated(self, look: Look) -> Shown:
        t = self.tensors
        scales = t["scales"].exp()
        if look.size != 1:
            scales = scales * look.size
        all_of_them = Shown(t["means"], t["quats"], scales, t["opacities"].sigmoid(), t["sh0"], t["shN"])
        if look.crop is None:
            return all_of_them
        low, high = t["means"].new_tensor(look.crop).unbind(1)
        inside = ((t["means"] >= low) & (t["means"] <= high)).all(dim=1)
        return Shown(*(tensor[inside] for tensor in all_of_them))


@torch.no_grad()
def draw(snapshot: Snapshot, camera: Camera, look: Look) -> Picture:
    """The view of a camera in one of the MODES; in mode "colour" the very pixels of `Gaussians.forward`.

    Raises SplatlearnError where the lists of the view would not fit into memory.
    """
    shown = snapshot.shown(look)
    mode = MODES[look.mode]
    device = shown.means.device
    viewmat = torch.from_numpy(camera.world_to_camera).float().to(device)[None]
    K = torch.from_numpy(camera.K).float().to(device)[None]
    rasterize_mode = "antialiased" if snapshot.antialiased else "classic"
    options = {"packed": False, "rasterize_mode": rasterize_mode, "near_plane": snapshot.frame.near}
    return mode(_Call(shown, viewmat, K, camera.width, camera.height, options), snapshot, look)


class _Call(NamedTuple):
    """A view while it is rendered."""

    shown: Shown
    viewmat: Tensor  # [1, 4, 4]
    K: Tensor  # [1, 3, 3]
    width: int
    height: int
    options: dict[str, Any]

    def render(self, colors: Any, shown: Shown | None = None, **options: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """[H, W, X] channels, [H, W, 1] alpha and `meta` of `rasterization`."""
        s = self.shown if shown is None else shown
        image, alpha, meta = rasterization(
            s.means, s.quats, s.scales, s.opacities, colors, self.viewmat, self.K, self.width, self.height,
            **(self.options | options),
        )  # fmt: skip
        return image[0], alpha[0], meta

    def background(self, look: Look) -> Tensor:
        """[3]"""
        return self.K.new_tensor(look.background)


def _colour(call: _Call, snapshot: Snapshot, look: Look) -> Picture:
    degree = min(look.sh_degree, snapshot.sh_degree)
    background = call.background(look)[None]
    image, _, _ = call.render((call.shown.sh0, call.shown.shN), sh_degree=degree, backgrounds=background)
    return Picture(_uint8(image), "")


def _depth(call: _Call, snapshot: Snapshot, look: Look) -> Picture:
    depth, alpha, _ = call.render(call.shown.opacities[:, None], render_mode="ED")
    covered = depth[alpha > 0.5]
    if not covered.numel():
        return Picture(_uint8(call.background(look).expand(call.height, call.width, 3)), "nothing is in view")
    near, far = (max(float(value), 1e-12) for value in _quantiles(covered, 0.02, 0.98))
    span = max(math.log(far / near), 1e-6)
    nearness = 1 - (depth.clamp(min=1e-12) / near).log() / span
    unit = snapshot.frame.scale
    legend = f"from **{unit * near:.3g}** (bright) to **{unit * far:.3g}** (dark), in units of the capture"
    return Picture(_uint8(_over(_ramp(nearness), alpha, call, look)), legend)


def _opacity(call: _Call, snapshot: Snapshot, look: Look) -> Picture:
    _, alpha, _ = call.render(call.shown.opacities[:, None])
    return Picture(_uint8(alpha.expand(-1, -1, 3)), "**white**: nothing shines through; **black**: nothing is there")


def _normals(call: _Call, snapshot: Snapshot, look: Look) -> Picture:
    normals = shortest_axes(call.shown.quats, call.shown.scales) @ call.viewmat[0, :3, :3].T
    to_mean = call.shown.means @ call.viewmat[0, :3, :3].T + call.viewmat[0, :3, 3]
    away = (normals * to_mean).sum(dim=1, keepdim=True) > 0
    normals = torch.where(away, -normals, normals)
    mixed, alpha, _ = call.render(normals)
    mixed = torch.nn.functional.normalize(mixed, dim=-1) * mixed.new_tensor([1.0, -1.0, -1.0])  # as people draw axes
    legend = "**red**: to the right, **green**: upwards, **blue**: towards the camera"
    return Picture(_uint8(_over(mixed / 2 + 0.5, alpha, call, look)), legend)


def _ellipsoids(call: _Call, snapshot: Snapshot, look: Look) -> Picture:
    s, degree = call.shown, min(look.sh_degree, snapshot.sh_degree)
    clear = s.opacities >= FAINT
    s = Shown(*(tensor[clear] for tensor in s))
    n, sizes = len(s.means), s.scales.new_tensor([size for size, _ in SHELLS])
    # Within its level set alpha is constant: an opacity above 1 is cut to the rasterizer's limit everywhere inside.
    solid = s.opacities.new_full((n * len(SHELLS),), SOLID * math.exp(ELLIPSOID_SIGMAS**2 / 2))
    scales = (s.scales * sizes[:, None, None]).flatten(0, 1)
    times = len(SHELLS)
    every = Shown(s.means.repeat(times, 1), s.quats.repeat(times, 1), scales, solid, s.sh0, s.shN)
    light = sizes.new_tensor([light for _, light in SHELLS])
    colors = (_colors(call, s, degree) * light[:, None, None]).flatten(0, 1)
    background = call.background(look)[None]
    # Shells of one Gaussian have the same depth, and the sort is stable: those inside come first, and so in front.
    image, _, _ = call.render(
        colors, every, backgrounds=background, alpha_threshold=SOLID, eps2d=0.1, rasterize_mode="classic"
    )
    return Picture(_uint8(image), f"each Gaussian as the ellipsoid of {ELLIPSOID_SIGMAS:g} standard deviations")


def _colors(call: _Call, s: Shown, degree: int) -> Tensor:
    """Colours [N, 3] from spherical harmonics, as stage project finds them for this camera."""
    from splatlearn.ops.project import project

    projection = project(
        s.means, s.quats, s.scales, s.opacities, s.sh0, s.shN, call.viewmat, call.K, call.width, call.height,
        sh_degree=degree, near_plane=call.options["near_plane"],
    )  # fmt: skip
    assert projection.colors is not None
    return projection.colors[0]


def _count(call: _Call, snapshot: Snapshot, look: Look) -> Picture:
    _, _, meta = call.render(call.shown.opacities[:, None])
    counts = blended(meta)
    most = max(10, round(float(_quantiles(counts.flatten().float(), 0.995)[0]) / 10 + 0.4999) * 10)
    return Picture(_uint8(_ramp(counts[..., None] / most)), f"from **0** (dark) to **{most}** splats a pixel (bright)")


MODES = {
    "colour": _colour,
    "depth": _depth,
    "opacity": _opacity,
    "normals": _normals,
    "ellipsoids": _ellipsoids,
    "number of splats": _count,
}


def shortest_axes(quats: Tensor, scales: Tensor) -> Tensor:
    """Unit vectors [N, 3] along the shortest axis of each Gaussian, in the world: normals, of either sign."""
    rows = rotation_rows(*torch.nn.functional.normalize(quats, dim=1).unbind(1))
    axes = torch.stack([torch.stack(column, dim=1) for column in zip(*rows, strict=True)], dim=1)
    return axes[torch.arange(len(scales), device=scales.device), scales.argmin(dim=1)]


def crop_range(means: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest x, y, z [3] that a crop box reaches: all but the farthest strays, and a margin."""
    bounds = torch.stack([torch.stack(_quantiles(axis, 0.005, 0.995)) for axis in means.T]).cpu()
    margin = 0.1 * (bounds[:, 1] - bounds[:, 0]) + 1e-3
    return bounds[:, 0] - margin, bounds[:, 1] + margin


def _quantiles(values: Tensor, *shares: float) -> list[Tensor]:
    """Quantiles of a vector of any length, by sorting every so manieth value."""
    some = values[:: len(values) // 100_000 + 1].sort().values
    return [some[round(share * (len(some) - 1))] for share in shares]


def _ramp(values: Tensor) -> Tensor:
    """Colours [H, W, 3] in 0..1 for values [H, W, 1] in 0..1, dark to bright, readable without colour too."""
    stops = torch.from_numpy(ERROR_COLORS).to(values) / 255
    place = values.clamp(0, 1) * (len(stops) - 1)
    below = place.floor().clamp(max=len(stops) - 2)
    left = below.long().squeeze(-1)
    return torch.lerp(stops[left], stops[left + 1], place - below)


def _over(image: Tensor, alpha: Tensor, call: _Call, look: Look) -> Tensor:
    """The image over the background, by its alpha."""
    return torch.lerp(call.background(look).expand_as(image), image, alpha)


def _uint8(image: Tensor) -> np.ndarray:
    """[H, W, 3] on the CPU, rounded as `show.pictures.to_uint8` does, but without its check of every value."""
    return (image.clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy()
