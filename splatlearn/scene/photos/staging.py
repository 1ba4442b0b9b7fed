"""Brings what a step learns from to its device without a wait: pinned memory, a second stream, one step ahead.

On a CUDA device a plain `tensor.to(device)` stops the host until the bytes are there. Here they are first copied into
page-locked memory, from which the card fetches them by itself, on a stream of its own, while the step before still
works. What fits into a share of the card's memory stays there: the next time round there is nothing to fetch. On a CPU
tensors are handed on as they are.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Parts = Sequence[Tensor | None]


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """The CPU tensor on `device`; a CUDA device fetches it in the order of its current stream, and nothing waits."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def refill(target: Tensor, source: Tensor) -> None:
    """Writes a CPU tensor into one of the same shape on any device, as `upload` does without a wait."""
    target.copy_(source.pin_memory() if target.is_cuda else source, non_blocking=True)


class _OnItsWay(NamedTuple):
    parts: list[Tensor | None]  # on the device
    arrived: torch.cuda.Event


class Staging:
    """Photographs (or any tensors that belong together), by name."""

    def __init__(self, device: torch.device, keep: int | None = None) -> None:
        """`keep`: bytes of tensors that stay on a CUDA device; None: an eighth of what it has free."""
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._coming: dict[str, _OnItsWay] = {}
        self._kept: dict[str, _OnItsWay] = {}
        if keep is None:
            keep = 0 if self._stream is None else torch.cuda.mem_get_info(device)[0] // 8
        self._left = keep

    def send(self, name: str, load: Callable[[], Parts]) -> None:
        """Sets the tensors that `load` gives on their way, to be taken by `take`; on a CPU nothing is done ahead."""
        if self._stream is not None and name not in self._coming and name not in self._kept:
            self._coming[name] = self._sent(load(), self._stream)

    def take(self, name: str, load: Callable[[], Parts]) -> list[Tensor | None]:
        """The tensors on the device, in the order of its current stream; loaded now if they were not sent before.

        What else was sent is forgotten: a step that went another way leaves nothing behind.
        """
        if self._stream is None:
            return [None if part is None else part.to(self.device) for part in load()]
        coming = self._kept.get(name) or self._coming.get(name) or self._sent(load(), self._stream)
        self._coming.clear()
        self._keep(name, coming)
        current = torch.cuda.current_stream(self.device)
        current.wait_event(coming.arrived)
        for part in coming.parts:
            if part is not None:
                part.record_stream(current)  # so that its memory is not given away while the step still reads it
        return coming.parts

    def _keep(self, name: str, there: _OnItsWay) -> None:
        size = sum(part.numel() * part.element_size() for part in there.parts if part is not None)
        if name not in self._kept and size <= self._left:
            self._kept[name] = there
            self._left -= size

    def _sent(self, parts: Parts, stream: torch.cuda.Stream) -> _OnItsWay:
        with torch.cuda.stream(stream):
            there = [None if part is None else upload(part, self.device) for part in parts]
            arrived = torch.cuda.Event()
            arrived.record(stream)
        return _OnItsWay(there, arrived)
