"""Finite differences in float64 against the hand-written backward of the native core: stages and chain.

The alpha cut-off and the transmittance stop are switched off: they are steps, which no derivative describes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import scenes
import torch
from torch import Tensor
from torch.autograd import gradcheck

from splatlearn.ops.bin import bin as bin_tiles
from splatlearn.ops.project import project
from splatlearn.ops.rasterization import rasterization
from splatlearn.ops.rasterize import deterministic, rasterize

pytestmark = pytest.mark.usefixtures("backend")
OFF: dict[str, Any] = dict(alpha_threshold=0.0, transmittance_threshold=0.0)
MODES = ("RGB", "RGB", "D", "RGB+D", "ED", "RGB+ED")
STRICT: dict[str, Any] = dict(eps=1e-6, atol=1e-6, rtol=1e-4)
FULL = dict(STRICT, fast_mode=False)
FAST = dict(STRICT, fast_mode=True)


def small(seed: int, count: int = 4, width: int = 17, height: int = 13, **options: Any) -> scenes.Scene:
    """A scene that touches no threshold once the cut-offs are off."""
    antialiased = options.pop("antialiased", False)
    options = dict(dict(sizes_px=(0.7, 6.0), opacities=(0.2, 0.9)), **options)
    scene = scenes.make(seed, count, width, height, **options)
    resolved = scenes.off_thresholds(scene, margin=1e-3, antialiased=antialiased, **OFF)
    assert len(resolved.means) >= 2, "too few Gaussians are off the thresholds; take another seed"
    return resolved


def with_grad(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Copies that want gradients."""
    return tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)


