"""Who may talk to the viewer, and what a visitor can make it do: nothing that costs the others their page."""

import ast
import math
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tiny_scene import gaussians
from viewer_visitor import Visitor, visit
from websockets.exceptions import InvalidStatus

import splatlearn.viewer
from splatlearn.errors import SplatlearnError
from splatlearn.viewer.drawing import Snapshot
from splatlearn.viewer.pose import MOST_PIXELS, BrowserPose
from splatlearn.viewer.surroundings import Surroundings
from splatlearn.viewer.viewer import Viewer
from splatlearn.viewer.visitors import checked_handshakes, is_loopback, refusal


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def viewer(tmp_path: Path) -> Iterator[Viewer]:
    made = Viewer(Snapshot(gaussians()), Surroundings(folder=tmp_path), port=0)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("listens", "asked", "origin", "let_in"),
    [
        ("127.0.0.1", "127.0.0.1:8080", None, True),
        ("127.0.0.1", "127.0.0.1:8080", "http://127.0.0.1:8080", True),
        ("127.0.0.1", "localhost:9000", "http://localhost:9000", True),  # through `ssh -L 9000:...`
        ("::1", "[::1]:8080", "http://[::1]:8080", True),
        ("127.0.0.1", "127.0.0.1:8080", "https://evil.example", False),
        ("127.0.0.1", "localhost:8080", "http://localhost:8888", False),  # the page of another server here
        ("127.0.0.1", "evil.example:8080", "http://evil.example:8080", False),  # a name that points at this machine
        ("127.0.0.1", "evil.example:8080", None, False),  # the same, by GET
        ("127.0.0.1", "127.0.0.1.evil.example", None, False),
        ("127.0.0.1", "127.0.0.1:8080", "null", False),  # a sandboxed frame, or a file
        ("127.0.0.1", "127.0.0.1:8080", "file://127.0.0.1:8080", False),
        ("127.0.0.1", None, None, False),
        ("127.0.0.1", "", None, False),
        ("0.0.0.0", "192.168.1.2:8080", "http://192.168.1.2:8080", True),
        ("0.0.0.0", "evil.example:8080", "http://evil.example:8080", False),
        ("desk.local", "desk.local:8080", "http://desk.local:8080", True),
        ("desk.local", "desk.local:8080", "http://evil.example", False),
    ],
)
def test_only_its_own_page_may_talk_to_it(listens: str, asked: str | None, origin: str | None, let_in: bool) -> None:
    assert (refusal(listens, asked, origin) is None) is let_in


@pytest.mark.parametrize(
    ("origin", "host"),
    [("https://evil.example", None), ("null", None), (None, "evil.example"), ("http://localhost:1", None)],
)
def test_a_stranger_gets_no_message(viewer: Viewer, origin: str | None, host: str | None) -> None:
    with pytest.raises(InvalidStatus) as refused, visit(viewer.url, origin, host):
        pass
    assert refused.value.response.status_code == 403, "it is refused after the handshake, or for another reason"
    assert not viewer.server.get_clients()


def test_its_own_page_gets_its_messages(viewer: Viewer) -> None:
    with visit(viewer.url, viewer.url) as page:
        until(lambda: page.received)
    with urllib.request.urlopen(viewer.url, timeout=60) as answer:
        assert b"<html" in answer.read(), "the page itself is refused"
    assert viewer.server.request_share_url() is None, "a visitor could put the page on the internet"


def test_a_foreign_name_does_not_even_get_the_page(viewer: Viewer) -> None:
    request = urllib.request.Request(viewer.url, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=60)


def test_a_viser_that_starts_otherwise_is_refused() -> None:
    """The check hooks into the way that viser starts its server; a version that starts otherwise must not run open."""
    with pytest.raises(SplatlearnError, match="starts its server in another way"):
        with checked_handshakes("127.0.0.1", lambda: 0):
            pass


