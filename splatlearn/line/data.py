"""Noisy points around a line, because a truth that we chose ourselves shows whether learning finds it."""

from dataclasses import dataclass

import torch

from splatlearn.config import key
from splatlearn.errors import SplatlearnError


class NoisyLine:
    """Points ``x`` and ``y``, both [count, 1] float32, with y = slope · x + intercept + Gaussian noise."""

    @dataclass
    class Config:
        """Which points."""

        count: int = key(200, "how many points")
        slope: float = key(2.0, "slope of the true line")
        intercept: float = key(1.0, "y of the true line at x = 0")
        noise: float = key(0.5, "standard deviation of y around the line")
        low: float = key(-2.0, "least x")
        high: float = key(4.0, "greatest x")

        def __post_init__(self) -> None:
            if self.count < 1:
                raise SplatlearnError(f"'data.count' must be at least 1, got {self.count}")
            if not self.low < self.high:
                raise SplatlearnError(f"'data.low' must be below 'data.high', got {self.low} and {self.high}")
            if self.noise < 0:
                raise SplatlearnError(f"'data.noise' must be at least 0, got {self.noise}")

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        uniform = torch.rand(config.count, 1, generator=generator)
        noise = torch.randn(config.count, 1, generator=generator) * config.noise
        self.x = config.low + (config.high - config.low) * uniform
        self.y = config.slope * self.x + config.intercept + noise
