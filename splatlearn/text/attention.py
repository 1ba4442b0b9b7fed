"""Multi-head attention: each token asks all tokens that it may see, and takes their values in the share of the answers.

Shapes: B sequences, T tokens that ask, S tokens that answer, H heads, D values a head, W = H · D the width. For a head

    attention(q, k, v) = softmax(q kᵀ / √D) v          q [T, D], k and v [S, D]

where scores of tokens that must not be seen are -∞ before the softmax ("Attention Is All You Need", 2017, eq. 1).
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from splatlearn.errors import SplatlearnError
from splatlearn.text.linear import Linear, linear
from splatlearn.text.positions import rotate

if TYPE_CHECKING:
    from splatlearn.text.cache import LayerCache


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False, dropout: float = 0.0
) -> Tensor:
    """PyTorch's fused attention, which never holds the scores in memory.

    Args:
        q: [B, H, T, D]; k, v: [B, H, S, D].
        mask: bool, to be broadcast to [B, H, T, S], True where a token may be seen; not together with ``causal``.
        causal: token t sees the tokens 0 .. t (T = S).
        dropout: share of the weights that are set to zero, the others growing to keep their mean.

    Returns:
        [B, H, T, D]; zeros for a token that may see none.
    """
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)


def attend_written(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The same, written out: `attend`'s oracle, and the way to its weights. Also returns these, [B, H, T, S]."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
        weights = scores.softmax(dim=-1).masked_fill(~mask.any(dim=-1, keepdim=True), 0.0)
    else:
        weights = scores.softmax(dim=-1)
    return F.dropout(weights, dropout) @ v, weights


class Attention(torch.nn.Module):
    """Projects to queries, keys and values, lets every head attend, and mixes the heads.

    ``project.weight`` [3W, W] holds the maps to queries, keys and values one above the other, so that they are one
    product where all come from the same tokens. In cross-attention, keys and values come from another sequence.
    """

    def __init__(
        self, width: int, heads: int, *, bias: bool = False, dropout: float = 0.0, written: bool = False
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise SplatlearnError(f"'heads' must divide the width {width}, got {heads}")
        self.heads, self.dropout, self.written = heads, dropout, written
        self.project = Linear(width, 3 * width, bias=bias)
        self.mix = Linear(width, width, bias=bias)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        rotation: Tensor | None = None,
        cache: "LayerCache | None" = None,
        keep: list[Tensor] | None = None,
    ) -> Tensor:
        """Self-attention of ``x`` [B, T, W] to [B, T, W].

        Args:
            mask, causal: as in `attend`.
            rotation: of rotary positions, [T, D/2, 2].
            cache: takes the new keys and values, and answers with all so far, S of them.
            keep: takes the weights [B, H, T, S], which are then computed by the written-out form.
        """
        qkv = self.project(x).unflatten(-1, (3, self.heads, -1))  # [B, T, 3, H, D]
        if rotation is None:
            q, k, v = qkv.unbind(dim=2)
        else:
            asking, answering = qkv.split([2, 1], dim=2)
            (q, k), v = rotate(asking, rotation).unbind(dim=2), answering.squeeze(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if cache is not None:
            k, v = cache.append(k, v)
        return self._mixed(q, k, v, mask, causal, keep)

    def keys_and_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Of the sequence ``memory`` [B, S, W] that cross-attention asks: two of [B, H, S, D]."""
        width = memory.shape[-1]
        bias = None if self.project.bias is None else self.project.bias[width:]
        k, v = linear(memory, self.project.weight[width:], bias).unflatten(-1, (2, self.heads, -1)).unbind(dim=2)
        return k.transpose(1, 2), v.transpose(1, 2)

    def cross(
        self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, keep: list[Tensor] | None = None
    ) -> Tensor:
        """Cross-attention of ``x`` [B, T, W] to another sequence's ``keys`` and ``values`` [B, H, S, D]."""
        width = x.shape[-1]
        bias = None if self.project.bias is None else self.project.bias[:width]
        q = linear(x, self.project.weight[:width], bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return self._mixed(q, keys, values, mask, False, keep)

    def _mixed(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, keep: list[Tensor] | None
    ) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        if self.written or keep is not None:
            answer, weights = attend_written(q, k, v, mask, causal, dropout)
            if keep is not None:
                keep.append(weights)
        else:
            answer = attend(q, k, v, mask, causal, dropout)
        return self.mix(answer.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]
