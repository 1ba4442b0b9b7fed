"""The native core's gradients against the oracle's autograd; absgrad; equal bits for all thread counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import scenes
import torch
from torch import Tensor

from splatlearn.ops import reference
from splatlearn.ops.rasterization import rasterization

pytestmark = pytest.mark.usefixtures("backend")
DTYPES = {torch.float64: 1e-8, torch.float32: 1e-4}


def gradients(
    rasterization: Callable[..., tuple[Tensor, Tensor, dict[str, Any]]],
    scene: scenes.Scene,
    options: dict[str, Any],
) -> dict[str, Tensor]:
    """Gradients of both outputs, each weighted by fixed random numbers, to every tensor of the scene."""
    inputs = scene.with_grad()
    render, alphas, _ = rasterization(**inputs.arguments(), **options)
    rng = torch.Generator().manual_seed(0)
    loss = torch.zeros((), dtype=render.dtype)
    for output in (render, alphas):
        loss = loss + (output * torch.randn(output.shape, generator=rng, dtype=torch.float64).to(output.dtype)).sum()
    loss.backward()
    return {k: torch.zeros_like(v) if v.grad is None else v.grad for k, v in inputs.tensors().items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", scenes.CASES)
def test_gradients_are_those_of_the_oracle(name: str, dtype: torch.dtype) -> None:
    case = scenes.case(name)
    got = gradients(rasterization, case.scene.to(dtype), case.options)
    wanted = gradients(reference.rasterization, case.scene, case.options)
    depth_only = case.options.get("render_mode") in ("D", "ED")
    for key, true in wanted.items():
        matters = key == "backgrounds" or case.shows
        if depth_only and key in ("colors", "backgrounds"):
            matters = False
        assert bool(true.any()) == matters, f"the scene has no gradient to {key}, or one that it should not have"
        assert got[key].dtype == dtype, f"the gradient to {key} has another dtype"
        difference = float((got[key].double() - true).norm())
        assert difference <= DTYPES[dtype] * float(true.norm()), f"gradient to {key} differs from the oracle"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_culled_gaussians_get_no_gradient(dtype: torch.dtype) -> None:
    scene = scenes.make(6, 9, 17, 13, degree=1, beyond=0.0).to(dtype)
    bad = replace(
        scene,
        means=scene.means.index_fill(0, torch.tensor([0]), torch.nan),
        quats=scene.quats.index_fill(0, torch.tensor([1]), 0.0),
        scales=scene.scales.index_fill(0, torch.tensor([2]), torch.inf),
        opacities=scene.opacities.index_fill(0, torch.tensor([3]), 1 / 256),
        colors=scene.colors.index_fill(0, torch.tensor([4]), torch.nan),
    )
    bad.means[5] = -torch.linalg.inv(bad.viewmats[0])[:3, :3] @ bad.viewmats[0, :3, 3]  # the camera's centre
    render, _, meta = rasterization(**bad.arguments(), packed=False)
    culled = (meta["radii"] == 0).all(-1)[0].tolist()
    assert culled == [True] * 6 + [False] * 3, "wrong Gaussians are culled"
    assert render.isfinite().all() and render.std() > 0, "a culled Gaussian reaches the picture"
    for key, value in gradients(rasterization, bad, {}).items():
        assert value.isfinite().all(), f"a culled Gaussian poisons the gradient to {key}"
        if key not in ("viewmats", "Ks", "backgrounds"):
            assert not value[:6].any(), f"a culled Gaussian has a gradient to {key}"
            assert value[6:].any(), f"the visible ones have no gradient to {key}"


@pytest.mark.parametrize(("dtype", "count"), [(torch.float32, 20), (torch.float64, 130)], ids=str)
def test_gradients_survive_where_transmittance_underflows(dtype: torch.dtype, count: int) -> None:
    """Layers of alpha 0.999 with the stop switched off: 0.001^count is no number of the dtype."""
    K = torch.tensor([[20.0, 0.0, 4.0], [0.0, 20.0, 4.0], [0.0, 0.0, 1.0]], dtype=torch.float64)[None]
    line, ones = torch.linspace(2, 3, count, dtype=torch.float64), torch.ones(count, 4, dtype=torch.float64)
    wall = scenes.Scene(
        means=torch.stack([0 * line, 0 * line, line], -1), quats=ones, scales=50 * ones[:, :3],
        opacities=ones[:, 0], colors=ones[:, :1], viewmats=torch.eye(4, dtype=torch.float64)[None], Ks=K,
        backgrounds=None, width=8, height=8, sh_degree=None,
    )  # fmt: skip
    options = {"transmittance_threshold": 0.0}
    got = gradients(rasterization, wall.to(dtype), options)["colors"].double()
    wanted = gradients(reference.rasterization, wall, options)["colors"]
    assert wanted.norm() > 0.1 and (got - wanted).norm() <= 1e-4 * wanted.norm(), "the front lost its gradient"


def test_only_wanted_gradients_are_made() -> None:
    scene = scenes.case("degree-2").scene
    wanted = gradients(rasterization, scene, {})
    for name in scene.tensors():
        arguments = scene.arguments()
        arguments[name] = arguments[name].clone().requires_grad_()
        render, alphas, _ = rasterization(**arguments)
        rng = torch.Generator().manual_seed(0)
        loss = sum((v * torch.randn(v.shape, generator=rng, dtype=torch.float64)).sum() for v in (render, alphas))
        assert isinstance(loss, Tensor)
        loss.backward()
        assert torch.equal(arguments[name].grad, wanted[name]), f"alone, the gradient to {name} is another one"


def test_gradients_through_depth_and_alpha_alone() -> None:
    scene = scenes.case("31x33").scene.with_grad()
    _, alphas, _ = rasterization(**scene.arguments())
    alphas.sum().backward()
    assert scene.opacities.grad is not None and scene.opacities.grad.any(), "alphas carry no gradient"
    assert scene.colors.grad is None or not scene.colors.grad.any(), "alphas depend on colours"


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
@pytest.mark.parametrize("name", ["67x67", "crowd", "five-cameras", "17-channels", "RGB+ED", "many"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_do_not_depend_on_threads(name: str, dtype: torch.dtype, threads: Callable[[int], None]) -> None:
    if name == "many":  # enough that each stage really divides its work
        case = scenes.Case(scenes.make(50, 20000, 150, 100, cameras=2, degree=2, sizes_px=(0.2, 3.0)))
    else:
        case = scenes.case(name)
    scene = case.scene.to(dtype)

    def everything() -> dict[str, Tensor]:
        render, alphas, _ = rasterization(**scene.arguments(), **case.options)
        return {"render": render, "alphas": alphas} | gradients(rasterization, scene, case.options)

    threads(1)
    once = everything()
    for count in (1, 2, 3):
        threads(count)
        for key, value in everything().items():
            assert torch.equal(value, once[key]), f"{key} differs between 1 and {count} threads"


@pytest.mark.parametrize("backend", ["cpu", "emulated"], indirect=True)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("packed", [False, True])
def test_absgrad_sums_magnitudes_over_pixels(packed: bool, dtype: torch.dtype) -> None:
    case = scenes.case("31x33")
    scene = case.scene.to(dtype).with_grad()
    render, alphas, meta = rasterization(**scene.arguments(), absgrad=True, packed=packed)
    meta["means2d"].retain_grad()
    rng = torch.Generator().manual_seed(1)
    weights = torch.randn(render.shape, generator=rng, dtype=torch.float64)
    alpha_weights = torch.randn(alphas.shape, generator=rng, dtype=torch.float64)
    ((render * weights.to(dtype)).sum() + (alphas * alpha_weights.to(dtype)).sum()).backward()

    def dense(rows: Tensor) -> Tensor:
        if not packed:
            return rows
        at = (meta["camera_ids"], meta["gaussian_ids"])
        return torch.zeros(len(scene.viewmats), len(scene.means), 2, dtype=dtype).index_put(at, rows)

    flat = case.scene
    gaussians = (flat.means, flat.quats, flat.scales, flat.opacities, *flat.sh(), flat.viewmats, flat.Ks)
    means2d, depths, conics, opacities, colors, _ = reference.project(*gaussians, flat.width, flat.height)
    assert colors is not None and flat.backgrounds is not None
    pixels = reference.pixel_centres(flat.width, flat.height, torch.float64)
    for camera in range(len(means2d)):
        order = torch.argsort(depths[camera], stable=True)
        own = means2d[camera, order].expand(len(pixels), -1, -1).clone().requires_grad_()  # a mean for each pixel
        blend = reference.blend(own, conics[camera, order], opacities[camera, order], pixels)
        picture = blend.weights @ colors[camera, order] + blend.transmittance[:, None] * flat.backgrounds[camera]
        loss = (picture * weights[camera].reshape(len(pixels), -1)).sum()
        (loss + ((1 - blend.transmittance) * alpha_weights[camera].flatten()).sum()).backward()
        assert own.grad is not None
        signed, magnitude = own.grad.sum(0), own.grad.abs().sum(0)
        assert (magnitude > 1.5 * signed.abs()).any(), "nothing cancels in this scene, so it proves nothing"
        got_signed, got_magnitude = (
            dense(meta["means2d"].grad)[camera, order],
            dense(meta["means2d"].absgrad)[camera, order],
        )
        assert (got_signed.double() - signed).norm() <= DTYPES[dtype] * signed.norm(), "retain_grad of means2d"
        assert (got_magnitude.double() - magnitude).norm() <= DTYPES[dtype] * magnitude.norm(), "absgrad differs"


def test_absgrad_does_not_change_gradients() -> None:
    scene = scenes.case("31x33").scene
    plain = gradients(rasterization, scene, {})
    with_absgrad = gradients(rasterization, scene, {"absgrad": True})
    for key, value in plain.items():
        assert torch.equal(value, with_absgrad[key]), f"absgrad changes the gradient to {key}"
