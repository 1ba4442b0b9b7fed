"""The contenders of a benchmark on the same inputs: this project, gsplat where installed, and any callable."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from splatlearn.bench.inputs import Inputs
from splatlearn.errors import SplatlearnError
from splatlearn.ops.capacity import Capacity
from splatlearn.ops.photometric import photometric_loss
from splatlearn.ops.recording import CudaRecorder, Recorder
from splatlearn.scene.gaussians import Gaussians
from splatlearn.scene.training.losses import Losses, Photometric
from splatlearn.scene.training.optimizer import Numbers
from splatlearn.scene.training.step import TrainingStep

RATE = 1e-12  # so small that the scene stays as it is: steps are alike


@dataclass
class Contender:
    """A training step on a view, given by its index, and its parts where it has separate ones.

    step: makes a whole step. forward: returns the image [H, W, 3], in the graph. update: applies the gradients and
        clears
    them. frame: renders without gradients.
    """

    name: str
    step: Callable[[int], object]
    forward: Callable[[int], torch.Tensor] | None = None
    update: Callable[[], object] | None = None
    frame: Callable[[int], object] | None = None


def assembled(
    name: str,
    inputs: Inputs,
    forward: Callable[[int], torch.Tensor],
    update: Callable[[], object],
    frame: Callable[[int], object] | None = None,
) -> Contender:
    """A contender with the loss of this project, which is the same for all."""

    def step(index: int) -> None:
        photometric_loss(forward(index), inputs.views[index].image).backward()  # type: ignore[no-untyped-call]
        update()

    return Contender(name, step, forward, update, frame or torch.no_grad()(forward))


class Learner:
    """The training step of this project on the views of the inputs."""

    def __init__(self, inputs: Inputs, recorder: Recorder | None = None) -> None:
        losses = Losses(photometric=Photometric(Photometric.Config()))
        self.inputs = inputs
        self.training_step = TrainingStep(inputs.gaussians, losses, recorder=recorder)

    def numbers(self) -> Numbers:
        """Those of the step to come."""
        gaussians, count = self.inputs.gaussians, self.training_step.optimizer.steps
        return Numbers(count + 1, gaussians.sh_degree, dict.fromkeys(gaussians.schema.names, RATE))

    def step(self, index: int) -> None:
        """Make one whole step."""
        self.training_step.resolve()
        self.training_step(self.inputs.views[index], self.numbers())

    def forward(self, index: int) -> torch.Tensor:
        """The first part of a step."""
        self.training_step.resolve()
        return self.training_step.render(self.inputs.views[index], self.numbers()).image


def ours(inputs: Inputs) -> Contender:
    """This project's training step; as in training it never blocks on a GPU."""
    gaussians, learner = inputs.gaussians, Learner(inputs)
    capacity, last = Capacity(inputs.device), [0]

    @torch.no_grad()
    def frame(index: int) -> None:
        while not capacity.resolve():  # the frame before lacked capacity and is rendered again
            with capacity:
                gaussians(inputs.views[last[0]].camera)
        last[0] = index
        with capacity:
            gaussians(inputs.views[index].camera)

    return Contender("splatlearn", learner.step, learner.forward, learner.training_step.update, frame)


def replayed(inputs: Inputs) -> Contender:
    """This project's training step as CUDA graphs."""
    return Contender("splatlearn, replayed", Learner(inputs, CudaRecorder(inputs.device)).step)


def has_gsplat() -> bool:
    """Whether gsplat can be imported."""
    return importlib.util.find_spec("gsplat") is not None


def gsplat(inputs: Inputs) -> Contender:
    """gsplat in place of project, bin and rasterize; the update is torch's fused Adam, as in gsplat's own trainer.

    It learns in the memory of the inputs, as ours does. The rates are so small that neither changes them.
    """
    try:
        import gsplat
    except ImportError as error:
        raise SplatlearnError(f"--gsplat needs the package gsplat, which cannot be imported: {error}") from None
    values = {name: tensor.detach().requires_grad_() for name, tensor in inputs.gaussians.tensors().items()}
    optimizer = torch.optim.Adam(values.values(), lr=RATE, eps=1e-15, fused=True)
    device, degree = inputs.device, inputs.gaussians.sh_degree
    cameras = [
        tuple(torch.from_numpy(array).float().to(device)[None] for array in (camera.world_to_camera, camera.K))
        for camera in (view.camera for view in inputs.views)
    ]

    def forward(index: int) -> torch.Tensor:
        camera = inputs.views[index].camera
        colors = torch.cat([values["sh0"], values["shN"]], dim=1)
        image, _, _ = gsplat.rasterization(
            values["means"], values["quats"], values["scales"].exp(), values["opacities"].sigmoid(), colors,
            *cameras[index], camera.width, camera.height, sh_degree=degree, packed=False,
        )  # fmt: skip
        return image[0]  # type: ignore[no-any-return]

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return assembled(f"gsplat {getattr(gsplat, '__version__', '')}".strip(), inputs, forward, update)


def from_callable(spec: str, inputs: Inputs) -> Contender:
    """The contender that `module:function` makes of a copy of the inputs.

    The function takes `splatlearn.bench.inputs.Inputs`. It returns a function `step(index)`, which makes a whole
    training step on `inputs.views[index]`, or a pair `forward(index)`, `update()`. The first of the pair returns the
    image [H, W, 3] in the graph, the second applies the gradients and clears them. The loss between them is ours.
    """
    module, _, name = spec.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise SplatlearnError(f"--peer {spec!r} cannot be imported: {type(error).__name__}: {error}") from None
    finally:
        sys.path.remove(here)
    copy = Inputs(Gaussians(inputs.gaussians.tensors()), inputs.views, inputs.folder)
    made: Any = function(copy)
    if callable(made):
        return Contender(spec, made)
    if isinstance(made, tuple) and len(made) == 2 and all(callable(part) for part in made):
        return assembled(spec, inputs, *made)
    raise SplatlearnError(
        f"--peer {spec!r} must return a function step(index) or a pair forward(index), update(), "
        f"but returned a {type(made).__name__}"
    )
