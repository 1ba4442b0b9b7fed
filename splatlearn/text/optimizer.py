"""The update of a Transformer: AdamW with decay groups, a rate that warms up and falls as a cosine, clipped gradients.

It stands on the stage ``adam`` of the house. ``torch.optim`` would do (it is the oracle of the tests); the first of its
classes that is made loads PyTorch's compiler, which costs a second and 72 MiB, as much as training a small model does.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from splatlearn.config import key
from splatlearn.errors import SplatlearnError
from splatlearn.ops.adam import Group, adam_steps


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): p ← p - rate · (adam + decay · p).

    Matrices decay; vectors (norms, biases) do not, as they scale and shift rather than mix.
    """

    @dataclass
    class Config:
        """How a gradient becomes a step."""

        rate: float = key(1e-3, "learning rate at its highest")
        final: float = key(0.1, "share of the rate that is left at the last step")
        warmup: int = key(100, "steps in which the rate rises to its highest")
        decay: float = key(0.1, "weight decay of matrices")
        beta1: float = key(0.9, "share of the mean gradient that is kept")
        beta2: float = key(0.99, "share of the mean squared gradient that is kept")
        clip: float = key(1.0, "greatest norm of all gradients together; 0: any")

        def __post_init__(self) -> None:
            if not 0 < self.rate < math.inf:
                raise SplatlearnError(f"'optimizer.rate' must be above 0 and finite, got {self.rate}")
            for name, most in (("final", 1.0), ("beta1", 0.9999999), ("beta2", 0.9999999)):
                if not 0 <= getattr(self, name) <= most:
                    told = "and at most 1" if most == 1 else "and below 1"
                    raise SplatlearnError(f"'optimizer.{name}' must be at least 0 {told}, got {getattr(self, name)}")
            for name in ("warmup", "decay", "clip"):
                if not 0 <= getattr(self, name) < math.inf:
                    raise SplatlearnError(f"'optimizer.{name}' must be at least 0, got {getattr(self, name)}")

    def __init__(self, config: Config, steps: int, named: Iterable[tuple[str, Tensor]]) -> None:
        self.config, self.steps = config, steps
        self.named = dict(named)
        self.moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in self.named.items()}
        self.last_rate = 0.0
        self.norm = torch.zeros(())  # of all gradients together, before they were clipped

    def rate(self, step: int) -> float:
        """The learning rate of a step: a line up to the highest, then half a cosine down to its share at the last."""
        config = self.config
        if step <= config.warmup:
            return config.rate * step / config.warmup
        walked = min(1.0, (step - config.warmup) / max(1, self.steps - config.warmup))
        return config.rate * (config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * walked)))

    @torch.no_grad()
    def step(self, step: int) -> None:
        """Updates every parameter that has a gradient, and clears the gradients."""
        config = self.config
        self.last_rate = rate = self.rate(step)
        moved = {name: p for name, p in self.named.items() if p.grad is not None}
        self.norm = torch.nn.utils.clip_grad_norm_(list(moved.values()), config.clip or math.inf)
        groups = []
        for name, parameter in moved.items():
            if parameter.dim() >= 2 and config.decay:
                parameter.mul_(1 - rate * config.decay)
            gradient = parameter.grad
            assert gradient is not None
            groups.append(Group(parameter, gradient, *self.moments[name], rate))
        adam_steps(groups, step=step, betas=(config.beta1, config.beta2), eps=1e-8)
        for parameter in moved.values():
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """What it remembers of each parameter, as ``optimizer.NAME.mean`` and ``optimizer.NAME.square``."""
        pairs = self.moments.items()
        return {
            f"optimizer.{name}.{key}": m for name, two in pairs for key, m in zip(("mean", "square"), two, strict=True)
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` returned; it must hold all.

        Raises:
            SplatlearnError: A mean of squares is negative.
        """
        for name, own in self.tensors().items():
            if name.endswith(".square") and (tensors[name] < 0).any():
                raise SplatlearnError(f"a text's checkpoint must hold squares as '{name}', got a negative number")
            own.copy_(tensors[name])
