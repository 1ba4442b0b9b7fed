"""Scales as logarithms and opacities as logits: activated in stage project, they are what PyTorch makes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import scenes
import torch
from torch import Tensor

from splatlearn.ops import reference
from splatlearn.ops.project import project
from splatlearn.ops.rasterization import rasterization

pytestmark = pytest.mark.usefixtures("backend")
DTYPES = {torch.float64: (1e-10, 1e-8), torch.float32: (1e-5, 1e-4)}  # picture, gradients


def raw(scene: scenes.Scene) -> scenes.Scene:
    """The scene as a model holds it; float32 numbers, as the scene's."""
    opacities = torch.logit(scene.opacities.clamp(max=0.999))
    return replace(scene, scales=scene.scales.log().float().double(), opacities=opacities.float().double())


def drawn(rasterization: Any, scene: scenes.Scene, **options: Any) -> dict[str, Tensor]:
    """Picture and gradients to all tensors."""
    inputs = scene.with_grad()
    render, alphas, _ = rasterization(**inputs.arguments(), **options)
    (render.square().sum() + alphas.sum()).backward()
    gradients = {name: tensor.grad for name, tensor in inputs.tensors().items() if tensor.grad is not None}
    return {"render": render.detach(), "alphas": alphas.detach()} | gradients


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["67x67", "degree-3", "five-cameras", "antialiased", "needles", "none"])
def test_activations_of_the_stage_are_those_of_the_oracle(name: str, dtype: torch.dtype) -> None:
    case = scenes.case(name)
    given = raw(case.scene)
    wanted = drawn(reference.rasterization, given, **case.options, raw=True)
    got = drawn(rasterization, given.to(dtype), **case.options, raw=True)
    assert wanted["alphas"].any() == case.shows
    picture, gradient = DTYPES[dtype]
    for key, value in wanted.items():
        if key in ("render", "alphas"):
            assert not value.numel() or (got[key] - value).abs().max() <= picture, f"{key} differ from the oracle"
        else:
            assert (got[key] - value).norm() <= gradient * value.norm(), f"the gradient to {key} differs"
    if case.shows:
        assert wanted["scales"].any() and wanted["opacities"].any(), "no gradient, so this proves nothing"


def test_whole_range_of_the_exponential() -> None:
    """Scales from e^-40 to e^40 and opacities from the threshold to 1, to a few units in the last place."""
    count = 4001
    logs, logits = torch.linspace(-40, 40, count), torch.linspace(-5.5, 40, count)
    means = torch.tensor([0.0, 0.0, 1.0]).repeat(count, 1)
    quats = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1)
    K = torch.tensor([[[1.0, 0, 8], [0, 1, 8], [0, 0, 1]]])
    scales = logs[:, None].expand(-1, 3)
    got = project(means, quats, scales, logits, None, None, torch.eye(4)[None], K, 16, 16, eps2d=1e-30, raw=True)
    seen = (got.radii[0] > 0).all(-1)
    assert seen.sum() > count // 2, "too few are seen to prove anything"
    size = got.conics[0, seen, 0].double().rsqrt()
    assert (size / logs[seen].double().exp() - 1).abs().max() < 5e-7, "e^x is wrong"
    opacity = logits.double().sigmoid()
    assert (got.opacities[0, seen] / opacity[seen] - 1).abs().max() < 5e-7, "1 / (1 + e^-x) is wrong"
    assert seen[logs.abs() < 15].all(), "what can be seen is culled"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30, 89.0])
def test_what_is_no_scale_is_culled_and_gets_no_gradient(bad: float, dtype: torch.dtype) -> None:
    scene = raw(scenes.make(6, 9, 17, 13, degree=1, beyond=0.0)).to(dtype)
    scene.scales[0, 1] = bad if dtype == torch.float32 else bad * 10
    scene.opacities[1] = -bad
    inputs = scene.with_grad()
    render, _, meta = rasterization(**inputs.arguments(), raw=True, packed=False)
    assert render.isfinite().all() and render.std() > 0, "a culled Gaussian reaches the picture"
    assert (meta["radii"] == 0).all(-1)[0].tolist()[:3] == [True, True, False], "wrong Gaussians are culled"
    render.sum().backward()
    for key, leaf in inputs.tensors().items():
        assert leaf.grad is None or leaf.grad.isfinite().all(), f"a culled Gaussian poisons the gradient to {key}"
    assert inputs.scales.grad is not None and inputs.opacities.grad is not None
    for gradient in (inputs.scales.grad, inputs.opacities.grad):
        assert not gradient[:2].any() and gradient[2:].any(), "gradients are not those of what is seen"
