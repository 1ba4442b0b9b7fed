"""Multi-head attention, self- and cross-attention.

Shapes: B sequences, T queries, S keys and values, H heads, D values per head, W = H · D the width. For one head

    attention(q, k, v) = softmax(q kᵀ / √D) v          q [T, D], k and v [S, D]

where the scores of masked keys are -∞ before the softmax ("Attention Is All You Need", 2017, eq. 1).
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
    """Compute PyTorch's fused attention, which never stores the scores.

    Args:
        q: [B, H, T, D]; k, v: [B, H, S, D].
        mask: bool, broadcast to [B, H, T, S], True where a query may attend to a key; not together with ``causal``.
        causal: query t attends to the keys 0 .. t (T = S).
        dropout: probability that a weight is set to zero; the others are scaled to keep the mean.

    Returns:
        [B, H, T, D]; zeros for a query that may attend to no key.
    """
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)


def attend_written(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Compute `attend` from its definition, as its reference and to obtain the attention weights.

    Returns:
        The result [B, H, T, D], and the weights [B, H, T, S].
    """
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
    """Multi-head attention with its projections.

    ``qkv_proj.weight`` [3W, W] holds the projections to queries, keys and values one above the other, so that
    self-attention computes them in one product. In cross-attention, keys and values come from another sequence.
    ``o_proj`` maps the concatenated heads to the output.

    Args:
        width: W; ``heads`` must divide it.
        bias: add a bias in both projections.
        dropout: probability of attention dropout in training.
        written: use `attend_written` instead of the fused attention.

    Raises:
        SplatlearnError: ``heads`` does not divide the width.
    """

    def __init__(
        self, width: int, heads: int, *, bias: bool = False, dropout: float = 0.0, written: bool = False
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise SplatlearnError(f"'heads' must divide the width {width}, got {heads}")
        self.heads, self.dropout, self.written = heads, dropout, written
        self.qkv_proj = Linear(width, 3 * width, bias=bias)
        self.o_proj = Linear(width, width, bias=bias)

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
            rotation: rotary position embeddings [T, D/2, 2].
            cache: receives the new keys and values, and returns all S so far.
            keep: receives the weights [B, H, T, S], which `attend_written` then computes.
        """
        qkv = self.qkv_proj(x).unflatten(-1, (3, self.heads, -1))  # [B, T, 3, H, D]
        if rotation is None:
            q, k, v = qkv.unbind(dim=2)
        else:
            qk, v = qkv.split([2, 1], dim=2)
            (q, k), v = rotate(qk, rotation).unbind(dim=2), v.squeeze(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if cache is not None:
            k, v = cache.append(k, v)
        return self._attended(q, k, v, mask, causal, keep)

    def keys_and_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values for cross-attention to ``memory`` [B, S, W], each [B, H, S, D]."""
        width = memory.shape[-1]
        bias = None if self.qkv_proj.bias is None else self.qkv_proj.bias[width:]
        k, v = linear(memory, self.qkv_proj.weight[width:], bias).unflatten(-1, (2, self.heads, -1)).unbind(dim=2)
        return k.transpose(1, 2), v.transpose(1, 2)

    def cross(
        self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, keep: list[Tensor] | None = None
    ) -> Tensor:
        """Cross-attention from ``x`` [B, T, W] to the ``keys`` and ``values`` [B, H, S, D] of another sequence."""
        width = x.shape[-1]
        bias = None if self.qkv_proj.bias is None else self.qkv_proj.bias[:width]
        q = linear(x, self.qkv_proj.weight[:width], bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return self._attended(q, keys, values, mask, False, keep)

    def _attended(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, keep: list[Tensor] | None
    ) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        if self.written or keep is not None:
            heads, weights = attend_written(q, k, v, mask, causal, dropout)
            if keep is not None:
                keep.append(weights)
        else:
            heads = attend(q, k, v, mask, causal, dropout)
        return self.o_proj(heads.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]
