"""splatlearn: if you can write it as a differentiable equation, you can learn it."""

__version__ = "0.1.0"
