"""The benchmark's figures as text."""

from typing import Any

from splatlearn.scene.training.memory import mebibytes

WIDTHS = "{:<22}{:>10}{:>10}{:>7}{:>9}{:>9}{:>10}"


def table(result: dict[str, Any], peer_ms: float | None = None) -> str:
    """Everything that a benchmark found out."""
    lines = [*_head(result), *_stages(result)]
    lines += _race(result)
    lines += [text for name, peer in result.get("peers", {}).items() for text in _peer(name, peer, result)]
    if peer_ms:
        ratio = peer_ms / result["step_ms"]
        lines.append(f"a peer's {peer_ms:.2f} ms a step, measured elsewhere: {ratio:.1f} times as long")
    return "\n".join(lines + _determinism(result) + _threads(result))


def _head(result: dict[str, Any]) -> list[str]:
    width, height = result["resolution"]
    counts, per_pixel = result["pairs"], result["pairs_per_pixel"]
    where = result.get("card")
    if where is None:
        where = f"{result['threads']} threads, {result['isa_level']} on {result['processor']}"
        where += f", load {result['load_average']:.1f}"
    millions = [counts[name] / 1e6 for name in ("evaluated_forward", "evaluated_backward", "contributed")]
    gflops, gigabytes = result["peaks"]["gflops"], result["peaks"]["gigabytes_per_second"]
    return [
        f"{result['num_gaussians']:,} Gaussians, {width}x{height}, {result['views']} views, {where}",
        f"{result['instances']:,} instances (a Gaussian in a tile); millions of pairs (a Gaussian and a pixel): "
        f"{millions[0]:.2f} evaluated forward, {millions[1]:.2f} backward, {millions[2]:.2f} drawn; "
        f"a pixel evaluates {per_pixel['evaluated']:.1f} and draws {per_pixel['contributed']:.1f}",
        f"measured in this run: {gflops:,.0f} GFLOP/s (float32 multiply-adds), {gigabytes:,.0f} GB/s (a copy), "
        f"peak memory {mebibytes(result['peak_memory_bytes'])}",
        "",
    ]


def _stages(result: dict[str, Any]) -> list[str]:
    lines = [WIDTHS.format("stage", "ms", "CPU ms", "share", "GFLOP/s", "GB/s", "roofline")]
    on_card = "card" in result
    for name, ms in result["stages_ms"].items():
        stage = result["stages"].get(name, {})
        cpu_ms = "" if on_card or "cpu_ms" not in stage else f"{stage['cpu_ms']:.2f}"
        flops = f"{stage['gflops']:,.1f}" if stage.get("flops") else ""
        rates = ["", "", ""]
        if "bytes" in stage:
            rates = [flops, f"{stage['gigabytes_per_second']:,.1f}", f"{stage['roofline']:.0%}"]
        lines.append(WIDTHS.format(name, f"{ms:.2f}", cpu_ms, f"{ms / result['step_ms']:.0%}", *rates))
    step = f"{result['step_ms']:.2f}", f"{result['step_cpu_ms']:.2f}"
    lines.append(WIDTHS.format("training step", *step, "", "", "", "").rstrip())
    if any(stage.get("roofline", 0) > 1 for stage in result["stages"].values()):
        lines.append("(above 100 %: its tensors stay in a cache, which is faster than the memory that was measured)")
    return lines


def _race(result: dict[str, Any]) -> list[str]:
    """Contenders of this process, side by side."""
    columns = ("forward_ms", "loss_and_backward_ms", "update_ms", "step_ms", "queued_step_ms", "frame_ms")
    entrants = result.get("alternation", {})
    form = "{:<22}" + "{:>13}" * len(columns)
    lines = ["", form.format("in alternation, ms", "forward", "+loss, back", "update", "step", "queued", "frame")]
    first: dict[str, Any] = next(iter(entrants.values()), {})
    for name, parts in entrants.items():
        lines.append(form.format(name, *(f"{parts[c]:.2f}" if c in parts else "" for c in columns)).rstrip())
        if parts is not first:
            ratios = (f"{parts[c] / first[c]:.2f} times" if c in parts and c in first else "" for c in columns)
            lines.append(form.format("", *ratios).rstrip())
    return lines if entrants else []


def _peer(name: str, peer: dict[str, float], result: dict[str, Any]) -> list[str]:
    ratio = peer["step_ms"] / peer["ours_step_ms"]
    return [f"{name}: {peer['step_ms']:.2f} ms a step, {ratio:.1f} times our {peer['ours_step_ms']:.2f} in alternation"]


def _determinism(result: dict[str, Any]) -> list[str]:
    price = result.get("determinism")
    if price is None:
        return []
    if "atomic_ms" not in price:
        return [f"price of determinism: {price['note']}"]
    ours, atomic = price["deterministic_ms"], price["atomic_ms"]
    more = f"{ours / atomic - 1:+.0%}"
    return [f"price of determinism: rasterize backward {ours:.2f} ms, with atomics {atomic:.2f} ms: {more}"]


def _threads(result: dict[str, Any]) -> list[str]:
    """Each stage by number of threads, and how many times as fast as with the first number."""
    runs = result.get("threads_ms", {})
    if len(runs) < 2:
        return []
    form = "{:<22}" + "{:>20}" * len(runs)
    first = next(iter(runs.values()))
    lines = ["", form.format("ms by threads", *runs)]
    for name in [*first["stages_ms"], "training step"]:
        values = [run["step_ms"] if name == "training step" else run["stages_ms"][name] for run in runs.values()]
        cells = [f"{ms:.2f} ({values[0] / ms:.2f}x)" if ms > 0 else f"{ms:.2f}" for ms in values]
        lines.append(form.format(name, *cells))
    return lines
