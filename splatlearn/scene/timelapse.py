"""Images of a scene while it is trained, and the film that is made of them."""

import re
from pathlib import Path

import numpy as np
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.scene.cameras import Camera
from splatlearn.scene.paths import orbit
from splatlearn.task import AnyTask, Callback, Film, RunWriter

FOLDER = "timelapse"
WIDEST = 640  # pixels across of an image of the film
FPS = 24.0
HOLD = 1.0  # seconds for which a film shows its last image
NAME = re.compile(r"step_(\d{7,})\.png")


class Timelapse(Callback):
    """Saves `count` renders of a scene while it is trained, RUN/timelapse/step_NNNNNNN.png, most of them early.

    The camera goes once around the orbit of `splatlearn render` during the training. Images of steps beyond the
    checkpoint of a resumed run are rendered again; they depend on the parameters alone, so they are the same.
    """

    def __init__(self, writer: RunWriter, count: int, steps: int) -> None:
        self.writer = writer
        self.wanted = image_steps(count, steps)
        self._path: list[Camera] = []

    def on_start(self, start: int, task: AnyTask) -> None:
        scene = task.scene  # type: ignore[attr-defined]
        self._path = [reduced_camera(camera) for camera in orbit(scene.train, scene.points, len(self.wanted))]
        for step, path in saved_images(self.writer.folder):
            if step > start:
                path.unlink()
        if start == 0:
            self._save(0, task)

    def wants(self, step: int) -> bool:
        return step in self.wanted

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        self._save(step, task)

    def on_end(self, step: int, task: AnyTask) -> None:
        self.writer.save("renders/timelapse.mp4", film(self.writer.folder))

    @torch.no_grad()
    def _save(self, step: int, task: AnyTask) -> None:
        rendering = task.render(self._path[self.wanted[step]])  # type: ignore[attr-defined]
        self.writer.save(f"{FOLDER}/step_{step:07d}.png", rendering.image)


def image_steps(count: int, steps: int) -> dict[int, int]:
    """The steps after which a film of about `count` images saves them, with their indices along its path.

    The i-th is saved after steps (i / (count - 1))^2, as a scene changes fastest at first; a short training has fewer.
    """
    found: dict[int, int] = {}
    for index in range(count):
        found.setdefault(round(steps * (index / max(count - 1, 1)) ** 2), len(found))
    return found


def saved_images(run: Path) -> list[tuple[int, Path]]:
    """The images of a run's film, with their steps, by step."""
    found = [(match, path) for path in (run / FOLDER).glob("step_*.png") if (match := NAME.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in found)


def film(run: Path, fps: float | None = None, seconds: float | None = None) -> Film:
    """The film of a run's images, at a rate of `fps`, or of a length of `seconds`.

    Raises:
        SplatlearnError: The run saved no images.
    """
    from PIL import Image

    images = [path for _, path in saved_images(run)]
    if not images:
        raise SplatlearnError(f"{run} kept no pictures of its training: train with --timelapse 120 for a film")
    rate = fps or (len(images) / seconds if seconds else FPS)
    hold = [images[-1]] * round(HOLD * rate)
    return Film((np.asarray(Image.open(path).convert("RGB")) for path in [*images, *hold]), rate)


def reduced_camera(camera: Camera) -> Camera:
    """The camera, at most WIDEST pixels wide."""
    width = min(WIDEST, camera.width)
    return camera.scaled(width, max(1, round(camera.height * width / camera.width)))
