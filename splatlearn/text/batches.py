"""Batches of a corpus: random windows of its tokens, drawn by a generator that the caller owns."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError

IGNORE_INDEX = -100  # the target at padding, which cross_entropy leaves out


class Batch(NamedTuple):
    """The data of one step, or of one part of it.

    Attributes:
        tokens: [B, T] int64.
        targets: [B, T] int64, the token that follows each, or IGNORE_INDEX.
        num_targets: the number of targets that are not IGNORE_INDEX; in a step, over all its parts and processes.
        source: [B, S] int64, the encoder's input; None for a corpus.
        source_mask: [B, S] bool, True for real tokens; None for a corpus.
    """

    tokens: Tensor
    targets: Tensor
    num_targets: int
    source: Tensor | None = None
    source_mask: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """Copy the batch to a device, without waiting for the copy."""
        if device.type == "cpu":
            return self

        def sent(value: Tensor) -> Tensor:
            return value.pin_memory().to(device, non_blocking=True)

        source, mask = (None if value is None else sent(value) for value in (self.source, self.source_mask))
        return Batch(sent(self.tokens), sent(self.targets), self.num_targets, source, mask)


class Windows:
    """Windows of ``context`` tokens of a long array, which are read when they are needed.

    Args:
        array: [N] tokens, such as a memory-mapped file.
        context: tokens per window.
        name: what the array is, for the error message.

    Raises:
        SplatlearnError: the array is not longer than the context.
    """

    def __init__(self, array: np.ndarray, context: int, name: str) -> None:
        if len(array) <= context:
            raise SplatlearnError(
                f"{name} must be longer than 'model.context', {context} tokens, got {len(array)}: take a longer text "
                "or a smaller context"
            )
        self.array, self.context = array, context

    def draw(self, count: int, generator: torch.Generator) -> np.ndarray:
        """Draw where ``count`` random windows begin, [count] int64."""
        return torch.randint(len(self.array) - self.context, (count,), generator=generator).numpy()

    def num_targets(self, rows: np.ndarray) -> int:
        """The number of targets of these windows."""
        return len(rows) * self.context

    def batch(self, rows: np.ndarray) -> Batch:
        """The windows that begin at ``rows`` [B], with the token that follows each as its target."""
        return _shifted(self.array[rows[:, None] + np.arange(self.context + 1)])

    def all(self, size: int, most: int) -> Iterator[Batch]:
        """Iterate over adjacent windows in batches of ``size``, so that every token but the first is a target once.

        An array of more than ``most`` tokens yields as many windows as ``most`` tokens fill, at equal distances.
        """
        whole = (len(self.array) - 1) // self.context
        kept = whole if len(self.array) <= most else max(1, most // self.context)
        starts = np.arange(kept) * whole // kept * self.context
        for first in range(0, kept, size):
            yield self.batch(starts[first : first + size])
        if kept == whole and whole * self.context < len(self.array) - 1:
            yield _shifted(np.asarray(self.array[whole * self.context :])[None])


def _shifted(rows: np.ndarray) -> Batch:
    tokens = torch.from_numpy(rows.astype(np.int64))
    return Batch(tokens[:, :-1], tokens[:, 1:], tokens[:, 1:].numel())
