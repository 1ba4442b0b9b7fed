"""The viewer's thread and server: the newest request wins, nothing piles up, and no stranger gets in."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_scene import gaussians
from viewer_visitor import visit

from splatlearn.cli import main
from splatlearn.errors import SplatlearnError
from splatlearn.scene.keyframes import Keyframe, KeyframePath
from splatlearn.viewer import server
from splatlearn.viewer.drawer import COARSEST, TARGET, Drawer, next_factor
from splatlearn.viewer.drawing import Look, Snapshot
from splatlearn.viewer.surroundings import Surroundings
from splatlearn.viewer.view import BrowserView
from splatlearn.viewer.viewer import Viewer


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Waits for what another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# ---- the drawing thread ----


class Recorder:
    """A client that notes what it is asked for; `gate` holds it up in the middle of a drawing."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.state, self.drawn, self.failures = 0, list[tuple[int, float]](), list[str]()
        self.gate, self.fails = threading.Event(), fails
        self.gate.set()

    def kind(self) -> str:
        return "colour"

    def draw(self, factor: float) -> None:
        state = self.state
        assert self.gate.wait(30)
        if self.fails:
            raise self.fails
        self.drawn.append((state, factor))

    def failed(self, sentence: str) -> None:
        self.failures.append(sentence)
        if sentence == "ValueError: a bug":
            raise RuntimeError("it has left, and cannot be told")


@pytest.fixture
def drawer() -> Iterator[Drawer]:
    made = Drawer()
    yield made
    made.close()


def test_the_newest_request_wins_and_rest_is_sharp(drawer: Drawer) -> None:
    client = Recorder()
    client.gate.clear()
    for state in range(1, 3001):  # a hand that moves all the time while one picture is being drawn
        client.state = state
        drawer.moved(client)
        assert drawer.waiting <= 1, "requests pile up"
    client.gate.set()
    until(lambda: client.drawn and client.drawn[-1] == (3000, 1.0))
    assert len(client.drawn) <= 4, "pictures are drawn that nobody wants any more"
    assert any(factor > 1 for _, factor in client.drawn), "while it moves a picture must be coarse"
    until(lambda: drawer.waiting == 0)


def test_nobody_is_kept_waiting_by_another(drawer: Drawer) -> None:
    restless, other = Recorder(), Recorder()
    stop = threading.Event()

    def move() -> None:
        while not stop.is_set():
            restless.state += 1
            drawer.moved(restless)

    mover = threading.Thread(target=move)
    mover.start()
    other.state = 7
    drawer.moved(other)
    until(lambda: (7, 1.0) in other.drawn)
    assert drawer.run(lambda: 40 + 2).result(30) == 42, "a job starves while a hand moves"
    stop.set()
    mover.join()


def test_a_failed_picture_is_told_and_the_next_one_drawn(drawer: Drawer, capsys: pytest.CaptureFixture[str]) -> None:
    poor, odd, well = Recorder(SplatlearnError("no memory left")), Recorder(ValueError("a bug")), Recorder()
    for client in (poor, odd, well):
        drawer.moved(client)
    until(lambda: (0, 1.0) in well.drawn)
    until(lambda: poor.failures and odd.failures)
    assert poor.failures[0] == "no memory left" and odd.failures[0] == "ValueError: a bug"
    assert "a bug" in capsys.readouterr().err, "a bug must leave its traceback where developers look"
    with pytest.raises(ZeroDivisionError):
        drawer.run(lambda: 1 / 0).result(30)


def test_what_has_gone_is_forgotten(drawer: Drawer) -> None:
    blocker = Recorder()
    blocker.gate.clear()
    drawer.moved(blocker)
    until(lambda: drawer.factors == {} and drawer.waiting == 1)
    clients = [Recorder() for _ in range(500)]
    for client in clients:
        drawer.moved(client)
        drawer.remove(client)
    blocker.gate.set()
    until(lambda: drawer.waiting == 0)
    assert not any(client.drawn for client in clients), "a browser that has left is still drawn for"


def test_closing_cancels_what_waits() -> None:
    drawer, client = Drawer(), Recorder()
    client.gate.clear()
    drawer.moved(client)
    until(lambda: not client.drawn and drawer.waiting)
    late = drawer.run(lambda: 1)
    threading.Timer(0.1, client.gate.set).start()
    drawer.close()
    assert late.cancelled() or late.done(), "whoever waits for the job would wait for ever"
    assert drawer.run(lambda: 1).cancelled(), "a closed drawer takes jobs that it never does"


