"""Flights of a browser's camera along keyframes."""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from splatlearn.scene.cameras import Camera
from splatlearn.scene.keyframes import Keyframe, KeyframePath, rotation_of

if TYPE_CHECKING:
    from viser import ClientHandle, ViserServer

RATE = 30  # poses per second that are sent to a browser


class Flight:
    """Moves the camera of one browser; a later flight replaces an earlier one."""

    def __init__(self, server: "ViserServer", client: "ClientHandle") -> None:
        self._server, self._client = server, client
        self._latest = 0  # the number of the latest flight; an earlier one that still runs stops

    def along(self, keys: Sequence[Keyframe]) -> None:
        """Start a flight along keyframes and return at once."""
        self._latest += 1
        path = KeyframePath(16, 9, 30.0, tuple(keys))
        threading.Thread(target=self._fly, args=(self._latest, path), name="flight", daemon=True).start()

    def stop(self) -> None:
        """Stop the camera where it is."""
        self._latest += 1

    def _fly(self, number: int, path: KeyframePath) -> None:
        loop = self._server.get_event_loop()
        began = time.perf_counter()
        arrived = False
        while not arrived and self._latest == number:
            moment = min(time.perf_counter() - began, path.seconds)
            arrived = moment == path.seconds
            camera = path.at([moment])[0]
            with suppress(RuntimeError):  # the event loop has ended, and the page with it
                loop.call_soon_threadsafe(self._send, number, camera)
            time.sleep(0 if arrived else 1 / RATE)

    def _send(self, number: int, camera: Camera) -> None:
        """Set the browser's camera. Runs in the event loop of the server, which also receives the browser's own poses.

        viser derives each pose from the previous one, which a pose from the browser would otherwise replace midway.
        """
        if self._latest != number:
            return
        handle = self._client.camera
        with self._client.atomic():
            handle.position = camera.center
            handle.wxyz = rotation_of(camera)
            handle.fov = float(2 * np.arctan(camera.height / 2 / camera.K[1, 1]))
        self._client.flush()
