"""Adaptive density control: Gaussians where the rendering is wrong are cloned or split, and useless ones are pruned."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from splatlearn.checkpoint import require_tensors
from splatlearn.config import key
from splatlearn.errors import SplatlearnError
from splatlearn.ops.quaternions import rotation_rows
from splatlearn.scene.gaussians import Gaussians, Rendering
from splatlearn.scene.order import morton_order
from splatlearn.scene.training.optimizer import GaussianAdam
from splatlearn.scene.training.strategy import Strategy

OLD_NAMES = {"grad2d_sum": "pull", "visible_count": "seen"}  # in checkpoints of earlier versions


def quaternion_rotations(quats: Tensor) -> Tensor:
    """Rotation matrices [N, 3, 3] of quaternions [N, 4] wxyz of any norm."""
    rows = rotation_rows(*torch.nn.functional.normalize(quats, dim=-1).unbind(-1))
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


class AdaptiveDensity(Strategy):
    """Clone, split, prune and opacity reset of Kerbl et al. (2023), section 5, with a cap on the count.

    A score decides which Gaussians are cloned or split: the gradient of the 2D mean, as there, or the share of the
    errors of several images (`splatlearn.scene.training.survey`). Gradients have a threshold. Errors have a budget: it
    rises from the initial count to the cap, fast at first, so that the worst Gaussians are cloned or split all along.
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
        views: int = key(8, "images whose errors are shared out, where the score is error")
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
        """Args: as of `Strategy`; the score error needs a survey."""
        if config.score == "error" and survey is None:
            raise SplatlearnError("densify.score 'error' needs a survey of images, but there is none")
        super().__init__(config, gaussians, optimizer, extent, steps, survey)
        self.first = len(gaussians)
        self.last = int(config.stop * steps)
        self._reset()

    def _reset(self) -> None:
        self.grad2d_sum = torch.zeros(len(self.gaussians), device=self.gaussians.means.device)
        self.visible_count = torch.zeros_like(self.grad2d_sum)

    @torch.no_grad()
    def observe(self, rendering: Rendering, skip: Tensor | None = None) -> None:
        gradient = rendering.means2d.grad
        if gradient is None or self.config.score != "gradient":
            return
        height, width = rendering.image.shape[:2]
        x, y = gradient[0].unbind(dim=-1)
        self.grad2d_sum += torch.hypot(x * (width / 2), y * (height / 2))  # exactly zero where the Gaussian is culled
        across, down = rendering.radii[0].unbind(dim=-1)
        visible = (across > 0) & (down > 0)
        self.visible_count += visible if skip is None else visible & (skip == 0)

    def resizes(self, step: int) -> bool:
        return step <= self.last and (self._grows(step) or self._resets(step))

    def _grows(self, step: int) -> bool:
        return step > self.config.start and step % self.config.every == 0

    def _resets(self, step: int) -> bool:
        return self.config.reset_every > 0 and step % self.config.reset_every == 0

    @torch.no_grad()
    def resize(self, step: int, generator: torch.Generator) -> None:
        config = self.config
        if not self.resizes(step):
            return
        if self._grows(step):
            self._grow(step, generator)
            self._prune(step)
            self._reset()
        if self._resets(step) and step < self.last:
            ceiling = torch.logit(self.gaussians.opacities.new_tensor(2 * config.prune_opacity))
            self.gaussians.opacities.clamp_(max=ceiling)
            self.optimizer.reset_moments("opacities")

    def _chosen(self, step: int) -> Tensor:
        """[N] bool: the Gaussians to clone or split; where the cap excludes some, those of the highest score."""
        config, n = self.config, len(self.gaussians)
        if config.score == "error":
            assert self.survey is not None
            score, least, capacity = self.survey(config.views), 0.0, self._budget(step) - n
        else:
            score, least, capacity = self.grad2d_sum / self.visible_count.clamp(min=1), config.gradient, config.cap - n
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
        large = g.activated("scales").amax(dim=-1) > self.config.split_scale * self.extent
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
        useless = g.activated("opacities") < self.config.prune_opacity
        if 0 < self.config.reset_every < step:
            useless |= g.activated("scales").amax(dim=-1) > self.config.prune_scale * self.extent
        if useless.all():
            useless[g.opacities.argmax()] = False  # never fewer than one
        kept = (~useless).nonzero()[:, 0]
        kept = kept[
            morton_order(g.means[kept])
        ]  # all move in any case; in order a trained scene renders a sixth faster
        self.optimizer.rearrange(kept, {}, torch.zeros_like(kept, dtype=torch.bool))

    def state(self) -> dict[str, Tensor]:
        return {"grad2d_sum": self.grad2d_sum, "visible_count": self.visible_count}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned, under its present or earlier names.

        Raises:
            SplatlearnError: a tensor is missing or has another length than the number of Gaussians.
        """
        for name, old in OLD_NAMES.items():
            found = tensors.get(name, tensors.get(old))
            own = getattr(self, name)
            require_tensors(
                "a scene's checkpoint", {} if found is None else {name: found}, {name: own}, len(self.gaussians)
            )
            assert found is not None
            setattr(self, name, found)
