"""The goals of the rasterizer on a GPU and how far it is: a table of figures that were measured in parts.

The figures come by name, each the JSON of one run: `million` and `small` of `splatlearn bench` (10^6 Gaussians at
1920x1080; at most 20,000), `scaling` of `splatlearn bench --scaling`, and `train_NAME` of a training with its
`wall_seconds`, held against the PSNR of `reference_NAME`. What is missing is told as not measured.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

MILLION, FULL_HD, SMALL = 1_000_000, [1920, 1080], 20_000
SCENES = ("fox", "fern")
NOT_MEASURED = "not measured here"
PATIENCE = 10.0  # seconds from a COLMAP folder to the quality of the long recipe
LINEAR = 1.1  # exponent up to which a cost counts as linear

Figures = Mapping[str, Mapping[str, Any]]


class Row(NamedTuple):
    """One goal."""

    what: str
    goal: str
    measured: str = NOT_MEASURED
    ratio: float | None = None  # gsplat's time or rate against ours, in the same process; above 1: ours is better
    met: bool | None = None  # None: not measured


def kind_of(result: Mapping[str, Any]) -> str | None:
    """The name that a benchmark's figures go by here: million, small, or none."""
    if result.get("num_gaussians") == MILLION and result.get("resolution") == FULL_HD:
        return "million"
    return "small" if 0 < result.get("num_gaussians", 0) <= SMALL else None


def rows(figures: Figures) -> list[Row]:
    """The goals in order."""
    million, small = figures.get("million", {}), figures.get("small", {})
    on_card = {name: result for name, result in (("million", million), ("small", small)) if "card" in result}
    million, small = on_card.get("million", {}), on_card.get("small", {})
    return [
        _step("full training step, 10^6 Gaussians at 1920x1080", 4.0, million),
        _step("full training step at fox's size", 6.0, small),
        _blend("rasterize forward", million),
        _blend("rasterize backward", million),
        _determinism(million),
        _frames(million),
        _memory(million),
        *(_scene(name, figures) for name in SCENES),
        _growth("Gaussians, 10^5 to 10^7", "gaussians", figures.get("scaling", {})),
        _growth("pixels, 0.5 to 8 MP", "pixels", figures.get("scaling", {})),
    ]


def table(given: list[Row]) -> str:
    """The rows as text, which is Markdown too."""
    lines = ["| | goal | measured | ratio to gsplat | met |", "|---|---|---|---|---|"]
    for row in given:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        met = "" if row.met is None else "yes" if row.met else "no"
        lines.append(f"| {row.what} | {row.goal} | {row.measured} | {ratio} | {met} |")
    return "\n".join(lines)


def _contenders(result: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The quicker of ours (queued kernel by kernel, or replayed), and gsplat's figures if it ran."""
    entrants: dict[str, dict[str, Any]] = result.get("alternation", {})
    own = [parts for name, parts in entrants.items() if name.startswith("splatlearn")]
    peers = [parts for name, parts in entrants.items() if name.startswith("gsplat")]
    return min(own, key=lambda parts: float(parts["queued_step_ms"]), default={}), peers[0] if peers else None


def _step(what: str, wanted: float, result: Mapping[str, Any]) -> Row:
    goal = f">= {wanted:g} times gsplat"
    own, peer = _contenders(result)
    if not own:
        return Row(what, goal)
    ms = own["queued_step_ms"]
    if peer is None:
        return Row(what, goal, f"{ms:.3f} ms")
    ratio = peer["queued_step_ms"] / ms
    return Row(what, goal, f"{ms:.3f} ms, gsplat {peer['queued_step_ms']:.3f} ms", ratio, ratio >= wanted)


def _blend(stage: str, result: Mapping[str, Any]) -> Row:
    what, goal = f"{stage}, 10^6 Gaussians", ">= 60 % of the compute roofline"
    figures = result.get("stages", {}).get(stage)
    if not figures or "gflops" not in figures:
        return Row(what, goal)
    share = figures["gflops"] / result["peaks"]["gflops"]
    return Row(what, goal, f"{share:.0%} ({figures['ms']:.3f} ms)", None, share >= 0.6)


def _determinism(result: Mapping[str, Any]) -> Row:
    what, goal = "deterministic gradients against atomic ones", "<= 10 % dearer"
    price = result.get("determinism", {})
    if "atomic_ms" not in price:
        return Row(what, goal)
    more = price["deterministic_ms"] / price["atomic_ms"] - 1
    return Row(what, goal, f"{more:+.0%} of rasterize backward", None, more <= 0.1)


def _frames(result: Mapping[str, Any]) -> Row:
    what, goal = "rendering only, 10^6 Gaussians at 1920x1080", ">= 1,500 frames a second"
    entrants = result.get("alternation", {})
    own, (_, peer) = entrants.get("splatlearn", {}), _contenders(result)
    if "frame_ms" not in own:
        return Row(what, goal)
    rate = 1e3 / own["frame_ms"]
    ratio = None if peer is None or "frame_ms" not in peer else peer["frame_ms"] / own["frame_ms"]
    return Row(what, goal, f"{rate:,.0f}", ratio, rate >= 1500)


def _memory(result: Mapping[str, Any]) -> Row:
    what, goal = "peak memory of training, 10^6 Gaussians", "<= 50 % of gsplat's"
    by_name: dict[str, int] = result.get("footprint_bytes", {})
    own = by_name.get("splatlearn")
    peer = next((size for name, size in by_name.items() if name.startswith("gsplat")), None)
    if own is None:
        return Row(what, goal)
    told = f"{own / 2**20:,.0f} MiB"
    if peer is None:
        return Row(what, goal, told)
    return Row(what, goal, f"{told}, gsplat {peer / 2**20:,.0f} MiB", peer / own, own <= peer / 2)


def _scene(name: str, figures: Figures) -> Row:
    what = f"{name}, from COLMAP folder to the held-out PSNR of the 30,000-step recipe"
    goal = f"<= {PATIENCE:g} s wall"
    run, reference = figures.get(f"train_{name}"), figures.get(f"reference_{name}")
    if not run or not reference or run.get("device") != "cuda":
        return Row(what, goal)
    seconds, psnr, wanted = run["wall_seconds"], run["psnr"], reference["psnr"]
    told = f"{seconds:.1f} s, {psnr:.2f} dB of {wanted:.2f} dB"
    return Row(what, goal, told, None, seconds <= PATIENCE and psnr >= wanted)


def _growth(what: str, sweep: str, result: Mapping[str, Any]) -> Row:
    """The exponent of a power law through the points, by least squares of the logarithms."""
    what, goal = f"cost in {what}", "linear"
    points = [point for point in result.get("points", []) if point["kind"] == sweep and _counts(point)]
    if len(points) < 3 or not str(result.get("device", "")).startswith("cuda"):
        return Row(what, goal)
    size = [p["count"] if sweep == "gaussians" else p["size"][0] * p["size"][1] for p in points]
    x, y = [math.log(value) for value in size], [math.log(p["step_ms"]) for p in points]
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    slope = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    slope /= math.fsum((a - mean_x) ** 2 for a in x)
    reach = f"{points[0]['step_ms']:.2f} to {points[-1]['step_ms']:.2f} ms"
    return Row(what, goal, f"{reach}, exponent {slope:.2f}", None, slope <= LINEAR)


def _counts(point: Mapping[str, Any]) -> bool:
    return bool(point["kind"] == "pixels" or point["count"] >= 100_000)
