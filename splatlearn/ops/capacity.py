"""Capacity of the lists of stage bin on CUDA, and `Capacity`, with which a training step never blocks on the device.

The number of instances of a view (pairs of a Gaussian and a tile) is known on the device alone. The lists are therefore
allocated with the capacity that earlier views have needed. `rasterization` waits for the count, and nothing else,
before it returns. Within a `Capacity` it does not wait: if the capacity was too small, the lists stay empty and an
overflow flag on the device is set. Updates that are given the flag then change nothing. The host reads the count a step
later and repeats the step. A training step, the same for every backend:

    capacity = Capacity(device)
    for step in ...:
        if not capacity.resolve():  # the step before overflowed and changed nothing
            repeat(step - 1)  # with its batch and its number, from `with capacity:` on; the capacity suffices now
        with capacity:
            render, alphas, meta = rasterization(..., packed=False)
        loss(render).backward()
        visible_count += visible & (capacity.overflow == 0)  # and so for every other sum of a step
        adam_steps(groups, step=step, skip=capacity.overflow)

Call `resolve` in the same way before anything else reads the parameters: a checkpoint, densification, an evaluation,
the end. It waits only for the counts of the views since its last call. The device has these at the beginning of a step,
so it still works while the host prepares the next one. The results have the same bits as without a `Capacity`.
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

MAX_INSTANCES = 2**31 - 1  # on CUDA, where the index of an instance has 32 bits
# Scratch bytes per instance while the CUDA kernels sort: two keys, two values, a row, and the sort's own buffers.
SORT_BYTES = 28


class ListSize(NamedTuple):
    """The size that the lists of a view need, or the size that they are allocated with."""

    rows: int  # 2D Gaussians that touch a tile
    instances: int

    def holds(self, needed: "ListSize") -> bool:
        """Whether lists of this capacity are large enough."""
        return needed.rows <= self.rows and needed.instances <= self.instances


# The capacity for the next view by device: a quarter more than the largest view needed, which decays slowly.
_capacities: dict[torch.device, ListSize] = {}
_current: ContextVar["Capacity | None"] = ContextVar("capacity", default=None)


def known_size(device: torch.device) -> ListSize | None:
    """The capacity for a view whose own size is not known yet; None before the first view."""
    return _capacities.get(device)


def remember(device: torch.device, needed: ListSize) -> None:
    """Record the size that a view has needed."""
    before = _capacities.get(device, ListSize(0, 0))
    grown = (max(new + new // 4 + 1024, old - old // 64) for new, old in zip(needed, before, strict=True))
    _capacities[device] = ListSize(*(min(count, MAX_INSTANCES) for count in grown))


class Arriving:
    """A list size on its way from the device to the host.

    Args:
        size: [2] int64, rows and instances. On a CUDA device it is copied asynchronously.
    """

    def __init__(self, size: Tensor) -> None:
        self._size, self._event = size, None
        if size.is_cuda:
            self._size = torch.empty(2, dtype=torch.int64, pin_memory=True).copy_(size, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(size.device))

    def wait(self) -> ListSize:
        """The size; blocks until the device has computed it."""
        if self._event is not None:
            self._event.synchronize()
        return ListSize(*map(int, self._size))


class _Pending(NamedTuple):
    """A view whose lists were written before their size was known."""

    needed: Arriving
    capacity: ListSize
    like: Tensor  # of the view's dtype and device
    channels: int


class Capacity:
    """A context in which `rasterization` on this device waits for nothing; see the head of this file.

    Args:
        device: where the views are rendered.

    Attributes:
        overflow: [1] int32 on the device: 1 if a view since the last `resolve` did not fit, else 0.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.overflow = torch.zeros(1, dtype=torch.int32, device=device)
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
        """Wait for the sizes of the views since the last call.

        Returns:
            Whether all lists fitted. If not, their next capacity suffices, and the caller repeats the step.

        Raises:
            SplatlearnError: the lists of a view and their gradients do not fit into memory.
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
        """Note a view whose lists stage bin writes with this capacity; a recorded view is noted at each replay."""
        host_callback(lambda: self._pending.append(_Pending(arriving(), capacity, like, channels)))


def current(device: torch.device) -> Capacity | None:
    """The `Capacity` that is in effect for views on `device`."""
    capacity = _current.get()
    return capacity if capacity is not None and capacity.overflow.device == device else None


def refuse_if_too_large(instances: int, like: Tensor, channels: int) -> None:
    """Check, before allocating, that the lists of a view, the scratch memory of sorting and the gradient rows fit.

    Args:
        instances: pairs of a Gaussian and a tile.
        like: a tensor of the view's dtype and device.
        channels: colour channels.

    Raises:
        SplatlearnError: they need more memory than is available, or the CUDA kernels cannot index so many.
    """
    kernels = native.runs_kernels(like)
    needed = instances * (12 + (SORT_BYTES if kernels else 0) + like.element_size() * (channels + 8))
    if kernels and instances > MAX_INSTANCES:
        raise SplatlearnError(
            f"this view has {instances:,} Gaussian-tile instances, whose lists and gradients need {needed:,} bytes, "
            f"but the CUDA kernels take at most {MAX_INSTANCES:,} instances; render it smaller or with fewer Gaussians"
        )
    if instances < 1 << 20:
        return  # at most tens of megabytes: not worth asking the system
    available = _available_on_gpu(like.device) if like.is_cuda else available_memory()
    if needed > available:
        raise SplatlearnError(
            f"this view has {instances:,} Gaussian-tile instances, whose lists and gradients need {needed:,} bytes, "
            f"but only {available:,} bytes of memory are available; render it smaller or with fewer Gaussians"
        )


def refuse_large_picture(cameras: int, width: int, height: int, channels: int, like: Tensor) -> None:
    """Check, before allocating, that the picture of a view and what backward keeps of each pixel fit.

    Args:
        cameras, width, height, channels: the sizes of the picture, already valid by themselves.
        like: a tensor of the view's dtype and device.

    Raises:
        SplatlearnError: it needs more memory than is available, or the kernels cannot index so many tiles.
    """
    needed = cameras * width * height * (like.element_size() * (channels + 2) + 4)
    if needed < 1 << 26:
        return  # not worth asking the system
    what = f"a picture of {width:,} x {height:,} pixels and {channels:,} channels in {cameras:,} cameras"
    available = _available_on_gpu(like.device) if like.is_cuda else available_memory()
    if needed > available:
        raise SplatlearnError(
            f"{what} needs {needed:,} bytes, but only {available:,} bytes of memory are available; render it smaller"
        )
    tiles = cameras * -(-width // native.TILE) * -(-height // native.TILE)
    if tiles >= MAX_INSTANCES:
        raise SplatlearnError(f"{what} has {tiles:,} tiles, but at most {MAX_INSTANCES - 1:,} can be numbered")


def _available_on_gpu(device: torch.device) -> int:
    """Free bytes of a CUDA device, and those that PyTorch has reserved there but does not use."""
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def available_memory() -> int:
    """Bytes of host memory that can be allocated without swapping."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
