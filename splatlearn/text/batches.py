"""Batches of a corpus: windows of tokens, and for each token the one that follows it."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError

NOT_ASKED = -100  # the target where no answer is asked for: cross_entropy leaves it out


class Batch(NamedTuple):
    """What a step learns from.

    tokens: [B, T] int64; targets: [B, T] int64, the tokens that follow, or NOT_ASKED; asked: how many targets are asked
    for in the whole step, over all its parts and processes; source, source_mask: [B, S], of pairs alone.
    """

    tokens: Tensor
    targets: Tensor
    asked: int
    source: Tensor | None = None
    source_mask: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The same on a device, without waiting for it."""
        if device.type == "cpu":
            return self

        def sent(value: Tensor) -> Tensor:
            return value.pin_memory().to(device, non_blocking=True)

        source, mask = (None if value is None else sent(value) for value in (self.source, self.source_mask))
        return Batch(sent(self.tokens), sent(self.targets), self.asked, source, mask)


class Windows:
    """Windows of ``context`` tokens out of a long array, read from it as they are needed."""

    def __init__(self, array: np.ndarray, context: int, name: str) -> None:
        if len(array) <= context:
            raise SplatlearnError(
                f"{name} must be longer than the context of {context} tokens, got {len(array)}; a smaller "
                "'model.context' or a longer text helps"
            )
        self.array, self.context = array, context

    def drawn(self, count: int, generator: torch.Generator) -> np.ndarray:
        """Where ``count`` random windows begin."""
        return torch.randint(len(self.array) - self.context, (count,), generator=generator).numpy()

    def batch(self, starts: np.ndarray, asked: int) -> Batch:
        """The windows that begin at ``starts``."""
        return _batch(self.array[starts[:, None] + np.arange(self.context + 1)], asked)

    def all(self, size: int) -> Iterator[Batch]:
        """Every token but the first asked for once, in batches of ``size`` windows that lie side by side."""
        whole = (len(self.array) - 1) // self.context
        for first in range(0, whole, size):
            starts = np.arange(first, min(first + size, whole)) * self.context
            yield self.batch(starts, len(starts) * self.context)
        if whole * self.context < len(self.array) - 1:
            rest = np.asarray(self.array[whole * self.context :])[None]
            yield _batch(rest, rest.shape[1] - 1)


def _batch(rows: np.ndarray, asked: int) -> Batch:
    tokens = torch.from_numpy(rows.astype(np.int64))
    return Batch(tokens[:, :-1], tokens[:, 1:], asked)
