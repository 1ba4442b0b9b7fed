"""Capacity of the lists of stage bin on CUDA, and `Capacity`, with which a training step never blocks on the device.

How many instances (a Gaussian in a tile) a view has is known on the device alone, so the lists are written into room
that earlier views have needed. `rasterization` waits for the count, and nothing else, before it returns. Within a
`Capacity` it does not: lists that lack room stay empty, a flag on the device says so, and whatever is given the flag
changes nothing until the host has learned of it. A training step, the same for every backend:

    room = Room(device)
    for step in ...:
        if not room.settle():  # the step before lacked room and changed nothing
            repeat(step - 1)  # with its batch and its number, from `with room:` on; there is room now
        with room:
            render, alphas, meta = rasterization(..., packed=False)
        loss(render).backward()
        seen += visible & (room.overflow == 0)  # so for whatever else a step counts or sums
        adam_steps(groups, step=step, skip=room.overflow)

and `settle` in the same way before anything else reads the parameters: a checkpoint, densification, an evaluation, the
end. `settle` waits for the counts alone of the views since its last call, which a device has at the beginning of a
step, so that it works on while the host prepares the next. Training with a room has the same bits as without.
"""

import os
from collections.abc import Callable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.ops import native
from splatlearn.ops.recording import host_callback

MAX_INSTANCES = 2**31 - 1  # on CUDA, where an instance's number has 32 bits
# Scratch bytes an instance while the CUDA kernels sort: two keys, two values and a row, and the sort's own buffers.
SORT_BYTES = 28


class ListSize(NamedTuple):
    """What the lists of a view need, or have room for."""

    rows: int  # 2D Gaussians that touch a tile
    instances: int

    def holds(self, needed: "ListSize") -> bool:
        return needed.rows <= self.rows and needed.instances <= self.instances


# What to make room for, by device: a quarter more than a view has needed, slowly forgotten.
_capacities: dict[torch.device, ListSize] = {}
_current: ContextVar["Capacity | None"] = ContextVar("capacity", default=None)


def known_size(device: torch.device) -> ListSize | None:
    """What to make room for before a view's own size is known; None before the first view."""
    return _capacities.get(device)


def remember(device: torch.device, needed: ListSize) -> None:
    """Notes what a view has needed."""
    before = _capacities.get(device, ListSize(0, 0))
    grown = (max(new + new // 4 + 1024, old - old // 64) for new, old in zip(needed, before, strict=True))
    _capacities[device] = ListSize(*(min(count, MAX_INSTANCES) for count in grown))


class Arriving:
    """A size on its way from the device, [2] int64: the host need not wait before it asks for it."""

    def __init__(self, size: Tensor) -> None:
        self._size, self._event = size, None
        if size.is_cuda:
            self._size = torch.empty(2, dtype=torch.int64, pin_memory=True).copy_(size, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(size.device))

    def wait(self) -> ListSize:
        if self._event is not None:
            self._event.synchronize()
        return ListSize(*map(int, self._size))


class _Pending(NamedTuple):
    """A view whose lists were written before their length was known."""

    needed: Arriving
    capacity: ListSize
    like: Tensor  # of the view's dtype and device
    channels: int


class Capacity:
    """While `with room:` lasts, `rasterization` on the room's device waits for nothing; see the head of this file."""

    def __init__(self, device: torch.device | str) -> None:
        self.overflow = torch.zeros(1, dtype=torch.int32, device=device)  # 1: a view since `settle` lacked room
        self._pending: list[_Pending] = []
        self._tokens: list[Token[Capacity | None]] = []

    def __enter__(self) -> "Capacity":
        self._tokens.append(_current.set(self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _current.reset(self._tokens.pop())

    @property
    def unresolved(self) -> bool:
        """Whether views since the last `resolve` may have lacked capacity."""
        return bool(self._pending)

    def resolve(self) -> bool:
        """Whether all views since the last call had room; if not, they have it the next time.

        Raises:
            SplatlearnError: a view's lists and their gradients would not fit into memory.
        """
        pending, self._pending = self._pending, []
        sizes = [view.needed.wait() for view in pending]
        lacking = [(view, size) for view, size in zip(pending, sizes, strict=True) if not view.capacity.holds(size)]
        if lacking:
            self.overflow.zero_()
        for view, size in lacking:
            refuse_if_too_large(size.instances, view.like, view.channels)
        for size in sizes:
            remember(self.overflow.device, size)
        return not lacking

    def expect(self, arriving: Callable[[], Arriving], capacity: ListSize, like: Tensor, channels: int) -> None:
        """For stage bin: notes a view that is written into this room; one that is recorded, at each replay."""
        host_callback(lambda: self._pending.append(_Pending(arriving(), capacity, like, channels)))


def current(device: torch.device) -> Capacity | None:
    """The room that views on `device` are to be written into without waiting."""
    capacity = _current.get()
    return capacity if capacity is not None and capacity.overflow.device == device else None


def refuse_if_too_large(instances: int, like: Tensor, channels: int) -> None:
    """Refuses before allocating: an instance takes its lists, the scratch memory of sorting, and a row of gradients."""
    kernels = native.runs_kernels(like)
    needed = instances * (12 + (SORT_BYTES if kernels else 0) + like.element_size() * (channels + 8))
    if kernels and instances > MAX_INSTANCES:
        raise SplatlearnError(
            f"this view has {instances:,} Gaussian-tile instances, whose lists and gradients need {needed:,} bytes, "
            f"but the CUDA kernels take at most {MAX_INSTANCES:,} instances; render it smaller or with fewer Gaussians"
        )
    if instances < 1 << 20:
        return  # at most tens of megabytes: not worth asking the system
    available = _available_on_card(like.device) if like.is_cuda else available_memory()
    if needed > available:
        raise SplatlearnError(
            f"this view has {instances:,} Gaussian-tile instances, whose lists and gradients need {needed:,} bytes, "
            f"but only {available:,} bytes of memory are available; render it smaller or with fewer Gaussians"
        )


def _available_on_card(device: torch.device) -> int:
    """Bytes that a CUDA device has free, and those that PyTorch holds of it without using them."""
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def available_memory() -> int:
    """Bytes of memory that can still be had without swapping."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
