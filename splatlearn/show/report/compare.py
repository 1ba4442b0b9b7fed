"""Two runs side by side in one page: figures with their differences, curves over one another, views under a slider."""

from pathlib import Path
from typing import NamedTuple

import yaml

from splatlearn.errors import SplatlearnError
from splatlearn.show.pages import render, write_page
from splatlearn.show.report import views
from splatlearn.show.report.charts import Chart, overlay
from splatlearn.show.report.format import cell, short
from splatlearn.show.report.run import CURVES, NO_CURVE, TILES
from splatlearn.show.report.run_folder import Pair, RunFolder, is_number, read_run

# key of eval/metrics.json -> whether more of it is better; of other figures only the difference is shown
BETTER = {"psnr": True, "ssim": True, "lpips": False, "loss": False, "bits_per_byte": False, "perplexity": False}
SAME = 5e-4  # relative difference up to which two figures count as equal


def write_comparison(first: Path, second: Path, out: Path) -> Path:
    """Write a page that compares two runs, A and B.

    Args:
        first, second: the run folders of A and B.
        out: the HTML file to write.

    Returns:
        ``out``.

    Raises:
        SplatlearnError: a folder is missing, or holds nothing that a run writes.
    """
    runs = [_opened(first), _opened(second)]
    names = _names(first, second)
    notes = _notes(runs)
    comparisons = _views(runs)
    document = render(
        "compare.html",
        title=f"{names[0]} and {names[1]}",
        a=names[0],
        b=names[1],
        notes=notes,
        figures=_figures(runs, comparable=not notes),
        charts=_charts(runs),
        views=comparisons,
        error_scale=views.error_scale(),
        settings=_settings(runs),
    )
    return write_page(out, document)


def summary(first: Path, second: Path) -> str:
    """The figures that both runs have, one per line, for the terminal."""
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
    """The names of the folders, with as many of their parents as make them differ."""
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
            shown = [" x ".join(map(str, v)) if isinstance(v, list) else str(v) for v in values]
            found.append(f"Their {key} differs, {shown[0]} and {shown[1]}: PSNR and SSIM are not comparable.")
    if not runs[0].metrics or not runs[1].metrics:
        found.append("One of them has not been evaluated yet.")
    return found


def _shared(runs: list[RunFolder]) -> list[str]:
    """Names of the figures that both have, the known ones first."""
    a, b = (run.metrics for run in runs)
    keys = [*TILES, *(key for key in a if key not in TILES)]
    return [key for key in keys if is_number(a.get(key)) and is_number(b.get(key))]


class Figure(NamedTuple):
    """A row of the table of figures; better is "A", "B", "equal" or ""."""

    label: str
    a: str
    b: str
    difference: str
    better: str


def _figures(runs: list[RunFolder], comparable: bool) -> list[Figure]:
    rows = []
    for key in _shared(runs):
        a, b = (run.metrics[key] for run in runs)
        label = TILES[key][0] if key in TILES else key.replace("_", " ")
        rows.append(Figure(label, cell(a), cell(b), _signed(b - a), _better(key, a, b) if comparable else ""))
    return rows


def _signed(value: float) -> str:
    return ("+" if value > 0 else "−" if value < 0 else "") + short(abs(value))


def _better(key: str, a: float, b: float) -> str:
    if key not in BETTER:
        return ""
    if abs(a - b) <= SAME * max(abs(a), abs(b)):
        return "equal"
    return "B" if (b > a) == BETTER[key] else "A"


def _charts(runs: list[RunFolder]) -> list[Chart]:
    a, b = (run.curves for run in runs)
    others = sorted(key for key in a if key in b and key not in CURVES and key not in NO_CURVE)
    charts = []
    for key in [*CURVES, *others]:
        if a.get(key) and b.get(key):
            title, note, _ = CURVES.get(key, (key.replace("_", " "), "", 4))
            series = [tuple(zip(*curves[key], strict=True)) for curves in (a, b)]
            charts.append(overlay(title, note, [(x, y) for x, y in series], logarithmic="loss" in key))
    return [chart for chart in charts if chart]


class Views(NamedTuple):
    """The section of the views: those shown, and how many both runs have."""

    shown: list[views.Comparison]
    total: int
    least: int  # pixels that a view has at least, in width


def _views(runs: list[RunFolder]) -> Views | None:
    """Renders of A and B from the cameras of both, the largest difference in PSNR first; None if they share no data."""
    scores = [{views.picture_stem(row): row.get("psnr") for row in run.view_scores()[1]} for run in runs]
    renders = [{pair.name: pair.render for pair in run.pairs} for run in runs]
    both = sorted(renders[0].keys() & renders[1].keys())
    paths = [d.get("path") if isinstance(d := run.config.get("data"), dict) else None for run in runs]
    if not both or paths[0] != paths[1]:
        return None

    def gain(name: str) -> float:
        a, b = (score.get(name) for score in scores)
        return b - a if is_number(a) and is_number(b) else 0.0

    shown: list[views.Comparison] = []
    for name in sorted(both, key=lambda name: -abs(gain(name))):
        pair, note = Pair(name, renders[0][name], renders[1][name]), f"B {gain(name):+.2f} dB"
        made = views.compare(pair, name, note, ("A", "B"), "difference")
        if made is None:
            continue
        if shown and sum(other.size for other in shown) + made.size > views.VIEW_BYTES:
            break
        shown.append(made)
    return Views(shown, len(both), views.least_width(shown) if shown else 0)


def _settings(runs: list[RunFolder]) -> list[tuple[str, str, str]]:
    """The settings in which they differ: key, and the values of A and B."""
    a, b = (_flat(run.config) for run in runs)
    keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    return [(key, _setting(a, key), _setting(b, key)) for key in keys]


def _flat(tree: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(tree, dict):
        return {prefix.removesuffix("."): tree}
    return {key: value for name, child in tree.items() for key, value in _flat(child, f"{prefix}{name}.").items()}


def _setting(settings: dict[str, object], key: str) -> str:
    if key not in settings:
        return "–"
    return yaml.safe_dump(settings[key], default_flow_style=True, width=10**6).splitlines()[0]
