"""Device work that is recorded once and then replayed: CUDA graphs, split where the host must act.

Launching the fifty kernels of a training step takes the host longer than a GPU needs to run them for a small scene. A
CUDA graph launches them all at once, with the same addresses. Recorded work must therefore not depend on a number that
the host knew at the time, and every tensor that changes must be written in place.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")
Action = Callable[[], object]

_host_callback: ContextVar[Callable[[Action], None] | None] = ContextVar("host_callback", default=None)


def host_callback(action: Action) -> None:
    """Run an action of the host: now, or while work is being recorded, at this point of each replay."""
    recorded = _host_callback.get()
    if recorded is None:
        action()
    else:
        recorded(action)


class Recorder(ABC):
    """Records the work of a device. Work runs at replay, not while it is recorded."""

    def record(self, work: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        """Record a function.

        A call of `host_callback` within `work` splits the recording: each replay runs the callback between two pieces.
        Tensors that were allocated while recording keep their memory as long as they are referenced; the memory of the
        others is reused.

        Args:
            work: runs operations of the device, without waiting for their results.

        Returns:
            The result of `work`, whose tensors have no values yet, and a function that replays the work into them.
        """
        pieces: list[Action] = []

        def divide(action: Action) -> None:
            pieces.extend((self.end(), action))
            self.begin()

        token = _host_callback.set(divide)
        self.begin()
        try:
            result = work()
        except BaseException:
            self.abandon()
            raise
        finally:
            _host_callback.reset(token)
        pieces.append(self.end())

        def replay() -> None:
            for piece in pieces:
                piece()

        return result, replay

    @abstractmethod
    def begin(self) -> None:
        """Begin a recording."""

    @abstractmethod
    def end(self) -> Action:
        """End the recording, and return a function that replays what was recorded since `begin`."""

    @abstractmethod
    def abandon(self) -> None:
        """End the recording after an error, and discard it."""


class CudaRecorder(Recorder):
    """Records CUDA graphs in one memory pool; later graphs reuse the memory of graphs that are gone.

    Replays must follow each other on one stream. `torch.cuda.graph` is not used, because around each graph it waits for
    the device, collects garbage and empties the cache, which takes longer than a hundred steps.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device)  # graphs cannot be recorded on the default stream
        self._pool = torch.cuda.graph_pool_handle()
        self._graph: Any = None
        self._inside: Any = None
        # PyTorch frees a pool with its last graph and then refuses its handle, so one graph is kept forever.
        _, self._keeper = self.record(lambda: torch.zeros(1, device=device))

    def begin(self) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        self._inside = torch.cuda.stream(self._stream)
        self._inside.__enter__()
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: another thread, such as the viewer's or a decoder's, may allocate meanwhile
        self._graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")

    def end(self) -> Action:
        graph, self._graph = self._graph, None
        try:
            graph.capture_end()
        finally:
            self._leave()
        replay: Action = graph.replay
        return replay

    def abandon(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            with suppress(RuntimeError):  # the error may have ended the capture already
                graph.capture_end()
            self._leave()

    def _leave(self) -> None:
        inside, self._inside = self._inside, None
        inside.__exit__(None, None, None)
