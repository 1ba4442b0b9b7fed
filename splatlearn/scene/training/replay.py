"""A training step recorded once and replayed: a card is then told of two graphs instead of fifty kernels.

A recording is of two halves, between which the loop may look at the loss and the gradients: forward, loss and backward;
and the update with the statistics of densification. All that differs from step to step is written into tensors that
stay where they are (camera, rates of Adam, photograph, mask). So a recording serves all views of one size, as long as
the tensors that training owns are the same ones: after densification, and when a view's lists lack room, it is made
anew. Training by replays has the bits of training without.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from splatlearn.ops import capacity as capacities
from splatlearn.ops.adam import step_rates
from splatlearn.ops.capacity import Capacity
from splatlearn.ops.project_update import PARAMETERS
from splatlearn.ops.recording import Recorder
from splatlearn.scene.gaussians import NAMES, Gaussians, Pose, Rendering, pose_numbers
from splatlearn.scene.photos.staging import refill
from splatlearn.scene.training.densify import Strategy
from splatlearn.scene.training.optimizer import GaussianAdam
from splatlearn.scene.view import View

MOST = 8  # recordings kept; views of further sizes are learned from without
POSE = 28  # numbers of a camera


class Learner(Protocol):
    """Whose steps are recorded: a scene's task, or a benchmark's step."""

    gaussians: Gaussians
    optimizer: GaussianAdam
    capacity: Capacity
    background: Tensor

    @property
    def device(self) -> torch.device:
        """Where it learns."""

    @property
    def strategy(self) -> Strategy:
        """What observes each step."""

    def draw(self, view: View, pose: Pose, degree: int) -> Rendering:
        """The picture of a step."""

    def compared(self, output: Rendering, batch: View) -> Tensor:
        """Its loss."""


class _Key(NamedTuple):
    """What a recording is of."""

    width: int
    height: int
    degree: int
    photo: torch.dtype
    masked: bool


class Replays:
    """The recordings of a task."""

    def __init__(self, task: Learner, recorder: Recorder) -> None:
        self.made = 0  # recordings since the beginning
        self._task, self._recorder = task, recorder
        self._kept: dict[_Key, RecordedStep] = {}
        self._met: set[_Key] = set()

    def recorded(self, view: View, degree: int) -> RecordedStep | None:
        """The recording of a step on such a view, made now where there is none; None: learn from it without.

        The first view of a kind is: a kernel is loaded when it is first used, which cannot be recorded.
        """
        key = _Key(view.camera.width, view.camera.height, degree, view.photo.dtype, view.mask is not None)
        if key not in self._met or capacities.known_size(self._task.device) is None:
            self._met.add(key)
            return None
        if any(other.degree != degree for other in self._kept):
            self.forget()  # no degree comes back
        kept = self._kept.get(key)
        if kept is not None and not kept.is_stale():
            return kept
        if kept is not None:
            self.forget()
        if len(self._kept) == MOST:
            return None
        self.made += 1
        self._kept[key] = RecordedStep(self._task, self._recorder, view, degree)
        return self._kept[key]

    def forget(self) -> None:
        """Gives the recordings up, and their memory for others."""
        self._kept.clear()


class RecordedStep:
    """A recorded step on views of one kind."""

    def __init__(self, task: Learner, recorder: Recorder, view: View, degree: int) -> None:
        self._task, self._recorder = task, recorder
        self._numbers = torch.zeros(POSE + 2 * len(PARAMETERS), device=task.device)  # the camera, then rates of Adam
        mask = None if view.mask is None else view.mask.clone()
        self._view = view._replace(photo=view.photo.clone(), mask=mask)
        refill(self._numbers[:POSE], pose_numbers(view.camera))
        self._owned = _owned(task)
        (self._rendering, self._loss), self._make = recorder.record(lambda: self._learn(degree))
        _, self._apply = recorder.record(self._change)

    def is_stale(self) -> bool:
        """Whether training has other tensors now than those that were recorded."""
        now = _owned(self._task)
        return len(now) != len(self._owned) or any(a is not b for a, b in zip(now, self._owned, strict=True))

    def gradients(self, view: View, rates: dict[str, float], step: int) -> Rendering:
        """Forward, loss and backward of a view; the leaves of the picture have their gradients then.

        Args:
            rates, step: of the update to come.
        """
        live = [number for name in PARAMETERS for number in step_rates(rates[name], step)]
        refill(self._numbers, torch.cat([pose_numbers(view.camera), torch.tensor(live, dtype=torch.float64).float()]))
        self._view.photo.copy_(view.photo)
        if self._view.mask is not None and view.mask is not None:
            self._view.mask.copy_(view.mask)
        self._make()
        return self._rendering

    def loss(self) -> Tensor:
        """The loss of the last replay; its gradients are made already, so that its `backward` adds nothing."""
        return self._loss.clone().requires_grad_()

    def update(self, again: bool) -> None:
        """The update of the last replay; `again` as in `GaussianAdam.step`."""
        self._task.optimizer.steps += not again
        self._apply()

    # ---- what is recorded ----

    def _learn(self, degree: int) -> tuple[Rendering, Tensor]:
        task = self._task
        rendering = task.draw(self._view, Pose.of(self._numbers[:POSE]), degree)
        loss = task.compared(rendering, self._view)
        loss.backward()  # type: ignore[no-untyped-call]
        return rendering._replace(image=rendering.image.detach(), alpha=rendering.alpha.detach()), loss.detach()

    def _change(self) -> None:
        task, overflow, detached = self._task, self._task.capacity.overflow, self._rendering.detached
        assert detached is not None
        task.strategy.observe(self._rendering, overflow)
        task.optimizer.record(detached, self._numbers[POSE:].view(-1, 2), overflow)


def _owned(task: Learner) -> list[Tensor]:
    """The tensors of a task that a step reads or writes, and that something else may replace."""
    parameters = [getattr(task.gaussians, name) for name in NAMES]
    moments = [moment for name in NAMES for moment in task.optimizer.moments[name]]
    return [*parameters, *moments, *task.strategy.state().values(), task.capacity.overflow, task.background]
