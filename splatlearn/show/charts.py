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
    low, high = min(ys), max(ys)
    logarithmic = logarithmic and low > 0 and high / low > LOG_ABOVE
    ticks = _log_ticks(low, high) if logarithmic else _ticks(low, high, 5)
    low, high = min(low, ticks[0]), max(high, ticks[-1])

    def place(value: float) -> float:
        if logarithmic:
            return round(1 - math.log(value / low) / math.log(high / low), 4)
        return round(1 - (value - low) / (high - low), 4)

    def across(step: float) -> float:
        return round((step - xs[0]) / (xs[-1] - xs[0]), 4)

    def points(series: Sequence[float]) -> str:
        return " ".join(f"{1000 * across(x):.1f},{1000 * place(y):.1f}" for x, y in zip(xs, series, strict=True))

    last = points(smooth)
    raw = f'<polyline class="raw" points="{points(ys)}"/>' if smooth is not ys else ""
    dots = "".join(f'<path d="M{point}h0"/>' for point in last.split()) if len(xs) <= 30 else ""
    grid = "".join(f'<path d="M0,{1000 * place(t):.1f}H1000"/>' for t in ticks)
    y_labels = "".join(f'<span style="top:{100 * place(t):.2f}%">{short(t)}</span>' for t in ticks)
    x_ticks = [t for t in _ticks(xs[0], xs[-1], 4) if xs[0] <= t <= xs[-1]]
    x_labels = "".join(f'<span style="left:{100 * across(t):.2f}%">{short(t)}</span>' for t in x_ticks)
    data = html.escape(
        json.dumps([[across(x), place(y), short(round(x)), short(y)] for x, y in zip(xs, smooth, strict=True)])
    )
    label, svg = html.escape(title), 'viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img"'
    return f"""<figure class="chart hue{hue}" data-curve="{data}">
<figcaption><b>{label}</b><output>{short(smooth[-1])}</output><small>{html.escape(note)}</small></figcaption>
<div class="plot"><svg {svg} aria-label="{label}"><g class="grid">{grid}</g>
<polygon class="area" points="0,1000 {last} 1000,1000"/>{raw}<polyline class="line" points="{last}"/>
<g class="dots">{dots}</g></svg>
<div class="y">{y_labels}</div><div class="x">{x_labels}</div><i class="cursor"></i></div>
</figure>"""


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
