"""A camera path that people record in the page: keyframes, a flight along them, a JSON file, a video."""

import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.scene.cameras import Camera
from splatlearn.scene.reconstruct.keyframes import (
    Keyframe,
    KeyframePath,
    parse_path,
    path_text,
    rotation_of,
    same_pose,
    write_path,
)
from splatlearn.viewer.drawing import Look, Snapshot, draw

if TYPE_CHECKING:
    from splatlearn.viewer.view import View
    from splatlearn.viewer.viewer import Viewer

SIZES = ("960 x 540", "1280 x 720", "1920 x 1080", "540 x 960", "1080 x 1080")
FLIGHT_RATE = 30  # poses a second that a browser is sent
LARGEST_DOWNLOAD = 256 << 20  # bytes of a video that is offered to the browser too


class Recording:
    """The panel of the camera path, which all browsers share; `cancel` stops a video in the making."""

    def __init__(self, viewer: "Viewer", tab: Any) -> None:
        self.viewer = viewer
        self.keys: list[Keyframe] = []
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._maker: threading.Thread | None = None
        self._line: Any = None
        gui: Any = viewer.server.gui
        with tab:
            self._note = gui.add_markdown("")
            self._gap = gui.add_number("Seconds between", 2.0, min=0.1, max=600.0, step=0.1)
            add = gui.add_button("Add this view")
            edit = gui.add_button_group("Keyframes", ("drop last", "close loop", "clear"))
            fly_along = gui.add_button_group("Flight", ("play", "stop"))
            self._name = gui.add_text("Name", "path")
            self._size = gui.add_dropdown("Size", SIZES)
            self._fps = gui.add_number("Frames a second", 30, min=1, max=120, step=1)
            save = gui.add_button("Save as JSON")
            load = gui.add_upload_button("Load JSON", mime_type="application/json")
            self._video = gui.add_button("Render a video")
            self._progress = gui.add_progress_bar(0.0, visible=False)
            self._stop = gui.add_button("Stop rendering", visible=False)
        add.on_click(lambda event: self._told(event, self._add))
        edit.on_click(lambda event: self._told(event, self._edit))
        fly_along.on_click(lambda event: self._told(event, self._play))
        save.on_click(lambda event: self._told(event, self._save))
        load.on_upload(lambda event: self._told(event, self._load))
        self._video.on_click(lambda event: self._told(event, self._render))
        self._stop.on_click(lambda _: self._cancelled.set())
        self._show()

    def path(self) -> KeyframePath:
        """What has been recorded, at the size and rate that the panel says."""
        width, height = (int(side) for side in self._size.value.split(" x "))
        with self._lock:
            if not self.keys:
                raise SplatlearnError("there is no keyframe yet: add a view first")
            return KeyframePath(width, height, float(self._fps.value), tuple(self.keys))

    def cancel(self) -> None:
        """Stops a video in the making, and waits for it."""
        self._cancelled.set()
        maker = self._maker
        if maker is not None:
            maker.join()

    # ---- what the buttons do; each is told in the page what went wrong ----

    def _told(self, event: Any, action: Any) -> None:
        view = self.viewer.view_of(event.client_id)
        if view is None:
            return
        try:
            action(view, event)
        except SplatlearnError as error:
            view.client.add_notification("That did not work", str(error), color="red", auto_close_seconds=15)

    def _add(self, view: "View", _: Any) -> None:
        with self._lock:
            seconds = round(self.keys[-1].seconds + float(self._gap.value), 3) if self.keys else 0.0
            self.keys.append(view.pose.keyframe(seconds))
        self._show()

    def _edit(self, view: "View", event: Any) -> None:
        with self._lock:
            if event.target.value == "clear":
                self.keys.clear()
            elif event.target.value == "drop last":
                del self.keys[-1:]
            elif len(self.keys) > 2 and not same_pose(self.keys[0], self.keys[-1]):
                first, end = self.keys[0], round(self.keys[-1].seconds + float(self._gap.value), 3)
                self.keys.append(Keyframe(end, first.position, first.wxyz, first.fov))
        self._show()

    def _play(self, view: "View", event: Any) -> None:
        if event.target.value == "stop":
            view.flight += 1
        else:
            fly(view, self.path().keyframes)

    def _save(self, view: "View", _: Any) -> None:
        name, path = self._checked_name(), self.path()
        file = self.viewer.around.folder / f"{name}.json"
        write_path(file, path)
        view.client.add_notification("Saved", f"{file} (splatlearn render --path takes it)", auto_close_seconds=20)
        view.client.send_file_download(file.name, path_text(path).encode())

    def _load(self, view: "View", event: Any) -> None:
        file = event.target.value
        path = parse_path(file.content.decode("utf-8", "replace"), file.name)
        with self._lock:
            self.keys = list(path.keyframes)
        self._fps.value = max(1, min(120, round(path.fps)))
        self._show()

    def _checked_name(self) -> str:
        name = self._name.value.strip()
        if not re.fullmatch(r"\w[\w .-]{0,63}", name):
            raise SplatlearnError(f"a name has up to 64 letters, digits, spaces, dots and dashes, got {name!r}")
        return name

    def _show(self) -> None:
        """The note, and the path as a line in the scene."""
        with self._lock:
            keys = tuple(self.keys)
        count = f"**{len(keys)}** keyframe{'' if len(keys) == 1 else 's'}"
        self._note.content = f"{count}, {keys[-1].seconds:g} seconds" if keys else "No keyframes yet."
        if self._line is not None:
            self._line.remove()
            self._line = None
        if len(keys) > 1:
            cameras = KeyframePath(16, 9, 30.0, keys).at(np.linspace(0, keys[-1].seconds, 12 * len(keys)))
            centers = np.array([camera.center for camera in cameras], np.float32)
            points = np.stack([centers[:-1], centers[1:]], axis=1)
            self._line = self.viewer.server.scene.add_line_segments(
                "/path", points, (250, 220, 80), thickness=2.0, thickness_units="screen"
            )

    # ---- the video ----

    def _render(self, view: "View", _: Any) -> None:
        path, name = self.path(), self._checked_name()
        with self._lock:
            if self._maker is not None and self._maker.is_alive():
                raise SplatlearnError("a video is being rendered already: wait for it, or stop it")
            self._cancelled.clear()
            arguments = (view, path, self.viewer.snapshot, view.look, name)
            self._maker = threading.Thread(target=self._make, args=arguments, name="video", daemon=True)
            self._maker.start()

    def _make(self, view: "View", path: KeyframePath, snapshot: Snapshot, look: Look, name: str) -> None:
        from splatlearn.show.video import write_video

        file = self.viewer.around.folder / f"{name}.mp4"
        self._progress.value, self._progress.visible, self._stop.visible = 0.0, True, True
        title, color = "Video", "blue"
        try:
            count = write_video(file, self._frames(path, snapshot, look), path.fps)
            told = f"{count} frames in {file}"
            if file.stat().st_size <= LARGEST_DOWNLOAD and not view.gone:
                view.client.send_file_download(file.name, file.read_bytes())
        except CancelledError:
            told = "stopped; nothing was written"
        except (SplatlearnError, OSError) as error:
            title, told, color = "No video", str(error), "red"
        self._progress.visible, self._stop.visible = False, False
        if not view.gone:
            client: Any = view.client
            client.add_notification(title, told, color=color, auto_close_seconds=30)

    def _frames(self, path: KeyframePath, snapshot: Snapshot, look: Look) -> Iterator[np.ndarray]:
        cameras = path.cameras()
        for index, camera in enumerate(cameras):
            if self._cancelled.is_set():
                raise CancelledError
            yield self.viewer.drawer.run(partial(draw, snapshot, camera, look)).result().image
            self._progress.value = 100.0 * (index + 1) / len(cameras)


