"""Learning curves as inline SVG with HTML labels: sharp at any width, in the page's own colours.

The curve is drawn in a box of 1000 by 1000 that the page stretches; strokes do not scale with it and all text
is HTML beside it, so that a chart reads as well on a phone as on a wall. The page's script uses `data-curve`.
"""

import html
import json
import math
from collections.abc import Sequence

BUCKETS = 240  # points of a drawn curve: more than a screen tells apart, few enough for a small page
LOG_ABOVE = 20.0  # a logarithmic axis serves a curve whose largest value is this many times its smallest
ROUGH = 3.0  # a curve that goes up and down this many times its range in all is smoothed, over itself


def curve(
    title: str,
    note: str,
    steps: Sequence[float],
    values: Sequence[float],
    hue: int = 1,
    logarithmic: bool = False,
) -> str:
    """A chart of `values` over `steps` (as long, ascending, finite) as HTML, or "" for fewer than two values.

    `hue` (1 to 4) picks one of the page's colours; `logarithmic` allows such an axis where it serves.
    """
    if len(values) < 2 or steps[-1] <= steps[0]:
        return ""
    xs, ys = _bucketed(steps), _bucketed(values)
    smooth = _smoothed(ys) if _is_rough(ys) else ys
    axis = _Axis(min(ys), max(ys), logarithmic)

    def across(step: float) -> float:
        return round((step - xs[0]) / (xs[-1] - xs[0]), 4)

    def points(series: Sequence[float]) -> str:
        return " ".join(f"{1000 * across(x):.1f},{1000 * axis.place(y):.1f}" for x, y in zip(xs, series, strict=True))

    last = points(smooth)
    raw = f'<polyline class="raw" points="{points(ys)}"/>' if smooth is not ys else ""
    dots = "".join(f'<path d="M{point}h0"/>' for point in last.split()) if len(xs) <= 30 else ""
    data = html.escape(
        json.dumps([[across(x), axis.place(y), short(round(x)), short(y)] for x, y in zip(xs, smooth, strict=True)])
    )
    label, svg = html.escape(title), 'viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img"'
    return f"""<figure class="chart hue{hue}" data-curve="{data}">
<figcaption><b>{label}</b><output>{short(smooth[-1])}</output><small>{html.escape(note)}</small></figcaption>
<div class="plot" tabindex="0" role="group" aria-label="{label}: arrow keys read it">
<svg {svg} aria-label="{label}"><g class="grid">{axis.grid()}</g>
<polygon class="area" points="0,1000 {last} 1000,1000"/>{raw}<polyline class="line" points="{last}"/>
<g class="dots">{dots}</g></svg>
<div class="y">{axis.labels()}</div><div class="x">{_step_labels(xs[0], xs[-1])}</div><i class="cursor"></i></div>
</figure>"""


def overlay(
    title: str, note: str, series: Sequence[tuple[Sequence[float], Sequence[float]]], logarithmic: bool = False
) -> str:
    """A chart of several curves over one another as HTML, each (steps, values) as for `curve`; "" where none is one.

    The first is drawn in the page's first hue, the second, dashed, in the second: told apart without colour too.
    """
    lines = [
        (_bucketed(steps), _bucketed(values)) for steps, values in series if len(values) > 1 and steps[-1] > steps[0]
    ]
    if len(lines) < len(series):
        return ""
    lines = [(xs, _smoothed(ys) if _is_rough(ys) else ys) for xs, ys in lines]
    values = [y for _, ys in lines for y in ys]
    axis = _Axis(min(values), max(values), logarithmic)
    first, last = min(xs[0] for xs, _ in lines), max(xs[-1] for xs, _ in lines)

    def points(xs: Sequence[float], ys: Sequence[float]) -> str:
        places = ((1000 * (x - first) / (last - first), 1000 * axis.place(y)) for x, y in zip(xs, ys, strict=True))
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)

    drawn = "".join(
        f'<polyline class="line hue{hue}{" dashed" if hue > 1 else ""}" points="{points(xs, ys)}"/>'
        for hue, (xs, ys) in enumerate(lines, start=1)
    )
    ends = "".join(f'<output class="hue{hue}">{short(ys[-1])}</output>' for hue, (_, ys) in enumerate(lines, start=1))
    label, svg = html.escape(title), 'viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img"'
    return f"""<figure class="chart">
<figcaption><b>{label}</b><span class="ends">{ends}</span><small>{html.escape(note)}</small></figcaption>
<div class="plot"><svg {svg} aria-label="{label}"><g class="grid">{axis.grid()}</g>{drawn}</svg>
<div class="y">{axis.labels()}</div><div class="x">{_step_labels(first, last)}</div></div>
</figure>"""


class _Axis:
    """An upright axis from `low` to `high`, widened to round numbers."""

    def __init__(self, low: float, high: float, logarithmic: bool) -> None:
        self.logarithmic = logarithmic and low > 0 and high / low > LOG_ABOVE
        self.ticks = _log_ticks(low, high) if self.logarithmic else _ticks(low, high, 5)
        self.low, self.high = min(low, self.ticks[0]), max(high, self.ticks[-1])

    def place(self, value: float) -> float:
        """0 at the top, 1 at the bottom."""
        if self.logarithmic:
            return round(1 - math.log(value / self.low) / math.log(self.high / self.low), 4)
        return round(1 - (value - self.low) / (self.high - self.low), 4)

    def grid(self) -> str:
        return "".join(f'<path d="M0,{1000 * self.place(t):.1f}H1000"/>' for t in self.ticks)

    def labels(self) -> str:
        return "".join(f'<span style="top:{100 * self.place(t):.2f}%">{short(t)}</span>' for t in self.ticks)


def _step_labels(first: float, last: float) -> str:
    ticks = [t for t in _ticks(first, last, 4) if first <= t <= last]
    return "".join(f'<span style="left:{100 * (t - first) / (last - first):.2f}%">{short(t)}</span>' for t in ticks)


def short(value: float) -> str:
    """A number as people read it: 48,213 or 26.83 or 0.0103 or 1.2e-05."""
    size = abs(value)
    if size < 1e7 and (size >= 1000 or value == int(value)):
        return f"{value:,.0f}"
    return f"{value:.4g}" if 1e-3 <= size < 1000 else f"{value:.3g}"


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
