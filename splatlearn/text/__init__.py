"""A language from text: tokenizers and corpora, the Transformer, its training task, and sampling."""

from typing import TYPE_CHECKING

from splatlearn.text.transformer import Transformer

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Transformer", "attention_maps"]


def attention_maps(model: Transformer, tokens: "Tensor", *, source: "Tensor | None" = None) -> "list[Tensor]":
    """Who looks at whom: for each decoder layer [B, heads, T, T], in row t the shares that token t takes from each.

    ``tokens`` [B, T] int64, and of an encoder-decoder ``source`` [B, S]. Rows sum to 1; a token looks at itself and at
    earlier ones.
    """
    return model.attention_weights(tokens, source=source)
