"""Where a token stands, which attention cannot see by itself: sinusoids, learned vectors, or rotations.

T tokens, W the width, D values a head. Sinusoids are those of "Attention Is All You Need" (2017, section 3.5),
rotations those of "RoFormer" (2021, eq. 34).
"""

import math

import torch
from torch import Tensor


def sinusoids(count: int, width: int) -> Tensor:
    """[count, width] float32: sin(p / 10000^(2i/W)) in column 2i, and the cosine of the same in column 2i + 1."""
    places = torch.arange(count, dtype=torch.float64)[:, None]
    pairs = torch.arange(0, width, 2, dtype=torch.float64)
    angles = places * torch.exp(pairs * (-math.log(10000.0) / width))
    table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return table[:, :width].float()


def rotations(count: int, size: int) -> Tensor:
    """[count, size/2] complex64 of modulus 1: exp(i p / 10000^(2j/D)), by which pair j of a head's values is turned."""
    places = torch.arange(count, dtype=torch.float64)[:, None]
    pairs = torch.arange(0, size, 2, dtype=torch.float64)
    angles = places * torch.exp(pairs * (-math.log(10000.0) / size))
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """``x`` [B, T, N, H, D] with the values 2j and 2j + 1 of each head turned by ``rotation`` [T, D/2].

    The dot product of a query and a key, both so turned, depends on the distance of their places alone.
    """
    pairs = x if x.dtype in (torch.float32, torch.float64) else x.float()
    turned = torch.view_as_complex(pairs.unflatten(-1, (-1, 2))) * rotation[:, None, None, :]
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)
