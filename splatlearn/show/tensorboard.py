"""A callback that writes the metrics and images of a training for TensorBoard."""

from pathlib import Path
from typing import Any

import torch

from splatlearn.errors import SplatlearnError
from splatlearn.show.pictures import to_uint8
from splatlearn.task import AnyTask, Callback

IMAGES = 20  # times in a training at which images are written


class TensorBoard(Callback):
    """Writes the fields of metrics.jsonl as scalars, and the task's images at the start and now and then.

    A resumed run hides what was written of steps beyond its checkpoint.

    Raises:
        SplatlearnError: The package tensorboard is not installed.
    """

    def __init__(self, folder: Path, every: int, steps: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise SplatlearnError(
                "'tensorboard' needs the package of that name: pip install 'splatlearn[tensorboard]'"
            ) from error
        self._open = lambda start: SummaryWriter(str(folder), purge_step=start + 1)
        self.every = every
        self.images_every = max(1, steps // IMAGES)
        self.writer: Any = None

    def on_start(self, start: int, task: AnyTask) -> None:
        self.writer = self._open(start)
        if start == 0:
            self._write_images(0, task)

    def wants(self, step: int) -> bool:
        return self._logs(step) or step % self.images_every == 0

    def _logs(self, step: int) -> bool:
        return step == 1 or step % self.every == 0

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        if self._logs(step):
            for name, value in {"loss": loss, **task.metrics()}.items():
                if isinstance(value, (int, float)):
                    self.writer.add_scalar(name, value, step)
        if step % self.images_every == 0:
            self._write_images(step, task)

    def on_interrupt(self, step: int, task: AnyTask) -> None:
        self.writer.close()

    def on_end(self, step: int, task: AnyTask) -> None:
        self.writer.close()

    @torch.no_grad()
    def _write_images(self, step: int, task: AnyTask) -> None:
        for name, image in task.images(step).items():
            self.writer.add_image(name, to_uint8(image), step, dataformats="HWC")
