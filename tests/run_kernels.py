"""Runs the CUDA kernels on small scenes through an emulated library, for sanitizers: `python run_kernels.py LIBRARY`.

A program of its own, for a sanitizer's runtime must be there before Python is. It asserts only that something was drawn
and that gradients came back: whether they are right is the business of the tests of the ops.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from scenes import make

from splatlearn import rasterization
from splatlearn.ops import native
from splatlearn.ops.adam import adam_step
from splatlearn.ops.photometric import photometric_loss


def step(
    dtype: torch.dtype, degree: int | None, channels: int, packed: bool, count: int = 40, fixed: bool = False
) -> None:
    """Forward, loss, backward and update of a scene seen by two cameras whose sides are no multiples of a tile.

    Many Gaussians (`count`) are faint and wide, so that a tile's list is longer than what a block loads at once.
    Cameras that are `fixed` want no gradient.
    """
    small = torch.finfo(dtype).bits == 64
    looks: dict[str, Any] = {} if count < 100 else {"opacities": (0.02, 0.1), "sizes_px": (3.0, 12.0), "beyond": 0.0}
    scene = make(3, count, 37, 21, cameras=2, degree=degree, channels=channels, **looks).to(dtype).leaves()
    for camera in (scene.viewmats, scene.Ks):
        camera.requires_grad_(not fixed)
    render, alphas, _ = rasterization(
        **scene.arguments(), packed=packed, absgrad=not packed, render_mode="RGB+ED" if small else "RGB"
    )
    image = render[..., :3] + 0 * render.sum(-1, keepdim=True)
    target = torch.full(image.shape, 90, dtype=torch.uint8) if small else torch.full_like(image, 0.3)
    (photometric_loss(image, target) + alphas.mean()).backward()
    assert alphas.max() > 0.1, "nothing was drawn"
    for name, tensor in scene.tensors().items():
        if not tensor.requires_grad:
            continue
        assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.any(), f"no gradient for {name}"
        moments = torch.zeros_like(tensor), torch.zeros_like(tensor)
        adam_step(tensor.detach(), tensor.grad, *moments, step=1, lr=1e-3)


def main() -> None:
    torch.set_num_threads(1)
    with native.emulated(Path(sys.argv[1])):
        step(torch.float32, degree=3, channels=3, packed=True, count=400)
        step(torch.float64, degree=None, channels=3, packed=False)
        step(torch.float32, degree=None, channels=5, packed=False)
        step(torch.float32, degree=2, channels=3, packed=True, fixed=True)
        step(torch.float32, degree=0, channels=3, packed=True)
    print("all kernels ran")


main()
