"""Runs the CUDA kernels on small scenes through an emulated library, for sanitizers: `python run_kernels.py LIBRARY`.

A program of its own, for a sanitizer's runtime must be there before Python is. It asserts only that something was drawn
and that gradients came back: whether they are right is the business of the tests of the ops.
"""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from scenes import make

from splatlearn import rasterization
from splatlearn.ops import capacity as capacities
from splatlearn.ops import native
from splatlearn.ops.adam import adam_step
from splatlearn.ops.bin import sorting
from splatlearn.ops.capacity import Capacity
from splatlearn.ops.photometric import photometric_loss
from splatlearn.ops.project_update import PARAMETERS, project_update
from splatlearn.ops.rasterize import deterministic


def step(
    dtype: torch.dtype,
    degree: int | None,
    channels: int,
    packed: bool,
    count: int = 40,
    fixed: bool = False,
    capacity: Capacity | None = None,
) -> None:
    """Forward, loss, backward and update of a scene seen by two cameras whose sides are no multiples of a tile.

    Many Gaussians (`count`) are faint and wide, so that a tile's list is longer than what a block loads at once.
    Cameras that are `fixed` want no gradient. In a `room` the lists may have none, so that nothing is drawn or changed.
    """
    small = torch.finfo(dtype).bits == 64
    looks: dict[str, Any] = {} if count < 100 else {"opacities": (0.02, 0.1), "sizes_px": (3.0, 12.0), "beyond": 0.0}
    scene = make(3, count, 37, 21, cameras=2, degree=degree, channels=channels, **looks).to(dtype).with_grad()
    for camera in (scene.viewmats, scene.Ks):
        camera.requires_grad_(not fixed)
    mode = "RGB+ED" if small else "RGB"
    with capacity or nullcontext():
        render, alphas, _ = rasterization(**scene.arguments(), packed=packed, absgrad=not packed, render_mode=mode)
    image = render[..., :3] + 0 * render.sum(-1, keepdim=True)
    target = torch.full(image.shape, 90, dtype=torch.uint8) if small else torch.full_like(image, 0.3)
    (photometric_loss(image, target) + alphas.mean()).backward()
    lacking = capacity is not None and bool(capacity.overflow)
    assert (alphas.max() > 0.1) != lacking, "nothing was drawn, or something without room"
    for name, tensor in scene.tensors().items():
        if not tensor.requires_grad:
            continue
        assert tensor.grad is not None and tensor.grad.isfinite().all(), f"no finite gradient for {name}"
        assert lacking or tensor.grad.any(), f"no gradient for {name}"
        moments = torch.zeros_like(tensor), torch.zeros_like(tensor)
        skip = None if capacity is None else capacity.overflow
        adam_step(tensor.detach(), tensor.grad, *moments, step=1, lr=1e-3, skip=skip)


def one_pass(dtype: torch.dtype, degree: int) -> None:
    """A picture whose backward ends at the 2D Gaussians, and the update of the 3D ones; 140 are more than a block."""
    scene = make(3, 140, 37, 21, degree=3).to(dtype)
    sh0, shN = (part.contiguous() for part in (scene.colors[:, :1], scene.colors[:, 1:]))
    means, quats, scales, opacities = scene.means, scene.quats, scene.scales.log(), scene.opacities
    image, _, meta = rasterization(
        means, quats, scales, opacities, (sh0, shN), scene.viewmats, scene.Ks, 37, 21,
        sh_degree=degree, raw=True, detached=True,
    )  # fmt: skip
    image.sum().backward()
    parameters = (means, quats, scales, opacities, sh0, shN)
    before = [tensor.clone() for tensor in parameters]
    moments = {name: (torch.zeros_like(t), torch.zeros_like(t)) for name, t in zip(PARAMETERS, parameters, strict=True)}
    project_update(
        meta["detached"], moments, dict.fromkeys(PARAMETERS, 1e-3), step=1, moving=max(8, (degree + 1) ** 2 - 1)
    )
    for name, tensor, old in zip(PARAMETERS, parameters, before, strict=True):
        assert tensor.isfinite().all() and (degree == 0 and name == "shN" or (tensor != old).any()), f"{name} stays"


def main() -> None:
    torch.set_num_threads(1)
    with native.emulated(Path(sys.argv[1])):
        step(torch.float32, degree=3, channels=3, packed=True, count=400)
        step(torch.float64, degree=None, channels=3, packed=False)
        step(torch.float32, degree=None, channels=5, packed=False)
        step(torch.float32, degree=2, channels=3, packed=True, fixed=True)
        step(torch.float32, degree=0, channels=3, packed=True)
        with deterministic(False):
            step(torch.float32, degree=1, channels=3, packed=False, count=400)
            step(torch.float64, degree=None, channels=7, packed=True)
        one_pass(torch.float32, degree=3)
        one_pass(torch.float64, degree=0)
        capacity = Capacity("cpu")
        for way in ("all", "tile"):
            for left in (capacities.ListSize(80, 20), capacities.ListSize(8, 10**4)):
                capacities._capacities[capacity.overflow.device] = left
                with sorting(way):
                    step(torch.float32, degree=1, channels=3, packed=False, capacity=capacity)
                    assert not capacity.resolve(), "there was room"
                    step(torch.float32, degree=1, channels=3, packed=False, capacity=capacity)
                    assert capacity.resolve(), "there was no room"
        with sorting("all"):
            step(torch.float64, degree=0, channels=3, packed=True)
    print("all kernels ran")


main()
