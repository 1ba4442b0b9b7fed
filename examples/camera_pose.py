"""Finds where a photograph was taken, and its focal length: gradients flow to cameras, too. Argument: the steps."""

import math
import sys

import torch

from splatlearn import photometric_loss, rasterization

WIDTH, HEIGHT, FOCAL = 96, 72, 90.0


def scene(count: int = 400) -> dict[str, torch.Tensor]:
    """A cloud of Gaussians about the origin."""
    random = torch.Generator().manual_seed(0)
    return {
        "means": torch.randn(count, 3, generator=random) * 0.7,
        "quats": torch.randn(count, 4, generator=random),
        "scales": 0.05 + 0.1 * torch.rand(count, 3, generator=random),
        "opacities": torch.full((count,), 0.8),
        "colors": torch.rand(count, 3, generator=random),
    }


def pose(twist: torch.Tensor) -> torch.Tensor:
    """World to camera [4, 4]: `twist` [6] turns (radians) and moves a camera that stands 4 before the origin."""
    a, b, c = twist[:3]
    skew = torch.stack([0 * a, -c, b, c, 0 * a, -a, -b, a, 0 * a]).reshape(3, 3)
    move = twist[3:] + torch.tensor([0, 0, 4])
    return torch.cat([torch.cat([skew.matrix_exp(), move[:, None]], dim=1), torch.tensor([[0, 0, 0, 1.0]])])


def photograph(gaussians: dict[str, torch.Tensor], twist: torch.Tensor, focal: torch.Tensor) -> torch.Tensor:
    """The picture [H, W, 3] from there."""
    K = torch.tensor([[0, 0, WIDTH / 2], [0, 0, HEIGHT / 2], [0, 0, 1]]) + focal * torch.diag(torch.tensor([1, 1, 0]))
    return rasterization(**gaussians, viewmats=pose(twist)[None], Ks=K[None], width=WIDTH, height=HEIGHT)[0][0]


def find(steps: int) -> tuple[list[float], list[float], float]:
    """Errors of the turn (degrees) and of the place at each step, and the focal length found."""
    gaussians = scene()
    wanted = photograph(gaussians, torch.zeros(6), torch.tensor(FOCAL))
    twist = torch.tensor([0.06, -0.07, 0.05, 0.2, -0.15, 0.15], requires_grad=True)
    focal = torch.tensor(FOCAL * 1.08, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [twist], "lr": 8e-3}, {"params": [focal], "lr": 1.0}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    turns, places = [], []  # degrees and lengths
    for _ in range(steps):
        photometric_loss(photograph(gaussians, twist, focal), wanted).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        turns.append(math.degrees(twist.detach()[:3].norm()))
        places.append(float(twist.detach()[3:].norm()))
    return turns, places, focal.item()


if __name__ == "__main__":
    turns, places, focal = find(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
    print(f"turn {turns[0]:.2f} -> {turns[-1]:.3f} degrees, place {places[-1]:.4f} off, focal length {focal:.2f}")
