"""A language from text: tokenizers and corpora, the Transformer, its training task, and sampling."""