def fly(view: "View", keys: Sequence[Keyframe]) -> None:
    """Moves a browser's camera along keyframes; returns at once. A later flight takes over from an earlier one."""
    view.flight += 1
    path = KeyframePath(16, 9, 30.0, tuple(keys))
    threading.Thread(target=_fly, args=(view, view.flight, path), name="flight", daemon=True).start()


def _fly(view: "View", number: int, path: KeyframePath) -> None:
    loop = view.viewer.server.get_event_loop()
    began = time.perf_counter()
    arrived = False
    while not arrived and view.flight == number and not view.gone:
        moment = min(time.perf_counter() - began, path.seconds)
        arrived = moment == path.seconds
        seen = path.at([moment])[0]
        with suppress(RuntimeError):  # the loop has ended, and the page with it
            loop.call_soon_threadsafe(_put, view, number, seen)
        time.sleep(0 if arrived else 1 / FLIGHT_RATE)


def _put(view: "View", number: int, seen: Camera) -> None:
    """Sends a browser's camera to a pose. Called in the loop of viser's server, which alone hears where the browser is:

    viser derives a pose from the one before it, which the browser's own word would else replace in the middle.
    """
    if view.flight != number or view.gone:
        return
    camera = view.client.camera
    with view.client.atomic():
        camera.position = seen.center
        camera.wxyz = rotation_of(seen)
        camera.fov = float(2 * np.arctan(seen.height / 2 / seen.K[1, 1]))
    view.client.flush()
