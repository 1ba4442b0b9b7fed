"""Work of a device that is recorded once and then repeated: CUDA graphs, in pieces where the host takes part.

To queue the fifty kernels of a training step takes the host longer than a card needs for a small scene. A CUDA graph
queues them all at once: the same kernels on the same addresses, so that nothing recorded may depend on a number that
the host knew at the time, and every tensor that changes is written in place.
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
    """Does what only the host can do: now, or where work is being recorded, at this very place of each replay."""
    recorded = _host_callback.get()
    if recorded is None:
        action()
    else:
        recorded(action)


class Recorder(ABC):
    """Records the work of a device. Nothing is done while recording; only replays do."""

    def record(self, work: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        """What `work` returned, tensors without values yet, and a function that does its work anew, into these tensors.

        What `work` hands to `apart` divides the recording: it is done at each replay, between two pieces. Tensors that
        were made while recording and are still referred to keep their memory; that of all others is used again.
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
        """Recording begins."""

    @abstractmethod
    def end(self) -> Action:
        """Recording ends; what was recorded since `begin`, to be repeated."""

    @abstractmethod
    def abandon(self) -> None:
        """Recording ends after an error; nothing of it is kept."""


class CudaRecorder(Recorder):
    """Records CUDA graphs, all in one pool of memory, which those recorded later use again when earlier ones are gone.

    Replays must follow each other on one stream. `torch.cuda.graph` would do for one graph; around each it also waits
    for the device, collects garbage and empties the cache, which takes longer than a hundred steps.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device)  # graphs cannot be recorded on the default stream
        self._pool = torch.cuda.graph_pool_handle()
        self._graph: Any = None
        self._inside: Any = None
        # PyTorch gives up a pool with its last graph and takes its handle no more: one graph is kept for good.
        _, self._keeper = self.record(lambda: torch.zeros(1, device=device))

    def begin(self) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        self._inside = torch.cuda.stream(self._stream)
        self._inside.__enter__()
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: a viewer's or a decoder's thread may allocate meanwhile
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
            with suppress(RuntimeError):  # what went wrong may have ended the recording already
                graph.capture_end()
            self._leave()

    def _leave(self) -> None:
        inside, self._inside = self._inside, None
        inside.__exit__(None, None, None)