def test_no_private_name_of_another_object_is_used() -> None:
    """viser may change its private names at any time."""
    found = []
    for file in Path(splatlearn.viewer.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                    found.append(f"{file.name}:{node.lineno} {node.attr}")
    assert not found, found


def test_browsers_that_arrive_together_get_a_page_each(viewer: Viewer) -> None:
    with ExitStack() as stack:
        pages = [stack.enter_context(visit(viewer.url)) for _ in range(10)]
        for page in pages:
            page.camera()
        until(lambda: len(viewer.views()) == 10)
        for page in pages:
            until(lambda page=page: page.received["BackgroundImageMessage"] and "Splat size" in page.controls)


def test_too_many_browsers_are_refused(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splatlearn.viewer.visitors.MOST_BROWSERS", 1)
    with visit(viewer.url) as first:
        first.camera()
        until(lambda: viewer.server.get_clients())
        with pytest.raises(InvalidStatus, match="503"), visit(viewer.url):
            pass


@pytest.mark.parametrize("size", [(30_000, 30_000), (10**9, 10**9), (10**9, 1), (0, 0), (-5, 48), (1e300, 2)])
def test_a_picture_has_a_largest_size(size: tuple[Any, Any]) -> None:
    class Camera:
        position, wxyz, fov = (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), 1.0
        image_width, image_height = size

    camera = BrowserPose.of(Camera()).camera()  # type: ignore[arg-type]
    assert 1 <= camera.width * camera.height <= 1.01 * MOST_PIXELS


@pytest.fixture
def page(viewer: Viewer) -> Iterator[Visitor]:
    with visit(viewer.url) as made:
        made.camera()
        until(lambda: made.received["BackgroundImageMessage"] and {"Show", "SH degree", "Size"} <= set(made.controls))
        yield made


def test_an_invalid_camera_changes_nothing(viewer: Viewer, page: Visitor, capfd: pytest.CaptureFixture[str]) -> None:
    for fields in (
        {"position": (math.nan, 0.0, 0.0)},
        {"position": (1e300, 0.0, 0.0)},
        {"wxyz": (0.0, 0.0, 0.0, 0.0)},
        {"wxyz": (math.inf, 0.0, 0.0, 0.0)},
        {"fov": math.nan},
    ):
        page.camera(**fields)
    page.camera(position=(7.0, 8.0, 9.0), image_width=50_000, image_height=50_000, fov=99.0)
    (view,) = viewer.views()
    until(lambda: view.pose.position.tolist() == [7, 8, 9])
    assert view.pose.fov == 170
    until(lambda: viewer.drawer.waiting == 0)
    assert "Traceback" not in capfd.readouterr().err


def test_a_control_beyond_its_range_is_brought_back(
    viewer: Viewer, page: Visitor, capfd: pytest.CaptureFixture[str]
) -> None:
    (view,) = viewer.views()
    page.control("Show", "no such mode")
    page.control("Splat size", 1e30)
    page.control("Background", (300, -5, 10**9))
    page.control("Field of view", math.nan)
    page.control("Crop to a box", True)
    page.control("x", (math.nan, math.inf))
    page.control("SH degree", 10**6)
    page.control("Frames a second", 10**9)
    page.control("Seconds between", -1e300)
    page.control("Size", "100000 x 100000")
    until(lambda: viewer.recording._size.value == "100000 x 100000")
    until(lambda: view.look.size == 2.0 and view.look.crop is not None)
    until(lambda: viewer.drawer.waiting == 0)
    assert view.look.mode == "colour" and view.look.background == (1, 0, 1)
    viewer.recording.keys.append(view.pose.keyframe(0.0))
    with pytest.raises(SplatlearnError, match="size must be one of"):
        viewer.recording.path()
    viewer.recording._size.value = "960 x 540"
    assert viewer.recording.path().fps == 120
    assert "Traceback" not in capfd.readouterr().err


def test_loopback_names() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "LOCALHOST", "::1", "[::1]", "127.8.0.1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "evil.example", "127.0.0.1.evil.example", "10.0.0.1")))
