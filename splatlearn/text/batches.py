"""Batches: what a step learns from, drawn from a corpus or from pairs by a generator that the caller owns."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError

if TYPE_CHECKING:
    from splatlearn.text.pairs import Pairs

NOT_ASKED = -100  # the target where no answer is asked for: cross_entropy leaves it out


class Batch(NamedTuple):
    """What a step, or a part of it, learns from.

    tokens: [B, T] int64; targets: [B, T] int64, the tokens that follow, or NOT_ASKED; asked: how many targets are asked
    for, in a step over all its parts and processes; source, source_mask: [B, S], of pairs alone.
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
    """Windows of ``context`` tokens out of a long array, read from it as they are needed.

    Raises SplatlearnError for an array that is no longer than the context; ``name`` says what it is.
    """

    def __init__(self, array: np.ndarray, context: int, name: str) -> None:
        if len(array) <= context:
            raise SplatlearnError(
                f"{name} must be longer than 'model.context', {context} tokens, got {len(array)}: take a longer text "
                "or a smaller context"
            )
        self.array, self.context = array, context

    def draw(self, count: int, generator: torch.Generator) -> np.ndarray:
        """Where ``count`` random windows begin, [count] int64."""
        return torch.randint(len(self.array) - self.context, (count,), generator=generator).numpy()

    def asked(self, rows: np.ndarray) -> int:
        """How many targets these windows ask for."""
        return len(rows) * self.context

    def batch(self, rows: np.ndarray) -> Batch:
        """The windows that begin at ``rows`` [B], and for each token the one that follows it."""
        return _shifted(self.array[rows[:, None] + np.arange(self.context + 1)])

    def all(self, size: int, most: int) -> Iterator[Batch]:
        """Every token but the first asked for once, in batches of ``size`` windows that lie side by side.

        Of an array of more than ``most`` tokens, as many windows as they fill, at equal distances.
        """
        whole = (len(self.array) - 1) // self.context
        kept = whole if len(self.array) <= most else max(1, most // self.context)
        starts = np.arange(kept) * whole // kept * self.context
        for first in range(0, kept, size):
            yield self.batch(starts[first : first + size])
        if kept == whole and whole * self.context < len(self.array) - 1:
            yield _shifted(np.asarray(self.array[whole * self.context :])[None])


class PairRows:
    """Pairs of a source and a target, ``rows`` by number."""

    def __init__(self, pairs: "Pairs", test: bool = False) -> None:
        self.pairs = pairs
        self.rows = pairs.test if test else pairs.train

    def draw(self, count: int, generator: torch.Generator) -> np.ndarray:
        """The numbers of ``count`` random pairs, [count] int64."""
        return torch.randint(len(self.rows), (count,), generator=generator).numpy()

    def asked(self, rows: np.ndarray) -> int:
        """How many targets these pairs ask for: those of each answer, and its end."""
        return sum(len(self.rows[row][1]) + 1 for row in rows)

    def batch(self, rows: np.ndarray) -> Batch:
        """The pairs numbered ``rows`` [B], padded to the longest of them."""
        return self.pairs.batch([self.rows[row] for row in rows])

    def all(self, size: int, most: int) -> Iterator[Batch]:
        """Every pair once, in batches of ``size``; ``most`` limits a corpus alone."""
        for first in range(0, len(self.rows), size):
            yield self.pairs.batch(self.rows[first : first + size])


def _shifted(rows: np.ndarray) -> Batch:
    tokens = torch.from_numpy(rows.astype(np.int64))
    return Batch(tokens[:, :-1], tokens[:, 1:], tokens[:, 1:].numel())
