"""The interface of a strategy: how the set of Gaussians changes beside the updates of training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splatlearn.scene.gaussians import Gaussians, Rendering
from splatlearn.scene.training.optimizer import GaussianAdam


class Strategy:
    """A strategy that changes nothing, and the base of all others, which override what they need.

    options: options of `splatlearn.rasterization` that `observe` needs, such as {"absgrad": True}.
    """

    @dataclass
    class Config:
        """The keys of the strategy, a dataclass."""

    options: Mapping[str, Any] = {}

    def __init__(
        self,
        config: Any,
        gaussians: Gaussians,
        optimizer: GaussianAdam,
        extent: float,
        steps: int,
        survey: Callable[[int], Tensor] | None = None,
    ) -> None:
        """Args:
        config: an instance of `Config`.
        gaussians: the scene.
        optimizer: adds and removes Gaussians with their moments (`rearrange`).
        extent: radius of the scene, in normalised lengths (`scene.frame`).
        steps: all steps of the training.
        survey: the shares [N] of the Gaussians in the errors of so many images (`scene.training.survey`).
        """
        self.config = config
        self.gaussians = gaussians
        self.optimizer = optimizer
        self.extent = extent
        self.steps = steps
        self.survey = survey

    def observe(self, rendering: Rendering, skip: Tensor | None = None) -> None:
        """Read the gradients of a step, before its update. With `cuda_graph` this is recorded.

        Args:
            skip: [1] int32 on the device; where it is not 0 the step will be retried, and must not count.
        """

    def perturb(self, step: int, generator: torch.Generator) -> None:
        """Change parameters in place after the update of a step, such as by noise.

        It is called once a step and must be cheap: it neither reads the device nor replaces a tensor. So recordings and
        memory stay as they are.

        Args:
            generator: on the device of the Gaussians, seeded by the run's seed and the step, so that a resumed run
                makes the same noise.
        """

    def resizes(self, step: int) -> bool:
        """Whether `resize` is due after this step."""
        return False

    def resize(self, step: int, generator: torch.Generator) -> None:
        """Change the number of Gaussians, or replace tensors, through the optimizer.

        It blocks until the device is done, drops recordings and gives memory back: for few steps only.

        Args:
            generator: the CPU generator of the task, which checkpoints hold.
        """

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned."""
