"""The figures of a line's run: the points with the lines through them, and the path over the bowl of the loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from splatlearn.show.report.run_folder import RunFolder, is_number

MOST_POINTS = 1000
RINGS = 9  # level lines of the bowl
WIDTH, HEIGHT = 480, 320  # of a figure


@dataclass
class Figure:
    """What the template draws, in a box of WIDTH by HEIGHT; kinds are CSS classes."""

    label: str
    x_label: str
    y_label: str
    keys: list[tuple[int, str]]  # of the legend: hue and name
    rings: list[str] = field(default_factory=list)  # points of polylines, clipped to the box
    dots: list[tuple[float, float]] = field(default_factory=list)  # small
    path: str = ""  # points of a polyline
    marks: list[tuple[str, float, float]] = field(default_factory=list)  # kind, x, y of larger dots
    lines: list[tuple[str, float, float, float, float]] = field(default_factory=list)  # kind, x1, y1, x2, y2


class _Plane:
    """Maps numbers to the box of a figure."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x, self.y = (_widened(*x), _widened(*y))

    def __call__(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        down = (self.y[1] - y) / (self.y[1] - self.y[0])
        return round(WIDTH * across, 2), round(HEIGHT * down, 2)

    def line(self, weight: float, bias: float, kind: str) -> list[tuple[str, float, float, float, float]]:
        """The part of y = weight x + bias within the box; empty if the line misses it."""
        ends = [self.x[0], self.x[1]]
        if weight:  # cut where the line leaves the box at the top or the bottom
            cuts = sorted((edge - bias) / weight for edge in self.y)
            ends = [max(ends[0], cuts[0]), min(ends[1], cuts[1])]
        if ends[0] >= ends[1]:
            return []
        start, end = (self(x, weight * x + bias) for x in ends)
        return [(kind, *start, *end)]

    def points(self, points: np.ndarray) -> str:
        """Points [n, 2] as those of a polyline."""
        return " ".join("{},{}".format(*self(a, b)) for a, b in points)

    def labels(self, across: str, upward: str) -> tuple[str, str]:
        """The ranges of both axes."""
        (x0, x1), (y0, y1) = self.x, self.y
        return f"{across}: {x0:.3g} to {x1:.3g}", f"{upward}: {y0:.3g} to {y1:.3g}"


def line_section(run: RunFolder) -> list[Figure]:
    """The figures of a run with points (eval/points.csv) and a learned line; none for another run."""
    weight, bias = run.metrics.get("weight"), run.metrics.get("bias")
    points = read_points(run)
    if not is_number(weight) or not is_number(bias) or len(points) < 2:
        return []
    best = tuple(run.metrics.get(f"least_squares_{name}") for name in ("weight", "bias"))
    path = [(w, b) for (_, w), (_, b) in zip(run.curves.get("weight", []), run.curves.get("bias", []), strict=False)]
    start = (run.config.get("weight"), run.config.get("bias"))
    return [_points_figure(points, (weight, bias), best, start), *_bowl_figure(points, path, start)]


def read_points(run: RunFolder) -> np.ndarray:
    """The points [n, 2] of eval/points.csv, evenly chosen; [0, 2] if there are none to read."""
    try:
        text = (run.folder / "eval" / "points.csv").read_text(encoding="utf-8")
        rows = np.array([[float(v) for v in line.split(",")] for line in text.splitlines()[1:]], dtype=np.float64)
    except (OSError, ValueError):
        return np.zeros((0, 2))
    if rows.ndim != 2 or rows.shape[1] != 2 or not np.isfinite(rows).all():
        return np.zeros((0, 2))
    return rows[:: -(-len(rows) // MOST_POINTS)]


def _points_figure(
    points: np.ndarray, learned: tuple[float, float], best: Sequence[object], start: Sequence[object]
) -> Figure:
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    plane = _Plane((x0, x1), (y0, y1))
    lines = plane.line(*learned, "learned")
    keys = [(1, "learned")]
    for pair, kind, hue, name in ((best, "best", 3, "least squares"), (start, "start", 2, "start")):
        weight, bias = pair
        if is_number(weight) and is_number(bias):
            lines = plane.line(weight, bias, kind) + lines
            keys.append((hue, name))
    dots = [plane(x, y) for x, y in points]
    return Figure("points and lines", *plane.labels("x", "y"), keys, dots=dots, lines=lines)


def _bowl_figure(points: np.ndarray, path: Sequence[tuple[float, float]], start: Sequence[object]) -> list[Figure]:
    """Level lines of L = mean((w x + b - y)^2), ellipses about the least-squares line, and the path to it.

    With the Hessian H = 2 [[mean x^2, mean x], [mean x, 1]] the level line of a rise h is the ellipse on which
    d^T H d / 2 = h, d being the distance from the minimum.
    """
    x, y = points.T
    if np.ptp(x) == 0 or len(path) < 2:
        return []
    center = np.polyfit(x, y, 1)
    hessian = 2 * np.array([[np.mean(x * x), np.mean(x)], [np.mean(x), 1.0]])
    begin = [start] if is_number(start[0]) and is_number(start[1]) else []
    way = np.array([*begin, *path], dtype=np.float64)
    away = way - center
    top = float(np.einsum("ni,ij,nj->n", away, hessian, away).max()) / 2
    values, vectors = np.linalg.eigh(hessian)
    turn = np.linspace(0, 2 * math.pi, 60)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    outermost = circle * np.sqrt(2 * top / values) @ vectors.T
    shown = np.concatenate([way, center + 0.55 * outermost])
    low, high = shown.min(axis=0), shown.max(axis=0)
    plane = _Plane((low[0], high[0]), (low[1], high[1]))
    return [
        Figure(
            "the walk over the bowl",
            *plane.labels("weight", "bias"),
            [(2, "start"), (1, "end"), (3, "minimum")],
            rings=[plane.points(center + outermost * (i / RINGS)) for i in range(1, RINGS + 1)],
            path=plane.points(way),
            marks=[(kind, *plane(*at)) for kind, at in (("begin", way[0]), ("least", center), ("end", way[-1]))],
        )
    ]


def _widened(low: float, high: float) -> tuple[float, float]:
    margin = 0.06 * (high - low) or max(abs(low), 1.0)
    return low - margin, high + margin
