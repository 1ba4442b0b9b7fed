"""Position encodings: sinusoids added to token embeddings, and rotary embeddings of queries and keys.

T tokens, W the width, D values per head. Sinusoids are those of "Attention Is All You Need" (2017, section 3.5), rotary
embeddings those of "RoFormer" (2021, eq. 34). Learned position embeddings are a parameter of ``blocks.Embedding``.
"""

import math

import torch
from torch import Tensor


def sinusoids(count: int, width: int) -> Tensor:
    """Sinusoidal position encodings.

    Returns:
        [count, width] float32: sin(p / 10000^(2i/W)) in column 2i, cos(p / 10000^(2i/W)) in column 2i + 1.
    """
    angles = _angles(count, width)
    table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return table[:, :width].float()


def rotations(count: int, size: int) -> Tensor:
    """Rotary position embeddings of a head with ``size`` = D values.

    Returns:
        [count, D/2, 2] float32: cosine and sine of p / 10000^(2j/D), the angle by which pair j of a head is rotated.
    """
    angles = _angles(count, size)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float()


def _angles(count: int, size: int) -> Tensor:
    """[count, ceil(size/2)] float64: p / 10000^(2i/size) for position p and pair i."""
    positions = torch.arange(count, dtype=torch.float64)[:, None]
    pairs = torch.arange(0, size, 2, dtype=torch.float64)
    return positions * torch.exp(pairs * (-math.log(10000.0) / size))


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate the values 2j and 2j + 1 of each head of ``x`` [B, T, N, H, D] by ``rotation`` [T, D/2, 2].

    The dot product of a rotated query and a rotated key depends only on the distance between their positions. The
    rotation is one complex product; PyTorch's compiler has no complex numbers and gets the same product in real ones.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    pairs, rotation = x.to(exact).unflatten(-1, (-1, 2)), rotation.to(exact)[:, None, None]
    if torch.compiler.is_compiling():
        (even, odd), (cosine, sine) = pairs.unbind(-1), rotation.unbind(-1)
        rotated = torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1)
    else:
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotation))
    return rotated.flatten(-2).to(x.dtype)
