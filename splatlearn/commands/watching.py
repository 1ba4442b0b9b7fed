"""What a training can leave behind for the eye: pictures for a film of it, and events for TensorBoard."""

import re
from pathlib import Path
from typing import Any

import torch

from splatlearn.errors import SplatlearnError
from splatlearn.loop import AnyTask, Callback
from splatlearn.scene.cameras import Camera
from splatlearn.show.pictures import save_png, to_uint8
from splatlearn.show.video import write_video

FOLDER = "timelapse"
WIDEST = 640  # pixels across of a picture of the film
FPS = 24.0
HOLD = 1.0  # seconds for which a film shows its last picture
IMAGES = 20  # times in a training at which TensorBoard gets pictures
NAME = re.compile(r"step_(\d{7,})\.png")


def watching(run: Path, config: Any) -> list[Callback]:
    """The callbacks that a config asks for; raises SplatlearnError where one needs what is not installed."""
    found: list[Callback] = []
    if getattr(config, "timelapse", 0):
        found.append(Timelapse(run, config.timelapse, config.steps))
    if config.tensorboard:
        found.append(TensorBoard(run, config.log_every, config.steps))
    return found


class Timelapse(Callback):
    """Keeps `count` pictures of a scene while it learns, RUN/timelapse/step_NNNNNNN.png, closest together at the start.

    The camera goes once around the orbit of `splatlearn render` during the training. Pictures of steps beyond the
    checkpoint from which a run goes on are drawn anew; they come from the parameters alone, so they are the same.
    """

    def __init__(self, run: Path, count: int, steps: int) -> None:
        self.folder = run / FOLDER
        self.wanted = picture_steps(count, steps)
        self._path: list[Camera] = []

    def on_start(self, start: int, task: AnyTask) -> None:
        from splatlearn.scene.paths import orbit

        scene: Any = task
        cameras = orbit(scene.scene.train, scene.scene.points, len(self.wanted))
        self._path = [_small(camera) for camera in cameras]
        for step, path in kept_pictures(self.folder):
            if step > start:
                path.unlink()
        if start == 0:
            self._keep(0, task)

    def wants(self, step: int) -> bool:
        return step in self.wanted

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        self._keep(step, task)

    def on_end(self, step: int, task: AnyTask) -> None:
        timelapse_film(self.folder.parent)

    @torch.no_grad()
    def _keep(self, step: int, task: AnyTask) -> None:
        scene: Any = task
        save_png(self.folder / f"step_{step:07d}.png", scene.render(self._path[self.wanted[step]]).image)


def picture_steps(count: int, steps: int) -> dict[int, int]:
    """The steps at which a film of about `count` pictures takes them, with their places along its path.

    The i-th is taken at steps (i / (count - 1))^2, as a scene changes fastest at first; a short training has fewer.
    """
    found: dict[int, int] = {}
    for index in range(count):
        found.setdefault(round(steps * (index / max(count - 1, 1)) ** 2), len(found))
    return found


def kept_pictures(folder: Path) -> list[tuple[int, Path]]:
    """The pictures of a film by step."""
    found = [(match, path) for path in folder.glob("step_*.png") if (match := NAME.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in found)


def timelapse_film(run: Path, out: Path | None = None, fps: float | None = None, seconds: float | None = None) -> Path:
    """Writes the film of a run's pictures, RUN/renders/timelapse.mp4 unless `out` is given, and returns its path.

    Raises SplatlearnError where the run kept no pictures.
    """
    import numpy as np
    from PIL import Image

    pictures = [path for _, path in kept_pictures(run / FOLDER)]
    if not pictures:
        raise SplatlearnError(f"{run} kept no pictures of its training: train with --timelapse 120 for a film")
    rate = fps or (len(pictures) / seconds if seconds else FPS)
    target = out or run / "renders" / "timelapse.mp4"
    hold = [pictures[-1]] * round(HOLD * rate)
    frames = (np.asarray(Image.open(path).convert("RGB")) for path in [*pictures, *hold])
    write_video(target, frames, rate)
    return target


def _small(camera: Camera) -> Camera:
    width = min(WIDEST, camera.width)
    return camera.scaled(width, max(1, round(camera.height * width / camera.width)))


class TensorBoard(Callback):
    """Writes the fields of metrics.jsonl as scalars into RUN/tensorboard, and for a scene a held-out view now and then.

    Raises SplatlearnError where the package tensorboard is not installed. A run that goes on hides what was written of
    steps beyond its checkpoint.
    """

    def __init__(self, run: Path, every: int, steps: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise SplatlearnError(
                "'tensorboard' needs the package of that name: pip install 'splatlearn[tensorboard]'"
            ) from error
        self._open = lambda start: SummaryWriter(str(run / "tensorboard"), purge_step=start + 1)
        self.every = every
        self.pictures_every = max(1, steps // IMAGES)
        self.writer: Any = None

    def on_start(self, start: int, task: AnyTask) -> None:
        self.writer = self._open(start)
        if start == 0:
            self._picture(0, task)

    def wants(self, step: int) -> bool:
        return self._logs(step) or step % self.pictures_every == 0

    def _logs(self, step: int) -> bool:
        return step == 1 or step % self.every == 0

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        if self._logs(step):
            fields = {"loss": loss, **task.metrics()}
            for name, value in fields.items():
                if isinstance(value, (int, float)):
                    self.writer.add_scalar(name, value, step)
        if step % self.pictures_every == 0:
            self._picture(step, task)

    def on_interrupt(self, step: int, task: AnyTask) -> None:
        self.writer.close()

    def on_end(self, step: int, task: AnyTask) -> None:
        self.writer.close()

    @torch.no_grad()
    def _picture(self, step: int, task: AnyTask) -> None:
        """Photograph and render of the first held-out view of a scene."""
        scene: Any = task
        if not hasattr(scene, "gaussians"):
            return
        camera = (scene.scene.test or scene.scene.train)[0]
        small = _small(camera)
        render = to_uint8(scene.render(small).image)
        self.writer.add_image(f"render/{camera.name}", render, step, dataformats="HWC")
        if step == 0:
            self.writer.add_image(f"photo/{camera.name}", to_uint8(scene.scene.photo(camera)), 0, dataformats="HWC")
