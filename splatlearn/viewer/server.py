"""The web server of the viewer: viser on this machine alone, which no other page and no tunnel can reach."""

import contextlib
import io
import ipaddress
import socket
import sys
import warnings
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from splatlearn.errors import SplatlearnError

if TYPE_CHECKING:
    from viser import ViserServer

HOST, PORT = "127.0.0.1", 8080


def start(host: str, port: int, label: str) -> "ViserServer":
    """A viser server that listens on `host`:`port`; port 0 takes any free one, which `get_port()` returns.

    Raises SplatlearnError where it cannot listen there. viser itself would go on to the next free port.
    """
    check(host, port)
    import viser

    class Server(viser.ViserServer):
        def request_share_url(self, verbose: bool = True) -> str | None:
            """Never: viser would open a tunnel that shows the page to the internet, at any visitor's request."""
            return None

    # viser warns where something is sent to a browser that has just left, which is nothing to worry about
    warnings.filterwarnings("ignore", message="Queued a .* on a closed connection")
    with quiet():
        server = Server(host=host, port=port, label=label, verbose=False)
    if port and server.get_port() != port:  # somebody was faster between the check and now
        stop(server)
        raise _in_use(host, port)
    _refuse_strangers(server, host)
    server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
    return server


def stop(server: "ViserServer") -> None:
    """Closes all connections and the port."""
    with quiet():
        server.stop()


def check(host: str, port: int) -> None:
    """Raises SplatlearnError unless a server can listen there."""
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
    """Says on stderr that others can reach the page, if they can."""
    if not is_loopback(host):
        print(
            f"warning: whoever can reach {host} on the network can see and control this page; "
            "without --host it is for this machine alone (from afar, `ssh -L 8080:127.0.0.1:8080` reaches it)",
            file=sys.stderr,
        )


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def same_origin(origin: str | None, asked: str, loopback: bool) -> bool:
    """Whether a WebSocket's Origin is a page of this very server: `asked` is the Host header it came to.

    A page of another site could otherwise talk to a server on the visitor's machine. A server that listens on this
    machine alone is asked for by a name of it; another name is a foreign one that was pointed here. Programs that are
    no browsers send no Origin, and may.
    """
    if origin is None:
        return True
    page = urlsplit(origin)
    if page.scheme not in ("http", "https") or page.netloc.lower() != asked.lower():
        return False
    return not loopback or is_loopback(page.hostname or "")


def _refuse_strangers(server: Any, host: str) -> None:
    """Closes connections from pages of other origins, before anything is sent to them."""
    web = server._websock_server  # viser has no public way to see a connection's headers

    async def look(connection: Any) -> None:
        socket_of_it = web._live_connections[connection.client_id]
        headers = socket_of_it.request.headers
        if not same_origin(headers.get("Origin"), headers.get("Host", ""), is_loopback(host)):
            await socket_of_it.close(1008, "this page is of another origin")

    web.on_client_connect(look)


def _in_use(host: str, port: int) -> SplatlearnError:
    return SplatlearnError(
        f"port {port} of {host} is in use: another viewer? Choose another port, or 0 for any free one"
    )


@contextlib.contextmanager
def quiet() -> Any:
    """viser's own greetings go nowhere: ours say the same in one line."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
