"""The line's own part of a report: the points with the lines through them, and the walk over the bowl of the loss."""

import math
from collections.abc import Sequence

import numpy as np

from splatlearn.show.report_html import escaped
from splatlearn.show.run_folder import RunFolder, is_number

MOST_POINTS = 1000
RINGS = 9  # level lines of the bowl

STYLE = """
.plane { padding: 16px 20px; margin: 0; }
.plane svg { display: block; width: 100%; height: auto; overflow: visible; }
.plane svg text { font-size: 13px; fill: var(--soft); }
.plane .dot { fill: var(--soft); opacity: .55; } .plane .axis { stroke: var(--rule); }
.plane .learned { stroke: var(--h1); stroke-width: 3; } .plane .start { stroke: var(--h2); stroke-width: 2;
  stroke-dasharray: 7 6; } .plane .best { stroke: var(--h3); stroke-width: 2; stroke-dasharray: 2 4; }
.plane .ring { fill: none; stroke: var(--rule); stroke-width: 1.2; } .plane .walk { fill: none; stroke: var(--h1);
  stroke-width: 2; } .plane .end { fill: var(--h1); } .plane .least { fill: var(--h3); }
.plane .begin { fill: var(--h2); }
.plane figcaption { font-size: 13.5px; color: var(--soft); margin-top: 10px; }
"""
WIDTH, HEIGHT = 480, 320


