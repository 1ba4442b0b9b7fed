"""Prints a digest of each result of the native stages, for tests that compare instruction sets."""

import hashlib
import itertools
import sys

import torch

from splatlearn.ops.adam import Group, adam_steps
from splatlearn.ops.photometric import photometric_loss
from splatlearn.ops.project_update import project_update
from splatlearn.ops.rasterization import rasterization

WIDTH, HEIGHT = 67, 45  # no multiples of a tile


def say(name: str, *tensors: torch.Tensor) -> None:
    bits = b"".join(tensor.detach().contiguous().numpy().tobytes() for tensor in tensors)
    print(name, hashlib.sha256(bits).hexdigest()[:16])


def uniform(rng: torch.Generator, dtype: torch.dtype, low: float, high: float, *shape: int) -> torch.Tensor:
    return (low + (high - low) * torch.rand(shape, generator=rng, dtype=torch.float64)).to(dtype).requires_grad_()


def step(name: str, dtype: torch.dtype, channels: int, camera_model: str, absgrad: bool, raw: bool, n: int) -> None:
    """Forward, loss, backward and Adam of `n` Gaussians in two cameras."""
    rng = torch.Generator().manual_seed(n + channels)
    leaves = {
        "means": uniform(rng, dtype, -1.2, 1.2, n, 3),
        "quats": uniform(rng, dtype, -1, 1, n, 4),
        "scales": uniform(rng, dtype, *((-4.0, -1.5) if raw else (0.01, 0.2)), n, 3),
        "opacities": uniform(rng, dtype, *((-3, 5) if raw else (0.01, 1.0)), n),
        "colors": uniform(rng, dtype, -0.5, 1, n, *((16, 3) if channels == 3 else (channels,))),
    }
    pose = torch.eye(4, dtype=dtype).repeat(2, 1, 1)
    pose[:, 2, 3] = torch.tensor([3.0, 2.5])
    focal = 60.0 if camera_model == "pinhole" else 20.0
    K = torch.tensor([[focal, 0, 33], [0, focal, 22], [0, 0, 1]], dtype=dtype).repeat(2, 1, 1)
    leaves |= {"viewmats": pose.requires_grad_(), "Ks": K.requires_grad_()}
    background = uniform(rng, dtype, 0, 1, 2, channels)
    image, alphas, meta = rasterization(
        *leaves.values(), WIDTH, HEIGHT, sh_degree=3 if channels == 3 else None, backgrounds=background, raw=raw,
        camera_model=camera_model, absgrad=absgrad, packed=False,
        rasterize_mode="antialiased" if absgrad else "classic",
    )  # fmt: skip
    say(f"{name} image", image, alphas, *(value for value in meta.values() if isinstance(value, torch.Tensor)))
    loss = (image * uniform(rng, dtype, -1, 1, *image.shape).detach()).sum() / 1e3 + alphas.square().mean()
    if channels == 3:
        photo = torch.randint(0, 256, image.shape, generator=rng, dtype=torch.uint8)
        photometric = photometric_loss(image, photo)
        say(f"{name} loss", photometric)
        loss = photometric + alphas.square().mean()
    loss.backward()
    for leaf, value in leaves.items():
        assert value.grad is not None and value.grad.isfinite().all() and value.grad.any(), leaf
        say(f"{name} gradient of {leaf}", value.grad)
    say(f"{name} gradient of backgrounds", background.grad)
    groups = [
        Group(v.detach(), v.grad.contiguous(), torch.zeros_like(v), torch.zeros_like(v), 1e-3) for v in leaves.values()
    ]
    for index in range(3):
        adam_steps(groups, step=index + 1)
    say(f"{name} Adam", *leaves.values(), *(tensor for group in groups for tensor in group[2:4]))


def one_pass(dtype: torch.dtype) -> None:
    """Backward and update in one pass."""
    rng = torch.Generator().manual_seed(1)
    sizes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3), "shN": (15, 3)}
    p = {name: uniform(rng, dtype, -1, 1, 333, *size).detach() for name, size in sizes.items()}
    p["scales"] -= 3.0
    pose, K = torch.eye(4, dtype=dtype)[None], torch.tensor([[[60.0, 0, 33], [0, 60.0, 22], [0, 0, 1]]], dtype=dtype)
    pose[:, 2, 3] = 3.0
    image, _, meta = rasterization(
        p["means"], p["quats"], p["scales"], p["opacities"], (p["sh0"], p["shN"]), pose, K, WIDTH, HEIGHT,
        sh_degree=2, raw=True, detached=True, packed=False,
    )  # fmt: skip
    image.square().mean().backward()
    moments = {name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in p.items()}
    project_update(meta["detached"], moments, dict.fromkeys(p, 1e-3), step=7)
    say(f"one pass {dtype}", *p.values(), *itertools.chain(*moments.values()))


def main() -> None:
    for dtype in (torch.float32, torch.float64):
        for channels, camera_model, absgrad, raw in (
            (3, "pinhole", False, True), (3, "ortho", True, False), (1, "pinhole", False, False),
            (5, "pinhole", True, False), (4, "ortho", False, False),
        ):  # fmt: skip
            step(f"{dtype} {channels} {camera_model}", dtype, channels, camera_model, absgrad, raw, 301)
        one_pass(dtype)
    step("many", torch.float32, 3, "pinhole", False, True, 2000)


if __name__ == "__main__":
    sys.exit(main())