def test_a_refresh_is_billed_and_a_hand_is_not(drawer: Drawer) -> None:
    client = Recorder()
    drawer.refresh(client)
    until(lambda: client.drawn == [(0, 1.0)])
    until(lambda: drawer.spent > 0)
    spent = drawer.spent
    drawer.moved(client)
    until(lambda: len(client.drawn) == 3)
    drawer.run(lambda: None).result(30)
    assert drawer.spent == spent, "what a hand has asked for must not slow down the look at a training"


@pytest.mark.parametrize(("fixed", "each"), [(0.0, 2.0), (0.02, 0.3), (0.001, 0.01), (0.03, 5.0)])
def test_the_coarse_factor_finds_its_time(fixed: float, each: float) -> None:
    """A machine that takes `fixed` seconds and `each` for a full picture."""
    factor = 4.0
    for _ in range(40):
        factor = next_factor(factor, fixed + each / factor**2)
    seconds = fixed + each / factor**2
    assert 1 <= factor <= COARSEST
    assert seconds <= 1.15 * TARGET or factor == COARSEST, "too slow, though it could be coarser"
    assert seconds >= 0.4 * TARGET or factor == 1, "too coarse, though there is time"


# ---- the server ----


def test_a_port_in_use_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gaussians().save_ply(tmp_path / "scene.ply")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["view", str(tmp_path / "scene.ply"), "--port", str(port)]) == 1
        error = capsys.readouterr().err
        assert f"port {port} of 127.0.0.1 is in use" in error and error.count("\n") == 1, error
        config = tmp_path / "scene.yaml"
        config.write_text(f"task: scene\nout: {tmp_path / 'run'}\n")
        assert main(["train", str(config), "--viewer", "--viewer-port", str(port)]) == 1
        assert "is in use" in capsys.readouterr().err and not (tmp_path / "run").exists(), "a run was begun first"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["view"], "required: RUN_OR_FILE"),
        (["view", "nowhere"], "nowhere does not exist"),
        (["view", "nowhere", "--port", "eighty"], "invalid int value"),
        (["view", "nowhere", "--port", "-1"], "from 0 to 65535, got -1"),
        (["view", "nowhere", "--port", "70000"], "from 0 to 65535, got 70000"),
        (["view", "nowhere", "--host", "no such host"], "host 'no such host' is not known"),
        (["view", "nowhere", "--device", "gpu"], "device must be"),
        (["view", "."], "not a run folder"),
        (["train", "--viewer-port", "x", "a.yaml"], "--viewer-port must be a number, got 'x'"),
        (["train", "a.yaml", "--viewer-port"], "--viewer-port: expected one argument"),
        (["train", "--viewer"], "expected a config file"),
    ],
)
def test_a_wrong_word_is_one_sentence(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(server, "PORT", 0)
    assert main(words) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in error and len(error) < 300, error


def test_the_viewer_of_a_training_wants_a_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "line.yaml"
    config.write_text(f"task: line\nsteps: 3\nout: {tmp_path / 'run'}\n")
    assert main(["train", str(config), "--viewer", "--viewer-port=0"]) == 1
    assert "--viewer shows scenes, but 'task' is 'line'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists(), "a run was begun first"


@pytest.fixture
def viewer(tmp_path: Path) -> Iterator[Viewer]:
    made = Viewer(Snapshot(gaussians()), Surroundings(folder=tmp_path), port=0)
    yield made
    made.close()


@pytest.mark.parametrize("suffix", [".ply", ".spz", ".splat"])
def test_any_splat_file_is_shown_as_it_was_trained(suffix: str, tmp_path: Path) -> None:
    from splatlearn.commands.view import open_viewer
    from splatlearn.scene.formats.registry import write

    file = tmp_path / f"scene{suffix}"
    write(file, gaussians().tensors(), antialiased=True)
    made = open_viewer(file, "127.0.0.1", 0, device="cpu")
    try:
        assert len(made.snapshot) == 60, "Gaussians are missing"
        assert made.snapshot.antialiased is (suffix != ".splat"), "it is drawn otherwise than it was trained"
        assert made.photos_tab is None, "a file has no photographs"
    finally:
        made.close()


def test_it_listens_on_this_machine_alone(viewer: Viewer) -> None:
    assert viewer.url == f"http://127.0.0.1:{viewer.port}"
    own = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address in own - {address for address in own if address.startswith("127.")}:
        with socket.socket() as probe:
            assert probe.connect_ex((address, viewer.port)), f"the network reaches the page at {address}"


def test_an_open_host_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.8.0.1"):
        server.warn_if_open(host)
    assert not capsys.readouterr().err, "a warning where there is nothing to warn of"
    for host in ("0.0.0.0", "192.168.1.2", "::", "example.org"):
        server.warn_if_open(host)
        assert "warning" in capsys.readouterr().err, f"{host} is open and nothing is said"


@pytest.mark.parametrize("name", ["", "../elsewhere", "/etc/path", "a/b", ".hidden", "x" * 65, "line\nbreak"])
def test_a_page_writes_nowhere_else(viewer: Viewer, name: str) -> None:
    viewer.recording._name.value = name
    with pytest.raises(SplatlearnError, match="a name has up to 64"):
        viewer.recording._checked_name()


def test_a_stopped_video_leaves_nothing(viewer: Viewer, tmp_path: Path) -> None:
    keys = tuple(Keyframe(float(i), np.array([0.0, 0.0, -4.0 - i]), np.array([1.0, 0, 0, 0]), 50.0) for i in range(2))
    path = KeyframePath(64, 48, 30.0, keys)
    gone: Any = SimpleNamespace(gone=True)
    viewer.recording._make(gone, path, viewer.snapshot, Look(), "whole")
    assert (tmp_path / "whole.mp4").is_file(), "the same without a stop must write a video"
    viewer.recording._cancelled.set()
    viewer.recording._make(gone, path, viewer.snapshot, Look(), "stopped")
    assert [file.name for file in tmp_path.iterdir()] == ["whole.mp4"], "half a video is left behind"


def test_the_command_ends_with_ctrl_c(tmp_path: Path) -> None:
    import signal

    gaussians().save_ply(tmp_path / "scene.ply")
    command = [sys.executable, "-m", "splatlearn", "view", "scene.ply", "--port", "0"]
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    said = running.stdout.readline()
    running.send_signal(signal.SIGINT)
    rest, error = running.communicate(timeout=120)
    assert "60 Gaussians, to be seen at http://127.0.0.1:" in said
    assert running.returncode == 0 and not error and not rest.strip(), f"it says more than it should: {rest}{error}"
    assert [file.name for file in tmp_path.iterdir()] == ["scene.ply"], "it writes what nobody asked for"


@pytest.fixture
def say(viewer: Viewer) -> Iterator[Callable[..., None]]:
    """A page without a browser: what is called sends where its camera is."""
    with visit(viewer.url) as page:
        yield page.camera
    until(lambda: not viewer.views())
    until(lambda: viewer.drawer.waiting == 0)


def test_a_camera_that_moves_while_its_page_is_made(
    viewer: Viewer, say: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """viser sends a camera twice at the start: its own, then ours; the second came while nobody listened yet."""
    build = BrowserView._build

    def moves_meanwhile(self: BrowserView) -> None:
        build(self)
        say(position=(7.0, 8.0, 9.0))
        until(lambda: self.client.camera.position[0] == 7)

    monkeypatch.setattr(BrowserView, "_build", moves_meanwhile)
    say()
    until(viewer.views)
    (view,) = viewer.views()
    assert view.pose.position.tolist() == [7, 8, 9], "the page is drawn from where its camera no longer is"


def test_a_flight_arrives_whatever_the_browser_says_meanwhile(
    viewer: Viewer, say: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser tells where its camera is at any time, also between the two halves of a pose that it is sent."""
    from viser import CameraHandle

    set_rotation = CameraHandle.wxyz.fset
    assert set_rotation

    def slowly(self: CameraHandle, wxyz: np.ndarray) -> None:
        time.sleep(0.02)
        set_rotation(self, wxyz)

    monkeypatch.setattr(CameraHandle, "wxyz", property(CameraHandle.wxyz.fget, slowly))
    say()
    until(viewer.views)
    (view,) = viewer.views()
    sent = list[Any]()
    queue: Callable[[Any], None] = view.client._websock_connection.queue_message
    monkeypatch.setattr(
        view.client._websock_connection, "queue_message", lambda message: (sent.append(message), queue(message))
    )
    goal = Keyframe(0.0, np.array([0.0, 1.0, -4.0]), np.array([0.8, 0.6, 0.0, 0.0]), 60.0)
    view.go(goal, seconds=0.3)
    while [thread for thread in threading.enumerate() if thread.name == "flight"]:
        say()
        time.sleep(0.002)
    done = threading.Event()
    viewer.server.get_event_loop().call_soon_threadsafe(done.set)
    assert done.wait(30)
    place, target = (
        np.array([getattr(message, name) for message in sent if hasattr(message, name)][-1])
        for name in ("position", "look_at")
    )
    assert place == pytest.approx(goal.position, abs=1e-6), "the camera does not arrive"
    ahead = (target - place) / np.linalg.norm(target - place)
    assert ahead == pytest.approx([0, -0.96, 0.28], abs=1e-6), "the camera looks elsewhere than it was sent"
