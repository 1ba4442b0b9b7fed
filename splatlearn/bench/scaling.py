"""How a training step's time grows with the number of Gaussians and of pixels: points, a table, a plot."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splatlearn.bench import peaks
from splatlearn.bench.inputs import synthetic
from splatlearn.bench.measure import measure, median_counts
from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.ops.capacity import available_memory

COUNTS = (10_000, 31_623, 100_000, 316_228, 1_000_000, 3_162_278, 10_000_000)
SIZES = ((944, 531), (1333, 750), (1886, 1061), (2667, 1500), (3771, 2121))  # 0.5, 1, 2, 4 and 8 megapixels
FULL_HD = (1920, 1080)
COUNT = 100_000  # Gaussians of the points that differ in pixels
STEPS = 5
# A Gaussian with 16 bases: 59 scalars with gradients, two moments and activations, its 2D form with gradients, and the
# lists and gradient rows of some four instances; a pixel: picture, gradients, stops, and SSIM's maps.
GAUSSIAN_BYTES, PIXEL_BYTES = 59 * 4 * 5 + 2 * 12 * 4 + 4 * 60, 150


def scaling(device: torch.device, budget: float) -> dict[str, Any]:
    """Points {kind, count, size, step_ms, ...} in order, `left_out`: what memory or time did not allow, and `blend`.

    Args:
        budget: seconds for all of them; a point is begun only if, by the one before it, it will end within.
    """
    begin, machine = time.perf_counter(), peaks.measured(device)
    points: list[dict[str, Any]] = []
    left_out: list[str] = []
    plan = [("pixels", COUNT, size) for size in SIZES], [("gaussians", count, FULL_HD) for count in COUNTS]
    seconds, before = 0.0, 0  # of the last point
    for sweep in plan:
        for kind, count, size in sweep:
            what = f"{count:,} Gaussians at {size[0]}x{size[1]}"
            needed = count * GAUSSIAN_BYTES + size[0] * size[1] * PIXEL_BYTES
            load = count + size[0] * size[1] // 8  # what the time of a point grows with, roughly
            left = budget - (time.perf_counter() - begin)
            expected = seconds * load / before if before else 0.0
            if needed > (available := _available(device)):
                left_out.append(f"{what} needs about {needed:,} bytes, {available:,} are available")
            elif expected > left or left <= 0:
                left_out.append(f"{what} would take about {expected:.0f} s of the {max(left, 0):.0f} s that are left")
            else:
                at = time.perf_counter()
                points.append(_point(kind, count, size, device, machine))
                seconds, before = time.perf_counter() - at, load
    if not points:
        raise SplatlearnError(f"--budget of {budget:g} seconds is too little for a single point; raise it")
    return {"points": points, "left_out": left_out, "blend": _prices(points), "device": str(device)}


def _available(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()


def _point(kind: str, count: int, size: tuple[int, int], device: torch.device, machine: peaks.Peaks) -> dict[str, Any]:
    inputs = synthetic(count, *size).to(device)
    result = measure(inputs, STEPS, median_counts(inputs), machine)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return {
        "kind": kind,
        "count": count,
        "size": list(size),
        "step_ms": result["step_ms"],
        "stages_ms": result["stages_ms"],
        "instances": result["instances"],
        "evaluated": result["pairs"]["evaluated_forward"],
        "contributed": result["pairs"]["contributed"],
        "peak_memory_bytes": result["peak_memory_bytes"],
    }


def _prices(points: list[dict[str, Any]]) -> dict[str, float]:
    """What a pair evaluated and an instance cost the blend in ns, by least squares of relative errors; and the largest.

    Where the largest error is small, time is linear in both: nothing grows with the scene but the work.
    """
    from scipy.optimize import nnls

    work, measured = _work(points), np.array([_blend_ms(point) for point in points])
    prices, _ = nnls(work / measured[:, None], np.ones(len(points)))
    worst = np.abs(work @ prices / measured - 1).max()
    return {"pair_ns": 1e6 * prices[0], "instance_ns": 1e6 * prices[1], "largest_error": float(worst)}


def _work(points: list[dict[str, Any]]) -> np.ndarray:
    """[points, 2] pairs evaluated and instances."""
    return np.array([[point["evaluated"], point["instances"]] for point in points], np.float64).reshape(-1, 2)


def scaling_table(result: dict[str, Any]) -> str:
    """The points as text."""
    form = "{:>12}{:>12}{:>12}{:>14}{:>12}{:>12}{:>12}{:>12}"
    lines = [form.format("Gaussians", "size", "instances", "pairs drawn", "blend ms", "step ms", "ns a pair", "MiB")]
    for point in result["points"]:
        blend = _blend_ms(point)
        nanoseconds = 1e6 * blend / max(point["contributed"], 1)
        lines.append(
            form.format(
                f"{point['count']:,}", "x".join(map(str, point["size"])), f"{point['instances']:,}",
                f"{point['contributed']:,}", f"{blend:.2f}", f"{point['step_ms']:.2f}", f"{nanoseconds:.3f}",
                f"{point['peak_memory_bytes'] / 2**20:,.0f}",
            )
        )  # fmt: skip
    blend = result["blend"]
    lines.append(
        f"the blend: {blend['pair_ns']:.2f} ns a pair evaluated and {blend['instance_ns']:.1f} ns an instance "
        f"give all of its times within {100 * blend['largest_error']:.0f} %"
    )
    return "\n".join(lines + [f"left out: {text}" for text in result["left_out"]])


def _blend_ms(point: dict[str, Any]) -> float:
    """Rasterize, forward and backward."""
    return float(sum(ms for name, ms in point["stages_ms"].items() if name.startswith("rasterize")))


def plot(result: dict[str, Any], path: Path) -> None:
    """Writes the points as a figure: time by Gaussians, by megapixels, and of the blend by its work."""
    from splatlearn.show.figures import style

    with replacing(path) as temporary:
        _draw(result).savefig(temporary, dpi=style.DPI)


def _draw(result: dict[str, Any]) -> Any:
    from matplotlib.ticker import LogLocator, NullFormatter

    from splatlearn.show.figures import style

    @style.styled
    def draw() -> Any:
        figure = style.new_figure(2.6)
        axes = figure.subplots(1, 3)
        prices = np.array([result["blend"]["pair_ns"], result["blend"]["instance_ns"]]) * 1e-6
        sweeps = {kind: [p for p in result["points"] if p["kind"] == kind] for kind in ("gaussians", "pixels")}
        _lines(axes[0], [p["count"] for p in sweeps["gaussians"]], sweeps["gaussians"])
        axes[0].set(title="by Gaussians", xlabel="Gaussians, at 1920×1080", ylabel="ms")
        _lines(axes[1], [p["size"][0] * p["size"][1] / 1e6 for p in sweeps["pixels"]], sweeps["pixels"])
        axes[1].set(title="by pixels", xlabel=f"megapixels, {COUNT:,} Gaussians")
        for (kind, points), color, marker in zip(sweeps.items(), (style.BLUE, style.RED), "os", strict=True):
            more = "more Gaussians" if kind == "gaussians" else "more pixels"
            expected = _work(points) @ prices
            axes[2].loglog(expected, [_blend_ms(p) for p in points], marker, ms=3.5, color=color, label=more)
        ends = [min(map(_blend_ms, result["points"])), max(map(_blend_ms, result["points"]))]
        price = "{pair_ns:.2g} ns a pair,\n{instance_ns:.2g} an instance".format(**result["blend"])
        axes[2].loglog(ends, ends, color=style.INK, linewidth=0.8, zorder=0)
        axes[2].text(0.98, 0.04, price, ha="right", va="bottom", transform=axes[2].transAxes)
        axes[2].set(title="the blend by its work", xlabel="ms, by pairs and instances")
        axes[2].legend(loc="upper left")
        for axis in (axes[0].yaxis, axes[1].xaxis, axes[1].yaxis, axes[2].xaxis, axes[2].yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        return figure

    return draw()


def _lines(axes: Any, across: list[float], points: list[dict[str, Any]]) -> None:
    from splatlearn.show.figures import style

    axes.loglog(across, [p["step_ms"] for p in points], "o-", ms=3.5, color=style.INK, label="training step")
    axes.loglog(across, [_blend_ms(p) for p in points], "s--", ms=3, color=style.BLUE, label="rasterize")
    axes.legend()
