"""Points to fit a line to: random ones around a known line, or a user's own from a CSV file."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from splatlearn.config import key
from splatlearn.errors import SplatlearnError

MOST_POINTS = 100_000_000


class NoisyLine:
    """Points on a noisy line, y = slope · x + intercept + Gaussian noise, or those of a CSV file.

    Args:
        config: the line, or the file.
        generator: the source of randomness.

    Attributes:
        x, y: the points' coordinates, both [count, 1] float32.

    Raises:
        SplatlearnError: the file cannot be read, or the points do not determine a line.
    """

    @dataclass
    class Config:
        """Keys of the data."""

        count: int = key(200, "how many points")
        slope: float = key(2.0, "slope of the true line")
        intercept: float = key(1.0, "y of the true line at x = 0")
        noise: float = key(0.5, "standard deviation of y around the line")
        low: float = key(-2.0, "least x")
        high: float = key(4.0, "greatest x")
        csv: str = key("", "a CSV file of x,y rows to use instead, with or without a header", path=True)

        def __post_init__(self) -> None:
            if self.count < 2:
                raise SplatlearnError(f"'data.count' must be at least 2 to determine a line, got {self.count}")
            if self.count > MOST_POINTS:
                raise SplatlearnError(f"'data.count' must be at most {MOST_POINTS:,}, got {self.count}")
            if not self.low < self.high:
                raise SplatlearnError(f"'data.low' must be below 'data.high', got {self.low} and {self.high}")
            if self.noise < 0:
                raise SplatlearnError(f"'data.noise' must be at least 0, got {self.noise}")

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        if config.csv:
            self.x, self.y = read_csv(Path(config.csv))
            return
        uniform = torch.rand(config.count, 1, generator=generator)
        noise = torch.randn(config.count, 1, generator=generator) * config.noise
        self.x = config.low + (config.high - config.low) * uniform
        self.y = config.slope * self.x + config.intercept + noise
        check_points(self.x, self.y, "the data")


def check_points(x: Tensor, y: Tensor, source: str) -> None:
    """Raise SplatlearnError unless ``x`` and ``y`` [n, 1] determine a line: n >= 2, all finite, x not constant."""
    if len(x) < 2:
        raise SplatlearnError(f"{source} must hold at least 2 points to determine a line, got {len(x)}")
    for name, values in (("x", x), ("y", y)):
        bad = int((~torch.isfinite(values)).sum())
        if bad:
            raise SplatlearnError(f"{source} must hold finite numbers, but {bad} of {len(x)} values of {name} are not")
    if float(x.max()) == float(x.min()):
        raise SplatlearnError(f"{source} must hold different x to determine a slope, but all are {float(x.max()):g}")


def read_csv(path: Path) -> tuple[Tensor, Tensor]:
    """Read points from a CSV file; a first row without numbers is a header.

    Returns:
        x and y, both [n, 1] float32.

    Raises:
        SplatlearnError: the file or a line, which the message names, cannot be read, or the points do not determine a
            line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), start=1) if any(map(str.strip, row))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text of comma-separated values"
        raise SplatlearnError(f"cannot read the points of {path}: {reason}") from error
    points = []
    for index, (number, row) in enumerate(rows):
        numbers = [_number(cell) for cell in row]
        if index == 0 and all(value is None for value in numbers):
            continue
        if len(row) != 2 or None in numbers:
            raise SplatlearnError(f"{path}, line {number}: expected two numbers, x,y, got {','.join(row)[:60]!r}")
        if not all(value is not None and math.isfinite(value) for value in numbers):
            raise SplatlearnError(f"{path}, line {number}: expected finite numbers, got {','.join(row)[:60]!r}")
        points.append(numbers)
    table = torch.tensor(points, dtype=torch.float32).reshape(-1, 2)
    x, y = table[:, :1].contiguous(), table[:, 1:].contiguous()
    check_points(x, y, str(path))
    return x, y


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
