"""Adam for a set of Gaussians whose number changes: moments follow their Gaussians when some are added or removed."""

import torch
from torch import Tensor

from splatlearn.ops.adam import Group, adam_steps
from splatlearn.ops.project import DetachedGaussians
from splatlearn.ops.project_update import project_update
from splatlearn.scene.gaussians import NAMES, Gaussians

EPS = 1e-15  # gradients of single Gaussians are tiny


class GaussianAdam:
    """Adam with a learning rate for each of the six parameters."""

    def __init__(self, gaussians: Gaussians) -> None:
        self.gaussians = gaussians
        self.steps = 0
        self.moments = {name: self._zeros(name) for name in NAMES}
        self.moving = 0  # bases of shN whose moments may not be zero

    def _zeros(self, name: str) -> tuple[Tensor, Tensor]:
        parameter = getattr(self.gaussians, name)
        return torch.zeros_like(parameter), torch.zeros_like(parameter)

    def step(
        self,
        rates: dict[str, float],
        skip: Tensor | None = None,
        again: bool = False,
        detached: DetachedGaussians | None = None,
    ) -> None:
        """One update.

        Args:
            skip: see `splatlearn.ops.adam.adam_steps`: where it is set on the device, nothing changes.
            again: the last step was such a one, and is made now.
            leaves: where backward has ended (`Rendering.leaves`): the update goes on from there, and no gradient of a
                parameter is ever written; None: with the parameters' gradients, which are then cleared.
        """
        self.steps += not again
        if detached is None:
            self._step_by_gradients(rates, skip)
        else:
            moving = self._moving_with(detached)
            project_update(detached, self.moments, rates, step=self.steps, eps=EPS, moving=moving, skip=skip)

    def _moving_with(self, detached: DetachedGaussians) -> int:
        """How many bases of shN may have moments after an update from these leaves."""
        degree = detached.options.sh_degree
        assert degree is not None  # Gaussians have colours
        self.moving = max(self.moving, (degree + 1) ** 2 - 1)
        return self.moving

    def _step_by_gradients(self, rates: dict[str, float], skip: Tensor | None) -> None:
        groups = []
        for name in NAMES:
            parameter = getattr(self.gaussians, name)
            if parameter.grad is not None and parameter.numel():
                groups.append(Group(parameter.detach(), parameter.grad, *self.moments[name], rates[name]))
            parameter.grad = None
        self.moving = self.gaussians.shN.shape[1]
        adam_steps(groups, step=self.steps, eps=EPS, skip=skip)

    def record(self, detached: DetachedGaussians, rates: Tensor, skip: Tensor) -> None:
        """The device's part of `step`, to be recorded, with rates [6, 2] that it reads each time.

        `rates` are rows of `step_rates`, for each name of `project_update.PARAMETERS`.
        """
        moving, unread = self._moving_with(detached), dict.fromkeys(NAMES, 0.0)
        project_update(detached, self.moments, unread, step=1, eps=EPS, moving=moving, skip=skip, rates=rates)

    def rearrange(self, source: Tensor, changed: dict[str, Tensor], fresh: Tensor) -> None:
        """Makes Gaussian i of the new set a copy of Gaussian `source[i]`, with its moments.

        Args:
            source: [M] int64 rows of the present set.
            changed: new values [M, ...] for parameters that are not plain copies.
            fresh: [M] bool: Gaussians whose moments begin at zero.
        """
        for name in NAMES:
            value = changed[name] if name in changed else getattr(self.gaussians, name).detach()[source]
            self.gaussians.replace(name, value.contiguous())
            del value  # each old tensor goes before the next new one comes
            first, second = self.moments.pop(name)
            first = first[source]
            second = second[source]
            first[fresh] = 0
            second[fresh] = 0
            self.moments[name] = (first, second)

    def forget(self, name: str) -> None:
        """Moments of one parameter begin at zero again."""
        self.moments[name] = self._zeros(name)

    def state(self) -> dict[str, Tensor]:
        """Moments by name, and the count of updates."""
        tensors = {f"exp_avg.{name}": self.moments[name][0] for name in NAMES}
        tensors |= {f"exp_avg_sq.{name}": self.moments[name][1] for name in NAMES}
        return tensors | {"adam_steps": torch.tensor(self.steps)}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Takes back what `state` gave."""
        self.steps = int(tensors["adam_steps"])
        self.moments = {name: (tensors[f"exp_avg.{name}"], tensors[f"exp_avg_sq.{name}"]) for name in NAMES}
        first, second = self.moments["shN"]
        moved = ((first != 0) | (second != 0)).any(dim=2).any(dim=0).nonzero()
        self.moving = int(moved.max()) + 1 if len(moved) else 0
