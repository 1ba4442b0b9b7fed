"""Brings the maps of a view to the device without blocking: pinned memory, a second stream, one step ahead.

On a CUDA device a plain `tensor.to(device)` blocks the host until the bytes have arrived. Here they are first copied
into page-locked memory, from which the GPU fetches them by itself, on a stream of its own, while the previous step
still runs. What fits into a share of the GPU's memory stays there, so that the next round fetches nothing. On a CPU
tensors are passed on as they are.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Maps = Mapping[str, Tensor]


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """The CPU tensor on `device`; a CUDA device fetches it in the order of its current stream, and the host goes on."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def refill(target: Tensor, source: Tensor) -> None:
    """Write a CPU tensor into one of the same shape on any device, without blocking, as `upload` does."""
    target.copy_(source.pin_memory() if target.is_cuda else source, non_blocking=True)


class _InTransfer(NamedTuple):
    maps: dict[str, Tensor]  # on the device
    arrived: torch.cuda.Event


class Staging:
    """Transfers of the maps of views, by the name of the view."""

    def __init__(self, device: torch.device, keep: int | None = None) -> None:
        """Args:
        device: where the maps are wanted.
        keep: bytes of maps that stay on a CUDA device; None: an eighth of its free memory.
        """
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._coming: dict[str, _InTransfer] = {}
        self._kept: dict[str, _InTransfer] = {}
        if keep is None:
            keep = 0 if self._stream is None else torch.cuda.mem_get_info(device)[0] // 8
        self._left = keep

    def send(self, name: str, load: Callable[[], Maps]) -> None:
        """Start the transfer of the maps that `load` returns, for a later `take`; on a CPU nothing is done ahead."""
        if self._stream is not None and name not in self._coming and name not in self._kept:
            self._coming[name] = self._sent(load(), self._stream)

    def take(self, name: str, load: Callable[[], Maps]) -> dict[str, Tensor]:
        """The maps on the device, in the order of its current stream; loaded now if they were not sent before.

        Other maps in transfer are dropped: a step that took another way leaves nothing behind.
        """
        if self._stream is None:
            return {key: tensor.to(self.device) for key, tensor in load().items()}
        coming = self._kept.get(name) or self._coming.get(name) or self._sent(load(), self._stream)
        self._coming.clear()
        self._keep(name, coming)
        current = torch.cuda.current_stream(self.device)
        current.wait_event(coming.arrived)
        for tensor in coming.maps.values():
            tensor.record_stream(current)  # so that its memory is not given away while the step still reads it
        return coming.maps

    def _keep(self, name: str, there: _InTransfer) -> None:
        size = sum(tensor.numel() * tensor.element_size() for tensor in there.maps.values())
        if name not in self._kept and size <= self._left:
            self._kept[name] = there
            self._left -= size

    def _sent(self, maps: Maps, stream: torch.cuda.Stream) -> _InTransfer:
        with torch.cuda.stream(stream):
            there = {key: upload(tensor, self.device) for key, tensor in maps.items()}
            arrived = torch.cuda.Event()
            arrived.record(stream)
        return _InTransfer(there, arrived)
