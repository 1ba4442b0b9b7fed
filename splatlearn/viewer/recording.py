"""The panel in which users record a camera path: keyframes, a flight along them, a JSON file, a video."""

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.scene.keyframes import (
    LARGEST_FILE,
    Keyframe,
    KeyframePath,
    format_path,
    parse_path,
    same_pose,
    write_path,
)
from splatlearn.viewer.drawing import Look, Snapshot, draw
from splatlearn.viewer.session import Session
from splatlearn.viewer.view import BrowserView, within

SIZES = ("960 x 540", "1280 x 720", "1920 x 1080", "540 x 960", "1080 x 1080")
FPS = (1, 120)  # frames a second, of the control
GAP = (0.1, 600.0)  # seconds between keyframes, of the control
MOST_KEYS = 1000  # keyframes of a recorded path
LARGEST_DOWNLOAD = 256 << 20  # bytes of a video that is offered to the browser too


class Recording:
    """The panel of the camera path, which all browsers share; `cancel` stops the rendering of a video.

    Args:
        session: what the browsers share.
        view_of: the view of a browser by its client id; None if it has disconnected.
    """

    def __init__(self, session: Session, view_of: Callable[[int | None], BrowserView | None]) -> None:
        self.session, self._view_of = session, view_of
        self.keys: list[Keyframe] = []
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._maker: threading.Thread | None = None
        self._line: Any = None
        gui: Any = session.server.gui
        with session.path_tab:
            self._note = gui.add_markdown("")
            self._gap = gui.add_number("Seconds between", 2.0, min=GAP[0], max=GAP[1], step=0.1)
            add = gui.add_button("Add this view")
            edit = gui.add_button_group("Keyframes", ("drop last", "close loop", "clear"))
            fly_along = gui.add_button_group("Flight", ("play", "stop"))
            self._name = gui.add_text("Name", "path")
            self._size = gui.add_dropdown("Size", SIZES)
            self._fps = gui.add_number("Frames a second", 30, min=FPS[0], max=FPS[1], step=1)
            save = gui.add_button("Save as JSON")
            load = gui.add_upload_button("Load JSON", mime_type="application/json")
            self._video = gui.add_button("Render a video")
            self._progress = gui.add_progress_bar(0.0, visible=False)
            self._stop = gui.add_button("Stop rendering", visible=False)
        add.on_click(lambda event: self._handle(event, self._add))
        edit.on_click(lambda event: self._handle(event, self._edit))
        fly_along.on_click(lambda event: self._handle(event, self._play))
        save.on_click(lambda event: self._handle(event, self._save))
        load.on_upload(lambda event: self._handle(event, self._load))
        self._video.on_click(lambda event: self._handle(event, self._render))
        self._stop.on_click(lambda _: self._cancelled.set())
        self._show()

    def path(self) -> KeyframePath:
        """The recorded path, at the size and frame rate of the panel.

        Raises:
            SplatlearnError: no keyframe has been recorded.
        """
        if self._size.value not in SIZES:
            raise SplatlearnError(f"a video's size must be one of {', '.join(SIZES)}, got {self._size.value[:20]!r}")
        width, height = (int(side) for side in self._size.value.split(" x "))
        with self._lock:
            if not self.keys:
                raise SplatlearnError("there is no keyframe yet: add a view first")
            return KeyframePath(width, height, within(self._fps.value, *FPS), tuple(self.keys))

    def cancel(self) -> None:
        """Stop the rendering of a video, and wait until it has stopped."""
        self._cancelled.set()
        maker = self._maker
        if maker is not None:
            maker.join()

    # ---- the buttons; an error of one is shown in the page ----

    def _handle(self, event: Any, action: Any) -> None:
        view = self._view_of(event.client_id)
        if view is None:
            return
        try:
            action(view, event)
        except SplatlearnError as error:
            view.client.add_notification("That did not work", str(error), color="red", auto_close_seconds=15)

    def _add(self, view: BrowserView, _: Any) -> None:
        with self._lock:
            seconds = round(self.keys[-1].seconds + within(self._gap.value, *GAP), 3) if self.keys else 0.0
            if len(self.keys) >= MOST_KEYS:
                raise SplatlearnError(f"a recorded path has at most {MOST_KEYS} keyframes")
            self.keys.append(view.pose.keyframe(seconds))
        self._show()

    def _edit(self, view: BrowserView, event: Any) -> None:
        with self._lock:
            if event.target.value == "clear":
                self.keys.clear()
            elif event.target.value == "drop last":
                del self.keys[-1:]
            elif len(self.keys) > 2 and not same_pose(self.keys[0], self.keys[-1]):
                first, end = self.keys[0], round(self.keys[-1].seconds + within(self._gap.value, *GAP), 3)
                self.keys.append(Keyframe(end, first.position, first.wxyz, first.fov))
        self._show()

    def _play(self, view: BrowserView, event: Any) -> None:
        if event.target.value == "stop":
            view.flight.stop()
        else:
            view.flight.along(self.path().keyframes)

    def _save(self, view: BrowserView, _: Any) -> None:
        frame = self.session.snapshot.frame
        name, path = self._checked_name(), self.path().mapped(frame.capture_points)
        file = self.session.around.folder / f"{name}.json"
        write_path(file, path)
        view.client.add_notification("Saved", f"{file} (splatlearn render --path takes it)", auto_close_seconds=20)
        view.client.send_file_download(file.name, format_path(path).encode())

    def _load(self, view: BrowserView, event: Any) -> None:
        file = event.target.value
        if len(file.content) > LARGEST_FILE:
            raise SplatlearnError(f"a camera path has at most {LARGEST_FILE:,} bytes, got {len(file.content):,}")
        path = parse_path(file.content.decode("utf-8", "replace"), file.name)
        if len(path.keyframes) > MOST_KEYS:
            raise SplatlearnError(f"a recorded path has at most {MOST_KEYS} keyframes, got {len(path.keyframes):,}")
        with self._lock:
            self.keys = list(path.mapped(self.session.snapshot.frame.normalised_points).keyframes)
        self._fps.value = round(within(path.fps, *FPS))
        self._show()

    def _checked_name(self) -> str:
        name = self._name.value.strip()
        if not re.fullmatch(r"\w[\w .-]{0,63}", name):
            raise SplatlearnError(f"a name has up to 64 letters, digits, spaces, dots and dashes, got {name!r}")
        return name

    def _show(self) -> None:
        """Update the note, and the path as a line in the scene."""
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
            self._line = self.session.server.scene.add_line_segments(
                "/path", points, (250, 220, 80), thickness=2.0, thickness_units="screen"
            )

    # ---- the video ----

    def _render(self, view: BrowserView, _: Any) -> None:
        path, name = self.path(), self._checked_name()
        with self._lock:
            if self._maker is not None and self._maker.is_alive():
                raise SplatlearnError("a video is being rendered already: wait for it, or stop it")
            self._cancelled.clear()
            arguments = (view, path, self.session.snapshot, view.look, name)
            self._maker = threading.Thread(target=self._make, args=arguments, name="video", daemon=True)
            self._maker.start()

    def _make(self, view: BrowserView, path: KeyframePath, snapshot: Snapshot, look: Look, name: str) -> None:
        from splatlearn.show.video import write_video

        file = self.session.around.folder / f"{name}.mp4"
        self._progress.value, self._progress.visible, self._stop.visible = 0.0, True, True
        title, color = "Video", "blue"
        try:
            count = write_video(file, self._frames(path, snapshot, look), path.fps)
            result = f"{count} frames in {file}"
            if file.stat().st_size <= LARGEST_DOWNLOAD and not view.gone:
                view.client.send_file_download(file.name, file.read_bytes())
        except CancelledError:
            result = "stopped; nothing was written"
        except (SplatlearnError, OSError) as error:
            title, result, color = "No video", str(error), "red"
        self._progress.visible, self._stop.visible = False, False
        if not view.gone:
            client: Any = view.client
            client.add_notification(title, result, color=color, auto_close_seconds=30)

    def _frames(self, path: KeyframePath, snapshot: Snapshot, look: Look) -> Iterator[np.ndarray]:
        cameras = path.cameras()
        for index, camera in enumerate(cameras):
            if self._cancelled.is_set():
                raise CancelledError
            yield self.session.drawer.run(partial(draw, snapshot, camera, look)).result().image
            self._progress.value = 100.0 * (index + 1) / len(cameras)
