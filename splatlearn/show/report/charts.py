"""Learning curves as data for inline SVG, with labels in HTML: sharp at any width, in the colours of the page.

A curve lies in a box of 1000 by 1000 that the page stretches. Strokes do not scale with it, and all text is HTML beside
it, so that a chart reads as well on a phone as on a large screen. `templates/chart.html` draws it; `page.js` reads its
``readings`` under the pointer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from splatlearn.show.report.format import short

BUCKETS = 240  # points of a drawn curve: more than a screen resolves, few enough for a small page
LOG_ABOVE = 20.0  # ratio of the largest to the smallest value from which a logarithmic axis is used
ROUGH = 3.0  # a curve that goes up and down this many times its range in total is smoothed


@dataclass(frozen=True)
class Line:
    """One curve: the points of a polyline, its colour and the label of its last value."""

    points: str
    hue: int
    last: str


@dataclass(frozen=True)
class Chart:
    """What the template draws; x and y are in the box of 1000 by 1000, shares in percent of the plot."""

    title: str
    note: str
    lines: list[Line]
    grid: list[float]  # y of the horizontal lines
    y_labels: list[tuple[float, str]]  # share from the top, text
    x_labels: list[tuple[float, str]]  # share from the left, text
    raw: str = ""  # points of the values under a smoothed curve
    dots: list[str] | None = None  # points that are marked, of a short curve
    readings: list[tuple[float, float, str, str]] | None = None  # x, y in 0..1, step and value as text


def curve(
    title: str,
    note: str,
    steps: Sequence[float],
    values: Sequence[float],
    hue: int = 1,
    logarithmic: bool = False,
) -> Chart | None:
    """A chart of one curve, or None for fewer than two values.

    Args:
        steps, values: of the same length, finite, steps ascending.
        hue: 1 to 4, one of the page's colours.
        logarithmic: use a logarithmic axis if the values span a wide range.
    """
    if len(values) < 2 or steps[-1] <= steps[0]:
        return None
    xs, ys = _bucketed(steps), _bucketed(values)
    smooth = _smoothed(ys) if _is_rough(ys) else ys
    axis = _Axis(min(ys), max(ys), logarithmic)

    def across(step: float) -> float:
        return round((step - xs[0]) / (xs[-1] - xs[0]), 4)

    def points(series: Sequence[float]) -> str:
        return " ".join(f"{1000 * across(x):.1f},{1000 * axis.place(y):.1f}" for x, y in zip(xs, series, strict=True))

    line = Line(points(smooth), hue, short(smooth[-1]))
    return Chart(
        title,
        note,
        [line],
        axis.grid(),
        axis.labels(),
        _step_labels(xs[0], xs[-1]),
        raw=points(ys) if smooth is not ys else "",
        dots=line.points.split() if len(xs) <= 30 else [],
        readings=[(across(x), axis.place(y), short(round(x)), short(y)) for x, y in zip(xs, smooth, strict=True)],
    )


def overlay(
    title: str, note: str, series: Sequence[tuple[Sequence[float], Sequence[float]]], logarithmic: bool = False
) -> Chart | None:
    """A chart of several curves with shared axes, each (steps, values) as for `curve`; None if one has no two values.

    The first is drawn in the first hue of the page, the second, dashed, in the second hue.
    """
    curves = [
        (_bucketed(steps), _bucketed(values)) for steps, values in series if len(values) > 1 and steps[-1] > steps[0]
    ]
    if len(curves) < len(series):
        return None
    curves = [(xs, _smoothed(ys) if _is_rough(ys) else ys) for xs, ys in curves]
    values = [y for _, ys in curves for y in ys]
    axis = _Axis(min(values), max(values), logarithmic)
    first, last = min(xs[0] for xs, _ in curves), max(xs[-1] for xs, _ in curves)

    def points(xs: Sequence[float], ys: Sequence[float]) -> str:
        places = ((1000 * (x - first) / (last - first), 1000 * axis.place(y)) for x, y in zip(xs, ys, strict=True))
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)

    lines = [Line(points(xs, ys), hue, short(ys[-1])) for hue, (xs, ys) in enumerate(curves, start=1)]
    return Chart(title, note, lines, axis.grid(), axis.labels(), _step_labels(first, last))


class _Axis:
    """A vertical axis from `low` to `high`, extended to round numbers."""

    def __init__(self, low: float, high: float, logarithmic: bool) -> None:
        self.logarithmic = logarithmic and low > 0 and high / low > LOG_ABOVE
        self.ticks = _log_ticks(low, high) if self.logarithmic else _ticks(low, high, 5)
        self.low, self.high = min(low, self.ticks[0]), max(high, self.ticks[-1])

    def place(self, value: float) -> float:
        """0 at the top, 1 at the bottom."""
        if self.logarithmic:
            return round(1 - math.log(value / self.low) / math.log(self.high / self.low), 4)
        return round(1 - (value - self.low) / (self.high - self.low), 4)

    def grid(self) -> list[float]:
        return [round(1000 * self.place(t), 1) for t in self.ticks]

    def labels(self) -> list[tuple[float, str]]:
        return [(round(100 * self.place(t), 2), short(t)) for t in self.ticks]


def _step_labels(first: float, last: float) -> list[tuple[float, str]]:
    ticks = [t for t in _ticks(first, last, 4) if first <= t <= last]
    return [(round(100 * (t - first) / (last - first), 2), short(t)) for t in ticks]


def _bucketed(series: Sequence[float]) -> list[float]:
    """At most BUCKETS means of neighbouring values; the first and the last value stay as they are."""
    n = len(series)
    if n <= BUCKETS:
        return [float(v) for v in series]
    edges = [1 + round(i * (n - 2) / (BUCKETS - 2)) for i in range(BUCKETS - 1)]
    inner = [sum(series[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    return [float(series[0]), *inner, float(series[-1])]


def _is_rough(series: Sequence[float]) -> bool:
    travelled = sum(abs(b - a) for a, b in zip(series, series[1:], strict=False))
    return len(series) >= 20 and travelled > ROUGH * (max(series) - min(series))


def _smoothed(series: Sequence[float]) -> list[float]:
    """A moving mean over about a twelfth of the curve, over less near the ends, where it would be biased."""
    reach, n = max(2, len(series) // 24), len(series)
    halves = [min(reach, i, n - 1 - i) for i in range(n)]
    means = [sum(series[i - h : i + h + 1]) / (2 * h + 1) for i, h in enumerate(halves)]
    tail = series[-reach:]
    return [*means[:-1], sum(tail) / len(tail)]


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers, about `count`, from one at or below `low` to one at or above `high`."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 between them where there are few, from below `low` to above `high`."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    leads = (1, 2, 5) if len(decades) <= 3 else (1,)
    every = [lead * 10.0**d for d in decades for lead in leads]
    below = max((t for t in every if t <= low), default=every[0])
    above = min((t for t in every if t >= high), default=every[-1])
    kept = [t for t in every if below <= t <= above]
    return kept[:: -(-len(kept) // 7)] if len(kept) > 7 else kept
