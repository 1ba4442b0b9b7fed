"""The training step: render, loss terms, backward, update; retried where lists lacked capacity, recorded where wanted.

    for number in ...:
        step.resolve()
        loss = step(view, Numbers(number, degree, rates))

`splatlearn.loop` calls the parts one by one, as it checks gradients between them: `render`, `loss`, `update`. Backward
ends at the 2D Gaussians, and the update continues from there in one fused pass. Where a loss term sends a gradient to a
parameter directly, the unfused update runs, which adds both.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.ops.capacity import Capacity
from splatlearn.ops.project import DetachedGaussians
from splatlearn.ops.project_update import PARAMETERS
from splatlearn.ops.recording import Recorder
from splatlearn.ops.workspace import Workspace
from splatlearn.scene.gaussians import CameraTensors, Gaussians, Rendering, camera_tensors
from splatlearn.scene.photos.exposure import Exposures
from splatlearn.scene.training.losses import Losses, merged
from splatlearn.scene.training.optimizer import GaussianAdam, Gradients, Numbers
from splatlearn.scene.training.replay import RecordedStep, Replays
from splatlearn.scene.training.strategy import Strategy
from splatlearn.scene.view import View


class TrainingStep:
    """One training step on a view, for whoever chooses views: a task of the loop, a benchmark, a test."""

    def __init__(
        self,
        gaussians: Gaussians,
        losses: Losses,
        *,
        optimizer: GaussianAdam | None = None,
        strategy: Strategy | None = None,
        background: Tensor | None = None,
        exposures: Exposures | None = None,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        recorder: Recorder | None = None,
        reduce: Callable[[Gradients], None] | None = None,
    ) -> None:
        """Args:
        gaussians: the scene, on its device.
        losses: the terms of the loss.
        optimizer: None: a new one.
        strategy: None: the number of Gaussians stays as it is.
        background: [3] colour behind the scene; None: black.
        exposures: learned along and applied to each rendering; None: none.
        options: of `splatlearn.rasterization`, such as rasterize_mode, for every rendering.
        seed: of the noise of `Strategy.perturb`.
        recorder: records steps and replays them; None: each step is queued kernel by kernel.
        reduce: called between backward and update with the gradients by name, to change them in place, such as to
            their sum over several processes. It makes every update an unfused one.
        """
        self.gaussians, self.losses = gaussians, losses
        self.optimizer = optimizer or GaussianAdam(gaussians)
        self.device = gaussians.means.device
        self.strategy = strategy or Strategy(Strategy.Config(), gaussians, self.optimizer, 1.0, 0)
        self.background = background
        self.exposures = exposures
        self.options = dict(options or {})
        self.seed = seed
        self.reduce = reduce
        self.capacity = Capacity(self.device)
        self.space = Workspace()
        self.replays = None if recorder is None else Replays(self, recorder)
        self.view: View | None = None  # of the last step
        self.numbers = Numbers(0, 0, {})
        self.rendering: Rendering | None = None  # of the step in progress
        self.image: Tensor | None = None  # that the last step compared with its view, detached
        self._recorded: RecordedStep | None = None  # of the last step, where it was a replay
        self._updated = True  # whether the update of the last step was queued
        self._perturbed = True  # whether its perturbation was
        self._retried: Tensor | None = None  # the loss of the last step, where it was retried
        self._generator = torch.Generator(self.device)

    # ---- a step and its parts ----

    def __call__(self, view: View, numbers: Numbers) -> Tensor:
        """Make one whole step; returns its loss, on the device."""
        self.render(view, numbers)
        loss = self.backward()
        self.update()
        return loss

    def render(self, view: View, numbers: Numbers) -> Rendering:
        """Render the view, with its exposure; in a replay the loss and backward are made too."""
        self.view, self.numbers, self._updated = view, numbers, False
        return self._render()

    def loss(self) -> Tensor:
        """The loss of the rendering; that of a replay is made already, and its backward adds nothing."""
        if self._recorded is not None:
            return self._recorded.loss()
        assert self.rendering is not None and self.view is not None
        return self.losses(self.rendering, self.view, self.numbers.step)

    def backward(self) -> Tensor:
        """Make the loss and its backward; returns the loss, detached."""
        loss = self.loss()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def update(self) -> None:
        """Apply the gradients and clear them.

        Raises:
            SplatlearnError: a tensor has a gradient that no update would apply.
        """
        self._update(retry=False)

    def resize(self, generator: torch.Generator) -> bool:
        """Let the strategy change the set of Gaussians, if it is due after this step; returns whether it was."""
        if not self.strategy.resizes(self.numbers.step):
            return False
        self.retry()
        self.invalidate()
        self.strategy.resize(self.numbers.step, generator)
        self.gaussians.check()
        return True

    def resolve(self) -> Tensor | None:
        """Complete the last step, as before the next one or before anything is read; its loss, if it was retried."""
        self.retry()
        retried, self._retried = self._retried, None
        return retried

    def retry(self) -> None:
        """Make the last step again while its lists lacked capacity on the device, where it then changed nothing."""
        while not self.capacity.resolve():
            self.invalidate()
            self._render()
            self._retried = self.backward()
            if self._updated:
                self._update(retry=True)
        self._perturb()

    def invalidate(self) -> None:
        """Drop recordings: tensors that they point at are about to be replaced, or their lists lack capacity."""
        if self.replays is not None:
            self._recorded = None
            self.replays.invalidate()

    def named_gradients(self) -> list[tuple[str, Tensor]]:
        """What backward left for the update: gradients of the 2D Gaussians, and direct ones of parameters."""
        found = [(name, tensor.grad) for name, tensor in self.named_parameters()]
        if self.rendering is not None and self.rendering.detached is not None:
            detached = self.rendering.detached._asdict()
            found += [(f"2D {name}", tensor.grad) for name, tensor in detached.items() if tensor is not None]
        return [(name, gradient) for name, gradient in found if gradient is not None]

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        """All that is learned, by name."""
        exposures = [] if self.exposures is None else [("exposure", self.exposures.affine)]
        return [*self.gaussians.named_parameters(), *exposures]

    # ---- shared by a plain step and its recording ----

    def rendered(self, view: View, camera: CameraTensors) -> Rendering:
        """The rendering that the loss reads; backward ends at its 2D Gaussians."""
        number = self.numbers.step
        needed = [("the task", self.options), ("the strategy", self.strategy.options)]
        options = merged([*needed, ("the loss", self.losses.options(number))])
        with self.capacity, self.space:
            rendering = self.gaussians(
                camera, background=self.background, sh_degree=self.numbers.sh_degree, detached=True, **options
            )
        if self.exposures is not None:
            rendering = rendering._replace(image=self.exposures(rendering.image, view.camera.name))
        return rendering

    def gradients(self, detached: DetachedGaussians | None) -> tuple[Gradients, DetachedGaussians | None]:
        """What the update reads: for the fused one the 2D Gaussians; for the unfused one all gradients, and None."""
        if self.background is not None and self.background.grad is not None:
            raise SplatlearnError("the gradient of 'background' would never be applied: it must not require a gradient")
        direct = self.optimizer.direct_gradients()
        ends = () if detached is None else (detached.means2d, detached.conics, detached.opacities, detached.colors)
        complete = all(leaf is not None and leaf.grad is not None for leaf in ends)  # not where no term reads the image
        if complete and self.reduce is None and not any(name in PARAMETERS for name in direct):
            return direct, detached
        gradients = self.optimizer.gradients(detached)
        if self.reduce is not None:
            self.reduce(gradients)
        return gradients, None

    # ---- parts of the above ----

    def _render(self) -> Rendering:
        assert self.view is not None
        self.optimizer.clear()
        if self.exposures is not None:
            self.exposures.clear()
        self._recorded = None if self.replays is None else self.replays.recorded(self.view, self.numbers)
        if self._recorded is not None:
            self.rendering = self._recorded.gradients(self.view, self.numbers, not self._updated)
        else:
            camera = camera_tensors(self.view.camera, self.device, self.gaussians.means.dtype)
            self.rendering = self.rendered(self.view, camera)
        self.image = self.rendering.image.detach()
        return self.rendering

    def _update(self, retry: bool) -> None:
        assert self.rendering is not None
        skip = self.capacity.overflow
        if self._recorded is not None:
            self._recorded.update(retry)
        else:
            self.strategy.observe(self.rendering, skip)
            gradients, detached = self.gradients(self.rendering.detached)
            self.optimizer.step(self.numbers.rates, gradients, detached=detached, skip=skip, retry=retry)
        self.optimizer.clear()
        if self.exposures is not None:
            self.exposures.step(self.numbers.exposure_rate, skip, retry)
        self.rendering = None
        self._updated, self._perturbed = True, False
        if not self.capacity.unresolved:  # otherwise the device may have skipped the update: see `retry`
            self._perturb()

    def _perturb(self) -> None:
        if self._perturbed or not self._updated:
            return
        self._perturbed = True
        self._generator.manual_seed((self.seed * 1_000_003 + self.numbers.step) % 2**63)
        with torch.no_grad():
            self.strategy.perturb(self.numbers.step, self._generator)
