"""A few small training steps through every stage, for sanitizers: python scripts/small_step.py --device cuda"""

import argparse

import torch

from splatlearn.ops.adam import adam_step
from splatlearn.ops.photometric import photometric_loss
from splatlearn.ops.rasterization import rasterization


def step(device: torch.device, degree: int, mode: str, absgrad: bool, packed: bool, dtype: torch.dtype) -> float:
    """One step of 300 Gaussians in two cameras of 67 x 45 pixels; the loss."""
    rng = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        value = low + (high - low) * torch.rand(shape, generator=rng, dtype=torch.float64)
        return value.to(device, dtype).requires_grad_()

    n, width, height = 300, 67, 45
    means, quats, scales = uniform(-1.2, 1.2, n, 3), uniform(-1, 1, n, 4), uniform(0.01, 0.15, n, 3)
    opacities, colors = uniform(0.1, 0.99, n), uniform(-0.5, 0.5, n, (degree + 1) ** 2, 3)
    pose = torch.eye(4, dtype=dtype).repeat(2, 1, 1)
    pose[:, 2, 3] = torch.tensor([3.0, 3.5])
    K = torch.tensor([[60.0, 0, 33], [0, 60.0, 22], [0, 0, 1]], dtype=dtype).repeat(2, 1, 1)
    backgrounds = uniform(0, 1, 2, 3)
    cameras = [pose.to(device).requires_grad_(), K.to(device).requires_grad_()]
    leaves = [means, quats, scales, opacities, colors, backgrounds, *cameras]
    image, alphas, _ = rasterization(
        *leaves[:5], *leaves[6:], width, height, sh_degree=degree, backgrounds=backgrounds,
        render_mode=mode, absgrad=absgrad, packed=packed, rasterize_mode="antialiased" if absgrad else "classic",
    )  # fmt: skip
    photo = torch.randint(0, 256, (2, height, width, 3), generator=rng, dtype=torch.uint8).to(device)
    loss = photometric_loss(image[..., :3], photo) + alphas.mean() + image[..., 3:].sum() / 1e3
    loss.backward()  # type: ignore[no-untyped-call]
    for leaf in leaves:
        assert leaf.grad is not None and leaf.grad.isfinite().all() and leaf.grad.any(), "a tensor got no gradient"
        moments = torch.zeros_like(leaf), torch.zeros_like(leaf)
        adam_step(leaf.detach(), leaf.grad.contiguous(), *moments, step=1, lr=1e-3)
    return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    for degree in range(5):
        mode = "RGB+ED" if degree % 2 else "RGB"
        loss = step(device, degree, mode, degree > 2, degree % 2 == 0, torch.float64 if degree == 1 else torch.float32)
        print(f"degree {degree}, {mode}: loss {loss:.6f}")


if __name__ == "__main__":
    main()
