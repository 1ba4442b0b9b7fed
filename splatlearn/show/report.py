"""The report of a run: one HTML file that tells what was learned, and opens anywhere, offline, by itself.

A section is left out where the run folder has nothing for it, so that a scene, a line and a run that was
stopped halfway are served alike. Whatever comes from a file is escaped.
"""

import base64
import html
import io
import shlex
from pathlib import Path
from urllib.parse import quote

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.show.charts import curve, short
from splatlearn.show.page import page
from splatlearn.show.run_folder import VIDEO_TYPES, RunFolder, is_number, read_run

EMBED_BYTES = 8_000_000  # a larger video is linked: browsers grow slow on longer data URIs
MOST_VIEWS = 8  # pictures shown, evenly chosen
VIEW_WIDTH = 1800  # pixels to which an embedded picture is scaled down
MOST_VIDEOS = 3
MOST_CHARTS = 9

# key of metrics.jsonl -> title, note, hue; charts come in this order, unknown keys follow
CURVES = {
    "loss": ("Loss", "how wrong the last answer was", 2),
    "psnr": ("PSNR, dB", "likeness to the training photographs", 1),
    "test_psnr": ("Held-out PSNR, dB", "likeness to photographs never trained on", 1),
    "ssim": ("SSIM", "likeness of structure, 1 is equal", 1),
    "test_ssim": ("Held-out SSIM", "structure, on photographs never trained on", 1),
    "num_gaussians": ("Gaussians", "how many the scene is made of", 3),
    "weight": ("Weight", "the slope of the line", 1),
    "bias": ("Bias", "where the line crosses x = 0", 3),
    "test_loss": ("Held-out loss", "on data never trained on", 4),
}
NO_CURVE = ("step", "seconds", "epoch", "sh_degree")
# key of eval/metrics.json -> label, unit, decimals, hint
TILES = {
    "psnr": ("PSNR", "dB", 2, "6 dB more is half the error"),
    "ssim": ("SSIM", "", 4, "1 is the photograph itself"),
    "lpips": ("LPIPS", "", 4, "0 looks the same to people"),
    "loss": ("Loss", "", None, "on the data, after the last step"),
    "weight": ("Weight", "", None, "the slope that was learned"),
    "bias": ("Bias", "", None, "the height at x = 0"),
    "num_gaussians": ("Gaussians", "", None, "soft ellipsoids in the scene"),
    "steps": ("Steps", "", None, "updates that were made"),
    "train_seconds": ("Training", "s", 0, "time to learn it"),
}
FILES = {
    "point_cloud.ply": "the scene, for any 3DGS viewer",
    "config.yaml": "all settings of this run",
    "metrics.jsonl": "a line a logged step",
    "eval/metrics.json": "the figures above",
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
    body = "".join([_curves(found), _views(found), _numbers(found), _files(found), _next_steps(found)])
    path = folder / "report.html"
    with replacing(path) as temporary:
        temporary.write_text(page(f"{name} · splatlearn", _hero(found, name), body), encoding="utf-8")
    return path


# ---- sections, top to bottom ----


def _hero(run: RunFolder, name: str) -> str:
    eyebrow = f"splatlearn · {run.task}" if run.task else "splatlearn"
    words = f'<p class="eyebrow">{_e(eyebrow)}</p><h1>{_e(name)}</h1><p class="lead">{_lead(run)}</p>'
    tiles = "".join(_tile(key, run.metrics[key]) for key in TILES if is_number(run.metrics.get(key)))
    words += f'<div class="tiles">{tiles}</div>' if tiles else ""
    films = [film for path in run.videos[:MOST_VIDEOS] if (film := _film(run, path))]
    if not films:
        return words
    rest = f'<div class="pair more">{"".join(films[1:])}</div>' if films[1:] else ""
    return f'<div class="hero"><div>{words}</div>{films[0]}</div>{rest}'


def _lead(run: RunFolder) -> str:
    """A sentence that says what came of the run."""
    weight, bias, gaussians = (run.metrics.get(key) for key in ("weight", "bias", "num_gaussians"))
    if is_number(weight) and is_number(bias):
        sign = "+" if bias >= 0 else "−"
        return f"The line that was learned: <b>y = {weight:.4g} x {sign} {abs(bias):.4g}</b>"
    if is_number(run.metrics.get("psnr")):
        count = f"{int(gaussians):,} Gaussians" if is_number(gaussians) else "a scene"
        splits = {"test": "held-out photographs", "train": "the training photographs"}
        against = splits.get(str(run.metrics.get("split")), "photographs")
        return f"Photographs became {count}. The figures compare their renders with {against}."
    if run.curves:
        last = max(points[-1][0] for points in run.curves.values())
        return f"{int(last):,} steps so far. There is no evaluation yet."
    return "There is nothing to show yet: this run has no metrics."


def _tile(key: str, value: float) -> str:
    label, unit, decimals, hint = TILES[key]
    shown = short(value) if decimals is None else f"{value:.{decimals}f}"
    if key == "train_seconds" and value >= 100:
        minutes, seconds = divmod(round(value), 60)
        shown, unit = f"{minutes}:{seconds:02}", "min"
    best = " best" if key in ("psnr", "weight", "bias") else ""
    unit = f"<small>{unit}</small>" if unit else ""
    return f'<div class="tile{best}"><span>{label}</span><b>{shown}{unit}</b><i>{hint}</i></div>'


def _film(run: RunFolder, path: Path) -> str:
    """The video itself, or a link to it where it is large; "" where it cannot be read."""
    kind = VIDEO_TYPES[path.suffix.lower()]
    try:
        size = path.stat().st_size
        media = "" if size > EMBED_BYTES else _data_uri(kind, path.read_bytes())
    except OSError:
        return ""
    text = f"{_link(run, path)} ({_bytes(size)})"
    if not media:
        return f'<figure class="screen"><figcaption>It lies beside this page: {text}</figcaption></figure>'
    if kind.startswith("video"):
        media = f'<video src="{media}" autoplay muted loop playsinline controls></video>'
    else:
        media = f'<img src="{media}" alt="{_e(path.stem)}">'
    return f'<figure class="screen">{media}<figcaption>{text}</figcaption></figure>'


def _curves(run: RunFolder) -> str:
    known = (*CURVES, *NO_CURVE)
    others = [key for key in sorted(run.curves) if key not in known and "lr" not in key.split("_")]
    charts = []
    for key in [*CURVES, *others]:
        title, note, hue = CURVES.get(key, (key.replace("_", " "), "", 4))
        steps, values = zip(*run.curves.get(key, [(0.0, 0.0)]), strict=True)
        charts.append(curve(title, note, steps, values, hue, logarithmic="loss" in key))
    charts = [chart for chart in charts if chart][:MOST_CHARTS]
    intro = "<h2>How it learned</h2><p>Each value over the steps of training. Point at a curve to read it.</p>"
    return f'{intro}<div class="charts">{"".join(charts)}</div>' if charts else ""


def _views(run: RunFolder) -> str:
    n = min(MOST_VIEWS, len(run.views))
    scores = {_stem(row["name"]): row.get("psnr") for row in run.view_scores()[1]}
    figures, widest = [], 0.0
    for path in (run.views[i * len(run.views) // n] for i in range(n)):
        picture = _picture(path)
        if picture is None:
            continue
        source, width, height = picture
        widest = max(widest, width / height)
        psnr = scores.get(_stem(path.name))
        score = f"<span>{psnr:.2f} dB</span>" if is_number(psnr) else ""
        image = f'<img src="{source}" width="{width}" height="{height}" alt="{_e(path.stem)}" loading="lazy">'
        text = f"<figcaption><span>{_e(path.stem)}</span>{score}</figcaption>"
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
    rows = [f"<th>{_e(key.replace('_', ' '))}</th>{_cell(value)}" for key, value in figures.items()]
    tables = [_table(rows)]
    columns, views = run.view_scores()
    if views:
        head = "".join(f'<th class="n">{_e(column)}</th>' for column in columns)
        rows = [f"<td>{_e(row['name'])}</td>{''.join(_cell(row.get(c)) for c in columns)}" for row in views]
        tables.append(_table([f"<th>view</th>{head}", *rows]))
    return f'<h2>In numbers</h2><p>From eval/metrics.json.</p><div class="pair">{"".join(tables)}</div>'


def _files(run: RunFolder) -> str:
    rows = []
    for name, note in FILES.items():
        path = run.folder / name
        if path.exists():
            size = _bytes(path.stat().st_size) if path.is_file() else "folder"
            rows.append(f'<td>{_link(run, path)}</td><td class="note">{note}</td><td class="n">{size}</td>')
    table = f"<h2>In the folder</h2><p>These files lie beside this page.</p>{_table(rows)}" if rows else ""
    if run.config_text.strip():
        text = f'<div class="card"><pre>{_e(run.config_text)}</pre></div>'
        table += f"<details><summary>All settings (config.yaml)</summary>{text}</details>"
    return table


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
    items = "".join(f"<div><p>{_e(what)}</p><code>{_e(words)}</code></div>" for what, words in steps.items())
    return f'<h2>What to try next</h2><div class="card next">{items}</div>'


# ---- small things ----


def _picture(path: Path) -> tuple[str, int, int] | None:
    """The picture as a JPEG data URI at most VIEW_WIDTH across, with its size; None if it is damaged."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    if picture.width > VIEW_WIDTH:
        size = (VIEW_WIDTH, max(1, round(picture.height * VIEW_WIDTH / picture.width)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88, optimize=True)
    return _data_uri("image/jpeg", buffer.getvalue()), picture.width, picture.height


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _link(run: RunFolder, path: Path) -> str:
    relative = path.relative_to(run.folder).as_posix()
    return f'<a href="{_e(quote(relative))}">{_e(relative)}</a>'


def _stem(name: str) -> str:
    """A view's name without its suffix and with no slashes, by which pictures and figures find each other."""
    return name.replace("/", "_").rpartition(".")[0] or name


def _table(rows: list[str]) -> str:
    return f'<div class="card"><table>{"".join(f"<tr>{row}</tr>" for row in rows)}</table></div>'


def _cell(value: object) -> str:
    """A table cell: numbers to six digits, a dash for none and for what is not finite."""
    shown = str(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        shown = "–" if not is_number(value) else f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
    return f'<td class="n">{_e("–" if value is None else shown)}</td>'


def _bytes(size: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _e(text: object) -> str:
    return html.escape(str(text))
