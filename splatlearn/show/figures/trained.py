"""A short real training of a scene or a text, watched: the pictures, losses and snapshots that figures show."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from splatlearn.loop import AnyTask, Callback, fit
from splatlearn.scene.cameras import Camera
from splatlearn.scene.readers.colmap import ColmapScene
from splatlearn.scene.training.recipe import Rates
from splatlearn.scene.training.task import SceneTask
from splatlearn.scene.view import View

if TYPE_CHECKING:
    from splatlearn.text.batches import Batch
    from splatlearn.text.task import TextTask


@dataclass
class SceneRun:
    """A short real training, watched: the task as it ended, pictures of one camera at some steps, losses, snapshots."""

    task: "_SmallTask"
    camera: Camera
    photo: Tensor  # [H, W, 3] uint8
    steps: list[int] = field(default_factory=list)
    pictures: list[Tensor] = field(default_factory=list)  # [H, W, 3] float
    losses: list[float] = field(default_factory=list)
    snapshots: list[dict[str, Tensor]] = field(default_factory=list)  # at the kept steps

    def keep(self, step: int) -> None:
        """Takes a picture and a snapshot."""
        self.steps.append(step)
        with torch.no_grad():
            self.pictures.append(self.task.render(self.task.small(self.camera)).image.clamp(0, 1))
        self.snapshots.append({name: value.clone() for name, value in self.task.gaussians.tensors().items()})


class _Watch(Callback):
    """Takes every loss, and calls `keep` with the steps that are wanted, the first one among them."""

    def __init__(self, losses: list[float], wanted: Sequence[int], keep: Callable[[int], None]) -> None:
        self.losses, self.wanted, self.keep = losses, set(wanted), keep

    def on_start(self, start: int, task: AnyTask) -> None:
        self.keep(start)

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        self.losses.append(loss)
        if step in self.wanted:
            self.keep(step)


class _SmallTask(SceneTask):
    """A scene task whose photographs are scaled down to what a figure needs."""

    widest = 320

    def small(self, camera: Camera) -> Camera:
        """The camera at the size of figures."""
        factor = min(1.0, self.widest / camera.width)
        return camera.scaled(max(1, round(camera.width * factor)), max(1, round(camera.height * factor)))

    def batch(self, step: int) -> View:
        return reduced_to(super().batch(step), self.small)


def reduced_to(view: View, small: Callable[[Camera], Camera]) -> View:
    """The view of a smaller camera, its image averaged over areas."""
    camera = small(view.camera)
    if (camera.width, camera.height) == (view.camera.width, view.camera.height):
        return view
    planes = view.image.permute(2, 0, 1)[None].float() / (255 if view.image.dtype == torch.uint8 else 1)
    planes = torch.nn.functional.interpolate(planes, size=(camera.height, camera.width), mode="area")
    return View(camera, {"image": planes[0].permute(1, 2, 0).contiguous()})


def train(
    data: ColmapScene.Config, steps: int = 400, frames: int = 24, init: str = "random", progress: bool = True
) -> SceneRun:
    """Trains on a COLMAP folder in small pictures, with no change in the number of Gaussians, and watches.

    ``init`` as in a scene's config; "random" begins from random colours, sizes and turns at the points of the model.
    """
    config = SceneTask.Config(data=data, steps=steps, init=init, sh_degree=1, sh_every=max(steps, 1), device="cpu")
    config.densify.start = steps
    config.rates = Rates(means=1e-3, means_final=1e-5, scales=0.02, quats=0.01, opacities=0.08, sh0=0.03)
    task = _SmallTask(config)
    camera = task.scene.train[0]
    photo = reduced_to(View(camera, {"image": task.scene.photo(camera)}), task.small).image
    run = SceneRun(task, task.small(camera), photo)
    wanted = [round(steps * (i / (frames - 1)) ** 2) for i in range(frames)]
    fit(task, steps, callbacks=[_Watch(run.losses, wanted, run.keep)], progress=progress)
    return run


@dataclass
class TextRun:
    """A short real training of a Transformer, watched: the task as it ended, losses, and snapshots of its path."""

    task: "TextTask"
    batch: "Batch"  # of held-out text, for landscapes
    losses: list[float] = field(default_factory=list)
    snapshots: list[dict[str, Tensor]] = field(default_factory=list)
    writings: list[tuple[int, str]] = field(default_factory=list)  # a step, and what the model writes after it

    def keep(self, step: int) -> None:
        """Lets the model write."""
        self.writings.append((step, self.task.sample(step)["text"]))


def train_text(steps: int = 800, every: int = 20, progress: bool = True) -> TextRun:
    """Trains a small Transformer on Python's documentation topics, and watches; its tokens go to a temporary cache."""
    from splatlearn.landscape import Trajectory
    from splatlearn.text.corpus import Corpus
    from splatlearn.text.optimizer import AdamW
    from splatlearn.text.task import TextTask
    from splatlearn.text.transformer import Transformer

    model = Transformer.Config(context=48, width=64, heads=4, layers=2)
    rates = AdamW.Config(rate=3e-3, warmup=50)
    trajectory = Trajectory(every)
    with tempfile.TemporaryDirectory() as cache:
        data = Corpus.Config(cache=cache)
        task = TextTask(TextTask.Config(data=data, model=model, optimizer=rates, steps=steps, batch=16, device="cpu"))
        run = TextRun(task, next(iter(task.test.all(16, 16 * model.context))))
        fit(task, steps, callbacks=[_Watch(run.losses, [steps // 8, steps], run.keep), trajectory], progress=progress)
    run.snapshots = trajectory.snapshots
    return run
