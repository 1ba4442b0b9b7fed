"""NaN, infinity and huge numbers in any input: what they reach, and that they reach nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import scenes
import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.ops import reference
from splatlearn.ops.rasterization import rasterization

DTYPES = (torch.float32, torch.float64)
NAN, INF = float("nan"), float("inf")
BAD = (NAN, INF, -INF, 1e30, -1e30, 1e38, -1e38)
OWN = ("means", "quats", "scales", "opacities", "colors")
SPOILED = 4  # the row of the bad Gaussian
Function = Callable[..., Any]


def scene_of(kind: str, dtype: torch.dtype) -> scenes.Scene:
    """Ten Gaussians in two cameras; the one that is spoiled lies in the middle of the picture, before the others."""
    options: dict[str, Any] = {"degree": 1} if kind == "harmonics" else {"channels": 5 if kind == "5 channels" else 3}
    scene = scenes.make(3, 10, 37, 35, cameras=2, beyond=0.0, sizes_px=(2.0, 5.0), **options)
    if kind == "raw":
        scene = replace(scene, scales=scene.scales.log(), opacities=torch.logit(scene.opacities))
    if kind == "colors of cameras":
        scene = replace(scene, colors=torch.stack([scene.colors, 1 - scene.colors]))
    return scene.to(dtype)


def keep(scene: scenes.Scene, ids: list[int]) -> scenes.Scene:
    kept = {name: getattr(scene, name)[ids] for name in OWN[:4]}
    colors = scene.colors[:, ids] if scene.sh_degree is None and scene.colors.dim() == 3 else scene.colors[ids]
    return replace(scene, **kept, colors=colors)


def drawn(function: Function, scene: scenes.Scene, v: Tensor | None = None, **options: Any) -> dict[str, Tensor]:
    """Picture, alphas and all gradients, of a quadratic loss or with `v` as the gradient of the picture."""
    inputs = scene.with_grad()
    if function is rasterization:
        options = {"packed": False, "absgrad": True} | options
    render, alphas, meta = function(**inputs.arguments(), **options)
    if v is None:
        (render.square().sum() + alphas.square().sum()).backward()
    else:
        torch.autograd.backward([render, alphas], [v[..., :-1], v[..., -1:]])
    found = {"render": render.detach(), "alphas": alphas.detach()}
    found |= {name: tensor.grad for name, tensor in inputs.tensors().items() if tensor.grad is not None}
    return found | ({"absgrad": meta["means2d"].absgrad} if function is rasterization else {})


def rows(name: str, value: Tensor, ids: list[int], scene: scenes.Scene) -> Tensor:
    """The rows of these Gaussians in a gradient."""
    per_camera = name == "absgrad" or (name == "colors" and scene.sh_degree is None and scene.colors.dim() == 3)
    return value[:, ids] if per_camera else value[ids]


def same(function: Function, one: Tensor, other: Tensor) -> bool:
    """The same bits from the native stages; the reference adds in an order that depends on sizes."""
    if function is rasterization:
        return torch.equal(one, other)
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def spoil(scene: scenes.Scene, name: str, bad: float) -> scenes.Scene:
    value = getattr(scene, name).clone()
    row = value[1, SPOILED] if name == "colors" and scene.sh_degree is None and value.dim() == 3 else value[SPOILED]
    row.view(-1)[row.numel() // 2] = bad
    return replace(scene, **{name: value})


@pytest.fixture(params=["native", "reference"])
def function(request: pytest.FixtureRequest, backend: str) -> Function:
    if request.param == "reference" and backend != "cpu":
        pytest.skip("the reference has no backends")
    return rasterization if request.param == "native" else reference.rasterization


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["colors", "5 channels", "colors of cameras", "harmonics", "raw"])
def test_a_bad_number_of_a_gaussian_culls_it_and_reaches_no_other(
    kind: str, dtype: torch.dtype, function: Function
) -> None:
    scene = scene_of(kind, dtype)
    others = [index for index in range(len(scene.means)) if index != SPOILED]
    options = {"raw": True} if kind == "raw" else {}
    alone = drawn(function, keep(scene, others), **options)
    healthy = drawn(function, scene, **options)["render"]
    assert (healthy - alone["render"]).abs().max() > 0.05, "nothing is seen of the Gaussian, so this proves nothing"
    changes = [(name, bad) for name in OWN for bad in BAD] + [("quats", 0.0), ("quats", 1e-30)]
    for name, bad in changes:
        spoiled = spoil(scene, name, bad)
        if name == "quats" and abs(bad) < 1:
            spoiled.quats[SPOILED] = bad
        found, context = drawn(function, spoiled, **options), f"{name} = {bad}"
        for key, value in found.items():
            if name == "colors" and kind == "colors of cameras":  # only that of one camera is bad
                if key == "render":
                    assert same(function, value[1], alone[key][1]), f"{context} reaches the picture"
                    assert same(function, value[0], healthy[0]), f"{context} of one camera reaches another"
                assert value.isfinite().all(), f"{context} reaches the gradient to {key}"
            elif key in ("render", "alphas"):
                assert same(function, value, alone[key]), f"{context} reaches the picture"
            elif key in (*OWN, "absgrad"):
                own, rest = rows(key, value, [SPOILED], scene), rows(key, value, others, scene)
                assert same(function, rest, alone[key]), f"{context} reaches other Gaussians' gradient to {key}"
                assert not own.any(), f"{context} leaves a gradient to {key}"
            else:
                assert torch.allclose(value, alone[key], rtol=1e-4, atol=1e-4), (
                    f"{context} reaches the gradient to {key}"
                )


OPTIONS: dict[str, dict[str, Any]] = {
    "packed": {"packed": True},
    "depth": {"render_mode": "RGB+ED"},
    "antialiased": {"rasterize_mode": "antialiased", "eps2d": 0.0},
    "ortho": {"camera_model": "ortho"},
    "uncut": {"alpha_threshold": 0.0, "transmittance_threshold": 0.0},
    "unlimited": {"near_plane": 0.0, "far_plane": INF},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", ["colors", "harmonics"])
def test_options_do_not_let_a_bad_number_through(kind: str, option: str, backend: str) -> None:
    scene = scene_of(kind, torch.float32)
    others = [index for index in range(len(scene.means)) if index != SPOILED]
    alone = drawn(rasterization, keep(scene, others), **OPTIONS[option])
    for name in OWN:
        for bad in (NAN, 1e30):
            found = drawn(rasterization, spoil(scene, name, bad), **OPTIONS[option])
            for key in ("render", "alphas"):
                assert torch.equal(found[key], alone[key]), f"{name} = {bad} reaches the picture"
            for key in OWN:
                own, rest = rows(key, found[key], [SPOILED], scene), rows(key, found[key], others, scene)
                assert torch.equal(rest, alone[key]) and not own.any(), f"{name} = {bad}: gradient to {key}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_small_numbers_are_numbers(dtype: torch.dtype, function: Function) -> None:
    """Denormal numbers, zero and negative scales give what the equations give."""
    scene = scene_of("colors", dtype)
    for name in OWN:
        for small in (1e-42, -1e-42, 0.0, 1e-30):
            spoiled = spoil(scene, name, small)
            found = drawn(function, spoiled)
            wanted = drawn(reference.rasterization, spoiled.to(torch.float64))
            for key, value in wanted.items():
                assert found[key].isfinite().all(), f"{name} = {small} gives a {key} that is not finite"
                close = torch.allclose(found[key].double(), value, rtol=1e-3, atol=1e-3 * float(value.abs().max()))
                assert close or dtype == torch.float32 and key == name, f"{name} = {small}: {key} is wrong"
    mirrored = drawn(function, replace(scene, scales=-scene.scales))
    plain = drawn(function, scene)
    assert torch.equal(mirrored["render"], plain["render"]), "the sign of a scale counts"
    assert torch.equal(mirrored["scales"], -plain["scales"]), "the gradient to a negative scale"


@pytest.mark.parametrize("bad", [NAN, INF, -INF, 1e20, 1e30, 1e38])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_bad_gradient_of_a_pixel_reaches_what_covers_it(
    dtype: torch.dtype, channels: int, bad: float, backend: str
) -> None:
    scene = scenes.make(5, 40, 37, 35, cameras=2, beyond=0.1, sizes_px=(0.5, 3.0), channels=channels).to(dtype)
    v = torch.randn(2, 35, 37, channels + 1, generator=torch.Generator().manual_seed(0), dtype=dtype)
    for channel in (0, channels):  # a colour, alpha
        at = (1, 17, 18, channel)
        without, only, spoiled = v.clone(), torch.zeros_like(v), v.clone()
        without[1, 17, 18], only[1, 17, 18], spoiled[at] = 0.0, 1.0, bad
        cleared, found = drawn(rasterization, scene, without), drawn(rasterization, scene, spoiled)
        covering = drawn(rasterization, scene, only)["means"].any(-1)
        assert 0 < covering.sum() < 20, "all or none cover the pixel, so this proves nothing"
        for key in (*OWN, "absgrad"):
            outside = (~covering).nonzero()[:, 0].tolist()
            value, wanted = (rows(key, result[key], outside, scene) for result in (found, cleared))
            assert torch.equal(value, wanted), f"it reaches the gradient to {key} of a Gaussian that is elsewhere"
        if math.isnan(bad):
            assert found["quats"][covering].isnan().all(), "a gradient that is NaN was hidden"
            assert not found["backgrounds"][0].isnan().any(), "it reaches the background of another camera"
        elif bad == 1e20 or dtype == torch.float64 and math.isfinite(bad):
            wanted = drawn(reference.rasterization, scene.to(torch.float64), spoiled.double())
            for key in OWN:
                one, other = found[key][covering].double(), wanted[key][covering]
                assert torch.allclose(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max())), f"{key} is wrong"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["colors", "harmonics"])
@pytest.mark.parametrize("bad", [NAN, INF, 1e30, -1e38])
def test_a_camera_that_is_none_reaches_no_other(bad: float, kind: str, dtype: torch.dtype, backend: str) -> None:
    """As on a CUDA device, where reading cameras would block; with known centres they are not read on a CPU either."""
    scene = scene_of(kind, dtype)
    centers = torch.linalg.inv(scene.viewmats)[:, :3, 3].contiguous()
    first = replace(scene, viewmats=scene.viewmats[:1], Ks=scene.Ks[:1], backgrounds=scene.backgrounds[:1])
    alone = result(first, camera_centers=centers[:1])
    for name, place in (("viewmats", (1, 0, 1)), ("viewmats", (1, 2, 3)), ("Ks", (1, 0, 0)), ("Ks", (1, 1, 2))):
        value, given = getattr(scene, name).clone(), centers.clone()
        value[place] = bad
        given[1] = bad
        found = result(replace(scene, **{name: value}), camera_centers=given)
        assert torch.equal(found["render"][0], alone["render"][0]), f"{name} of a camera reaches another's picture"
        assert not found["radii"][1].any(), f"a camera with {name} = {bad} shows something"
        assert torch.equal(found["render"][1, 0, 0], scene.backgrounds[1]), "there the background is not seen"
        for key in OWN:
            assert torch.equal(found[key], alone[key]), f"{name} of a camera reaches the gradient to {key}"


def result(scene: scenes.Scene, **options: Any) -> dict[str, Tensor]:
    """Picture, radii and the gradients to the Gaussians."""
    leaves = {name: getattr(scene, name).clone().requires_grad_() for name in OWN}
    render, _, meta = rasterization(**(scene.arguments() | leaves), **options, packed=False)
    render.square().sum().backward()
    gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return {"render": render.detach(), "radii": meta["radii"]} | gradients


@pytest.mark.parametrize(
    ("name", "place", "bad", "words"),
    [
        ("viewmats", (1, 0, 1), NAN, "viewmats must be finite and at most 1e12, but camera 1"),
        ("viewmats", (1, 2, 3), INF, "viewmats must be finite and at most 1e12, but camera 1"),
        ("viewmats", (0, 3), 0.0, "viewmats must have the last row 0 0 0 1"),
        ("viewmats", (1, slice(0, 3), 0), 0.0, "viewmats must have an inverse, but camera 1"),
        ("viewmats", (1, 0), "negative", "viewmats must not mirror the world"),
        ("Ks", (0, 0, 2), NAN, "Ks must be finite and at most 1e12, but camera 0"),
        ("Ks", (0, 0, 2), 1e13, "Ks must be finite and at most 1e12, but camera 0"),
        ("Ks", (0, 1, 1), -5.0, "Ks must have focal lengths above 0, but camera 0"),
        ("Ks", (1, 0, 1), 3.0, "Ks must have no skew"),
        ("backgrounds", (1, 2), NAN, "backgrounds must be finite"),
    ],
)
@pytest.mark.parametrize("kind", ["colors", "harmonics"])
def test_a_camera_that_is_none_is_refused(name: str, place: Any, bad: Any, words: str, kind: str, backend: str) -> None:
    if backend == "cuda":
        pytest.skip("cameras are not read there")
    scene = scene_of(kind, torch.float32)
    value = getattr(scene, name).clone()
    value[place] = -value[place] if bad == "negative" else bad
    with pytest.raises(SplatlearnError, match=words) as caught:
        rasterization(**scene.arguments() | {name: value})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_a_camera_may_scale_and_shear(backend: str) -> None:
    """viewmats is applied as it stands: an affine map that does not mirror."""
    scene = scene_of("colors", torch.float64)
    scene.viewmats[1, :3, :3] *= 1.3
    scene.viewmats[1, 0, 1] += 0.2
    found, wanted = rasterization(**scene.arguments())[0], reference.rasterization(**scene.arguments())[0]
    assert torch.allclose(found, wanted, atol=1e-10)
    assert found[1].std() > 0.05, "nothing is seen, so this proves nothing"


@pytest.mark.parametrize("opacity", [1.0, 1.5, 1e6, -0.5])
def test_opacities_outside_of_their_range(opacity: float, function: Function) -> None:
    """Above 1 alpha is clamped, as in gsplat; below 0 nothing is drawn."""
    scene = scene_of("colors", torch.float64)
    scene.opacities[SPOILED] = opacity
    found, wanted = drawn(function, scene), drawn(reference.rasterization, scene)
    assert torch.allclose(found["render"], wanted["render"], atol=1e-9)
    assert (opacity < 0) == (not found["opacities"][SPOILED].any())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tile_size": 0}, "tile_size must be an integer"),
        ({"tile_size": "a"}, "tile_size must be an integer"),
        ({"channel_chunk": -1}, "channel_chunk must be an integer"),
        ({"width": 3.5}, "width must be an integer"),
        ({"height": True}, "height must be an integer"),
        ({"width": (1 << 24) + 1}, "width must be an integer"),
        ({"near_plane": 2.0, "far_plane": 1.0}, "far_plane must be a number of at least 2"),
        ({"radius_clip": NAN}, "radius_clip must be a number"),
        ({"eps2d": INF}, "eps2d must be a number"),
        ({"sh_degree": -1}, "sh_degree must be an integer"),
        ({"sh_degree": 1.0}, "sh_degree must be an integer"),
        ({"width": 65536, "height": 65536}, r"65,536 x 65,536 pixels and 3 channels in 400 cameras needs [\d,]+ bytes"),
        ({"width": 1 << 24, "height": 1 << 24}, r"needs [\d,]+ bytes, but only [\d,]+ bytes"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_options_that_are_none_are_refused_before_anything_is_allocated(
    change: dict[str, Any], words: str, backend: str
) -> None:
    scene = scene_of("harmonics", torch.float32).arguments()
    many = {name: scene[name][:1].expand(400, *scene[name].shape[1:]) for name in ("viewmats", "Ks", "backgrounds")}
    with pytest.raises(SplatlearnError, match=words) as caught:
        rasterization(**scene | many | change)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_sizes_are_multiplied_in_64_bits(backend: str) -> None:
    """Tensors that are one element repeated cost nothing; a copy of them would take gigabytes."""
    cloud = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "colors": (3,)}
    given: dict[str, Any] = {name: torch.ones(1, *size).expand(2**31, *size) for name, size in cloud.items()}
    given |= {"viewmats": torch.eye(4)[None], "Ks": torch.eye(3)[None], "width": 16, "height": 16}
    with pytest.raises(SplatlearnError, match=r"make 2,147,483,648 2D Gaussians, more than the 2,147,483,647"):
        rasterization(**given)
    few = {name: value[: 2**16] for name, value in given.items() if name in cloud}
    cameras = {"viewmats": torch.eye(4).expand(2**16, 4, 4), "Ks": torch.eye(3).expand(2**16, 3, 3)}
    with pytest.raises(SplatlearnError, match="make 4,294,967,296 2D Gaussians"):
        rasterization(**given | few | cameras)
