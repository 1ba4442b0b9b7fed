"""Two runs side by side in one page: figures with their differences, curves over one another, views under a slider."""

from pathlib import Path

import yaml

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.show import report_views
from splatlearn.show.charts import overlay, short
from splatlearn.show.page import page
from splatlearn.show.report import CURVES, NO_CURVE, SCRIPT, TILES
from splatlearn.show.report_html import cell, escaped, table
from splatlearn.show.run_folder import Pair, RunFolder, is_number, read_run

# key of eval/metrics.json -> whether more of it is better; of other figures only the difference is told
BETTER = {"psnr": True, "ssim": True, "lpips": False, "loss": False, "bits_per_byte": False, "perplexity": False}
SAME = 5e-4  # relative difference up to which two figures count as equal

STYLE = """
.hue1 .line, .line.hue1 { stroke: var(--h1); } .line.hue2 { stroke: var(--h2); }
.line.dashed { stroke-dasharray: 6 4; } .ends { display: flex; gap: 12px; }
.ends output { font-size: 16px; } .verdict { color: var(--h3); font-weight: 650; }
h1 small { font-size: .5em; color: var(--soft); font-weight: 500; }
.notes { color: var(--soft); max-width: 46em; } td.n b { font-weight: 650; }
"""


def write_comparison(first: Path, second: Path, out: Path) -> Path:
    """Writes the page to `out` and returns it.

    Raises SplatlearnError where a folder is none, or holds nothing that a run writes.
    """
    runs = [_opened(first), _opened(second)]
    names = _names(first, second)
    notes = _notes(runs)
    pieces = [_figures(runs, comparable=not notes), _curves(runs), _views(runs), _settings(runs)]
    a, b = map(escaped, names)
    top = f"""<p class="eyebrow">splatlearn · compare</p><h1>{a} <small>and</small> {b}</h1>
<p class="lead"><span class="key hue1">A: {a}</span><span class="key hue2">B: {b}</span></p>"""
    top += "".join(f'<p class="notes">{escaped(note)}</p>' for note in notes)
    style = report_views.STYLE + STYLE
    text = page(f"{names[0]} and {names[1]} · splatlearn", top, "".join(pieces), style, SCRIPT.read_text("utf-8"))
    with replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")  # names of files may be no text
    return out


def summary(first: Path, second: Path) -> str:
    """The figures that both runs have, a line each, for the terminal."""
    runs = [_opened(first), _opened(second)]
    names = _names(first, second)
    width = max(len("difference"), *(len(name) for name in names))
    lines = [f"{'':<16}{names[0]:>{width + 2}}{names[1]:>{width + 2}}{'difference':>14}"]
    for key in _shared(runs):
        a, b = (run.metrics[key] for run in runs)
        lines.append(f"{key:<16}{a:>{width + 2},.6g}{b:>{width + 2},.6g}{_signed(b - a):>14}")
    return "\n".join([*lines, *_notes(runs)])


def _opened(folder: Path) -> RunFolder:
    if not folder.is_dir():
        raise SplatlearnError(f"{folder} is not a run folder.")
    run = read_run(folder)
    if not run.metrics and not run.curves:
        raise SplatlearnError(f"{folder} has neither eval/metrics.json nor metrics.jsonl: there is nothing to compare.")
    return run


def _names(first: Path, second: Path) -> tuple[str, str]:
    """The folders' names, with as much of the way there as tells them apart."""
    a, b = first.resolve(), second.resolve()
    for count in range(1, max(len(a.parts), len(b.parts)) + 1):
        names = "/".join(a.parts[-count:]), "/".join(b.parts[-count:])
        if names[0] != names[1]:
            return names
    return a.name, b.name


def _notes(runs: list[RunFolder]) -> list[str]:
    """Why figures may not be comparable, each a sentence."""
    a, b = runs
    found = []
    if a.folder.resolve() == b.folder.resolve():
        found.append("A and B are the same folder.")
    if a.task != b.task:
        found.append(
            f"The runs learned different things: A a {a.task or 'task not told'}, B a {b.task or 'task not told'}."
        )
        return found
    data = [run.config.get("data") for run in runs]
    paths = [d.get("path") if isinstance(d, dict) else None for d in data]
    if paths[0] != paths[1]:
        found.append(
            f"They learned from different data, {paths[0]} and {paths[1]}: their figures measure different things."
        )
    for key in ("resolution", "split"):
        values = [run.metrics.get(key) for run in runs]
        if None not in values and values[0] != values[1]:
            told = [" x ".join(map(str, v)) if isinstance(v, list) else str(v) for v in values]
            found.append(f"Their {key} differs, {told[0]} and {told[1]}: PSNR and SSIM are not comparable.")
    if not runs[0].metrics or not runs[1].metrics:
        found.append("One of them has not been evaluated yet.")
    return found


def _shared(runs: list[RunFolder]) -> list[str]:
    """Names of the figures that both have, the known ones first."""
    a, b = (run.metrics for run in runs)
    keys = [*TILES, *(key for key in a if key not in TILES)]
    return [key for key in keys if is_number(a.get(key)) and is_number(b.get(key))]


