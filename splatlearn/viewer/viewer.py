"""The viewer as a whole: a server, a drawing thread, the scene of the moment, and a view for each browser."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from splatlearn.scene.cameras import Camera, scene_extent
from splatlearn.scene.reconstruct.keyframes import rotation_of
from splatlearn.viewer import server as web
from splatlearn.viewer.drawer import Drawer
from splatlearn.viewer.drawing import Snapshot

if TYPE_CHECKING:
    from viser import ClientHandle

    from splatlearn.viewer.view import View


@dataclass(frozen=True)
class Surroundings:
    """What is known of a scene beside its Gaussians.

    train, test: the cameras of its photographs, which `photo` gives as [H, W, 3] uint8; none for a bare file.
    background: RGB, 0..1, that it was trained on. folder: where camera paths and videos are written.
    """

    train: Sequence[Camera] = ()
    test: Sequence[Camera] = ()
    photo: Callable[[Camera], torch.Tensor] | None = None
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    folder: Path = field(default_factory=lambda: Path("renders"))

    @property
    def cameras(self) -> list[Camera]:
        """All cameras, by name."""
        return sorted([*self.train, *self.test], key=lambda camera: camera.name)


class Viewer:
    """Serves the page on `host`:`port` until `close`; `show` changes the scene that it shows.

    Raises SplatlearnError where it cannot listen there.
    """

    def __init__(
        self, snapshot: Snapshot, around: Surroundings, *, host: str = web.HOST, port: int = web.PORT, label: str = ""
    ) -> None:
        from splatlearn.viewer.recording import Recording

        self.snapshot, self.around = snapshot, around
        self.start = first_camera(snapshot, around)
        self.reach = float(np.linalg.norm(self.start.look_at - self.start.position))
        self.server = web.start(host, port, label or "splatlearn")
        self.host, self.port = host, self.server.get_port()
        self.drawer = Drawer()
        self._views: dict[int, View] = {}
        self._lock = threading.Lock()
        self._place_first_camera()
        self.tabs = self.server.gui.add_tab_group()
        self.view_tab = self.tabs.add_tab("View")
        self.photos_tab = self.tabs.add_tab("Photos") if around.cameras else None
        self.recording = Recording(self, self.tabs.add_tab("Path"))
        self.server.on_client_connect(self._arrived)
        self.server.on_client_disconnect(self._left)

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the page."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def show(self, snapshot: Snapshot) -> None:
        """Every browser shows this from now on."""
        self.snapshot = snapshot
        for view in self.views():
            self.drawer.refresh(view)

    def views(self) -> list["View"]:
        """The views of the browsers that are here."""
        with self._lock:
            return list(self._views.values())

    def view_of(self, client_id: int | None) -> "View | None":
        """The view of a browser, or None if it has gone."""
        with self._lock:
            return None if client_id is None else self._views.get(client_id)

    def close(self) -> None:
        """Ends the page and the thread."""
        self.recording.cancel()
        for view in self.views():
            view.close()
        self.drawer.close()
        web.stop(self.server)

    def _arrived(self, client: "ClientHandle") -> None:
        from splatlearn.viewer.view import View

        view = View(self, client)
        with self._lock:
            self._views[client.client_id] = view
        if client.client_id not in self.server.get_clients():  # it left while its page was being made
            self._left(client)
            return
        self.drawer.moved(view)

    def _left(self, client: "ClientHandle") -> None:
        with self._lock:
            view = self._views.pop(client.client_id, None)
        if view is not None:
            view.close()
            self.drawer.forget(view)

    def _place_first_camera(self) -> None:
        start, scene, camera = self.start, self.server.scene, self.server.initial_camera
        scene.set_up_direction(tuple(start.up))
        camera.position, camera.look_at = tuple(start.position), tuple(start.look_at)
        camera.fov = np.radians(start.fov)
        camera.near, camera.far = self.reach * 1e-3, self.reach * 1e3


@dataclass(frozen=True)
class Start:
    """Where a browser begins. All vectors are [3], world; fov is vertical, degrees."""

    position: np.ndarray
    look_at: np.ndarray
    up: np.ndarray
    fov: float


def first_camera(snapshot: Snapshot, around: Surroundings) -> Start:
    """The first photograph's camera, or for a bare file a place in front of it, in the frame of COLMAP: y is down."""
    points = snapshot.tensors["means"]
    means = points[:: len(points) // 20_000 + 1].cpu().double().numpy()
    middle = np.median(means, axis=0) if len(means) else np.zeros(3)
    spread = float(np.percentile(np.linalg.norm(means - middle, axis=1), 80)) if len(means) else 1.0
    spread = max(spread, 1e-3)
    cameras = around.cameras
    if not cameras:
        return Start(middle - [0, 0, 2.5 * spread], middle, np.array([0.0, -1.0, 0.0]), 50.0)
    camera = cameras[0]
    forward = camera.world_to_camera[2, :3]
    up = -np.mean([each.world_to_camera[1, :3] for each in cameras], axis=0)
    up = up / np.linalg.norm(up) if np.linalg.norm(up) > 0.1 else -camera.world_to_camera[1, :3]
    depths = (means - camera.center) @ forward
    seen = depths[depths > 0]
    distance = float(np.median(seen)) if seen.size else spread
    fov = float(np.degrees(2 * np.arctan(camera.height / 2 / camera.K[1, 1])))
    return Start(camera.center, camera.center + max(distance, 1e-3) * forward, up, float(np.clip(fov, 10, 120)))


def frusta(around: Surroundings, most: int) -> list[tuple[Camera, dict[str, Any]]]:
    """Cameras to draw, at most so many, evenly chosen, with what viser's `add_camera_frustum` takes."""
    cameras = around.cameras
    chosen = [cameras[i] for i in np.linspace(0, len(cameras) - 1, min(most, len(cameras))).round().astype(int)]
    held_out = {camera.name for camera in around.test}
    size = 0.025 * scene_extent(cameras)
    return [
        (
            camera,
            {
                "fov": 2 * np.arctan(camera.height / 2 / camera.K[1, 1]),
                "aspect": camera.width / camera.K[0, 0] * camera.K[1, 1] / camera.height,
                "scale": size,
                "thickness": 1.5,
                "thickness_units": "screen",
                "color": (255, 150, 60) if camera.name in held_out else (90, 170, 255),
                "wxyz": rotation_of(camera),
                "position": camera.center,
                "cast_shadow": False,
                "receive_shadow": False,
            },
        )
        for camera in chosen
    ]
