"""The report of a run: one HTML file that tells what was learned, and opens anywhere, offline, by itself.

A section is left out where the run folder has nothing for it, so that a scene, a line and a run that was
stopped halfway are served alike. Whatever comes from a file is escaped.
"""

import shlex
from pathlib import Path

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.show import report_line, report_space, report_text, report_views
from splatlearn.show.charts import curve, short
from splatlearn.show.page import page
from splatlearn.show.report_html import (
    bytes_told,
    cell,
    data_uri,
    duration_told,
    escaped,
    jpeg,
    link,
    opened_picture,
    table,
)
from splatlearn.show.report_words import headline, remarks
from splatlearn.show.run_folder import VIDEO_TYPES, RunFolder, is_number, read_run

EMBED_BYTES = 8_000_000  # a larger video is linked: browsers grow slow on longer data URIs
MOST_VIEWS = 8  # pictures of eval/ shown, evenly chosen, where it holds no photographs and renders apart
VIEW_WIDTH = 1800  # pixels to which such a picture is scaled down
MOST_VIDEOS = 3
SHORTEST_LAP = 0.2  # seconds of training from which the time of a step is told
MOST_CHARTS = 9

SCRIPT = Path(__file__).with_name("report.js")

# key of metrics.jsonl -> title, note, hue; charts come in this order, unknown keys follow
CURVES = {
    "loss": ("Loss", "how wrong the last answer was", 2),
    "psnr": ("PSNR, dB", "likeness to the training photographs", 1),
    "test_psnr": ("Held-out PSNR, dB", "likeness to photographs never trained on", 1),
    "ssim": ("SSIM", "likeness of structure, 1 is equal", 1),
    "test_ssim": ("Held-out SSIM", "structure, on photographs never trained on", 1),
    "test_loss": ("Held-out loss", "on data never trained on", 4),
    "test_bits_per_byte": ("Held-out bits a byte", "8 is guessing", 1),
    "num_gaussians": ("Gaussians", "how many the scene is made of", 3),
    "weight": ("Weight", "the slope of the line", 1),
    "bias": ("Bias", "where the line crosses x = 0", 3),
    "tokens_per_second": ("Tokens a second", "read while learning", 3),
    "gradient_norm": ("Norm of the gradient", "before it was clipped", 4),
    "step_ms": ("Milliseconds a step", "between two lines of the log", 3),
    "seconds": ("Seconds", "since the training began, pauses left out", 4),
}
NO_CURVE = ("step", "epoch", "sh_degree")
# key of eval/metrics.json -> label, unit, decimals, hint
TILES = {
    "psnr": ("PSNR", "dB", 2, "6 dB more is half the error"),
    "ssim": ("SSIM", "", 4, "1 is the photograph itself"),
    "lpips": ("LPIPS", "", 4, "0 looks the same to people"),
    "loss": ("Loss", "", None, "on the data, after the last step"),
    "bits_per_byte": ("Bits a byte", "", 3, "8 is guessing"),
    "perplexity": ("Perplexity", "", None, "as unsure as among so many tokens"),
    "weight": ("Weight", "", None, "the slope that was learned"),
    "bias": ("Bias", "", None, "the height at x = 0"),
    "num_gaussians": ("Gaussians", "", None, "soft ellipsoids in the scene"),
    "steps": ("Steps", "", None, "updates that were made"),
    "train_seconds": ("Training", "s", 0, "time to learn it"),
}
FILES = {
    "point_cloud.ply": "the scene, for any 3DGS viewer",
    "config.yaml": "all settings of this run",
    "versions.json": "what it was made with",
    "metrics.jsonl": "a line a logged step",
    "eval/metrics.json": "the figures above",
    "eval/renders": "each render, and the photograph of its name in eval/photos",
    "renders": "what splatlearn render wrote",
    "timelapse": "pictures of the training, for splatlearn render --timelapse",
    "tensorboard": "the same curves for tensorboard --logdir",
    "checkpoints": "to go on from",
}


