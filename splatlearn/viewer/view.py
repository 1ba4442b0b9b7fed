"""The view of one browser: its camera, its controls, and the pictures sent to it."""

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.scene.cameras import Camera
from splatlearn.scene.keyframes import Keyframe, look_rotation
from splatlearn.viewer.drawing import MODES, Look, crop_range, draw
from splatlearn.viewer.flight import Flight
from splatlearn.viewer.photos import Photos, pose_of
from splatlearn.viewer.pose import BrowserPose
from splatlearn.viewer.session import Session

if TYPE_CHECKING:
    from viser import CameraHandle, ClientHandle

MOVING_QUALITY, SHARP_QUALITY = 75, 95  # of JPEG
FOV = (5.0, 140.0)  # degrees, of the control
SIZE = (0.05, 2.0)  # factor on the size of the splats, of the control


class BrowserView:
    """The camera and the controls of one browser. The drawer calls `draw`; viser's threads call the rest."""

    def __init__(self, session: Session, client: "ClientHandle") -> None:
        self.session, self.client = session, client
        self.look = Look(background=session.around.background)
        self.pose = BrowserPose.of(client.camera)
        self.gone = False
        self.flight = Flight(session.server, client)
        self._controls: dict[str, Any] = {}
        self._legend_text = ""
        self.photos: Photos | None = None
        with session.building:
            with session.view_tab:
                self._build()
            if session.photos_tab is not None:
                self.photos = Photos(session, client, visit=self._visit, changed=self.changed)
        client.camera.on_update(self._moved)
        self._take(client.camera)  # it may have moved while the controls were being built

    def close(self) -> None:
        """Stop sending: the browser has disconnected."""
        self.gone = True
        self.flight.stop()

    def changed(self) -> None:
        """Request a new picture, as something that it depends on has changed."""
        if not self.gone:
            self.session.drawer.moved(self)

    # ---- for the drawer ----

    def kind(self) -> str:
        return self.look.mode

    def draw(self, factor: float) -> None:
        if self.gone:
            return
        pose, look = self.pose, self.look
        camera = pose.camera(factor)
        picture = draw(self.session.snapshot, camera, look)
        image = picture.image if self.photos is None else self.photos.blended(picture.image, camera, pose)
        if self.gone:
            return
        sharp = factor == 1
        self.client.scene.set_background_image(
            image, format="jpeg", jpeg_quality=SHARP_QUALITY if sharp else MOVING_QUALITY
        )
        self.client.flush()
        if sharp:
            self._show_legend(picture.legend)

    def failed(self, sentence: str) -> None:
        if not self.gone:
            self._show_legend(f"**no picture**: {sentence}")

    def _show_legend(self, text: str) -> None:
        if text != self._legend_text:
            self._legend_text = text
            with suppress(RuntimeError):  # from viser, if the browser disconnects at this moment
                self._controls["legend"].content = text

    # ---- the camera ----

    async def _moved(self, camera: "CameraHandle") -> None:
        with suppress(SplatlearnError):  # a browser may send anything; its last valid pose stays
            self._take(camera)
            self.changed()

    def _take(self, camera: "CameraHandle") -> None:
        self.pose = BrowserPose.of(camera)
        self._controls["fov"].value = round(float(np.clip(self.pose.fov, *FOV)), 1)

    def go(self, key: Keyframe, seconds: float = 0.7) -> None:
        """Start a flight to a pose and return at once."""
        self.flight.along([self.pose.keyframe(0.0), replace(key, seconds=seconds)])

    def _visit(self, photo: Camera) -> None:
        self.go(pose_of(photo, self.pose.width, self.pose.height))

    # ---- the controls ----

    def _build(self) -> None:
        gui, c, snapshot = self.client.gui, self._controls, self.session.snapshot
        c["mode"] = gui.add_dropdown("Show", tuple(MODES), initial_value=self.look.mode)
        c["legend"] = gui.add_markdown("")
        if snapshot.sh_degree:
            c["degree"] = gui.add_slider("SH degree", 0, snapshot.sh_degree, 1, snapshot.sh_degree)
        rgb = tuple(round(255 * value) for value in self.look.background)
        c["background"] = gui.add_rgb("Background", (rgb[0], rgb[1], rgb[2]))
        c["size"] = gui.add_slider("Splat size", *SIZE, 0.05, 1.0)
        c["fov"] = gui.add_slider("Field of view", *FOV, 0.1, round(float(np.clip(self.pose.fov, *FOV)), 1))
        c["crop"] = gui.add_checkbox("Crop to a box", False)
        low, high = snapshot.frame.capture_points(np.stack([*crop_range(snapshot.tensors["means"])]))
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
        start = self.session.start
        return Keyframe(0.0, start.position, look_rotation(start.look_at - start.position, start.up), start.fov)

    def _crop_changed(self, event: Any) -> None:
        for slider in self._controls["box"]:
            slider.visible = self._controls["crop"].value
        self._look_changed(event)

    def _look_changed(self, _: Any) -> None:
        c = self._controls
        frame = self.session.snapshot.frame
        axes = zip(c["box"], frame.offset, strict=True)
        box = tuple(_crop(slider, zero, frame.scale) for slider, zero in axes) if c["crop"].value else None
        red, green, blue = (within(channel, 0, 255) / 255 for channel in c["background"].value)
        degree = int(within(c["degree"].value, 0, self.session.snapshot.sh_degree)) if "degree" in c else 0
        mode = c["mode"].value if c["mode"].value in MODES else self.look.mode
        self.look = Look(mode, degree, (red, green, blue), within(c["size"].value, *SIZE), box)
        self.changed()

    def _fov_changed(self, event: Any) -> None:
        if event.client is None:  # set by the camera itself
            return
        fov = within(event.target.value, *FOV)
        self.client.camera.fov = float(np.radians(fov))
        self.pose = replace(self.pose, fov=fov)
        self.changed()


def within(value: Any, low: float, high: float) -> float:
    """Bring the value of a control into its range: the page enforces it, but a browser may send anything."""
    return float(np.clip(np.nan_to_num(float(value), nan=low), low, high))


def _crop(slider: Any, zero: float, unit: float) -> tuple[float, float]:
    """The range of a crop slider, which is in the capture's frame, in that of the Gaussians.

    An end of the control cuts nothing off there.
    """
    low, high = (within(value, slider.min, slider.max) for value in slider.value)
    return (
        -np.inf if low <= slider.min else (low - zero) / unit,
        np.inf if high >= slider.max else (high - zero) / unit,
    )