class _Plane:
    """Places numbers in the box of a picture."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x, self.y = (_widened(*x), _widened(*y))

    def __call__(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        down = (self.y[1] - y) / (self.y[1] - self.y[0])
        return round(WIDTH * across, 2), round(HEIGHT * down, 2)

    def line(self, weight: float, bias: float, kind: str) -> str:
        """The part within the box of y = weight x + bias."""
        ends = [self.x[0], self.x[1]]
        if weight:  # cut where the line leaves the box at the top or the bottom
            cuts = sorted((edge - bias) / weight for edge in self.y)
            ends = [max(ends[0], cuts[0]), min(ends[1], cuts[1])]
        if ends[0] >= ends[1]:
            return ""
        (x1, y1), (x2, y2) = (self(x, weight * x + bias) for x in ends)
        return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def line_section(run: RunFolder) -> str:
    """Two pictures, or "" for a run without points (eval/points.csv) or without a learned line."""
    weight, bias = run.metrics.get("weight"), run.metrics.get("bias")
    points = read_points(run)
    if not is_number(weight) or not is_number(bias) or len(points) < 2:
        return ""
    best = tuple(run.metrics.get(f"least_squares_{name}") for name in ("weight", "bias"))
    walk = [(w, b) for (_, w), (_, b) in zip(run.curves.get("weight", []), run.curves.get("bias", []), strict=False)]
    start = (run.config.get("weight"), run.config.get("bias"))
    pictures = _points_picture(points, (weight, bias), best, start) + _bowl_picture(points, walk, start)
    return (
        "<h2>The line</h2><p>The points it was learned from, and the walk down the bowl of the loss.</p>"
        f'<div class="pair">{pictures}</div>'
    )


def read_points(run: RunFolder) -> np.ndarray:
    """The points [n, 2] of eval/points.csv, evenly chosen; [0, 2] where there are none to read."""
    try:
        text = (run.folder / "eval" / "points.csv").read_text(encoding="utf-8")
        rows = np.array([[float(v) for v in line.split(",")] for line in text.splitlines()[1:]], dtype=np.float64)
    except (OSError, ValueError):
        return np.zeros((0, 2))
    if rows.ndim != 2 or rows.shape[1] != 2 or not np.isfinite(rows).all():
        return np.zeros((0, 2))
    return rows[:: -(-len(rows) // MOST_POINTS)]


def _points_picture(
    points: np.ndarray, learned: tuple[float, float], best: Sequence[object], start: Sequence[object]
) -> str:
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    plane = _Plane((x0, x1), (y0, y1))
    dots = "".join('<circle class="dot" cx="{}" cy="{}" r="3"/>'.format(*plane(x, y)) for x, y in points)
    lines = plane.line(*learned, "learned")
    told = ['<span class="key hue1">learned</span>']
    for pair, kind, hue, name in ((best, "best", 3, "least squares"), (start, "start", 2, "start")):
        weight, bias = pair
        if is_number(weight) and is_number(bias):
            lines = plane.line(weight, bias, kind) + lines
            told.append(f'<span class="key hue{hue}">{name}</span>')
    return _figure(dots + lines + _corners(plane, "x", "y"), "points and lines", "".join(told))


def _bowl_picture(points: np.ndarray, walk: Sequence[tuple[float, float]], start: Sequence[object]) -> str:
    """Level lines of L = mean((w x + b - y)^2), ellipses about the least-squares line, and the way there.

    With the Hessian H = 2 [[mean x^2, mean x], [mean x, 1]] the level line of a rise h is the ellipse on which
    d^T H d / 2 = h, d being the distance from the minimum.
    """
    x, y = points.T
    if np.ptp(x) == 0 or len(walk) < 2:
        return ""
    center = np.polyfit(x, y, 1)
    hessian = 2 * np.array([[np.mean(x * x), np.mean(x)], [np.mean(x), 1.0]])
    begin = [start] if is_number(start[0]) and is_number(start[1]) else []
    way = np.array([*begin, *walk], dtype=np.float64)
    away = way - center
    top = float(np.einsum("ni,ij,nj->n", away, hessian, away).max()) / 2
    values, vectors = np.linalg.eigh(hessian)
    turn = np.linspace(0, 2 * math.pi, 60)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    unit = circle * np.sqrt(2 * top / values) @ vectors.T  # of the outermost ring
    shown = np.concatenate([way, center + 0.55 * unit])
    low, high = shown.min(axis=0), shown.max(axis=0)
    plane = _Plane((low[0], high[0]), (low[1], high[1]))
    rings = "".join(_polyline(plane, center + unit * (i / RINGS), "ring") for i in range(1, RINGS + 1))
    marks = [("begin", way[0]), ("least", center), ("end", way[-1])]
    dots = "".join('<circle class="{}" cx="{}" cy="{}" r="5"/>'.format(kind, *plane(*at)) for kind, at in marks)
    clip = (
        f'<clipPath id="bowl"><rect width="{WIDTH}" height="{HEIGHT}"/></clipPath><g clip-path="url(#bowl)">{rings}</g>'
    )
    content = clip + _polyline(plane, way, "walk") + dots + _corners(plane, "weight", "bias")
    told = '<span class="key hue2">start</span><span class="key hue1">end</span><span class="key hue3">minimum</span>'
    return _figure(content, "the walk over the bowl", told)


def _polyline(plane: _Plane, points: np.ndarray, kind: str) -> str:
    places = " ".join("{},{}".format(*plane(a, b)) for a, b in points)
    return f'<polyline class="{kind}" points="{places}"/>'


def _corners(plane: _Plane, across: str, upward: str) -> str:
    (x0, x1), (y0, y1) = plane.x, plane.y
    return (
        f'<text x="{WIDTH}" y="{HEIGHT + 16}" text-anchor="end">{across}: {x0:.3g} to {x1:.3g}</text>'
        f'<text x="0" y="{HEIGHT + 16}">{upward}: {y0:.3g} to {y1:.3g}</text>'
        f'<path class="axis" d="M0,0V{HEIGHT}H{WIDTH}" fill="none"/>'
    )


def _figure(content: str, label: str, told: str) -> str:
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 22}" role="img" aria-label="{escaped(label)}">{content}</svg>'
    return f'<figure class="card plane">{svg}<figcaption>{told}</figcaption></figure>'


def _widened(low: float, high: float) -> tuple[float, float]:
    margin = 0.06 * (high - low) or max(abs(low), 1.0)
    return low - margin, high + margin
