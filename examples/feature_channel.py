"""Learns a parameter that no image has, the object of a Gaussian, from label maps of six views. Argument: steps."""

import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from splatlearn import loop
from splatlearn.bench.inputs import Inputs, write_colmap
from splatlearn.scene.cameras import Camera
from splatlearn.scene.gaussians import Gaussians
from splatlearn.scene.schema import GAUSSIAN, Parameter
from splatlearn.scene.training.losses import Term, TermConfig
from splatlearn.scene.training.task import SceneTask
from splatlearn.scene.view import View

SIZE, LABELS = 64, 4
OBJECTS = np.arange(300) % LABELS
K = np.array([[SIZE * 1.2, 0, SIZE / 2], [0, SIZE * 1.2, SIZE / 2], [0, 0, 1]])


def blobs() -> tuple[Gaussians, list[View]]:
    """A blob of Gaussians for each object; their images and label maps (LABELS: nothing) from a ring of cameras."""
    angle, noise = OBJECTS * (2 * math.pi / LABELS), np.random.default_rng(0).standard_normal((300, 3))
    centers = np.stack([np.cos(angle), 0.5 * np.sin(2 * angle + 0.7), np.sin(angle)], axis=1)
    truth, views = Gaussians.from_points(centers + 0.2 * noise, np.stack([60 + 60 * OBJECTS] * 3, axis=1)), []
    truth.opacities.data.fill_(2.0)
    for index, a in enumerate(np.arange(8) * (math.pi / 4)):
        pose = np.array([[np.cos(a), 0, np.sin(a), 0], [0, 1, 0, 0], [-np.sin(a), 0, np.cos(a), 4], [0, 0, 0, 1]])
        rendering = truth(camera := Camera(f"{index + 1:05d}.png", SIZE, SIZE, K, pose))
        labels = rendering.composite(torch.eye(LABELS)[OBJECTS]).argmax(dim=-1)
        labels[rendering.alpha[..., 0] < 0.5] = LABELS
        views.append(View(camera, {"image": (255 * rendering.image.clamp(0, 1)).byte(), "labels": labels}))
    return truth, views


class LabelTerm(Term):
    """Reads the new parameter: cross entropy of its composited values and the view's label map. It keeps its values."""

    def __call__(self, rendering, view, step):
        logits = rendering.composite(self.learned.gaussians.features).flatten(0, 1)
        value = torch.nn.functional.cross_entropy(logits, view.map("labels").flatten(), ignore_index=LABELS)
        self.values.append(value.item())
        return value


class LabelTask(SceneTask):
    schema = GAUSSIAN.extended(Parameter("features", (LABELS,), rate=0.2, initial=0.0))  # the new parameter

    def maps(self, camera):
        return super().maps(camera) | {"labels": self.labels[camera.name]}


def learn(steps: int) -> tuple[list[float], float]:
    """The value of the term in each step, and the share of pixels of two unseen views whose label is right."""
    truth, views = blobs()
    labels = {view.camera.name: view.map("labels") for view in views}
    with tempfile.TemporaryDirectory() as folder:
        write_colmap(Inputs(truth, views), Path(folder, "scene"))
        truth.save_ply(f"{folder}/truth.ply")
        config = LabelTask.Config(steps=steps, device="cpu", strategy="fixed", init=f"{folder}/truth.ply")
        config.data.path, config.data.holdout = f"{folder}/scene", "every:4"
        task = LabelTask(config)
        task.labels, term = labels, LabelTerm(TermConfig(), task.learned)
        task.losses["labels"], term.values = term, []  # beside the loss of the images
        loop.fit(task, steps, progress=False)
        right = []
        for camera in task.scene.test:
            found, wanted = task.render(camera).composite(task.gaussians.features), labels[camera.name]
            right.append((found.argmax(dim=-1) == wanted)[wanted < LABELS].float())
    return term.values, float(torch.cat(right).mean())


if __name__ == "__main__":
    losses, right = learn(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}; {right:.1%} of the pixels of unseen views are labelled right")
