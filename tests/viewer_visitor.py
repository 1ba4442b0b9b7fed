"""A visitor of the viewer without a browser: connects as the page does, sends messages, collects what it receives."""

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import viser
import zstandard
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

CAMERA = {
    "type": "ViewerCameraMessage", "wxyz": (1.0, 0.0, 0.0, 0.0), "position": (3.0, 3.0, 3.0), "fov": 1.3, "near": 0.01,
    "far": 1e3, "image_width": 64, "image_height": 48, "look_at": (3.0, 3.0, 5.0), "up_direction": (0.0, -1.0, 0.0),
}  # fmt: skip


class Visitor:
    """One connection. `received` counts messages by type, `controls` has the id of each control by its label."""

    def __init__(self, page: ClientConnection) -> None:
        self.page = page
        self.received: Counter[str] = Counter()
        self.controls: dict[str, str] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    def camera(self, **fields: Any) -> None:
        """Send the pose of the camera, CAMERA but for the given fields."""
        self.page.send(msgspec.msgpack.encode(CAMERA | fields))

    def control(self, label: str, value: Any) -> None:
        """Set a control to any value, as the page does when somebody moves it."""
        message = {"type": "GuiUpdateMessage", "uuid": self.controls[label], "updates": {"value": value}}
        self.page.send(msgspec.msgpack.encode(message))

    def _listen(self) -> None:
        try:
            for raw in self.page:
                assert isinstance(raw, bytes)
                size, packed = (int.from_bytes(raw[i : i + 8], "little") for i in (0, 8))
                text = zstandard.ZstdDecompressor().decompress(raw[16 : 16 + packed], max_output_size=size)
                for message in msgspec.msgpack.decode(text)["messages"]:
                    self.received[message["type"]] += 1
                    if label := message.get("props", {}).get("label"):
                        self.controls[label] = message["uuid"]
        except ConnectionClosed:
            pass


@contextmanager
def visit(url: str, origin: str | None = None, host: str | None = None) -> Iterator[Visitor]:
    """Connect to a viewer; `origin` and `host` are headers that a browser would send."""
    protocol = Subprotocol(f"viser-v{viser.__version__}")
    headers = {"Origin": Origin(origin)} if origin else {}
    port = int(url.rsplit(":", 1)[1])
    line = socket.create_connection(("127.0.0.1", port), timeout=60)
    uri = f"ws://{host or '127.0.0.1'}:{port}"
    with connect(
        uri, sock=line, subprotocols=[protocol], additional_headers=headers, open_timeout=60, max_size=None
    ) as page:
        yield Visitor(page)
