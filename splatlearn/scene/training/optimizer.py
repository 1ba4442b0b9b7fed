"""Adam for a set of Gaussians whose number changes: moments follow their Gaussians when some are added or removed.

There are two updates with the same bits on the CPU. The fused one (`splatlearn.ops.project_update`) continues from the
detached 2D Gaussians, and gradients of the 3D ones never exist. The other one writes these gradients, adds what loss
terms sent to the parameters directly, and updates by `adam_steps`.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from splatlearn.checkpoint import require_tensors
from splatlearn.errors import SplatlearnError
from splatlearn.ops.adam import Group, adam_steps
from splatlearn.ops.project import DetachedGaussians, parameter_gradients
from splatlearn.ops.project_update import PARAMETERS, project_update
from splatlearn.scene.gaussians import Gaussians

EPS = 1e-15  # gradients of single Gaussians are tiny
Gradients = dict[str, Tensor]


class Numbers(NamedTuple):
    """What the host decides for a step."""

    step: int  # from 1
    sh_degree: int
    rates: Mapping[str, float]  # of Adam, by parameter
    exposure_rate: float = 0.0


class GaussianAdam:
    """Adam with a learning rate for each parameter of the schema.

    Those that the rasterizer reads share one count of updates. A further parameter counts its own, as
    `torch.optim.Adam`
    does: a step without a gradient of it leaves it and its moments as they are.
    """

    def __init__(self, gaussians: Gaussians) -> None:
        self.gaussians = gaussians
        self.steps = 0
        self.counts = dict.fromkeys(gaussians.schema.further, 0)  # updates of each further parameter
        self.moments = {name: self._zeros(name) for name in gaussians.schema.names}
        self.moving = 0  # bases of shN whose moments may not be zero

    def _zeros(self, name: str) -> tuple[Tensor, Tensor]:
        parameter = getattr(self.gaussians, name)
        return torch.zeros_like(parameter), torch.zeros_like(parameter)

    # ---- gradients ----

    def direct_gradients(self) -> Gradients:
        """Gradients that backward left at the parameters, by name.

        Raises:
            SplatlearnError: a parameter that is not in the schema has one, which no update would apply.
        """
        found = {name: tensor.grad for name, tensor in self.gaussians.named_parameters() if tensor.grad is not None}
        if unknown := [name for name in found if name not in self.moments]:
            raise SplatlearnError(
                f"the gradient of '{unknown[0]}' would never be applied: the parameter must be an entry of the schema, "
                f"which has {', '.join(self.gaussians.schema.names)}"
            )
        return found

    def gradients(self, detached: DetachedGaussians | None) -> Gradients:
        """All gradients of a step by name: those behind the cut, and the direct ones added.

        Args:
            detached: where backward ended; None, or without a gradient: all gradients are direct.
        """
        found = self.direct_gradients()
        if detached is None or not any(leaf is not None and leaf.grad is not None for leaf in detached[:5]):
            return found
        for name, gradient in parameter_gradients(detached).items():
            found[name] = gradient if name not in found else gradient.add_(found[name])
        return found

    def clear(self) -> None:
        """Drop the gradients of all parameters, so that none reaches a later step."""
        for parameter in self.gaussians.parameters():
            parameter.grad = None

    # ---- updates ----

    def step(
        self,
        rates: Mapping[str, float],
        gradients: Gradients,
        *,
        detached: DetachedGaussians | None = None,
        skip: Tensor | None = None,
        retry: bool = False,
    ) -> None:
        """Make one update.

        Args:
            rates: learning rates by name.
            gradients: by name, of all parameters to update; beside `detached` of further parameters alone.
            detached: 2D Gaussians, for the fused update of the parameters that the rasterizer reads.
            skip: see `splatlearn.ops.adam.adam_steps`: where it is set on the device, nothing changes.
            retry: the last update was skipped on the device and is made now: it is not counted again.
        """
        self.count(gradients, retry)
        self._update(rates, gradients, detached, skip, None)

    def record(self, gradients: Gradients, detached: DetachedGaussians | None, skip: Tensor, live: Tensor) -> None:
        """The device's part of `step`, for a recording; each replay needs a `count`.

        Args:
            live: [parameters, 2] in the order of `order`, rows of `step_rates`, which the kernels read at each replay.
        """
        self._update(dict.fromkeys(self.order, 0.0), gradients, detached, skip, live)

    def count(self, gradients: Iterable[str], retry: bool = False) -> None:
        """Count an update by gradients of these names; one that is retried was counted before."""
        self.steps += not retry
        for name in self.counts:
            self.counts[name] += name in gradients and not retry

    def count_of(self, name: str) -> int:
        """Updates of a parameter so far."""
        return self.counts.get(name, self.steps)

    @property
    def order(self) -> tuple[str, ...]:
        """The order of the parameters in rates on the device."""
        return (*PARAMETERS, *self.counts)

    def _update(
        self,
        rates: Mapping[str, float],
        gradients: Gradients,
        detached: DetachedGaussians | None,
        skip: Tensor | None,
        live: Tensor | None,
    ) -> None:
        steps, six = max(self.steps, 1), len(PARAMETERS)
        if detached is not None:
            degree = detached.options.sh_degree
            assert degree is not None  # Gaussians have colours
            self.moving = moving = max(self.moving, (degree + 1) ** 2 - 1)
            fused = None if live is None else live[:six]
            project_update(detached, self.moments, rates, step=steps, eps=EPS, moving=moving, skip=skip, rates=fused)
        else:
            shared = [self._group(name, gradients, rates) for name in PARAMETERS if self._changes(name, gradients)]
            self.moving = self.gaussians.shN.shape[1]
            some = None if live is None else live[: len(shared)]  # all but shN, which may be empty and is last
            adam_steps(shared, step=steps, eps=EPS, skip=skip, rates=some)
        for row, name in enumerate(self.counts, start=six):
            if self._changes(name, gradients):
                own, count = None if live is None else live[row : row + 1], max(self.counts[name], 1)
                adam_steps([self._group(name, gradients, rates)], step=count, eps=EPS, skip=skip, rates=own)

    def _changes(self, name: str, gradients: Gradients) -> bool:
        return name in gradients and gradients[name].numel() > 0

    def _group(self, name: str, gradients: Gradients, rates: Mapping[str, float]) -> Group:
        parameter = getattr(self.gaussians, name).detach()
        if len(parameter) != len(self.gaussians):
            self.gaussians.check()
        return Group(parameter, gradients[name], *self.moments[name], rates[name])

    # ---- changes of the set ----

    def rearrange(self, source: Tensor, changed: Mapping[str, Tensor], fresh: Tensor) -> None:
        """Make Gaussian i of the new set a copy of Gaussian `source[i]`, with its moments.

        Args:
            source: [M] int64 rows of the present set.
            changed: new values [M, ...] for parameters that are not plain copies.
            fresh: [M] bool: Gaussians whose moments begin at zero.

        Raises:
            SplatlearnError: a value has another number of rows.
        """
        for name in self.gaussians.schema.names:
            value = changed[name] if name in changed else getattr(self.gaussians, name).detach()[source]
            self.gaussians.replace(name, value.contiguous())
            del value  # each old tensor goes before the next new one comes
            first, second = self.moments.pop(name)
            first = first[source]
            second = second[source]
            first[fresh] = 0
            second[fresh] = 0
            self.moments[name] = (first, second)
        self.gaussians.check()

    def reset_moments(self, name: str) -> None:
        """Set the moments of one parameter to zero."""
        self.moments[name] = self._zeros(name)

    # ---- checkpoints ----

    def state(self) -> dict[str, Tensor]:
        """Moments by name, and the counts of updates."""
        tensors = {f"exp_avg.{name}": moments[0] for name, moments in self.moments.items()}
        tensors |= {f"exp_avg_sq.{name}": moments[1] for name, moments in self.moments.items()}
        counts = {f"adam_steps.{name}": torch.tensor(count) for name, count in self.counts.items()}
        return tensors | counts | {"adam_steps": torch.tensor(self.steps)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned.

        Raises:
            SplatlearnError: moments are missing or do not fit their parameter.
        """
        label = "a scene's checkpoint"
        for name in self.moments:
            like = getattr(self.gaussians, name).detach()
            keys = [f"exp_avg.{name}", f"exp_avg_sq.{name}"]
            require_tensors(label, tensors, dict.fromkeys(keys, like))
            if (tensors[keys[1]] < 0).any():
                raise SplatlearnError(f"{label} must hold squares as '{keys[1]}', got a negative number")
            self.moments[name] = (tensors[keys[0]], tensors[keys[1]])
        counts = ["adam_steps", *(f"adam_steps.{name}" for name in self.counts)]
        require_tensors(label, tensors, dict.fromkeys(counts, torch.tensor(0)))
        for name in counts:
            if not 0 <= int(tensors[name]) < 2**31:
                raise SplatlearnError(f"{label} must hold a count of updates as '{name}', got {int(tensors[name])}")
        self.steps = int(tensors["adam_steps"])
        self.counts = {name: int(tensors[f"adam_steps.{name}"]) for name in self.counts}
        first, second = self.moments["shN"]
        moved = ((first != 0) | (second != 0)).any(dim=2).any(dim=0).nonzero()
        self.moving = int(moved.max()) + 1 if len(moved) else 0
