"""A watched training learns the same bits, stops and goes on when told, and saves at Ctrl-C even while paused."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_scene
import torch

from splatlearn import loop
from splatlearn.cli import main
from splatlearn.scene.training.task import SceneTask
from splatlearn.viewer import training
from splatlearn.viewer.live import live_view
from splatlearn.viewer.training import MOST_POINTS, Chart, LiveView


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_scene.write(tmp_path_factory.mktemp("scene") / "tiny")


def task_of(folder: Path, steps: int = 30) -> SceneTask:
    config = SceneTask.Config(steps=steps, sh_degree=1, device="cpu")
    config.data.path = str(folder)
    return SceneTask(config)


class Page:
    """What stands for a browser: it is drawn for, and counts."""

    def __init__(self) -> None:
        self.steps: list[int | None] = []
        self.live: LiveView | None = None

    def kind(self) -> str:
        return "colour"

    def draw(self, factor: float) -> None:
        assert self.live is not None
        if self.live.viewer is not None:
            self.steps.append(self.live.viewer.snapshot.step)

    def failed(self, sentence: str) -> None:
        raise AssertionError(sentence)

    def close(self) -> None:
        pass


def watched(task: SceneTask, page: Page | None, tmp_path: Path) -> LiveView:
    """A live view with a page that is open from the start."""
    live = live_view(task, tmp_path, ("127.0.0.1", 0))
    if page is not None:
        page.live = live
        begin = live.on_start

        def on_start(start: int, task: loop.AnyTask) -> None:
            begin(start, task)
            assert live.viewer is not None
            live.viewer._views[99] = page  # type: ignore[assignment]

        live.on_start = on_start  # type: ignore[method-assign]
    return live


class At(loop.Callback):
    """Does something after a step."""

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        self.step, self.action = step, action

    def on_step(self, step: int, loss: float, task: loop.AnyTask) -> None:
        if step == self.step:
            self.action()


def until(condition: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_a_watched_training_learns_the_same_bits(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "PERIOD", 0.0)
    monkeypatch.setattr(training, "SHARE", 1e6)  # a look after every step
    alone = task_of(folder)
    loop.fit(alone, 30, progress=False)
    task, page = task_of(folder), Page()
    live = watched(task, page, tmp_path)
    loop.fit(task, 30, callbacks=[live], progress=False)
    for name, wanted in alone.gaussians.tensors().items():
        assert torch.equal(task.gaussians.tensors()[name], wanted), f"watching changes {name}"
    assert len(set(page.steps)) > 3, "the page did not see it learn"
    steps, values = live.charts["PSNR"].data()
    assert len(steps) > 3 and values[-1] > values[0], "the PSNR of held-out photographs is not measured, or is wrong"
    assert live.charts["loss"].data()[0].tolist() == list(range(1, 31)), "the chart of the loss misses steps"
    assert live.viewer is None, "the page outlives the training"


def test_without_a_browser_nothing_is_copied(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(folder)
    live = watched(task, None, tmp_path)
    copies: list[int] = []
    copy = live._copy

    def counted(step: int, task: Any) -> Any:
        copies.append(step)
        return copy(step, task)

    monkeypatch.setattr(live, "_copy", counted)
    monkeypatch.setattr(training, "PERIOD", 0.0)
    loop.fit(task, 10, callbacks=[live], progress=False)
    assert copies == [0], "a training that nobody looks at pays for looks"


def test_pause_step_and_resume(folder: Path, tmp_path: Path) -> None:
    task, page = task_of(folder), Page()
    live = watched(task, page, tmp_path)
    done: list[int] = []

    class Note(loop.Callback):
        def on_step(self, step: int, loss: float, task: loop.AnyTask) -> None:
            done.append(step)

    def train() -> None:
        loop.fit(task, 30, callbacks=[Note(), At(5, live._toggle), live], progress=False)

    thread = threading.Thread(target=train)
    thread.start()
    until(lambda: done and done[-1] == 5 and page.steps and page.steps[-1] == 5)
    state = task.gaussians.means.detach().clone()
    for step in (6, 7, 8):
        assert thread.is_alive() and done[-1] == step - 1, "a paused training goes on"
        live._one_step()
        until(lambda step=step: done[-1] == step and page.steps[-1] == step)  # type: ignore[misc]
    assert not torch.equal(state, task.gaussians.means), "a step makes no step"
    live._toggle()
    thread.join(60)
    assert not thread.is_alive() and done == list(range(1, 31)), "it does not go on, or lost a step"


def test_ctrl_c_while_paused_saves(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the command line, in the main thread, as a user has it."""
    run = tmp_path / "run"
    held: list[LiveView] = []
    hold = LiveView._hold

    def noted(self: LiveView, *arguments: Any) -> None:
        if not held:
            held.append(self)
            threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        hold(self, *arguments)

    begin = LiveView.on_start

    def paused(self: LiveView, start: int, task: loop.AnyTask) -> None:
        begin(self, start, task)
        self.paused = True
        self._wanted = 4

    config = tmp_path / "scene.yaml"
    config.write_text(f"task: scene\nout: {run}\nsteps: 50\nsh_degree: 0\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LiveView, "_hold", noted)
        patch.setattr(LiveView, "on_start", paused)
        before = signal.getsignal(signal.SIGINT)
        code = main(["train", str(config), "--data.path", str(folder), "--viewer", "--viewer-port", "0"])
    assert code == 130, "Ctrl-C does not end a paused training"
    assert signal.getsignal(signal.SIGINT) is before, "Ctrl-C is not given back"
    assert "go on with: splatlearn train --resume" in capsys.readouterr().err, "nothing is said of going on"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_0000004"], "the state was not saved"
    assert held[0].viewer is None, "the page outlives the training"


def test_the_look_is_paid_for(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, page = task_of(folder), Page()
    live = watched(task, page, tmp_path)
    clock = [1000.0]
    live.on_start(0, task)
    assert live.viewer is not None
    monkeypatch.setattr(training.time, "perf_counter", lambda: clock[0])
    assert live._due(), "a browser that has just come sees an old scene"
    live._shown_at, live._spent_at, live._copying = clock[0], live.viewer.drawer.spent, 0.1
    live.viewer.drawer.spent += 0.3
    clock[0] += 0.95 * 0.4 / training.SHARE
    assert not live._due(), "looking takes more than its share of the time"
    clock[0] += 0.1 * 0.4 / training.SHARE
    assert live._due(), "the page is left with an old scene"
    live.viewer._views.clear()
    assert not live._due(), "nobody is there"
    live.close()


def test_a_chart_stays_small_and_true() -> None:
    chart = Chart()
    for step in range(1, 100_001):
        chart.add(step, 2.0 * step)
    steps, values = chart.data()
    assert len(steps) <= MOST_POINTS + 1, "a long training fills the memory and the wire"
    assert len(steps) >= MOST_POINTS / 2 - 1, "a long training has a poor chart"
    np.testing.assert_allclose(values, 2 * steps, err_msg="averages are of other steps")
    assert (np.diff(steps) > 0).all() and steps[-1] > 99_000, "the end of the curve is missing"


def test_thousands_of_updates_leave_nothing_behind(folder: Path, tmp_path: Path) -> None:
    """The messages that a server keeps for browsers to come are one of a kind, however often charts are redrawn."""
    task, page = task_of(folder), Page()
    live = watched(task, page, tmp_path)
    live.on_start(0, task)
    assert live.viewer is not None
    kept: list[int] = []
    for step in range(1, 1001):
        live._charted_at = 0.0
        live.charts["loss"].add(step, 1.0)
        live._redraw_charts(step, 1.0, task)
        if step in (10, 1000):
            kept.append(len(live.viewer.server._websock_server._broadcast_buffer.message_from_id))
    assert kept[0] == kept[1], f"messages pile up: {kept}"
    live.close()