def write_report(run: Path | str) -> Path:
    """Write `report.html` into the run folder, whole or not at all, and return its path.

    Raises SplatlearnError where `run` is no folder or the disk refuses.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise SplatlearnError(f"{folder} is not a run folder.")
    found = read_run(folder)
    name = folder.resolve().name or "run"
    sections = [
        report_line.line_section(found),
        report_text.samples_section(found),
        _curves(found),
        report_views.views_section(found) or _views(found),
        report_space.space_section(found),
        report_space.viewer_section(found),
        _numbers(found),
        _files(found),
        _next_steps(found),
    ]
    style = report_views.STYLE + report_space.STYLE + report_line.STYLE + report_text.STYLE
    text = page(f"{name} · splatlearn", _hero(found, name), "".join(sections), style, SCRIPT.read_text("utf-8"))
    path = folder / "report.html"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")  # names of files may be no text
    return path


# ---- sections, top to bottom ----


def _hero(run: RunFolder, name: str) -> str:
    eyebrow = f"splatlearn · {run.task}" if run.task else "splatlearn"
    words = f'<p class="eyebrow">{escaped(eyebrow)}</p><h1>{escaped(name)}</h1><p class="lead">{headline(run)}</p>'
    tiles = "".join(_tile(key, run.metrics[key]) for key in TILES if is_number(run.metrics.get(key)))
    words += f'<div class="tiles">{tiles}</div>' if tiles else ""
    words += "".join(f'<p class="remark">{sentence}</p>' for sentence in remarks(run))
    films = [film for path in run.videos[:MOST_VIDEOS] if (film := _film(run, path))]
    if not films:
        return words
    rest = f'<div class="pair more">{"".join(films[1:])}</div>' if films[1:] else ""
    return f'<div class="hero"><div>{words}</div>{films[0]}</div>{rest}'


def _tile(key: str, value: float) -> str:
    label, unit, decimals, hint = TILES[key]
    shown = short(value) if decimals is None else f"{value:.{decimals}f}"
    if key == "train_seconds" and value >= 0:
        shown, _, unit = duration_told(value).partition(" ")
    best = " best" if key in ("psnr", "weight", "bias", "bits_per_byte") else ""
    unit = f"<small>{unit}</small>" if unit else ""
    return f'<div class="tile{best}"><span>{label}</span><b>{shown}{unit}</b><i>{hint}</i></div>'


def _film(run: RunFolder, path: Path) -> str:
    """The video itself, or a link to it where it is large; "" where it cannot be read."""
    kind = VIDEO_TYPES[path.suffix.lower()]
    try:
        size = path.stat().st_size
        media = "" if size > EMBED_BYTES else data_uri(kind, path.read_bytes())
    except OSError:
        return ""
    text = f"{link(run.folder, path)} ({bytes_told(size)})"
    if not media:
        return f'<figure class="screen"><figcaption>It lies beside this page: {text}</figcaption></figure>'
    if kind.startswith("video"):
        media = f'<video src="{media}" autoplay muted loop playsinline controls></video>'
    else:
        media = f'<img src="{media}" alt="{escaped(path.stem)}">'
    return f'<figure class="screen">{media}<figcaption>{text}</figcaption></figure>'


def _curves(run: RunFolder) -> str:
    curves = run.curves | {"step_ms": _step_times(run)}
    known = (*CURVES, *NO_CURVE)
    others = [key for key in sorted(curves) if key not in known and "lr" not in key.split("_")]
    charts = []
    for key in [*CURVES, *others]:
        title, note, hue = CURVES.get(key, (key.replace("_", " "), "", 4))
        steps, values = zip(*(curves.get(key) or [(0.0, 0.0)]), strict=True)
        charts.append(curve(title, note, steps, values, hue, logarithmic="loss" in key))
    charts = [chart for chart in charts if chart][:MOST_CHARTS]
    intro = "<h2>How it learned</h2><p>Each value over the steps of training. Point at a curve to read it.</p>"
    return f'{intro}<div class="charts">{"".join(charts)}</div>' if charts else ""


def _step_times(run: RunFolder) -> list[tuple[float, float]]:
    """Milliseconds a step, over lines of the log that are far enough apart for its clock of milliseconds."""
    clock = run.curves.get("seconds", [])
    found: list[tuple[float, float, float]] = []
    for step, seconds in clock[1:]:
        since, then = (found[-1][0], found[-1][2]) if found else clock[0]
        if seconds - then >= SHORTEST_LAP:
            found.append((step, 1000 * (seconds - then) / (step - since), seconds))
    return [(step, lap) for step, lap, _ in found]


def _views(run: RunFolder) -> str:
    n = min(MOST_VIEWS, len(run.views))
    scores = {report_views.picture_stem(row): row.get("psnr") for row in run.view_scores()[1]}
    figures, widest = [], 0.0
    for path in (run.views[i * len(run.views) // n] for i in range(n)):
        picture = opened_picture(path)
        if picture is None:
            continue
        content, width, height = jpeg(picture, VIEW_WIDTH)
        source = data_uri("image/jpeg", content)
        widest = max(widest, width / height)
        psnr = scores.get(path.stem)
        score = f"<span>{psnr:.2f} dB</span>" if is_number(psnr) else ""
        image = f'<img src="{source}" width="{width}" height="{height}" alt="{escaped(path.stem)}" loading="lazy">'
        text = f"<figcaption><span>{escaped(path.stem)}</span>{score}</figcaption>"
        figures.append(f'<figure class="view"><div>{image}</div>{text}</figure>')
    if not figures:
        return ""
    scene = run.task == "scene"
    title = "Pictures" if not scene else "Held-out views" if run.metrics.get("split") == "test" else "Views"
    about = "The photograph, the render from its place, and how they differ, magnified: dark is right. "
    more = f"{n} of {len(run.views)} are shown, evenly chosen. " if len(run.views) > n else ""
    intro = f"<h2>{title}</h2><p>{about if scene else ''}{more}Select a picture to enlarge it.</p>"
    least, narrow = (760, 720) if widest > 2.4 else (480, 320)  # a strip of three landscapes needs the width
    return f'{intro}<div class="views" style="--least:{least}px;--narrow:{narrow}px">{"".join(figures)}</div>'


def _numbers(run: RunFolder) -> str:
    figures = {key: value for key, value in run.metrics.items() if isinstance(value, (int, float, str))}
    size = run.metrics.get("resolution")
    if isinstance(size, list):
        figures["resolution"] = " × ".join(map(str, size))
    if not figures:
        return ""
    rows = [f"<th>{escaped(key.replace('_', ' '))}</th>{cell(value)}" for key, value in figures.items()]
    tables = [table(rows)]
    columns, views = run.view_scores()
    if views:
        head = "".join(f'<th class="n">{escaped(column)}</th>' for column in columns)
        rows = [f"<td>{escaped(row['name'])}</td>{''.join(cell(row.get(c)) for c in columns)}" for row in views]
        tables.append(table([f"<th>view</th>{head}", *rows]))
    return f'<h2>In numbers</h2><p>From eval/metrics.json.</p><div class="pair">{"".join(tables)}</div>'


def _files(run: RunFolder) -> str:
    rows = []
    for name, note in FILES.items():
        path = run.folder / name
        if path.exists():
            size = bytes_told(path.stat().st_size) if path.is_file() else "folder"
            rows.append(f'<td>{link(run.folder, path)}</td><td class="note">{note}</td><td class="n">{size}</td>')
    told = f"<h2>In the folder</h2><p>These files lie beside this page.</p>{table(rows)}" if rows else ""
    if run.versions:
        rows = [f"<th>{escaped(key)}</th>{cell(value)}" for key, value in run.versions.items()]
        told += f"<details><summary>What it was made with (versions.json)</summary>{table(rows)}</details>"
    if run.config_text.strip():
        text = f'<div class="card"><pre>{escaped(run.config_text)}</pre></div>'
        told += f"<details><summary>All settings (config.yaml)</summary>{text}</details>"
    return told


def _next_steps(run: RunFolder) -> str:
    if run.task != "scene":
        return ""
    where = shlex.quote(str(run.folder))
    steps = {
        "Learn a scene of your own, from a COLMAP folder": (
            "splatlearn train configs/scene.yaml --data.path YOUR_FOLDER"
        ),
        "Render held-out views, an orbit, or a flight along the photographs": f"splatlearn render {where}",
        "Take the scene to another viewer": f"splatlearn export {where}",
    }
    items = "".join(f"<div><p>{escaped(what)}</p><code>{escaped(words)}</code></div>" for what, words in steps.items())
    return f'<h2>What to try next</h2><div class="card next">{items}</div>'
