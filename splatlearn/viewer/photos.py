"""The panel of the photos: camera frusta to click, and a slider between photo and render."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.scene.cameras import Camera
from splatlearn.scene.keyframes import Keyframe, rotation_of
from splatlearn.viewer.pose import BrowserPose
from splatlearn.viewer.session import Session
from splatlearn.viewer.surroundings import frusta

if TYPE_CHECKING:
    from viser import ClientHandle

MOST_FRUSTA = 300  # frusta that a browser draws; the list has all photos
NONE = "(none)"
SAME_ROTATION = np.cos(np.radians(0.1) / 2)  # dot product of quaternions above which two rotations are one


class Photos:
    """The panel and the frusta of one browser; `blended` puts a photo over the render from its camera.

    Args:
        session: what the browsers share; its ``photos_tab`` is not None.
        client: the browser.
        visit: moves the browser's camera to that of a photo.
        changed: requests a new picture.
    """

    def __init__(
        self,
        session: Session,
        client: "ClientHandle",
        visit: Callable[[Camera], None],
        changed: Callable[[], None],
    ) -> None:
        self._client, self._visit, self._changed = client, visit, changed
        self.around = around = session.around
        self.cameras = {camera.name: camera for camera in around.cameras}
        self.chosen: Camera | None = None
        self._near = 1e-3 * session.reach
        self._warped: tuple[Any, np.ndarray, np.ndarray] | None = None
        gui: Any = client.gui
        assert session.photos_tab is not None
        with session.photos_tab:
            visible = gui.add_checkbox("Show the cameras", True)
            self._list = gui.add_dropdown("Photo", (NONE, *self.cameras), initial_value=NONE)
            self._blend = gui.add_slider("Render to photo", 0.0, 1.0, 0.01, 0.0, disabled=True)
            count = f"{len(self.cameras)} photographs, {len(around.test)} of them held out (orange)"
            self._note = gui.add_markdown(f"{count}. Click a camera to fly there.")
        self._frusta = [self._add(camera, options) for camera, options in frusta(around, MOST_FRUSTA)]
        visible.on_update(lambda _: self._show(visible.value))
        self._list.on_update(lambda _: self._choose(self._list.value))
        self._blend.on_update(lambda _: changed())

    def _add(self, camera: Camera, options: dict[str, Any]) -> Any:
        frustum = self._client.scene.add_camera_frustum(f"/photos/{camera.name}", **options)
        frustum.on_click(lambda _: self._clicked(camera.name))
        return frustum

    def _clicked(self, name: str) -> None:
        if self._list.value == name:
            self._choose(name)  # again, from wherever the camera is now
        self._list.value = name

    def _show(self, visible: bool) -> None:
        for frustum in self._frusta:
            frustum.visible = visible

    def _choose(self, name: str) -> None:
        self.chosen = self.cameras.get(name)
        self._blend.disabled = self.chosen is None
        if self.chosen is not None:
            self._visit(self.chosen)
        self._changed()

    # ---- the blend ----

    def blended(self, image: np.ndarray, camera: Camera, pose: BrowserPose) -> np.ndarray:
        """The render [H, W, 3] uint8, blended with the chosen photo if the pose is that of its camera."""
        share, photo, around = float(np.clip(self._blend.value, 0, 1)), self.chosen, self.around
        if photo is None or not share > 0 or around.photo is None or not self._at_photo(photo, pose):
            return image
        key = (photo.name, camera.width, camera.height, float(camera.K[0, 0]))
        if self._warped is None or self._warped[0] != key:
            try:
                self._warped = (key, *warped(around.photo(photo), photo, camera))
            except SplatlearnError as error:  # the file has been removed since
                self._note.content = f"**no photo**: {error}"
                return image
        _, picture, inside = self._warped
        mixed = image + share * (picture.astype(np.float32) - image)
        return np.where(inside, (mixed + 0.5).astype(np.uint8), image)

    def _at_photo(self, photo: Camera, pose: BrowserPose) -> bool:
        turn = abs(float(np.dot(rotation_of(photo), pose.wxyz / np.linalg.norm(pose.wxyz))))
        return turn > SAME_ROTATION and float(np.linalg.norm(photo.center - pose.position)) < self._near


def pose_of(photo: Camera, width: int, height: int) -> Keyframe:
    """The pose of a photo's camera, with the field of view at which the whole photo fits into a window of that size."""
    fx, fy, cx, cy = photo.K[0, 0], photo.K[1, 1], photo.K[0, 2], photo.K[1, 2]
    across, down = max(cx, photo.width - cx) / fx, max(cy, photo.height - cy) / fy
    half = max(down, across * height / max(width, 1))
    fov = float(np.clip(np.degrees(2 * np.arctan(half)), 1.0, 170.0))
    return Keyframe(0.0, photo.center, rotation_of(photo), fov)


def warped(picture: torch.Tensor, photo: Camera, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """A photo [H, W, 3] uint8 as a camera with other intrinsics sees it, and which pixels it covers, [H, W, 1] bool.

    Both are pinhole cameras without skew and with the same pose, so the photo is only scaled and shifted along axes.
    """
    from PIL import Image

    scale = camera.K[[0, 1], [0, 1]] / photo.K[[0, 1], [0, 1]]
    shift = camera.K[:2, 2] - photo.K[:2, 2] * scale
    source = Image.fromarray(picture.cpu().numpy())
    reduce = max(1, int(1 / max(scale)))  # averaged first, as the transform reads only nearby pixels
    if reduce > 1:
        source = source.reduce(reduce)
    stretch = scale * reduce
    matrix = (1 / stretch[0], 0.0, -shift[0] / stretch[0], 0.0, 1 / stretch[1], -shift[1] / stretch[1])
    size = (camera.width, camera.height)
    image = source.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    x, y = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    ends = shift + scale * [photo.width, photo.height]
    inside = ((y >= shift[1]) & (y < ends[1]))[:, None] & ((x >= shift[0]) & (x < ends[0]))[None]
    return np.asarray(image), inside[:, :, None]
