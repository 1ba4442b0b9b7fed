"""The web server of the viewer: viser, which no page of another site and no tunnel can reach."""

import contextlib
import io
import socket
import warnings
from typing import TYPE_CHECKING, Any

from splatlearn.errors import SplatlearnError
from splatlearn.notices import warn
from splatlearn.viewer.visitors import checked_handshakes, is_loopback

if TYPE_CHECKING:
    from viser import ViserServer

HOST, PORT = "127.0.0.1", 8080


def start(host: str, port: int, label: str) -> "ViserServer":
    """Start a viser server on `host`:`port`; port 0 takes any free one, which `get_port()` returns.

    Raises:
        SplatlearnError: It cannot listen there (viser itself would go on to the next free port), or the installed viser
            cannot be made to refuse strangers.
    """
    check(host, port)
    import viser

    class Server(viser.ViserServer):
        def request_share_url(self, verbose: bool = True) -> str | None:
            """Never: viser would open a tunnel that shows the page to the internet, at any visitor's request."""
            return None

    # viser warns where something is sent to a browser that has just left, which is nothing to worry about
    warnings.filterwarnings("ignore", message="Queued a .* on a closed connection")
    started: list[Server] = []
    try:
        with quiet(), checked_handshakes(host, lambda: len(started[0].get_clients()) if started else 0):
            started.append(Server(host=host, port=port, label=label, verbose=False))
    except SplatlearnError:
        for each in started:
            stop(each)
        raise
    server = started[0]
    if port and server.get_port() != port:  # somebody was faster between the check and now
        stop(server)
        raise _in_use(host, port)
    server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
    return server


def stop(server: "ViserServer") -> None:
    """Close all connections and the port."""
    with quiet():
        server.stop()


def check(host: str, port: int) -> None:
    """Raise SplatlearnError unless a server can listen there."""
    if not 0 <= port <= 65535:
        raise SplatlearnError(f"the port must be from 0 to 65535, got {port}")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise SplatlearnError(f"host {host!r} is not known: {getattr(error, 'strerror', error)}") from error
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
                probe.listen(1)
            except OSError as error:
                import errno

                if error.errno == errno.EADDRINUSE:
                    raise _in_use(host, port) from error
                raise SplatlearnError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def warn_if_open(host: str) -> None:
    """Print a warning on stderr if others can reach the page."""
    if not is_loopback(host):
        warn(
            f"whoever can reach {host} on the network can see and control this page; without --host it is for this "
            "machine alone (from afar, `ssh -L 8080:127.0.0.1:8080` reaches it)."
        )


def _in_use(host: str, port: int) -> SplatlearnError:
    return SplatlearnError(
        f"port {port} of {host} is in use: another viewer? Choose another port, or 0 for any free one"
    )


@contextlib.contextmanager
def quiet() -> Any:
    """Suppress the greetings that viser prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
