"""Adaptive density control: Gaussians where the picture is wrong are cloned or split, and the useless are pruned."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from splatlearn.config import key
from splatlearn.errors import SplatlearnError
from splatlearn.scene.gaussians import Gaussians, Rendering
from splatlearn.scene.order import morton_order
from splatlearn.scene.training.optimizer import GaussianAdam


class Strategy(Protocol):
    """How the number of Gaussians changes during training."""

    def observe(self, rendering: Rendering, skip: Tensor | None = None) -> None:
        """Reads the gradients of a step, before its update.

        `skip`: [1] int32 on the device; where it is not 0 the step is made again, so that it must not count.
        """

    def changes(self, step: int) -> bool:
        """Whether `after_update` will do something after this step."""

    def after_update(self, step: int, generator: torch.Generator) -> None:
        """May change the set of Gaussians, through the optimizer."""

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs."""

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Takes back what `state` gave."""


def quaternion_rotations(quats: Tensor) -> Tensor:
    """Rotation matrices [N, 3, 3] of quaternions [N, 4] wxyz of any norm."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).reshape(-1, 3, 3)


class AdaptiveDensity:
    """Clone, split, prune and opacity reset of Kerbl et al. (2023), section 5, with a cap on the count.

    Who is cloned or split is said by the gradient of its 2D mean, as there, or by its share of the errors of several
    photographs (`splatlearn.scene.training.survey`). Gradients have a threshold. Errors have a budget, which rises from
    the count at the beginning to the cap, fast at first, so that what is worst at the time is served all along.
    """

    @dataclass
    class Config:
        score: Literal["gradient", "error"] = key(
            "gradient", "what a Gaussian is cloned or split for: gradient, of its 2D mean; error, its share of errors"
        )
        start: int = key(500, "first step after which the number of Gaussians may change")
        stop: float = key(0.5, "fraction of all steps after which it no longer does")
        every: int = key(100, "steps between changes")
        gradient: float = key(2e-4, "mean gradient of the 2D mean (NDC) above which a Gaussian is cloned or split")
        views: int = key(8, "photographs whose errors are shared out, where the score is error")
        split_scale: float = key(0.01, "longest axis, in scene extents, from which it is split and not cloned")
        prune_opacity: float = key(0.005, "opacity below which it is pruned")
        prune_scale: float = key(0.1, "longest axis, in scene extents, above which it is pruned (after a reset)")
        reset_every: int = key(3000, "steps between opacity resets; 0: never")
        cap: int = key(1_000_000, "most Gaussians")

        def __post_init__(self) -> None:
            if self.every < 1 or self.reset_every < 0:
                raise SplatlearnError(
                    "densify.every must be at least 1 and densify.reset_every at least 0, "
                    f"but are {self.every} and {self.reset_every}"
                )
            if self.views < 1:
                raise SplatlearnError(f"densify.views must be at least 1, but is {self.views}")
            if self.cap < 1:
                raise SplatlearnError(f"densify.cap must be at least 1, but is {self.cap}")
            if not 0 <= self.stop <= 1:
                raise SplatlearnError(f"densify.stop must be from 0 to 1, but is {self.stop}")

    def __init__(
        self,
        config: Config,
        gaussians: Gaussians,
        optimizer: GaussianAdam,
        extent: float,
        steps: int,
        survey: Callable[[int], Tensor] | None = None,
    ) -> None:
        """`survey`: the shares [N] of the Gaussians in the errors of so many photographs; for the score error."""
        if config.score == "error" and survey is None:
            raise SplatlearnError("densify.score 'error' needs a survey of photographs, but there is none")
        self.config = config
        self.survey = survey
        self.first = len(gaussians)
        self.gaussians = gaussians
        self.optimizer = optimizer
        self.extent = extent
        self.last = int(config.stop * steps)
        self._begin()

    def _begin(self) -> None:
        self.pull = torch.zeros(len(self.gaussians), device=self.gaussians.means.device)
        self.seen = torch.zeros_like(self.pull)

    @torch.no_grad()
    def observe(self, rendering: Rendering, skip: Tensor | None = None) -> None:
        gradient = rendering.means2d.grad
        if gradient is None or self.config.score != "gradient":
            return
        height, width = rendering.image.shape[:2]
        x, y = gradient[0].unbind(dim=-1)
        self.pull += torch.hypot(x * (width / 2), y * (height / 2))  # exactly zero where the Gaussian was not drawn
        across, down = rendering.radii[0].unbind(dim=-1)
        drawn = (across > 0) & (down > 0)
        self.seen += drawn if skip is None else drawn & (skip == 0)

    def changes(self, step: int) -> bool:
        return step <= self.last and (self._grows(step) or self._resets(step))

    def _grows(self, step: int) -> bool:
        return step > self.config.start and step % self.config.every == 0

    def _resets(self, step: int) -> bool:
        return self.config.reset_every > 0 and step % self.config.reset_every == 0

    @torch.no_grad()
    def after_update(self, step: int, generator: torch.Generator) -> None:
        config = self.config
        if not self.changes(step):
            return
        if self._grows(step):
            self._grow(step, generator)
            self._prune(step)
            self._begin()
        if self._resets(step) and step < self.last:
            ceiling = torch.logit(self.gaussians.opacities.new_tensor(2 * config.prune_opacity))
            self.gaussians.opacities.clamp_(max=ceiling)
            self.optimizer.forget("opacities")

    def _chosen(self, step: int) -> Tensor:
        """[N] bool: who is cloned or split; where there is no room for all, those of the highest score."""
        config, n = self.config, len(self.gaussians)
        if config.score == "error":
            assert self.survey is not None
            score, least, capacity = self.survey(config.views), 0.0, self._budget(step) - n
        else:
            score, least, capacity = self.pull / self.seen.clamp(min=1), config.gradient, config.cap - n
        chosen = score > least
        if int(chosen.sum()) > capacity:
            first = score.argsort(descending=True, stable=True)[: max(capacity, 0)]
            chosen = torch.zeros_like(chosen).index_fill_(0, first, True) & chosen
        return chosen

    def _budget(self, step: int) -> int:
        """Gaussians after this step, where the score is error."""
        start, end = min(self.config.start, self.last - 1), self.last
        left = 1 - min((step - start) / (end - start), 1.0)
        return int(self.config.cap + (self.first - self.config.cap) * left**2)

    def _grow(self, step: int, generator: torch.Generator) -> None:
        g = self.gaussians
        chosen = self._chosen(step)
        large = g.scales.exp().amax(dim=-1) > self.config.split_scale * self.extent
        cloned, split = (chosen & ~large).nonzero()[:, 0], (chosen & large).nonzero()[:, 0]
        kept = (~(chosen & large)).nonzero()[:, 0]
        source = torch.cat([kept, cloned, split, split])
        first_half = len(kept) + len(cloned)
        fresh = torch.zeros(len(source), dtype=torch.bool, device=source.device)
        fresh[len(kept) :] = True
        means, scales = g.means[source], g.scales[source]
        noise = torch.randn(2 * len(split), 3, generator=generator).to(means)
        halves = source[first_half:]
        offset = quaternion_rotations(g.quats[halves]) @ (g.scales[halves].exp() * noise)[:, :, None]
        means[first_half:] += offset[:, :, 0]
        scales[first_half:] -= torch.log(scales.new_tensor(1.6))
        self.optimizer.rearrange(source, {"means": means, "scales": scales}, fresh)

    def _prune(self, step: int) -> None:
        g = self.gaussians
        useless = g.opacities.sigmoid() < self.config.prune_opacity
        if 0 < self.config.reset_every < step:
            useless |= g.scales.exp().amax(dim=-1) > self.config.prune_scale * self.extent
        if useless.all():
            useless[g.opacities.argmax()] = False  # never fewer than one
        kept = (~useless).nonzero()[:, 0]
        kept = kept[morton_order(g.means[kept])]  # all move in any case; a trained scene draws a sixth faster so
        self.optimizer.rearrange(kept, {}, torch.zeros_like(kept, dtype=torch.bool))

    def state(self) -> dict[str, Tensor]:
        return {"pull": self.pull, "seen": self.seen}

    def load_state(self, tensors: dict[str, Any]) -> None:
        self.pull, self.seen = tensors["pull"], tensors["seen"]
