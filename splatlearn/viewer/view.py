"""One browser's view: its camera, its controls, and the pictures that it gets."""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from splatlearn.scene.cameras import Camera
from splatlearn.scene.reconstruct.keyframes import Keyframe, looking, posed
from splatlearn.viewer.drawing import MODES, Look, crop_range, draw
from splatlearn.viewer.photos import Photos
from splatlearn.viewer.recording import fly

if TYPE_CHECKING:
    from viser import CameraHandle, ClientHandle

    from splatlearn.viewer.viewer import Viewer

MOVING_QUALITY, SHARP_QUALITY = 75, 95  # of JPEG
SMALLEST = 16  # pixels that the shorter side of a picture has at least
FOV = (5.0, 140.0)  # degrees, of the control


@dataclass(frozen=True)
class Pose:
    """A browser's camera: centre [3] and rotation camera to world [4] wxyz, vertical field of view in degrees, px."""

    position: np.ndarray
    wxyz: np.ndarray
    fov: float
    width: int
    height: int

    @classmethod
    def of(cls, camera: "CameraHandle") -> "Pose":
        """The camera as viser last heard of it; its axes are x right, y down, z forward as ours."""
        fov = float(np.degrees(camera.fov))
        return cls(camera.position.copy(), camera.wxyz.copy(), fov, camera.image_width, camera.image_height)

    def camera(self, factor: float = 1.0) -> Camera:
        """The camera, its picture 1 / factor of the window's size."""
        full = posed("", max(self.width, 1), max(self.height, 1), self.fov, self.position, self.wxyz)
        factor = max(1.0, min(factor, min(full.width, full.height) / SMALLEST))
        return full if factor == 1 else full.scaled(round(full.width / factor), round(full.height / factor))

    def keyframe(self, seconds: float) -> Keyframe:
        """The pose as a keyframe of a path."""
        return Keyframe(seconds, self.position, self.wxyz, self.fov)


class View:
    """What one browser sees and sets. The drawer calls `draw`; viser's threads call the rest."""

    def __init__(self, viewer: "Viewer", client: "ClientHandle") -> None:
        self.viewer, self.client = viewer, client
        self.look = Look(background=viewer.around.background)
        self.pose = Pose.of(client.camera)
        self.gone = False
        self.flight = 0  # the number of the latest flight: an older one that still goes on stops
        self._controls: dict[str, Any] = {}
        self._legend_text = ""
        with viewer.view_tab:
            self._build()
        self.photos = Photos(self) if viewer.photos_tab is not None else None
        client.camera.on_update(self._moved)
        self._take(client.camera)  # where it has gone while the controls were being made, and nobody listened

    def close(self) -> None:
        """The browser has gone: nothing is sent to it any more."""
        self.gone = True
        self.flight += 1

    def changed(self) -> None:
        """Something that the picture depends on is different."""
        if not self.gone:
            self.viewer.drawer.moved(self)

    # ---- for the drawer ----

    def kind(self) -> str:
        return self.look.mode

    def draw(self, factor: float) -> None:
        if self.gone:
            return
        pose, look = self.pose, self.look
        camera = pose.camera(factor)
        picture = draw(self.viewer.snapshot, camera, look)
        image = picture.image if self.photos is None else self.photos.blended(picture.image, camera, pose)
        if self.gone:
            return
        sharp = factor == 1
        self.client.scene.set_background_image(
            image, format="jpeg", jpeg_quality=SHARP_QUALITY if sharp else MOVING_QUALITY
        )
        self.client.flush()
        if sharp:
            self._tell(picture.legend)

    def failed(self, sentence: str) -> None:
        if not self.gone:
            self._tell(f"**no picture**: {sentence}")

    def _tell(self, text: str) -> None:
        if text != self._legend_text:
            self._legend_text = text
            with suppress(RuntimeError):  # which viser raises where the browser has left at this very moment
                self._controls["legend"].content = text

    # ---- the camera ----

    async def _moved(self, camera: "CameraHandle") -> None:
        self._take(camera)
        self.changed()

    def _take(self, camera: "CameraHandle") -> None:
        self.pose = Pose.of(camera)
        self._controls["fov"].value = round(float(np.clip(self.pose.fov, *FOV)), 1)

    def go(self, key: Keyframe, seconds: float = 0.7) -> None:
        """Flies to a pose; returns at once."""
        fly(self, [self.pose.keyframe(0.0), replace(key, seconds=seconds)])

    # ---- the controls ----

    def _build(self) -> None:
        gui, c, snapshot = self.client.gui, self._controls, self.viewer.snapshot
        c["mode"] = gui.add_dropdown("Show", tuple(MODES), initial_value=self.look.mode)
        c["legend"] = gui.add_markdown("")
        if snapshot.sh_degree:
            c["degree"] = gui.add_slider("SH degree", 0, snapshot.sh_degree, 1, snapshot.sh_degree)
        rgb = tuple(round(255 * value) for value in self.look.background)
        c["background"] = gui.add_rgb("Background", (rgb[0], rgb[1], rgb[2]))
        c["size"] = gui.add_slider("Splat size", 0.05, 2.0, 0.05, 1.0)
        c["fov"] = gui.add_slider("Field of view", *FOV, 0.1, round(float(np.clip(self.pose.fov, *FOV)), 1))
        c["crop"] = gui.add_checkbox("Crop to a box", False)
        low, high = crop_range(snapshot.tensors["means"])
        c["box"] = [
            gui.add_multi_slider(axis, float(a), float(b), float((b - a) / 200), (float(a), float(b)), visible=False)
            for axis, a, b in zip("xyz", low, high, strict=True)
        ]
        reset = gui.add_button("Back to the start")
        dark = gui.add_checkbox("Dark page", True)
        for name in ("mode", "degree", "background", "size"):
            if name in c:
                c[name].on_update(self._look_changed)
        c["crop"].on_update(self._crop_changed)
        for slider in c["box"]:
            slider.on_update(self._look_changed)
        c["fov"].on_update(self._fov_changed)
        reset.on_click(lambda _: self.go(self.start()))
        dark.on_update(lambda _: gui.configure_theme(dark_mode=dark.value, show_logo=False, show_share_button=False))

    def start(self) -> Keyframe:
        """The pose in which every browser begins."""
        start = self.viewer.start
        return Keyframe(0.0, start.position, looking(start.look_at - start.position, start.up), start.fov)

    def _crop_changed(self, event: Any) -> None:
        for slider in self._controls["box"]:
            slider.visible = self._controls["crop"].value
        self._look_changed(event)

    def _look_changed(self, _: Any) -> None:
        c = self._controls
        box = (
            tuple(_open_ends(slider.value, slider.min, slider.max) for slider in c["box"]) if c["crop"].value else None
        )
        red, green, blue = c["background"].value
        degree = c["degree"].value if "degree" in c else 0
        self.look = Look(c["mode"].value, degree, (red / 255, green / 255, blue / 255), c["size"].value, box)
        self.changed()

    def _fov_changed(self, event: Any) -> None:
        if event.client is None:  # set by the camera itself
            return
        fov = float(event.target.value)
        self.client.camera.fov = float(np.radians(fov))
        self.pose = replace(self.pose, fov=fov)
        self.changed()


def _open_ends(values: tuple[float, float], least: float, most: float) -> tuple[float, float]:
    """A control at its end cuts nothing off there."""
    low, high = values
    return (-np.inf if low <= least else low), (np.inf if high >= most else high)
