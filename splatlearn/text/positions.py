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
    """[count, size/2, 2] float32: cosine and sine of p / 10000^(2j/D), by which pair j of a head's values is turned."""
    places = torch.arange(count, dtype=torch.float64)[:, None]
    pairs = torch.arange(0, size, 2, dtype=torch.float64)
    angles = places * torch.exp(pairs * (-math.log(10000.0) / size))
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float()


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """``x`` [B, T, N, H, D] with the values 2j and 2j + 1 of each head turned by ``rotation`` [T, D/2, 2].

    The dot product of a query and a key, both so turned, depends on the distance of their places alone. As complex
    numbers, pairs are turned by one product; PyTorch's compiler knows none, and is told the same in real ones.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    pairs, rotation = x.to(exact).unflatten(-1, (-1, 2)), rotation.to(exact)[:, None, None]
    if torch.compiler.is_compiling():
        (even, odd), (cosine, sine) = pairs.unbind(-1), rotation.unbind(-1)
        turned = torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotation))
    return turned.flatten(-2).to(x.dtype)