def assert_live(function: Callable[..., Any], inputs: tuple[Tensor, ...], names: tuple[str, ...]) -> None:
    """Every input must move some output: a gradcheck of zeros against zeros passes and proves nothing."""
    outputs = function(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    rng = torch.Generator().manual_seed(0)
    weights = [torch.randn(output.shape, generator=rng, dtype=output.dtype) for output in outputs]
    gradients = torch.autograd.grad(outputs, inputs, weights, allow_unused=True)
    for name, gradient in zip(names, gradients, strict=True):
        assert gradient is not None and gradient.any(), f"no gradient reaches {name}"


PROJECT_INPUTS = ("means", "quats", "scales", "opacities", "sh0", "shN", "viewmats", "Ks")


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("degree", range(5))
def test_project(degree: int, antialiased: bool) -> None:
    """Scales and opacities are raw at every other degree."""
    raw = degree % 2 == 1
    scene = small(100 + degree, degree=degree, cameras=2, antialiased=antialiased, beyond=0.6)
    sh0, shN = scene.sh()
    assert sh0 is not None and shN is not None
    names = PROJECT_INPUTS if degree else tuple(name for name in PROJECT_INPUTS if name != "shN")

    def projection(*inputs: Tensor) -> tuple[Tensor, ...]:
        given: dict[str, Any] = {"shN": None, **dict(zip(names, inputs, strict=True))}
        means2d, depths, conics, opacities, colors, _, _ = project(
            **given, width=scene.width, height=scene.height,
            sh_degree=degree, antialiased=antialiased, alpha_threshold=0.0, raw=raw,
        )  # fmt: skip
        assert colors is not None
        return means2d, depths, conics, opacities, colors

    activated = (scene.scales, scene.opacities)
    gaussians = (scene.means, scene.quats, *((scene.scales.log(), scene.opacities.logit()) if raw else activated), sh0)
    inputs = with_grad(*gaussians, *((shN,) if degree else ()), scene.viewmats, scene.Ks)
    assert_live(projection, inputs, names)
    assert gradcheck(projection, inputs, **FULL), "a gradient of project differs from finite differences"


def test_project_beyond_the_trusted_cone() -> None:
    scene = small(121, count=12, degree=0, beyond=2.0)
    x, y, z = (scene.means @ scene.viewmats[0, :3, :3].T + scene.viewmats[0, :3, 3]).unbind(-1)
    K = scene.Ks[0]
    outside = ((K[0, 0] * x / z + K[0, 2] - 8.5).abs() > 0.65 * 17) | (
        (K[1, 1] * y / z + K[1, 2] - 6.5).abs() > 0.65 * 13
    )
    assert outside.sum() >= 3, "no Gaussian lies where the Jacobian is clamped"

    def conics(means: Tensor, quats: Tensor, scales: Tensor, viewmats: Tensor, Ks: Tensor) -> Tensor:
        gaussians = (means, quats, scales, scene.opacities, None, None)
        return project(*gaussians, viewmats, Ks, 17, 13, alpha_threshold=0.0).conics

    inputs = with_grad(scene.means, scene.quats, scene.scales, scene.viewmats, scene.Ks)
    assert gradcheck(conics, inputs, **FULL), "the gradient through the clamp of the Jacobian is wrong"


RASTERIZE_INPUTS = ("means2d", "conics", "opacities", "colors", "backgrounds")


@pytest.mark.parametrize(("channels", "cameras"), [(1, 1), (3, 2), (4, 1), (5, 1), (9, 1)])
def test_rasterize(channels: int, cameras: int) -> None:
    scene = small(130 + channels, channels=channels, cameras=cameras)
    gaussians = (scene.means, scene.quats, scene.scales, scene.opacities)
    projection = project(*gaussians, None, None, scene.viewmats, scene.Ks, 17, 13, alpha_threshold=0.0)
    means2d, depths, conics, opacities, _, radii, _ = projection
    tiles = bin_tiles(means2d, conics, opacities, depths, radii, 17, 13, n_cameras=cameras, alpha_threshold=0.0)
    assert scene.backgrounds is not None
    colors = scene.colors.expand(cameras, -1, -1) + torch.arange(cameras)[:, None, None]

    def blend(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        given: dict[str, Any] = dict(zip(RASTERIZE_INPUTS, inputs, strict=True))
        return rasterize(**given, tiles=tiles, width=17, height=13, n_cameras=cameras, **OFF)

    inputs = with_grad(means2d, conics, opacities, colors, scene.backgrounds)
    render, alphas = blend(*inputs)
    assert render.std() > 0.01 and alphas.max() > 0.1, "the picture is empty"
    assert_live(blend, inputs, RASTERIZE_INPUTS)
    assert gradcheck(blend, inputs, **FULL), "a gradient of rasterize differs from finite differences"


def chain_of(seed: int) -> tuple[scenes.Scene, dict[str, Any]]:
    """A scene and options that differ with the seed in every respect."""
    antialiased = seed % 4 == 3
    degree = None if seed % 6 == 5 else seed % 6
    options: dict[str, Any] = dict(channels=1 + seed % 4) if degree is None else dict(degree=degree)
    count, width, height = 3 + seed % 4, 9 + seed % 11, 19 - seed % 7
    drawing = dict(OFF, render_mode=MODES[seed // 2 % len(MODES)])
    if "ED" in drawing["render_mode"]:  # a quotient by alpha, which must not be nothing but rounding
        options.update(sizes_px=(5.0, 15.0), beyond=0.0)
    scene = small(seed, count, width, height, cameras=1 + seed % 3, antialiased=antialiased, **options)
    return scene, dict(drawing, rasterize_mode="antialiased" if antialiased else "classic")


def check_chain(scene: scenes.Scene, options: dict[str, Any], mode: dict[str, Any]) -> None:
    """gradcheck of the public function to all its tensors."""
    unused = ("colors", "backgrounds") if options.get("render_mode") in ("D", "ED") else ()
    tensors = {name: value for name, value in scene.tensors().items() if name not in unused}

    def chain(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        filled: dict[str, Any] = dict(zip(tensors, inputs, strict=True))
        return rasterization(**replace(scene, **filled).arguments(), **options)[:2]

    inputs = with_grad(*tensors.values())
    render, alphas = chain(*inputs)
    assert render.std() > 1e-3 and alphas.max() > 0.05, "the picture is empty"
    assert_live(chain, inputs, tuple(tensors))
    assert gradcheck(chain, inputs, **mode), "a gradient of the chain differs from finite differences"


@pytest.mark.parametrize("seed", range(200, 256))
def test_chain_on_many_scenes(seed: int) -> None:
    check_chain(*chain_of(seed), FAST)


@pytest.mark.parametrize("seed", [200, 205, 210, 221])
def test_chain_summed_by_atomic_additions(seed: int) -> None:
    with deterministic(False):
        check_chain(*chain_of(seed), FAST)


@pytest.mark.parametrize("mode", ["RGB", "RGB+ED"])
def test_chain_in_full(mode: str) -> None:
    scene = small(300, count=3, width=9, height=7, degree=2, cameras=2, sizes_px=(2.0, 6.0), beyond=0.0)
    check_chain(scene, dict(OFF, render_mode=mode), FULL)


def test_chain_with_clamped_alpha() -> None:
    scene = small(310, count=4, width=17, height=13, degree=1)
    opaque = replace(scene, opacities=torch.ones_like(scene.opacities), scales=3 * scene.scales)
    opaque = scenes.off_thresholds(opaque, margin=1e-4, **OFF)
    assert len(opaque.means) >= 2, "too few Gaussians are off the clamp"
    _, alphas, _ = rasterization(**opaque.arguments(), **OFF)
    assert alphas.max() >= 0.999, "no alpha is clamped in this scene"
    check_chain(opaque, OFF, FAST)
