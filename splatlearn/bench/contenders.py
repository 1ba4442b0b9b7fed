"""Those timed against each other on the same inputs: this project, gsplat where installed, and any callable."""

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
from splatlearn.ops.workspace import Workspace
from splatlearn.scene.gaussians import NAMES, Gaussians, Pose, Rendering, pose_of
from splatlearn.scene.training.optimizer import GaussianAdam
from splatlearn.scene.training.replay import Replays
from splatlearn.scene.view import View

RATE = 1e-12  # so small that the scene stays as it is: steps are alike


@dataclass
class Contender:
    """A full training step on the view of an index, and where it can be taken apart, its parts."""

    name: str
    step: Callable[[int], object]
    forward: Callable[[int], torch.Tensor] | None = None  # [H, W, 3], in the graph
    update: Callable[[], object] | None = None
    frame: Callable[[int], object] | None = None  # draws without gradients


def assembled(
    name: str,
    inputs: Inputs,
    forward: Callable[[int], torch.Tensor],
    update: Callable[[], object],
    frame: Callable[[int], object] | None = None,
) -> Contender:
    """A contender whose loss is that of this project, the same for all."""

    def step(index: int) -> None:
        photometric_loss(forward(index), inputs.views[index][1]).backward()  # type: ignore[no-untyped-call]
        update()

    return Contender(name, step, forward, update, frame or torch.no_grad()(forward))


def ours(inputs: Inputs) -> Contender:
    """Forward, loss, backward, update by the stages; in a room as in training, so that no card is waited for."""
    gaussians, capacity, space = inputs.gaussians, Capacity(inputs.device), Workspace()
    optimizer, rates = GaussianAdam(gaussians), dict.fromkeys(NAMES, RATE)
    last: list[Any] = []  # the view drawn, and where its backward ends

    def drawn(index: int) -> torch.Tensor:
        with capacity, space:
            rendering = gaussians(inputs.views[index][0], detached=True)
        last[:] = [index, rendering.detached]
        return rendering.image  # type: ignore[no-any-return]

    def update(again: bool = False) -> None:
        optimizer.step(rates, capacity.overflow, again, last[1])

    def forward(index: int) -> torch.Tensor:
        while not capacity.resolve():  # the step before lacked room and is made again
            photometric_loss(drawn(last[0]), inputs.views[last[0]][1]).backward()  # type: ignore[no-untyped-call]
            update(again=True)
        return drawn(index)

    viewing, seen = Capacity(inputs.device), [0]

    @torch.no_grad()
    def frame(index: int) -> None:
        while not viewing.resolve():  # the frame before lacked room and is drawn again
            with viewing:
                gaussians(inputs.views[seen[0]][0])
        seen[0] = index
        with viewing:
            gaussians(inputs.views[index][0])

    return assembled("splatlearn", inputs, forward, update, frame)


class _Still:
    """A strategy that never changes the set of Gaussians, nor looks at anything."""

    def observe(self, rendering: Rendering, skip: torch.Tensor | None = None) -> None:
        pass

    def changes(self, step: int) -> bool:
        return False

    def after_update(self, step: int, generator: torch.Generator) -> None:
        pass

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state(self, tensors: dict[str, torch.Tensor]) -> None:
        pass


class _Learner:
    """Steps that are recorded once and replayed, see `splatlearn.scene.training.replay`."""

    def __init__(self, inputs: Inputs, recorder: Recorder) -> None:
        self.inputs, self.device = inputs, inputs.device
        self.gaussians, self.optimizer = inputs.gaussians, GaussianAdam(inputs.gaussians)
        self.capacity, self.strategy = Capacity(inputs.device), _Still()
        self.background = torch.zeros(3, device=inputs.device)
        self.replays = Replays(self, recorder)
        self.last = 0

    def draw(self, view: View, pose: Pose, degree: int) -> Rendering:
        camera = view.camera
        with self.capacity:
            return self.gaussians.draw(pose, camera.width, camera.height, background=self.background, detached=True)

    def compared(self, output: Rendering, batch: View) -> torch.Tensor:
        return photometric_loss(output.image, batch.photo)

    def step(self, index: int) -> None:
        while not self.capacity.resolve():
            self.replays.forget()  # what was recorded has too little room
            self._learn(self.last, again=True)
        self.last = index
        self._learn(index)

    def _learn(self, index: int, again: bool = False) -> None:
        view, degree = View(*self.inputs.views[index]), self.gaussians.sh_degree
        recorded = self.replays.recorded(view, degree)
        rates = dict.fromkeys(NAMES, RATE)
        if recorded is not None:
            recorded.gradients(view, rates, self.optimizer.steps + (not again))
            recorded.update(again)
            return
        rendering = self.draw(view, pose_of(view.camera, self.device), degree)
        self.compared(rendering, view).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step(rates, self.capacity.overflow, again, rendering.detached)


def replayed(inputs: Inputs, recorder: Recorder | None = None) -> Contender:
    """Ours with whole steps as CUDA graphs."""
    return Contender("splatlearn, replayed", _Learner(inputs, recorder or CudaRecorder(inputs.device)).step)


def has_gsplat() -> bool:
    """Whether gsplat can be imported."""
    return importlib.util.find_spec("gsplat") is not None


def gsplat(inputs: Inputs) -> Contender:
    """gsplat in place of project, bin and rasterize; the update is torch's fused Adam, as in gsplat's own trainer.

    It learns in the memory of the inputs, as ours does; rates are so small that neither changes them.
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
        for camera, _ in inputs.views
    ]

    def forward(index: int) -> torch.Tensor:
        camera = inputs.views[index][0]
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

    The function is given `splatlearn.bench.inputs.Inputs` and returns either a function `step(index)` that makes a full
    training step on `inputs.views[index]`, or a pair `forward(index)`, `update()`: the first returns the picture
    [H, W, 3] in the graph, the second applies the gradients and clears them; the loss between them is ours.
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
