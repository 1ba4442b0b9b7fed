"""Fits a picture with 2D Gaussians: the rasterizer without a camera to speak of.

python examples/fit_image.py [PICTURE] [STEPS] writes fitted.png: the picture, and what 2,000 Gaussians made of it.
"""

import math
import sys

import numpy as np
import torch
from PIL import Image

from splatlearn import photometric_loss, rasterization
from splatlearn.show.pictures import save_png, side_by_side

WIDEST = 256


def picture(path: str | None) -> torch.Tensor:
    """[H, W, 3] float in 0..1: a file, or rings of colour where none is given."""
    if path:
        with Image.open(path) as opened:
            opened.thumbnail((WIDEST, WIDEST))
            return torch.from_numpy(np.asarray(opened.convert("RGB"), np.float32) / 255)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 128), indexing="ij")
    radius = (x * x + y * y).sqrt()
    return torch.stack([0.5 + 0.5 * torch.cos(9 * radius + phase) for phase in (0.0, 2.0, 4.0)], dim=-1)


def fit(target: torch.Tensor, steps: int, count: int = 2000) -> tuple[torch.Tensor, list[float]]:
    """The fitted picture and the loss of each step. Everything lies in the plane z = 1 of a camera at the origin."""
    height, width, _ = target.shape
    torch.manual_seed(0)
    focal = max(height, width) / 2  # the picture's longer side spans -1..1 at depth 1
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])[None]
    places = (torch.rand(count, 2) * 2 - 1) * torch.tensor([width, height]) / max(height, width)
    means = torch.cat([places, torch.ones(count, 1)], dim=1).requires_grad_()
    scales = torch.full((count, 3), math.log(0.03)).requires_grad_()
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(count, 1).requires_grad_()
    opacities, colors = torch.zeros(count, requires_grad=True), torch.rand(count, 3, requires_grad=True)
    rates = {means: 2e-3, scales: 2e-2, quats: 1e-2, opacities: 5e-2, colors: 2e-2}
    optimizer = torch.optim.Adam([{"params": [p], "lr": lr} for p, lr in rates.items()])
    losses = []
    for _ in range(steps):
        render, _, _ = rasterization(
            means, quats, scales.exp(), opacities.sigmoid(), colors, torch.eye(4)[None], K, width, height
        )
        loss = photometric_loss(render[0], target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return render[0].detach(), losses


if __name__ == "__main__":
    wanted = picture(sys.argv[1] if len(sys.argv) > 1 else None)
    fitted, losses = fit(wanted, int(sys.argv[2]) if len(sys.argv) > 2 else 500)
    save_png("fitted.png", side_by_side(wanted, fitted.clamp(0, 1), captions=("picture", "Gaussians", "error x4")))
    print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}; wrote fitted.png")
