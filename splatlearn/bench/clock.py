"""When each native stage begins and ends within a step: the host's time, or events on the stream of a CUDA device."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import Structure
from typing import Any, NamedTuple

import torch

from splatlearn.ops import native


def wait(device: torch.device) -> None:
    """Returns when the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Moment(NamedTuple):
    wall: Any  # seconds, or an event of a CUDA stream
    cpu: float  # seconds of this process, over all threads


class Clock:
    """The native calls of a step."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, _Moment, _Moment]] = []

    @staticmethod
    def now(tensor: torch.Tensor) -> _Moment:
        if not tensor.is_cuda:
            return _Moment(time.perf_counter(), time.process_time())
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(tensor.device))
        return _Moment(event, 0.0)

    def seconds(self) -> dict[str, tuple[float, float]]:
        """Wall and CPU seconds by stage; on a CUDA device only once it is idle."""
        sums: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        for name, begin, end in self.calls:
            on_host = isinstance(begin.wall, float)
            wall = end.wall - begin.wall if on_host else begin.wall.elapsed_time(end.wall) / 1e3
            before = sums[name]
            sums[name] = (before[0] + wall, before[1] + end.cpu - begin.cpu)
        return dict(sums)


@contextmanager
def timed_stages() -> Iterator[Clock]:
    """Times each native stage while the context lasts."""
    clock = Clock()
    original: Callable[..., None] = native.call

    def timed(stage: str, params: Structure, tensor: torch.Tensor, *rest: Any, **options: Any) -> None:
        begin = clock.now(tensor)
        original(stage, params, tensor, *rest, **options)
        clock.calls.append((stage.replace("_", " "), begin, clock.now(tensor)))

    setattr(native, "call", timed)  # noqa: B010  (a plain assignment would be a type error)
    try:
        yield clock
    finally:
        setattr(native, "call", original)  # noqa: B010
