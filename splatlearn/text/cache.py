"""What a Transformer that writes remembers: keys and values of all tokens, so that a new one costs one token's work."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError

if TYPE_CHECKING:
    from splatlearn.text.transformer import Transformer


class LayerCache:
    """Of one decoder layer: ``keys`` and ``values`` [B, H, context, D], the first ``length`` of them in use.

    ``memory``: keys and values of the source sequence for cross-attention, each [B, H, S, D], once it is known.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values
        self.length = 0
        self.memory: tuple[Tensor, Tensor] | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keeps the keys and values [B, H, T, D] of T new tokens; returns those of all so far.

        Raises SplatlearnError where these are to be differentiated, which a cache cannot.
        """
        if keys.requires_grad:
            raise SplatlearnError("a cache holds no gradients: call the model within torch.no_grad()")
        end = self.length + keys.shape[2]
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class Cache:
    """What ``model(tokens, cache=cache)`` reads and advances: room for ``batch`` sequences of the model's context.

    It holds no gradients. Room is taken in the dtype of the model's parameters.
    """

    def __init__(self, model: "Transformer", batch: int, device: torch.device | str | None = None) -> None:
        config, parameter = model.config, next(model.parameters())
        shape = (config.layers, 2, batch, config.heads, config.context, config.width // config.heads)
        room = torch.zeros(shape, dtype=parameter.dtype, device=parameter.device if device is None else device)
        self.batch = batch
        self.layers = [LayerCache(keys, values) for keys, values in room]
        self.source_mask: Tensor | None = None  # [B, 1, 1, S]

    @property
    def length(self) -> int:
        """Tokens so far."""
        return self.layers[0].length

    def reset(self) -> None:
        """Forget all tokens and the source."""
        self.source_mask = None
        for layer in self.layers:
            layer.length, layer.memory = 0, None
