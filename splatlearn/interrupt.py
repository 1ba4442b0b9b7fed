"""What ends the program early: Ctrl-C (SIGINT), SIGTERM and SIGHUP. Signals that were ignored at the start stay so."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FINAL = 3  # the signal that ends the process without any cleaning up


class Interrupted(Exception):
    """Ctrl-C, SIGTERM or SIGHUP ended the work; the message says how to go on.

    Attributes:
        step: The last complete step of a training.
        number: The signal.
    """

    def __init__(self, step: int, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.step = step
        self.number = number


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP came; handled as Ctrl-C is. `number` is the signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def number_of(error: BaseException) -> int:
    """The signal that a KeyboardInterrupt, `Stopped` or `Interrupted` stands for."""
    return int(getattr(error, "number", signal.SIGINT))


def _raise(number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else Stopped(number)


# ---- the whole program ----


class Handling:
    """Signals while a command is imported and runs.

    While it is imported, a signal ends the process at once: an exception within the start of a C extension may be lost.
    After `running` it raises KeyboardInterrupt or `Stopped`. The third signal always ends the process at once.

    Attributes:
        received: The first signal that came, or 0.
    """

    def __init__(self, name: str) -> None:
        self.received = 0
        self._name = name
        self._count = 0
        self._importing = True

    def running(self) -> None:
        """Note that the command is imported."""
        self._importing = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        self._count += 1
        self.received = self.received or number
        if self._importing or self._count >= _FINAL:
            with suppress(OSError):
                os.write(2, f"\n{self._name}: stopped; the same command begins again\n".encode(errors="replace"))
            os._exit(128 + number)
        _raise(number, frame)


@contextmanager
def handled(name: str) -> Iterator[Handling]:
    """Handle the signals for the program `name` while this lasts, but for those that are ignored."""
    handling = Handling(name)
    previous = _install(handling.handle, lambda number, current: True)
    try:
        yield handling
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _install(handler: Any, wanted: Any) -> dict[int, Any]:
    """Set a handler; return those before it. None where Python allows none, in other threads than the main one."""
    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            current = signal.getsignal(number)
            if current not in (None, signal.SIG_IGN) and wanted(number, current):
                previous[number] = signal.signal(number, handler)
    return previous


# ---- the loop ----


class DeferredInterrupt:
    """A signal waits for the end of the step, so that what is saved then is never half an update.

    A second one stops at once, which atomic saves survive. Handlers of SIGTERM and SIGHUP that a program has set for
    itself stay.

    Attributes:
        requested: The signal that came, or 0.
    """

    def __init__(self) -> None:
        self.requested = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "DeferredInterrupt":
        self._previous = _install(self._handle, _is_usual)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            _raise(number, frame)
        self.requested = number
        again = "Ctrl-C again" if number == signal.SIGINT else "a second signal"
        with suppress(OSError):  # os.write, as a print could interrupt another print
            os.write(2, f"\nstopping at the end of this step ({again}: at once, without saving)\n".encode())


def _is_usual(number: int, current: Any) -> bool:
    ours = isinstance(getattr(current, "__self__", None), Handling)
    return number == signal.SIGINT or current is signal.SIG_DFL or ours