def _figures(runs: list[RunFolder], comparable: bool) -> str:
    rows = []
    for key in _shared(runs):
        a, b = (run.metrics[key] for run in runs)
        label = TILES[key][0] if key in TILES else key.replace("_", " ")
        told = f'{cell(a)}{cell(b)}<td class="n">{_signed(b - a)}</td>{_better(key, a, b, comparable)}'
        rows.append(f"<th>{escaped(label)}</th>{told}")
    if not rows:
        return ""
    head = '<th></th><th class="n">A</th><th class="n">B</th><th class="n">B - A</th><th class="n">better</th>'
    return f"<h2>In numbers</h2><p>From eval/metrics.json of both.</p>{table([head, *rows])}"


def _signed(value: float) -> str:
    return ("+" if value > 0 else "−" if value < 0 else "") + short(abs(value))


def _better(key: str, a: float, b: float, comparable: bool) -> str:
    if key not in BETTER or not comparable:
        return '<td class="n"></td>'
    if abs(a - b) <= SAME * max(abs(a), abs(b)):
        return '<td class="n">equal</td>'
    return f'<td class="n"><span class="verdict">{"B" if (b > a) == BETTER[key] else "A"}</span></td>'


def _curves(runs: list[RunFolder]) -> str:
    a, b = (run.curves for run in runs)
    others = sorted(key for key in a if key in b and key not in CURVES and key not in NO_CURVE)
    charts = []
    for key in [*CURVES, *others]:
        if a.get(key) and b.get(key):
            title, note, _ = CURVES.get(key, (key.replace("_", " "), "", 4))
            series = [tuple(zip(*curves[key], strict=True)) for curves in (a, b)]
            charts.append(overlay(title, note, [(x, y) for x, y in series], logarithmic="loss" in key))
    charts = [chart for chart in charts if chart]
    intro = "<h2>How they learned</h2><p>A is the solid curve, B the dashed one, over the steps of training.</p>"
    return f'{intro}<div class="charts">{"".join(charts)}</div>' if charts else ""


def _views(runs: list[RunFolder]) -> str:
    """Renders of A and B from the places that both were measured from, the largest difference in PSNR first."""
    scores = [{report_views.picture_stem(row): row.get("psnr") for row in run.view_scores()[1]} for run in runs]
    renders = [{pair.name: pair.render for pair in run.pairs} for run in runs]
    both = sorted(renders[0].keys() & renders[1].keys())
    paths = [d.get("path") if isinstance(d := run.config.get("data"), dict) else None for run in runs]
    if not both or paths[0] != paths[1]:
        return ""

    def gain(name: str) -> float:
        a, b = (score.get(name) for score in scores)
        return b - a if is_number(a) and is_number(b) else 0.0

    figures: list[str] = []
    spent, widest = 0, 0.0
    for name in sorted(both, key=lambda name: -abs(gain(name))):
        note = f"<b>B {gain(name):+.2f} dB</b>"
        made = report_views.figure(Pair(name, renders[0][name], renders[1][name]), escaped(name), note, ("A", "B"))
        if made is None:
            continue
        if figures and spent + len(made[0]) > report_views.VIEW_BYTES:
            break
        figures.append(made[0])
        spent, widest = spent + len(made[0]), max(widest, made[1])
    if not figures:
        return "<h2>Views</h2><p>The runs drew pictures of different sizes: there is no view to compare.</p>"
    some = f" {len(figures)} of {len(both)} are shown." if len(figures) < len(both) else ""
    least = 300 if widest < 1 else 420
    return (
        "<h2>Views</h2><p>Renders from the same places: A on the left, B on the right; what differs most comes first."
        f"{some} {report_views.error_scale('Difference')}</p>"
        f'<div class="swipes" style="--least:{least}px">{"".join(figures)}</div>'
    )


def _settings(runs: list[RunFolder]) -> str:
    """The settings in which they differ."""
    a, b = (_flat(run.config) for run in runs)
    keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    if not keys:
        return "<h2>Settings</h2><p>Both have the same settings.</p>"
    rows = [f"<th>{escaped(key)}</th>{_setting(a, key)}{_setting(b, key)}" for key in keys]
    head = '<th></th><th class="n">A</th><th class="n">B</th>'
    return f"<h2>Settings in which they differ</h2><p>From config.yaml of both.</p>{table([head, *rows])}"


def _flat(tree: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(tree, dict):
        return {prefix.removesuffix("."): tree}
    return {key: value for name, child in tree.items() for key, value in _flat(child, f"{prefix}{name}.").items()}


def _setting(settings: dict[str, object], key: str) -> str:
    if key not in settings:
        return '<td class="n">–</td>'
    told = yaml.safe_dump(settings[key], default_flow_style=True, width=10**6).splitlines()[0]
    return f'<td class="n">{escaped(told)}</td>'
