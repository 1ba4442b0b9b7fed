"""A language from text: tokenizers and corpora, the Transformer, its training task, and sampling."""

from splatlearn.text.transformer import Transformer

__all__ = ["Transformer"]
