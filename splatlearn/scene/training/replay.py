"""A training step recorded once and replayed: the host then queues two graphs in place of fifty kernels.

A recording has two halves, between which the loop may look at the loss and the gradients: forward, loss and backward;
and the update with what the strategy observes. All that differs from step to step is written into tensors that stay
where they are (camera, rates of Adam, the maps of the view). So a recording serves all views of one size, while the
tensors of the training stay the same ones. After densification, and where a view's lists lack capacity, the step is
recorded anew. Training by replays has the bits of training without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.ops import capacity as capacities
from splatlearn.ops.adam import step_rates
from splatlearn.ops.capacity import Capacity
from splatlearn.ops.project import DetachedGaussians
from splatlearn.ops.recording import Recorder
from splatlearn.scene.gaussians import CameraTensors, Gaussians, Rendering, camera_numbers
from splatlearn.scene.photos.staging import refill
from splatlearn.scene.training.losses import Losses
from splatlearn.scene.training.optimizer import GaussianAdam, Gradients, Numbers
from splatlearn.scene.training.strategy import Strategy
from splatlearn.scene.view import View

MOST = 8  # recordings kept; views of further sizes are learned from without
CAMERA = 28  # numbers of a camera


class Recordable(Protocol):
    """What a recording needs of `scene.training.step.TrainingStep`."""

    gaussians: Gaussians
    optimizer: GaussianAdam
    losses: Losses
    strategy: Strategy
    capacity: Capacity
    background: Tensor | None
    device: torch.device
    numbers: Numbers
    reduce: Callable[[Gradients], None] | None

    def rendered(self, view: View, camera: CameraTensors) -> Rendering: ...

    def gradients(self, detached: DetachedGaussians | None) -> tuple[Gradients, DetachedGaussians | None]: ...


class _Key(NamedTuple):
    """What a recording is of."""

    sh_degree: int
    weights: tuple[tuple[str, float], ...]  # of the loss terms that count
    width: int
    height: int
    maps: tuple[tuple[str, torch.dtype, torch.Size], ...]


class Replays:
    """The recordings of a training step."""

    def __init__(self, step: Recordable, recorder: Recorder) -> None:
        self.made = 0  # recordings since the beginning
        self._step, self._recorder = step, recorder
        self._kept: dict[_Key, RecordedStep] = {}
        self._met: set[_Key] = set()

    def recorded(self, view: View, numbers: Numbers) -> RecordedStep | None:
        """The recording of a step on such a view, made now where there is none; None: learn from it without.

        The first view of a kind is learned without, as a kernel is loaded at its first use, which cannot be recorded.
        So is a step whose loss weights rise, as each has other weights.

        Raises:
            SplatlearnError: a loss term cannot be recorded.
        """
        losses = self._step.losses
        weights = losses.active(numbers.step)
        for name in weights:
            if not losses[name].recordable:
                raise SplatlearnError(f"'cuda_graph' does not go with the loss term '{name}', which cannot be recorded")
        if self._step.reduce is not None:
            raise SplatlearnError("'cuda_graph' does not go with a reduction of gradients between processes")
        maps = tuple((name, values.dtype, values.shape) for name, values in view.maps.items())
        key = _Key(numbers.sh_degree, tuple(weights.items()), view.camera.width, view.camera.height, maps)
        if key not in self._met or capacities.known_size(self._step.device) is None:
            self._met.add(key)
            return None
        if any(other[:2] != key[:2] for other in self._kept):
            self.invalidate()  # no degree and no earlier weights come back
        kept = self._kept.get(key)
        if kept is not None and not kept.is_stale():
            return kept
        if kept is not None:
            self.invalidate()
        if len(self._kept) == MOST:
            return None
        self.made += 1
        self._kept[key] = RecordedStep(self._step, self._recorder, view)
        return self._kept[key]

    def invalidate(self) -> None:
        """Drop all recordings, and give their memory to others."""
        self._kept.clear()


class RecordedStep:
    """A recorded step on views of one kind."""

    def __init__(self, step: Recordable, recorder: Recorder, view: View) -> None:
        self._step = step
        parameters, dtype = len(step.optimizer.order), step.gaussians.means.dtype
        self._numbers = torch.zeros(CAMERA + 2 * parameters, device=step.device, dtype=dtype)  # camera, rates of Adam
        self._view = View(view.camera, {name: values.clone() for name, values in view.maps.items()})
        refill(self._numbers[:CAMERA], camera_numbers(view.camera, dtype))
        self._owned = _owned(step)
        (self._rendering, self._loss), self._make = recorder.record(self._learn)
        self._direct = step.optimizer.direct_gradients()  # their tensors are part of the recording
        _, self._apply = recorder.record(self._change)

    def is_stale(self) -> bool:
        """Whether training has other tensors now than those that were recorded."""
        now = _owned(self._step)
        return len(now) != len(self._owned) or any(a is not b for a, b in zip(now, self._owned, strict=True))

    def gradients(self, view: View, numbers: Numbers, counted: bool) -> Rendering:
        """Make forward, loss and backward of a view; the 2D Gaussians of the rendering have their gradients then.

        Args:
            counted: whether the update to come will be counted; one that is retried was counted before.
        """
        optimizer, dtype = self._step.optimizer, self._numbers.dtype
        live = [
            number
            for name in optimizer.order
            for number in step_rates(numbers.rates[name], max(optimizer.count_of(name) + counted, 1))
        ]
        rates = torch.tensor(live, dtype=torch.float64).to(dtype)
        refill(self._numbers, torch.cat([camera_numbers(view.camera, dtype), rates]))
        for name, values in view.maps.items():
            self._view.maps[name].copy_(values)
        self._make()
        for name, gradient in self._direct.items():
            getattr(self._step.gaussians, name).grad = gradient
        return self._rendering

    def loss(self) -> Tensor:
        """The loss of the last replay; its gradients are made already, so that its `backward` adds nothing."""
        return self._loss.clone().requires_grad_()

    def update(self, retry: bool) -> None:
        """Make the update of the last replay; `retry` as in `GaussianAdam.step`."""
        self._step.optimizer.count(self._direct, retry)
        self._apply()

    # ---- what is recorded ----

    def _learn(self) -> tuple[Rendering, Tensor]:
        step, camera = self._step, self._view.camera
        rendering = step.rendered(self._view, CameraTensors.of(self._numbers[:CAMERA], camera.width, camera.height))
        loss = step.losses(rendering, self._view, step.numbers.step)
        loss.backward()  # type: ignore[no-untyped-call]
        kept = rendering._replace(
            image=rendering.image.detach(), alpha=rendering.alpha.detach(), depth=None, chain=None
        )
        return kept, loss.detach()

    def _change(self) -> None:
        step, skip = self._step, self._step.capacity.overflow
        step.strategy.observe(self._rendering, skip)
        gradients, detached = step.gradients(self._rendering.detached)
        step.optimizer.record(gradients, detached, skip, self._numbers[CAMERA:].view(-1, 2))


def _owned(step: Recordable) -> list[Tensor]:
    """The tensors of a training that a step reads or writes, and that something else may replace."""
    names = step.gaussians.schema.names
    parameters = [getattr(step.gaussians, name) for name in names]
    moments = [moment for name in names for moment in step.optimizer.moments[name]]
    background = [] if step.background is None else [step.background]
    return [*parameters, *moments, *step.strategy.state().values(), step.capacity.overflow, *background]
