"""What all browsers of a viewer share: the server, the drawing thread, the shown scene, and the tabs of the page."""

import threading

import numpy as np

from splatlearn.viewer import server as web
from splatlearn.viewer.drawer import Drawer
from splatlearn.viewer.drawing import Snapshot
from splatlearn.viewer.surroundings import Surroundings, first_camera


class Session:
    """The parts of a `Viewer` that the views and the panels of its browsers use.

    Args:
        snapshot: the scene to show first.
        around: the cameras, photos and background of the scene.
        host, port: where the server listens; port 0 takes any free one.
        label: title of the page.

    Attributes:
        snapshot: the scene that is shown now.
        start: the camera with which a browser starts.
        reach: distance from the first camera to what it looks at, in world units.
        photos_tab: None for a scene without cameras.
        building: held while the controls of one browser are made, as a tab of viser takes one thread at a time.

    Raises:
        SplatlearnError: the server cannot listen on ``host`` and ``port``.
    """

    def __init__(self, snapshot: Snapshot, around: Surroundings, host: str, port: int, label: str) -> None:
        self.snapshot, self.around = snapshot, around
        self.start = first_camera(snapshot, around)
        self.reach = float(np.linalg.norm(self.start.look_at - self.start.position))
        self.server = web.start(host, port, label or "splatlearn")
        self.host, self.port = host, self.server.get_port()
        self.drawer = Drawer()
        self.building = threading.Lock()
        self._place_first_camera()
        self.tabs = self.server.gui.add_tab_group()
        self.view_tab = self.tabs.add_tab("View")
        self.photos_tab = self.tabs.add_tab("Photos") if around.cameras else None
        self.path_tab = self.tabs.add_tab("Path")

    def _place_first_camera(self) -> None:
        start, scene, camera = self.start, self.server.scene, self.server.initial_camera
        scene.set_up_direction(tuple(start.up))
        camera.position, camera.look_at = tuple(start.position), tuple(start.look_at)
        camera.fov = np.radians(start.fov)
        camera.near, camera.far = self.reach * 1e-3, self.reach * 1e3
