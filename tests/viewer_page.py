"""The viewer's page in a headless Chromium: opened, pressed, dragged, and its canvas compared with a picture."""

import base64
import io
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from browser import Browser

PANEL = 350  # px at the right edge that the controls cover
GREETING = 170  # px at the top that viser's word on software rendering covers
MIDDLE = "(b => [b.x + b.width / 2, b.y + b.height / 2])"


def until(condition: Callable[[], object], what: str, seconds: float = 90) -> None:
    """Waits for what other threads and processes do, which may be slow."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.05)


class ViewerPage(Browser):
    """One tab that shows a viewer."""

    def visit(self, url: str, width: int = 1000, height: int = 600) -> None:
        """Opens the page in a window of that size and waits until its controls are there."""
        self.url = url
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        self.events.clear()
        self.call("Page.navigate", url=url + "/?fixedDpr=1")  # else a slow machine is given fewer pixels to draw
        self.wait("document.readyState === 'complete' && document.body.innerText.includes('View')", 90)
        self.resolve()

    def resolve(self) -> None:
        """Waits until the controls stand still, as a click on what moves goes astray."""
        places: list[Any] = []

        def still() -> bool:
            places.append(
                self.ask("[...document.querySelectorAll('button,[role=tab]')].map(e => e.getBoundingClientRect().y)")
            )
            return len(places) > 4 and places[-1] == places[-5]

        until(still, "the controls to stand still")

    def press(self, text: str) -> None:
        """A click on the button, tab or option that says `text`."""
        selector = "button,[role=tab],[role=option],label"
        found = f"[...document.querySelectorAll('{selector}')].find(e => e.innerText.trim() === {json.dumps(text)})"
        self.wait(f"{found} && {found}.getBoundingClientRect().width > 0", 60)
        self.ask(f"{found}.scrollIntoView({{block: 'nearest', behavior: 'instant'}})")
        self.click_at(*self.ask(MIDDLE + f"({found}.getBoundingClientRect())"))

    def tab(self, text: str) -> None:
        """Opens a tab of the controls; once more where the page was still moving."""
        said = "document.querySelector('[role=tab][aria-selected=true]').innerText.trim()"

        def opened() -> bool:
            self.press(text)
            return bool(self.ask(said) == text)

        until(opened, f"the tab {text}")

    def click_at(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y)

    def choose(self, now: str, then: str) -> None:
        """Picks another entry of the list that shows `now`."""
        found = f"[...document.querySelectorAll('input')].find(e => e.value === {json.dumps(now)})"
        self.wait(f"{found} !== undefined", 60)
        self.click_at(*self.ask(MIDDLE + f"({found}.getBoundingClientRect())"))
        self.press(then)

    def drag_canvas(self, begin: tuple[float, float], end: tuple[float, float], steps: int = 12) -> None:
        """The left button from one place to another."""
        self.mouse("mousePressed", *begin)
        for i in range(1, steps + 1):
            self.mouse("mouseMoved", *(b + (e - b) * i / steps for b, e in zip(begin, end, strict=True)))
        self.mouse("mouseReleased", *end)

    def canvas(self) -> np.ndarray:
        """The window as it is, [H, W, 3] uint8."""
        from PIL import Image

        data = base64.b64decode(self.call("Page.captureScreenshot")["data"])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def words(self) -> str:
        text: str = self.ask("document.body.innerText")
        return text

    def faults(self) -> list[str]:
        """Console errors, exceptions, and requests to anywhere but the viewer."""
        found = [text for text in self.complaints() if not text.startswith((self.url, f"blob:{self.url}"))]
        for event in self.events:
            parameters: Any = event.get("params", {})
            if event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] == "error":
                found.append(str([argument.get("value") for argument in parameters["args"]]))
            if event.get("method") == "Network.webSocketCreated" and not parameters["url"].startswith(
                self.url.replace("http", "ws")
            ):
                found.append(parameters["url"])
        return found
