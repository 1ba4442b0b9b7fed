"""The viewer: a web server, a drawing thread, the scene being shown, and a view for each browser."""

import threading
from typing import TYPE_CHECKING

from splatlearn.viewer import server as web
from splatlearn.viewer.drawing import Snapshot
from splatlearn.viewer.recording import Recording
from splatlearn.viewer.session import Session
from splatlearn.viewer.surroundings import Surroundings
from splatlearn.viewer.view import BrowserView

if TYPE_CHECKING:
    from viser import ClientHandle


class Viewer(Session):
    """Serve the page on `host`:`port` until `close`; `show` changes the scene that it shows.

    Raises:
        SplatlearnError: the server cannot listen there.
    """

    def __init__(
        self, snapshot: Snapshot, around: Surroundings, *, host: str = web.HOST, port: int = web.PORT, label: str = ""
    ) -> None:
        super().__init__(snapshot, around, host, port, label)
        self._views: dict[int, BrowserView] = {}
        self._lock = threading.Lock()
        self.recording = Recording(self, self.view_of)
        self.server.on_client_connect(self._connected)
        self.server.on_client_disconnect(self._disconnected)

    @property
    def url(self) -> str:
        """The address of the page for a browser on this machine."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def show(self, snapshot: Snapshot) -> None:
        """Show ``snapshot`` in every browser from now on."""
        self.snapshot = snapshot
        for view in self.views():
            self.drawer.refresh(view)

    def views(self) -> list[BrowserView]:
        """The views of the connected browsers."""
        with self._lock:
            return list(self._views.values())

    def view_of(self, client_id: int | None) -> BrowserView | None:
        """The view of a browser, or None if it has disconnected."""
        with self._lock:
            return None if client_id is None else self._views.get(client_id)

    def close(self) -> None:
        """Stop the server and the drawing thread."""
        self.recording.cancel()
        for view in self.views():
            view.close()
        self.drawer.close()
        web.stop(self.server)

    def _connected(self, client: "ClientHandle") -> None:
        view = BrowserView(self, client)
        with self._lock:
            self._views[client.client_id] = view
        if client.client_id not in self.server.get_clients():  # it disconnected while its page was being built
            self._disconnected(client)
            return
        self.drawer.moved(view)

    def _disconnected(self, client: "ClientHandle") -> None:
        with self._lock:
            view = self._views.pop(client.client_id, None)
        if view is not None:
            view.close()
            self.drawer.remove(view)
