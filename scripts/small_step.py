"""A few small training steps through every kernel, for sanitizers: python scripts/small_step.py --device cuda

Without a card the same kernels run through the emulator: `--emulated LIBRARY`, which `python setup.py build_emulator`
makes.
"""

import argparse
import contextlib
from pathlib import Path

import torch

from splatlearn.ops import capacity as capacities
from splatlearn.ops import native
from splatlearn.ops.adam import Group, adam_steps
from splatlearn.ops.capacity import Capacity
from splatlearn.ops.photometric import photometric_loss
from splatlearn.ops.project_update import project_update
from splatlearn.ops.rasterization import rasterization
from splatlearn.ops.rasterize import deterministic

WIDTH, HEIGHT = 67, 45  # no multiples of a tile


def step(
    device: torch.device,
    degree: int,
    mode: str,
    absgrad: bool,
    packed: bool,
    dtype: torch.dtype,
    capacity: Capacity | None = None,
) -> float:
    """One step of 300 Gaussians in two cameras of 67 x 45 pixels; the loss. In a `room` scales are raw."""
    rng = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        value = low + (high - low) * torch.rand(shape, generator=rng, dtype=torch.float64)
        return value.to(device, dtype).requires_grad_()

    n, raw = 300, capacity is not None
    means, quats, scales = uniform(-1.2, 1.2, n, 3), uniform(-1, 1, n, 4), uniform(0.01, 0.15, n, 3)
    opacities, colors = uniform(0.1, 0.99, n), uniform(-0.5, 0.5, n, (degree + 1) ** 2, 3)
    if raw:
        scales = scales.detach().log().requires_grad_()
    pose = torch.eye(4, dtype=dtype).repeat(2, 1, 1)
    pose[:, 2, 3] = torch.tensor([3.0, 3.5])
    K = torch.tensor([[60.0, 0, 33], [0, 60.0, 22], [0, 0, 1]], dtype=dtype).repeat(2, 1, 1)
    backgrounds = uniform(0, 1, 2, 3)
    cameras = [pose.to(device).requires_grad_(), K.to(device).requires_grad_()]
    detached = [means, quats, scales, opacities, colors, backgrounds, *cameras]
    with capacity or contextlib.nullcontext():
        image, alphas, meta = rasterization(
            *detached[:5], *detached[6:], WIDTH, HEIGHT, sh_degree=degree, backgrounds=backgrounds, raw=raw,
            render_mode=mode, absgrad=absgrad, packed=packed, rasterize_mode="antialiased" if absgrad else "classic",
        )  # fmt: skip
    photo = torch.randint(0, 256, (2, HEIGHT, WIDTH, 3), generator=rng, dtype=torch.uint8).to(device)
    loss = photometric_loss(image[..., :3], photo) + alphas.mean() + image[..., 3:].sum() / 1e3
    loss.backward()  # type: ignore[no-untyped-call]
    if capacity is not None and not capacity.resolve():
        return step(device, degree, mode, absgrad, packed, dtype, capacity)
    groups = []
    for leaf in detached:
        assert leaf.grad is not None and leaf.grad.isfinite().all() and leaf.grad.any(), "a tensor got no gradient"
        groups.append(
            Group(leaf.detach(), leaf.grad.contiguous(), torch.zeros_like(leaf), torch.zeros_like(leaf), 1e-3)
        )
    skip = None if capacity is None else capacity.overflow
    visible = None if packed else (meta["radii"] > 0).all(dim=-1).any(dim=0)
    adam_steps(groups[:5], step=1, visible=visible, skip=skip)
    adam_steps(groups[5:], step=1, skip=skip)
    return loss.item()


def one_pass(device: torch.device, degree: int) -> float:
    """A step of 300 Gaussians whose backward ends at the 2D ones, from which they are updated; the loss."""
    rng = torch.Generator().manual_seed(1)
    sizes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3), "shN": (15, 3)}
    p = {name: (torch.rand(300, *size, generator=rng) * 2 - 1).to(device) for name, size in sizes.items()}
    p["scales"] -= 3.0
    pose, K = torch.eye(4)[None], torch.tensor([[[60.0, 0, 33], [0, 60.0, 22], [0, 0, 1]]])
    pose[:, 2, 3] = 3.0
    image, _, meta = rasterization(
        p["means"], p["quats"], p["scales"], p["opacities"], (p["sh0"], p["shN"]), pose.to(device), K.to(device),
        WIDTH, HEIGHT, sh_degree=degree, raw=True, detached=True, packed=False,
    )  # fmt: skip
    loss = image.square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    moments = {name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in p.items()}
    project_update(meta["detached"], moments, dict.fromkeys(p, 1e-3), step=1)
    assert all(first.any() or (name == "shN" and degree == 0) for name, (first, _) in moments.items()), "nothing moves"
    return loss.item()


def every_step(device: torch.device) -> None:
    """All degrees, render modes, both precisions; lists in a room, once too small; backward with atomics; one pass."""
    for degree in range(5):
        mode = "RGB+ED" if degree % 2 else "RGB"
        loss = step(device, degree, mode, degree > 2, degree % 2 == 0, torch.float64 if degree == 1 else torch.float32)
        print(f"degree {degree}, {mode}: loss {loss:.6f}")
    for wanted in (True, False):
        capacities._capacities.update(
            dict.fromkeys(capacities._capacities, capacities.ListSize(10, 10))
        )  # too little at first
        with deterministic(wanted):
            loss = step(device, 3, "RGB", False, False, torch.float32, Capacity(device))
        print(f"raw, in a room, {'rows of gradients' if wanted else 'atomics'}: loss {loss:.6f}")
    for degree in (0, 3):
        print(f"backward and update in one pass, degree {degree}: loss {one_pass(device, degree):.6f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--emulated", type=Path, help="a library of the kernels for the emulator")
    arguments = parser.parse_args()
    with native.emulated(arguments.emulated) if arguments.emulated else contextlib.nullcontext():
        every_step(torch.device(arguments.device))


if __name__ == "__main__":
    main()
