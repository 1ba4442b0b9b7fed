"""Ctrl-C that waits until a step is whole, so that what is saved then is never half an update."""

import os
import signal
import threading
from types import FrameType
from typing import Any


class DeferredInterrupt:
    """Ctrl-C waits for the end of the step; a second one stops at once, which atomic saves survive."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> "DeferredInterrupt":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            current = signal.getsignal(signal.SIGINT)
            if current not in (None, signal.SIG_IGN):  # a program that ignores Ctrl-C goes on ignoring it
                self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # os.write, as a print could interrupt another print
        os.write(2, b"\nstopping at the end of this step (Ctrl-C again: at once, without saving)\n")
