"""What a render mode costs: one entry of `RENDER_MODES`, here the expected squared depth beside the colours."""

import scenes
import torch

from splatlearn import rasterization
from splatlearn.ops import reference, render_modes
from splatlearn.ops.project import Projection
from splatlearn.ops.render_modes import RenderMode


def squared_depth(rows: Projection) -> torch.Tensor:
    return rows.depths.square().unsqueeze(-1)


def expected(sums: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
    return sums / alphas.clamp(min=render_modes.SMALLEST_ALPHA)


def oracle(scene: scenes.Scene) -> torch.Tensor:
    """The same by the reference's stages, without a render mode."""
    sh0, shN = scene.sh()
    projected = reference.project(
        scene.means, scene.quats, scene.scales, scene.opacities, sh0, shN, scene.viewmats, scene.Ks,
        scene.width, scene.height, sh_degree=scene.sh_degree,
    )  # fmt: skip
    assert projected.colors is not None and scene.backgrounds is not None
    channels = torch.cat([projected.colors, projected.depths[..., None] ** 2], dim=-1)
    backgrounds = torch.cat([scene.backgrounds, torch.zeros_like(scene.backgrounds[:, :1])], dim=-1)
    means2d, depths, conics, opacities = projected[:4]
    image, alphas = reference.rasterize(
        means2d, conics, opacities, channels, backgrounds, depths, scene.width, scene.height
    )
    return torch.cat([image[..., :3], expected(image[..., 3:], alphas)], dim=-1)


def test_a_new_render_mode_is_one_entry(backend: str, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setitem(
        render_modes.RENDER_MODES, "RGB+E2", RenderMode(colors=True, extra=squared_depth, finish=expected)
    )
    ours, theirs = scenes.case("degree-2").scene.with_grad(), scenes.case("degree-2").scene.with_grad()
    image, _, _ = rasterization(**ours.arguments(), render_mode="RGB+E2")
    wanted = oracle(theirs)
    assert (image[..., 3] > 0.1).any(), "nothing has a depth, so that this proves nothing"
    torch.testing.assert_close(image, wanted, rtol=1e-9, atol=1e-9)
    cotangent = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(0), dtype=wanted.dtype)
    (image * cotangent).sum().backward()
    (wanted * cotangent).sum().backward()
    for name, tensor in ours.tensors().items():
        other = theirs.tensors()[name].grad
        assert tensor.grad is not None and tensor.grad.abs().sum() > 0, f"{name} has no gradient"
        torch.testing.assert_close(tensor.grad, other, rtol=1e-7, atol=1e-7, msg=f"the gradient of {name} differs")
