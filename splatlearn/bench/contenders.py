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
from splatlearn.ops.photometric import photometric_loss
from splatlearn.ops.room import Room
from splatlearn.scene.gaussians import NAMES, Gaussians
from splatlearn.scene.optimizer import GaussianAdam

RATE = 1e-12  # so small that the scene stays as it is: steps are alike


@dataclass
class Contender:
    """A full training step on the view of an index, and where it can be taken apart, its parts."""

    name: str
    step: Callable[[int], object]
    forward: Callable[[int], torch.Tensor] | None = None  # [H, W, 3], in the graph
    update: Callable[[], object] | None = None


def assembled(
    name: str, inputs: Inputs, forward: Callable[[int], torch.Tensor], update: Callable[[], object]
) -> Contender:
    """A contender whose loss is that of this project, the same for all."""

    def step(index: int) -> None:
        photometric_loss(forward(index), inputs.views[index][1]).backward()  # type: ignore[no-untyped-call]
        update()

    return Contender(name, step, forward, update)


def ours(inputs: Inputs) -> Contender:
    """Forward, loss, backward, update by the stages; in a room as in training, so that no card is waited for."""
    gaussians, room = inputs.gaussians, Room(inputs.device)
    optimizer, rates = GaussianAdam(gaussians), dict.fromkeys(NAMES, RATE)
    last: list[int] = []

    def drawn(index: int) -> torch.Tensor:
        with room:
            return gaussians(inputs.views[index][0]).image  # type: ignore[no-any-return]

    def forward(index: int) -> torch.Tensor:
        while not room.settle():  # the step before lacked room and is made again
            photometric_loss(drawn(last[0]), inputs.views[last[0]][1]).backward()  # type: ignore[no-untyped-call]
            optimizer.step(rates, room.overflow, again=True)
        last[:] = [index]
        return drawn(index)

    return assembled("splatlearn", inputs, forward, lambda: optimizer.step(rates, room.overflow))


def has_gsplat() -> bool:
    """Whether gsplat can be imported."""
    return importlib.util.find_spec("gsplat") is not None


def gsplat(inputs: Inputs) -> Contender:
    """gsplat in place of project, bin and rasterize; the update is torch's fused Adam, as in gsplat's own trainer."""
    try:
        import gsplat
    except ImportError as error:
        raise SplatlearnError(f"--gsplat needs the package gsplat, which cannot be imported: {error}") from None
    values = {name: tensor.clone().requires_grad_() for name, tensor in inputs.gaussians.tensors().items()}
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
