"""Who may talk to the viewer's server: checked in the handshake, before a connection gets its first message."""

import contextlib
import http
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from splatlearn.errors import SplatlearnError

LARGEST_MESSAGE = 4 << 20  # bytes that a browser may send at once; it sends files in parts of 1 MiB
MOST_BROWSERS = 64
_patching = threading.Lock()


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def refusal(host: str, asked: str | None, origin: str | None) -> str | None:
    """Return why a request is refused, or None if it may pass.

    A browser lets any page send requests to a server on its user's machine; two headers give such a page away. Host
    is the name that the page used: a foreign name that was pointed at this machine is refused ("DNS rebinding").
    Origin is the server that the page came from: it must be this one. Programs that are no browsers send no Origin.

    Args:
        host: The name or address that the server listens on.
        asked: The Host header.
        origin: The Origin header.
    """
    if asked is None or not _is_own_name(host, urlsplit(f"//{asked}").hostname or ""):
        return "this server is not known by the name of the request's Host header; open it by its address"
    if origin is None:
        return None
    page = urlsplit(origin)
    if page.scheme not in ("http", "https") or page.netloc.lower() != asked.lower():
        return "the page that sent this request is of another origin"
    return None


def _is_own_name(host: str, name: str) -> bool:
    """Whether `name` means this server, where it listens on `host`; a foreign name may resolve to our address too."""
    if is_loopback(host):
        return is_loopback(name)
    own = socket.gethostname().lower()
    if name.lower() in {"localhost", host.lower(), own, f"{own}.local", socket.getfqdn().lower()}:
        return True
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return False


@contextlib.contextmanager
def checked_handshakes(host: str, connected: Callable[[], int]) -> Iterator[None]:
    """Make a viser server that starts within this context refuse strangers in the handshake.

    viser has no option for this, so `websockets.asyncio.server.serve`, which it calls, is replaced meanwhile: a request
    passes `refusal` before viser's own `process_request`. Only public names of websockets are used.

    Args:
        host: The name or address that the server listens on.
        connected: Returns the number of browsers that are connected.

    Raises:
        SplatlearnError: The server started without the check, as another version of viser might; it must be stopped.
    """
    import websockets.asyncio.server as library
    from websockets.asyncio.server import serve

    guarded = []

    def guarded_serve(*arguments: Any, **options: Any) -> Any:
        inner = options.get("process_request")

        def process_request(connection: Any, request: Any) -> Any:
            headers = request.headers
            try:
                reason = refusal(host, headers.get("Host"), headers.get("Origin"))
            except Exception:  # such as two Host headers, or a port that is no number
                reason = "the request's headers are malformed"
            if reason is not None:
                return connection.respond(http.HTTPStatus.FORBIDDEN, reason + "\n")
            if headers.get("Upgrade", "").lower() == "websocket" and connected() >= MOST_BROWSERS:
                return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, f"{MOST_BROWSERS} browsers are here\n")
            return inner(connection, request) if inner else None

        guarded.append(True)
        return serve(*arguments, **options | {"process_request": process_request, "max_size": LARGEST_MESSAGE})

    with _patching:
        library.serve = guarded_serve  # type: ignore[assignment,misc]
        try:
            yield
        finally:
            library.serve = serve  # type: ignore[misc]
    if not guarded:
        raise SplatlearnError("the installed viser starts its server in another way; expected viser 1.1 to 1.x")
