"""The layers of a Transformer in the order of the data: embedding, then blocks of attention and feed-forward."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from splatlearn.text.attention import Attention
from splatlearn.text.linear import Linear
from splatlearn.text.positions import sinusoids

if TYPE_CHECKING:
    from splatlearn.text.cache import LayerCache

PositionName = Literal["sinusoidal", "learned", "rotary"]
NormName = Literal["layer", "rms"]
ActivationName = Literal["relu", "gelu", "gelu_tanh"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),  # GPT-2's
}
EPSILON = 1e-5  # added to the variance in a norm


class Embedding(torch.nn.Module):
    """Token embedding plus position embedding.

    Sinusoids are added to the token embedding times √W, as in the paper. Rotary positions are applied in attention.
    """

    sinusoids: Tensor | None

    def __init__(self, vocabulary: int, context: int, width: int, position: PositionName, dropout: float) -> None:
        super().__init__()
        self.token_embedding = torch.nn.Embedding(vocabulary, width)
        self.scale = width**0.5 if position == "sinusoidal" else 1.0
        self.position_embedding = torch.nn.Embedding(context, width) if position == "learned" else None
        table = sinusoids(context, width) if position == "sinusoidal" else None
        self.register_buffer("sinusoids", table, persistent=False)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, tokens: Tensor, start: int = 0) -> Tensor:
        """Embed ``tokens`` [B, T] int64, the first of which is at position ``start``, as [B, T, W]."""
        x: Tensor = self.token_embedding(tokens)
        end = start + tokens.shape[1]
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[start:end]
        elif self.sinusoids is not None:
            x = x * self.scale + self.sinusoids[start:end]
        return self.dropout(x)  # type: ignore[no-any-return]


def make_norm(name: NormName, width: int, bias: bool) -> torch.nn.Module:
    """Make a LayerNorm (mean 0, standard deviation 1, scale and shift) or an RMSNorm (root mean square 1, scale)."""
    if name == "rms":
        return torch.nn.RMSNorm(width, eps=EPSILON)
    return torch.nn.LayerNorm(width, eps=EPSILON, bias=bias)


class AddNorm(torch.nn.Module):
    """Residual connection and norm around a sub-layer f: norm(x + f(x)) as in the paper, or x + f(norm(x)).

    The second form, pre-norm, trains more easily.
    """

    def __init__(self, norm: torch.nn.Module, norm_first: bool, dropout: float) -> None:
        super().__init__()
        self.norm, self.norm_first = norm, norm_first
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """Map ``x`` [B, T, W] to the same shape."""
        if self.norm_first:
            return x + self.dropout(sublayer(self.norm(x)))  # type: ignore[no-any-return]
        return self.norm(x + self.dropout(sublayer(x)))  # type: ignore[no-any-return]


class FeedForward(torch.nn.Module):
    """Two linear layers with an activation between them, for each token by itself: [B, T, W] to [B, T, W]."""

    def __init__(self, width: int, inner: int, activation: ActivationName, bias: bool) -> None:
        super().__init__()
        self.fc1 = Linear(width, inner, bias=bias)
        self.activation = ACTIVATIONS[activation]
        self.fc2 = Linear(inner, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))  # type: ignore[no-any-return]


class Block(torch.nn.Module):
    """Self-attention, cross-attention if ``cross``, and feed-forward, each with residual connection and norm."""

    def __init__(
        self,
        width: int,
        heads: int,
        inner: int,
        *,
        cross: bool = False,
        norm_first: bool = True,
        norm: NormName = "layer",
        activation: ActivationName = "gelu",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        bias: bool = False,
        written: bool = False,
    ) -> None:
        super().__init__()

        def add_norm() -> AddNorm:
            return AddNorm(make_norm(norm, width, bias), norm_first, dropout)

        self.attention = Attention(width, heads, bias=bias, dropout=attention_dropout, written=written)
        self.add_attention = add_norm()
        self.cross = Attention(width, heads, bias=bias, dropout=attention_dropout, written=written) if cross else None
        self.add_cross = add_norm() if cross else None
        self.feed_forward = FeedForward(width, inner, activation, bias)
        self.add_feed_forward = add_norm()

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        rotation: Tensor | None = None,
        memory: tuple[Tensor, Tensor] | None = None,
        memory_mask: Tensor | None = None,
        cache: "LayerCache | None" = None,
        keep: list[Tensor] | None = None,
    ) -> Tensor:
        """Map ``x`` [B, T, W] to the same shape.

        Args:
            mask, causal, rotation, cache, keep: of the self-attention; see `Attention.forward`.
            memory: keys and values of the other sequence for cross-attention, each [B, H, S, D].
            memory_mask: [B, 1, 1, S] bool, True for keys of ``memory`` that may be attended to.
        """
        x = self.add_attention(x, lambda y: self.attention(y, mask, causal, rotation, cache, keep))
        if self.cross is not None and self.add_cross is not None and memory is not None:
            cross, (keys, values) = self.cross, memory
            x = self.add_cross(x, lambda y: cross.cross(y, keys, values, memory_mask))
        return self.add_feed_forward(x, self.feed_forward)  # type: ignore[no-any-return]

    def memory(self, encoded: Tensor) -> tuple[Tensor, Tensor] | None:
        """Keys and values of the encoder's output [B, S, W] for all tokens to come; None without ``cross``."""
        return None if self.cross is None else self.cross.keys_and_values(encoded)
