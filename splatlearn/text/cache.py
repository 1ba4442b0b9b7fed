"""The key-value cache of generation, with which a new token costs the work of one token."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError


class Sizes(Protocol):
    """The sizes of a decoder that decide the shape of its cache."""

    layers: int
    heads: int
    context: int
    width: int


class Decoder(Protocol):
    """What the cache needs of a model: its sizes, and parameters that have a dtype and a device."""

    @property
    def config(self) -> Sizes: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...


class LayerCache:
    """The cache of one decoder layer.

    Attributes:
        keys, values: [B, H, context, D], of which the first ``length`` tokens are in use.
        memory: keys and values of the source sequence for cross-attention, each [B, H, S, D]; None at first.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values
        self.length = 0
        self.memory: tuple[Tensor, Tensor] | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values [B, H, T, D] of T new tokens.

        Returns:
            Keys and values of all tokens so far, [B, H, length, D].

        Raises:
            SplatlearnError: ``keys`` requires a gradient, which a cache cannot keep.
        """
        if keys.requires_grad:
            raise SplatlearnError("a cache holds no gradients: call the model within torch.no_grad()")
        end = self.length + keys.shape[2]
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class Cache:
    """The cache that ``model(tokens, cache=cache)`` reads and extends; it holds no gradients.

    Args:
        model: its sizes and the dtype of its parameters decide the shape and dtype of the cache.
        batch: number of sequences B; each can be as long as the model's context.
        device: of the cache; None: that of the model's parameters.
    """

    def __init__(self, model: Decoder, batch: int, device: torch.device | str | None = None) -> None:
        config, parameter = model.config, next(model.parameters())
        shape = (config.layers, 2, batch, config.heads, config.context, config.width // config.heads)
        buffer = torch.zeros(shape, dtype=parameter.dtype, device=parameter.device if device is None else device)
        self.batch = batch
        self.layers = [LayerCache(keys, values) for keys, values in buffer]
        self.source_mask: Tensor | None = None  # [B, 1, 1, S]

    @property
    def length(self) -> int:
        """The number of tokens so far."""
        return self.layers[0].length

    def reset(self) -> None:
        """Drop all tokens and the source."""
        self.source_mask = None
        for layer in self.layers:
            layer.length, layer.memory = 0, None
