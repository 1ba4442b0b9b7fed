"""Small random scenes that stay off every threshold, so that two right implementations agree on them.

A Gaussian that meets a pixel within a rounding error of the alpha cut-off, of the transmittance stop or of a
clamp may be drawn by one arithmetic and skipped by another, which says nothing about either. Such Gaussians
are left out (`settle`), as the float64 reference measures them; tolerances then stay tight. All numbers are
exact in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from splatlearn.ops import reference

ALPHA_THRESHOLD = 1 / 255
TRANSMITTANCE_THRESHOLD = 1e-4


@dataclass(frozen=True)
class Scene:
    """The arguments of `rasterization`; float64 tensors."""

    means: Tensor  # [N, 3]
    quats: Tensor  # [N, 4]
    scales: Tensor  # [N, 3]
    opacities: Tensor  # [N]
    colors: Tensor  # [N, D] or, with sh_degree, [N, K, 3]
    viewmats: Tensor  # [C, 4, 4]
    Ks: Tensor  # [C, 3, 3]
    backgrounds: Tensor | None  # [C, D]
    width: int
    height: int
    sh_degree: int | None

    def to(self, dtype: torch.dtype) -> Scene:
        """The same scene in another dtype."""
        tensors: dict[str, Any] = {name: value.to(dtype) for name, value in self.tensors().items()}
        return replace(self, **tensors)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        values = self.arguments()
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def with_grad(self) -> Scene:
        """A copy whose tensors all want gradients."""
        fresh: dict[str, Any] = {k: v.detach().clone().requires_grad_() for k, v in self.tensors().items()}
        return replace(self, **fresh)

    def keep(self, ids: Tensor) -> Scene:
        """The same scene with only some of its Gaussians."""
        names = ("means", "quats", "scales", "opacities", "colors")
        return replace(self, **{name: getattr(self, name)[ids] for name in names})

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for a `rasterization`."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    def sh(self) -> tuple[Tensor | None, Tensor | None]:
        """The colours as `project` wants them: (sh0, shN), or None where they are not SH."""
        if self.sh_degree is None:
            return None, None
        return self.colors[:, :1].contiguous(), self.colors[:, 1:].contiguous()


def make(
    seed: int,
    count: int,
    width: int,
    height: int,
    *,
    cameras: int = 1,
    degree: int | None = None,
    channels: int = 3,
    background: bool = True,
    sizes_px: tuple[float, float] = (0.3, 6.0),
    opacities: tuple[float, float] = (0.05, 0.95),
    beyond: float = 0.2,
) -> Scene:
    """A random scene in front of its cameras, not settled yet.

    Centres are spread over the first camera's picture and `beyond` of its size around it, at depths 2 to 6;
    their axes have `sizes_px` pixels, log-uniformly. The other cameras stand a little aside. Quaternions have
    any norm.
    """
    rng = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=rng, dtype=torch.float64)

    focal = max(width, height)
    Ks = torch.zeros(cameras, 3, 3, dtype=torch.float64)
    Ks[:, 0, 0], Ks[:, 1, 1] = uniform(0.8, 1.2, cameras) * focal, uniform(0.8, 1.2, cameras) * focal
    Ks[:, 0, 2], Ks[:, 1, 2] = uniform(0.4, 0.6, cameras) * width, uniform(0.4, 0.6, cameras) * height
    Ks[:, 2, 2] = 1.0
    viewmats = torch.eye(4, dtype=torch.float64).repeat(cameras, 1, 1)
    turns = torch.cat([torch.ones(cameras, 1, dtype=torch.float64), uniform(-0.03, 0.03, cameras, 3)], 1)
    turns[0, 1:] *= 20  # the first camera sets the frame, so it may look anywhere
    viewmats[:, :3, :3] = reference.rotation(turns)
    viewmats[1:, :3, :3] = viewmats[1:, :3, :3] @ viewmats[0, :3, :3]
    viewmats[:, :3, 3] = uniform(-0.2, 0.2, cameras, 3)

    depths = uniform(2.0, 6.0, count)
    place = uniform(-beyond, 1 + beyond, count, 2) * torch.tensor([width, height], dtype=torch.float64)
    in_camera = torch.stack(
        [
            (place[:, 0] - Ks[0, 0, 2]) / Ks[0, 0, 0] * depths,
            (place[:, 1] - Ks[0, 1, 2]) / Ks[0, 1, 1] * depths,
            depths,
        ],
        -1,
    )
    low, high = (float(torch.tensor(size).log()) for size in sizes_px)
    shape = (count, channels) if degree is None else (count, (degree + 1) ** 2, 3)
    colors = uniform(0.0, 1.0, *shape) if degree is None else uniform(-0.6, 0.6, *shape)
    scene = Scene(
        means=(in_camera - viewmats[0, :3, 3]) @ viewmats[0, :3, :3],
        quats=uniform(-1.0, 1.0, count, 4),
        scales=uniform(low, high, count, 3).exp() * depths[:, None] / focal,
        opacities=uniform(*opacities, count),
        colors=colors,
        viewmats=viewmats,
        Ks=Ks,
        backgrounds=uniform(0.0, 1.0, cameras, 3 if degree is not None else channels) if background else None,
        width=width,
        height=height,
        sh_degree=degree,
    )
    return scene.to(torch.float32).to(torch.float64)


def off_thresholds(
    scene: Scene,
    *,
    margin: float = 1e-4,
    alpha_threshold: float = ALPHA_THRESHOLD,
    transmittance_threshold: float = TRANSMITTANCE_THRESHOLD,
    antialiased: bool = False,
    near_plane: float = 0.01,
) -> Scene:
    """The scene without the Gaussians that lie within a relative `margin` of a threshold in any camera."""
    options: dict[str, Any] = dict(antialiased=antialiased, alpha_threshold=alpha_threshold)
    while len(scene.means):
        covars = reference.covariance(scene.quats, scene.scales)
        sh = None if scene.sh_degree is None else scene.colors[:, : (scene.sh_degree + 1) ** 2]
        offends = torch.zeros(len(scene.means), dtype=torch.bool)
        for viewmat, K in zip(scene.viewmats, scene.Ks, strict=True):
            at = (viewmat, K, scene.width, scene.height)
            view = reference.view(scene.means, covars, scene.opacities, sh, *at, **options)
            near, visible = _near_view(scene, view, viewmat, K, margin, near_plane)
            if alpha_threshold > 0:
                near |= _close(view.opacities, alpha_threshold, margin)
            offends |= near | _near_blend(scene, view, visible, margin, alpha_threshold, transmittance_threshold)
        if not offends.any():
            return scene
        scene = scene.keep((~offends).nonzero()[:, 0])
    return scene


def _close(value: Tensor, threshold: Tensor | float, margin: float) -> Tensor:
    return (value / threshold - 1).abs() < margin


def _near_view(
    scene: Scene, view: reference.ProjectedScene, viewmat: Tensor, K: Tensor, margin: float, near_plane: float
) -> tuple[Tensor, Tensor]:
    """Which Gaussians [N] are nearly culled, clamped or as deep as the next; which may be seen."""
    x, y, z = (scene.means @ viewmat[:3, :3].T + viewmat[:3, 3]).unbind(-1)
    offends = _close(z, near_plane, margin)
    for ratio, axis, size in ((x / z, 0, scene.width), (y / z, 1, scene.height)):
        for limit in reference.trusted(K[axis, axis], K[axis, 2], size):
            offends |= _close(ratio, limit, margin)
        first, last = view.means2d[:, axis] - view.box[:, axis], view.means2d[:, axis] + view.box[:, axis]
        offends |= ((first - size + 0.5).abs() < margin * size) | ((last - 0.5).abs() < margin * size)
    offends |= (view.colors.abs() < margin).any(-1)
    visible = (z > near_plane) & ~view.box.isnan().any(-1)
    order = torch.argsort(torch.where(visible, z, torch.inf))
    close = torch.diff(z[order]).abs() < min(margin, 1e-5) * z[order][1:]
    offends[order[1:]] |= close & visible[order[1:]]
    return offends & visible, visible


def _near_blend(
    scene: Scene,
    view: reference.ProjectedScene,
    visible: Tensor,
    margin: float,
    alpha_threshold: float,
    transmittance_threshold: float,
) -> Tensor:
    """Which Gaussians [N] meet a pixel nearly at the cut-off, at the clamp, or at the stop."""
    ids = visible.nonzero()[:, 0]
    ids = ids[torch.argsort(view.depths[ids], stable=True)]
    pixels = reference.pixel_centres(scene.width, scene.height, torch.float64)
    thresholds = (alpha_threshold, transmittance_threshold)
    blend = reference.blend(view.means2d[ids], view.conics[ids], view.opacities[ids], pixels, *thresholds)
    near = _close(blend.raw, reference.ALPHA_MAX, margin)
    if alpha_threshold > 0:
        near |= _close(blend.raw, alpha_threshold, margin)
    if transmittance_threshold > 0:  # a rounding error of alpha grows by 1 / (1 - alpha) in the transmittance
        near |= _close(blend.remaining, transmittance_threshold, 10 * margin) & (blend.raw >= alpha_threshold)
    offends = torch.zeros(len(visible), dtype=torch.bool)
    offends[ids] = near.any(0)
    return offends


@dataclass(frozen=True)
class Case:
    """A settled scene with the options to draw it."""

    scene: Scene
    options: dict[str, Any] = field(default_factory=dict)
    shows: bool = True  # False where the right picture is the background alone


def _settled(*args: Any, **kwargs: Any) -> Case:
    return Case(off_thresholds(make(*args, **kwargs)))


def _drawn(seed: int, cameras: int = 1, **options: Any) -> Case:
    antialiased = options.get("rasterize_mode") == "antialiased"
    scene = make(seed, 30, 33, 31, cameras=cameras, degree=1)
    return Case(off_thresholds(scene, antialiased=antialiased), options)


def _behind() -> Case:
    """Half of the Gaussians behind the camera, one in the plane of its centre."""
    scene = make(31, 30, 33, 31, degree=1, sizes_px=(1.0, 5.0))
    z = scene.viewmats[0, 2, :3]
    depths = scene.means @ z + scene.viewmats[0, 2, 3]
    back = torch.where(torch.arange(30) % 2 == 0, 2 * depths, 0.0)
    back[0] = depths[0]
    return Case(off_thresholds(replace(scene, means=(scene.means - back[:, None] * z).float().double())))


def _aside() -> Case:
    """All Gaussians far beside the picture."""
    scene = make(32, 10, 17, 13, degree=1, sizes_px=(0.5, 1.0))
    return Case(replace(scene, means=scene.means + 100 * scene.viewmats[0, 0, :3]), shows=False)


def _faint() -> Case:
    """All Gaussians below the alpha cut-off."""
    scene = make(33, 10, 17, 13, degree=1)
    return Case(replace(scene, opacities=torch.full_like(scene.opacities, 1 / 256)), shows=False)


def _opaque() -> Case:
    """Opacities of 1, so that alpha is clamped over whole areas."""
    scene = make(34, 12, 33, 31, degree=1, sizes_px=(4.0, 60.0))
    return Case(off_thresholds(replace(scene, opacities=torch.ones_like(scene.opacities))))


def _uncut() -> Case:
    """Both cut-offs off: every Gaussian meets every pixel."""
    off: dict[str, Any] = dict(alpha_threshold=0.0, transmittance_threshold=0.0)
    return Case(off_thresholds(make(35, 30, 33, 31, degree=1, cameras=2), **off), dict(off))


_SIZES = (
    (1, 1),
    (1, 67),
    (67, 1),
    (15, 16),
    (16, 15),
    (17, 17),
    (31, 33),
    (33, 2),
    (48, 64),
    (64, 31),
    (67, 67),
)
_WIDE: dict[str, Any] = dict(cameras=2, degree=1, sizes_px=(0.3, 9.0))
_CASES: dict[str, Callable[[], Case]] = {
    **{f"{w}x{h}": partial(_settled, w * 100 + h, 24, w, h, **_WIDE) for w, h in _SIZES},
    **{f"degree-{k}": partial(_settled, 10 + k, 20, 21, 18, degree=k, cameras=2) for k in range(5)},
    **{f"{d}-channels": partial(_settled, 20 + d, 20, 21, 18, channels=d) for d in (1, 2, 3, 4, 5, 8, 17)},
    **{mode: partial(_drawn, 40, render_mode=mode) for mode in ("D", "ED", "RGB+D", "RGB+ED")},
    "antialiased": lambda: _drawn(41, 2, rasterize_mode="antialiased"),
    "five-cameras": lambda: _drawn(42, 5),
    "no-background": lambda: _settled(43, 20, 21, 18, background=False, degree=1),
    "none": lambda: Case(make(44, 0, 17, 13, degree=1), shows=False),
    "one": lambda: _settled(45, 1, 17, 13, degree=1, beyond=0.0, sizes_px=(3.0, 5.0)),
    "aside": _aside,
    "faint": _faint,
    "behind": _behind,
    "opaque": _opaque,
    "uncut": _uncut,
    "huge": lambda: _settled(46, 12, 33, 31, degree=1, sizes_px=(30.0, 500.0)),
    "tiny": lambda: _settled(47, 200, 33, 31, degree=1, sizes_px=(1e-3, 0.1), opacities=(0.5, 0.95)),
    "needles": lambda: _settled(48, 60, 67, 64, degree=1, sizes_px=(0.05, 10.0)),
    "crowd": lambda: _settled(49, 400, 33, 31, degree=1, sizes_px=(2.0, 9.0), opacities=(0.3, 0.99)),
}
CASES = tuple(_CASES)


@cache
def case(name: str) -> Case:
    """The settled scene of that name, made once."""
    return _CASES[name]()
