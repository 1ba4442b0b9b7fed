"""The one thread that renders for all browsers: the newest request wins, coarse while something moves, sharp at rest.

One thread, because the rasterizer itself uses all cores. A slow drawing therefore never piles up work: what was asked
for in the meantime is one request, the last.
"""

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

from splatlearn.errors import SplatlearnError

REST = 0.15  # seconds without a change after which the sharp image is rendered
TARGET = 0.045  # seconds for a picture while moving: more than 15 a second, with something left for the browser
COARSEST = 8.0  # a picture while moving has at least 1 / COARSEST of the width


class Client(Protocol):
    """A browser that the drawer renders for; the drawer calls it in its own thread."""

    def draw(self, factor: float) -> None:
        """Draws and sends the newest view at 1 / factor of its size."""

    def kind(self) -> str:
        """What drawings of like cost have in common, such as the mode."""

    def failed(self, sentence: str) -> None:
        """Told why there is no picture."""


class _Wish:
    """What one client still waits for."""

    def __init__(self) -> None:
        self.coarse = False
        self.sharp_at: float | None = None
        self.refresh = False  # the sharp picture is for a scene that has changed, not for a hand that has moved


class Drawer:
    """Draws for clients that come and go; `close` ends the thread.

    spent: seconds of drawing that no hand on a control asked for, because the scene changed while it was learned.
    """

    def __init__(self) -> None:
        self.spent = 0.0
        self.factors: dict[str, float] = {}  # the coarse factor in use, by kind of drawing
        self._wishes: dict[Client, _Wish] = {}
        self._jobs: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._work, name="viewer", daemon=True)
        self._thread.start()

    def moved(self, client: Client) -> None:
        """A camera or control of the client has changed."""
        with self._changed:
            wish = self._wishes.setdefault(client, _Wish())
            wish.coarse, wish.sharp_at, wish.refresh = True, time.perf_counter() + REST, False
            self._changed.notify()

    def refresh(self, client: Client) -> None:
        """The scene has changed: a sharp picture, as soon as the client is at rest."""
        with self._changed:
            wish = self._wishes.setdefault(client, _Wish())
            if wish.sharp_at is None:
                wish.sharp_at, wish.refresh = time.perf_counter(), True
            self._changed.notify()

    def remove(self, client: Client) -> None:
        """Drop the requests of a client that has disconnected."""
        with self._changed:
            self._wishes.pop(client, None)

    def run(self, function: Callable[[], Any]) -> "Future[Any]":
        """Has a function called in the drawing thread, between pictures; for what needs the rasterizer too."""
        future: Future[Any] = Future()
        with self._changed:
            if not self._open:
                future.cancel()
                return future
            self._jobs.append((function, future))
            self._changed.notify()
        return future

    @property
    def waiting(self) -> int:
        """How many clients and jobs wait."""
        with self._changed:
            return len(self._wishes) + len(self._jobs)

    def close(self) -> None:
        """Ends the thread after the picture in hand; jobs that still wait are cancelled."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()
        for _, future in self._jobs:
            future.cancel()
        self._jobs.clear()

    # ---- the thread ----

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._open and not self._jobs and self._pause() > 0:
                    self._changed.wait(self._pause())
                if not self._open:
                    return
                chosen = self._next_client()
                job = self._jobs.popleft() if self._jobs else None
            if chosen is not None:
                self._draw(*chosen)
            if job is not None:  # after each picture, so that neither keeps the other waiting
                _call(*job)

    def _pause(self) -> float:
        """Seconds until there is something to draw; at most a minute, so that a lost wake-up heals."""
        if any(wish.coarse for wish in self._wishes.values()):
            return 0.0
        due = [wish.sharp_at for wish in self._wishes.values() if wish.sharp_at is not None]
        return min(60.0, min(due) - time.perf_counter()) if due else 60.0

    def _next_client(self) -> tuple[Client, bool, bool] | None:
        """Who is next, whether coarse, whether because the scene changed. Its wish goes to the end of the line."""
        for client, wish in self._wishes.items():
            if wish.coarse:
                wish.coarse = False
                self._wishes[client] = self._wishes.pop(client)
                return client, True, False
        now = time.perf_counter()
        for client, wish in self._wishes.items():
            if wish.sharp_at is not None and wish.sharp_at <= now:
                del self._wishes[client]
                return client, False, wish.refresh
        return None

    def _draw(self, client: Client, coarse: bool, refresh: bool) -> None:
        kind = client.kind()
        factor = self.factors.get(kind, 4.0) if coarse else 1.0
        began = time.perf_counter()
        try:
            self._draw_or_tell(client, factor)
        except Exception:  # a fault in one view must not end the viewer for all
            traceback.print_exc(file=sys.stderr)
        seconds = time.perf_counter() - began
        if coarse:
            self.factors[kind] = next_factor(factor, seconds)
        elif refresh:
            self.spent += seconds

    @staticmethod
    def _draw_or_tell(client: Client, factor: float) -> None:
        try:
            client.draw(factor)
        except SplatlearnError as error:
            client.failed(str(error))
        except Exception as error:
            client.failed(f"{type(error).__name__}: {error}")
            raise


def next_factor(factor: float, seconds: float) -> float:
    """The coarse factor after a picture at `factor` took so long: towards TARGET, by at most a factor of 2 at a time.

    Time is taken to follow the number of pixels; where it falls more slowly, the next pictures correct that.
    """
    step = min(2.0, max(0.5, (seconds / TARGET) ** 0.5))
    if 0.7 < step < 1.05:  # near enough: a picture whose size changes all the time flickers
        return factor
    return min(COARSEST, max(1.0, factor * step))


def _call(function: Callable[[], Any], future: "Future[Any]") -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except BaseException as error:  # raised where the result is awaited
        future.set_exception(error)
