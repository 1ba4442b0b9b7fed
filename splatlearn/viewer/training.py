"""The viewer of a scene that is being learned: pause, resume, step, and charts of loss, PSNR and count."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from splatlearn.loop import AnyTask, Callback
from splatlearn.scene.cameras import Camera
from splatlearn.scene.metrics import psnr
from splatlearn.viewer.drawing import Snapshot
from splatlearn.viewer.surroundings import Surroundings
from splatlearn.viewer.viewer import Viewer

SHARE = 0.04  # share of the time that renders without a new request may take
PERIOD = 1.0  # seconds at least between two looks at the scene, and between two redrawings of the charts
MOST_POINTS = 500  # of a chart: then every two neighbours become one, their mean
TEST_VIEWS = 4  # photographs that the PSNR is measured on
TEST_WIDTH = 400  # px that they are reduced to, so that measuring costs little


class Chart:
    """A curve of bounded size: where it would have more than MOST_POINTS, points are averaged in pairs."""

    def __init__(self) -> None:
        self._stride = 1
        self._points: list[tuple[float, float]] = []
        self._open: list[tuple[float, float]] = []

    def add(self, step: float, value: float) -> None:
        """One more value, at a step beyond the last."""
        self._open.append((step, value))
        if len(self._open) < self._stride:
            return
        self._points.append(_mean(self._open))
        self._open.clear()
        if len(self._points) >= MOST_POINTS:
            self._stride *= 2
            self._points = [_mean(self._points[i : i + 2]) for i in range(0, len(self._points), 2)]

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values, each [n] float64."""
        points = np.array([*self._points, *([_mean(self._open)] if self._open else [])], np.float64).reshape(-1, 2)
        return points[:, 0].copy(), points[:, 1].copy()


