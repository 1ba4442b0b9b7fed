"""Learns channels that no photograph has: which object a pixel shows, from masks of six views. Argument: steps."""

import math
import sys

import torch

from splatlearn import rasterization

SIZE, LABELS = 64, 4


def scene(count: int = 300) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Four blobs of Gaussians, and the label of each Gaussian."""
    torch.manual_seed(0)
    angle = (labels := torch.arange(count) % LABELS) * (2 * math.pi / LABELS)
    centers = torch.stack([torch.cos(angle), 0.5 * torch.sin(2 * angle + 0.7), torch.sin(angle)], dim=1)
    gaussians = {
        "means": centers + 0.25 * torch.randn(count, 3),
        "quats": torch.randn(count, 4),
        "scales": torch.full((count, 3), 0.1),
        "opacities": torch.full((count,), 0.9),
    }
    return gaussians, labels


def cameras(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A ring of cameras [count, 4, 4] that look at the middle from 4 away, and their intrinsics."""
    angle = torch.arange(count) * (2 * math.pi / count)
    viewmats = torch.eye(4).repeat(count, 1, 1)
    viewmats[:, 0, 0] = viewmats[:, 2, 2] = torch.cos(angle)
    viewmats[:, 0, 2], viewmats[:, 2, 0], viewmats[:, 2, 3] = torch.sin(angle), -torch.sin(angle), 4
    K = torch.tensor([[SIZE * 1.2, 0, SIZE / 2], [0, SIZE * 1.2, SIZE / 2], [0, 0, 1]])
    return viewmats, K.repeat(count, 1, 1)


def learn(steps: int) -> tuple[list[float], float]:
    """The loss of each step, and the share of pixels of two unseen views whose label is right."""
    gaussians, labels = scene()
    viewmats, Ks = cameras(8)
    size = {"width": SIZE, "height": SIZE}
    truth, alpha, _ = rasterization(**gaussians, colors=torch.eye(LABELS)[labels], viewmats=viewmats, Ks=Ks, **size)
    masks, seen = truth.argmax(dim=-1), alpha[..., 0] > 0.5  # as annotators would draw them
    features = torch.zeros(len(labels), LABELS, requires_grad=True)
    optimizer = torch.optim.Adam([features], lr=0.1)
    losses = []
    for _ in range(steps):
        drawn, _, _ = rasterization(**gaussians, colors=features, viewmats=viewmats[:6], Ks=Ks[:6], **size)
        loss = torch.nn.functional.cross_entropy(drawn[seen[:6]], masks[:6][seen[:6]])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    drawn, _, _ = rasterization(**gaussians, colors=features, viewmats=viewmats[6:], Ks=Ks[6:], **size)
    return losses, float((drawn.argmax(dim=-1) == masks[6:])[seen[6:]].float().mean())


if __name__ == "__main__":
    losses, right = learn(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}; {right:.1%} of the pixels of unseen views are labelled right")