def _mean(points: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(step for step, _ in points) / len(points), sum(value for _, value in points) / len(points)


class LiveView(Callback):
    """Shows the scene task that the loop trains; `opened` gets the page's address before the first step.

    The page is drawn from copies that the training thread makes between two steps, so that no picture ever shows half
    an update. Without a browser nothing is copied or drawn. A browser that is open and left alone costs SHARE of the
    time; one whose camera moves is drawn for beside the training. The state of the page never changes what is learned.
    """

    def __init__(self, around: Surroundings, steps: int, host: str, port: int, opened: Callable[[str], None]) -> None:
        self.around, self.steps = around, steps
        self._where, self._opened = (host, port), opened
        self.paused = False
        self._wanted = 0  # steps to make while paused
        self._wake = threading.Event()
        self._shown_step, self._shown_at, self._spent_at, self._copying = 0, 0.0, 0.0, 0.0
        self._charted_at = 0.0
        self.charts = {"loss": Chart(), "PSNR": Chart(), "Gaussians": Chart()}
        self.viewer: Viewer | None = None

    # ---- the loop's calls ----

    def on_start(self, start: int, task: AnyTask) -> None:
        snapshot = self._copy(start, task)
        self.viewer = Viewer(snapshot, self.around, host=self._where[0], port=self._where[1], label="splatlearn train")
        self._shown_step = start
        self._build(start)
        self._opened(self.viewer.url)

    def on_step(self, step: int, loss: float, task: Any) -> None:
        self.charts["loss"].add(step, loss)
        self.charts["Gaussians"].add(step, len(task.gaussians))
        if self._due():
            self._show(step, task)
        self._redraw_charts(step, loss, task)
        if self.paused:
            self._wanted = max(0, self._wanted - 1)
            self._hold(step, loss, task)

    def on_interrupt(self, step: int, task: AnyTask) -> None:
        self.close()

    def on_end(self, step: int, task: AnyTask) -> None:
        self.close()

    def close(self) -> None:
        """Ends the page; may be called more than once."""
        viewer, self.viewer = self.viewer, None
        if viewer is not None:
            viewer.close()

    # ---- what is shown ----

    def _due(self) -> bool:
        """Whether the page may look again: someone is there, and the last look has been paid for."""
        assert self.viewer is not None
        if not self.viewer.views():
            return False
        cost = self._copying + self.viewer.drawer.spent - self._spent_at
        return time.perf_counter() - self._shown_at >= max(PERIOD, cost / SHARE)

    def _show(self, step: int, task: AnyTask) -> None:
        assert self.viewer is not None
        began = time.perf_counter()
        snapshot = self._copy(step, task)
        self._shown_step, self._shown_at, self._spent_at = step, began, self.viewer.drawer.spent
        self.viewer.show(snapshot)
        views = measured_views(self.around)
        if views:
            self.viewer.drawer.run(lambda: self._measure(snapshot, views))
        self._copying = time.perf_counter() - began

    def _copy(self, step: int, task: Any) -> Snapshot:
        return Snapshot(task.gaussians, step=step, antialiased=task.config.antialiased, frame=task.frame)

    def _measure(self, snapshot: Snapshot, views: list[Camera]) -> None:
        """Adds a point to the chart of PSNR; in the drawing thread, and on its bill."""
        viewer = self.viewer
        if viewer is None or snapshot.step is None:
            return
        began = time.perf_counter()
        self.charts["PSNR"].add(snapshot.step, mean_psnr(snapshot, views, self.around))
        viewer.drawer.spent += time.perf_counter() - began

    # ---- pause, resume, step ----

    def _hold(self, step: int, loss: float, task: AnyTask) -> None:
        """Waits until the training may go on, showing exactly this state meanwhile."""
        if self._wanted == 0 and self._shown_step != step:
            self._show(step, task)
        self._charted_at = 0.0
        self._redraw_charts(step, loss, task)
        with waking_on_interrupt(self._wake) as interrupted:
            while self.paused and self._wanted == 0 and not interrupted:
                self._wake.wait(1.0)
                self._wake.clear()
                self._redraw_charts(step, loss, task)

    def _toggle(self) -> None:
        self.paused = not self.paused
        self._wanted = 0
        self._button.label = "Resume" if self.paused else "Pause"
        self._step_button.disabled = not self.paused
        self._wake.set()

    def _one_step(self) -> None:
        self._wanted += 1
        self._wake.set()

    # ---- the panel ----

    def _build(self, start: int) -> None:
        from viser import uplot

        assert self.viewer is not None
        gui: Any = self.viewer.server.gui
        self._plots: dict[str, Any] = {}
        with self.viewer.tabs.add_tab("Training"):
            self._note = gui.add_markdown(f"step **{start}** of {self.steps}")
            self._button = gui.add_button("Pause")
            self._step_button = gui.add_button("One step", disabled=True)
            for name, color in (("loss", "#4dabf7"), ("PSNR", "#69db7c"), ("Gaussians", "#ffa94d")):
                if name == "PSNR" and not measured_views(self.around):
                    continue
                empty = np.zeros(0)
                series = (uplot.Series(label="step"), uplot.Series(label=name, stroke=color, width=2))
                axes = tuple(uplot.Axis(stroke="#888888", size=size) for size in (36, 62))
                self._plots[name] = gui.add_uplot(
                    (empty, empty), series, title=TITLES[name], axes=axes, scales={"x": uplot.Scale(time=False)},
                    legend=uplot.Legend(show=False), height=150, padding=(0, 12, 0, 0),
                )  # fmt: skip
        self._button.on_click(lambda _: self._toggle())
        self._step_button.on_click(lambda _: self._one_step())

    def _redraw_charts(self, step: int, loss: float, task: Any) -> None:
        assert self.viewer is not None
        now = time.perf_counter()
        if now - self._charted_at < PERIOD or not self.viewer.views():
            return
        self._charted_at = now
        count = f"{len(task.gaussians):,} Gaussians, loss {loss:.4g}"
        held = ", **paused**" if self.paused else ""
        self._note.content = f"step **{step}** of {self.steps}{held}, {count}; the view shows step {self._shown_step}"
        for name, plot in self._plots.items():
            plot.data = self.charts[name].data()


TITLES = {
    "loss": "loss",
    "PSNR": f"PSNR of {TEST_VIEWS} photos, {TEST_WIDTH} px wide, dB",
    "Gaussians": "number of Gaussians",
}


def measured_views(around: Surroundings) -> list[Camera]:
    """The photographs that the chart of PSNR measures: some held-out ones, or else some of those trained on."""
    cameras = around.test or around.train
    if around.photo is None or not cameras:
        return []
    return [cameras[i] for i in np.unique(np.linspace(0, len(cameras) - 1, TEST_VIEWS).round().astype(int))]


def mean_psnr(snapshot: Snapshot, views: list[Camera], around: Surroundings) -> float:
    """Mean PSNR in dB of renders of reduced photographs."""
    from splatlearn.viewer.drawing import Look, draw

    assert around.photo is not None
    found = []
    for camera in views:
        width = min(TEST_WIDTH, camera.width)
        small = camera.scaled(width, max(1, round(camera.height * width / camera.width)))
        photo = around.photo(camera).permute(2, 0, 1)[None].float().cpu() / 255
        photo = torch.nn.functional.interpolate(photo, size=(small.height, small.width), mode="area")[0].permute(
            1, 2, 0
        )
        render = torch.from_numpy(draw(snapshot, small, Look(background=around.background)).image).float() / 255
        found.append(psnr(render, photo))
    return sum(found) / len(found)


@contextmanager
def waking_on_interrupt(wake: threading.Event) -> Iterator[list[bool]]:
    """While it lasts, Ctrl-C also sets `wake` and fills the list, after doing what it did before."""
    seen: list[bool] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield seen
        return

    def handle(number: int, frame: Any) -> None:
        seen.append(True)
        wake.set()
        before(number, frame)

    signal.signal(signal.SIGINT, handle)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
