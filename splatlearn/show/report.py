"""The report of a run: one HTML file that tells what was learned, and opens anywhere, offline, by itself.

It reads what a run folder holds (config.yaml, metrics.jsonl, eval/metrics.json, eval/*.png, videos) and leaves
out what is not there, so that it serves a scene, a line and a run that was stopped halfway alike.
"""

import base64
import html
import io
import json
import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.show.charts import curve, short
from splatlearn.show.page import page

EMBED_BYTES = 8_000_000  # a larger video is linked: browsers grow slow on longer data URIs
MOST_VIEWS = 8  # pictures shown; the others are linked
VIEW_WIDTH = 1800  # pixels to which an embedded picture is scaled down
MOST_VIDEOS = 3
MOST_CHARTS = 8
VIDEO_TYPES = {".mp4": "video/mp4", ".gif": "image/gif"}

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


@dataclass
class _Run:
    """What could be read of a run folder."""

    folder: Path
    config_text: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    curves: dict[str, list[tuple[float, float]]] = field(
        default_factory=dict
    )  # key -> (step, value), ascending
    metrics: dict[str, Any] = field(default_factory=dict)
    views: list[Path] = field(default_factory=list)
    videos: list[Path] = field(default_factory=list)

    @property
    def task(self) -> str:
        told = self.config.get("task")
        return told if isinstance(told, str) else ("scene" if "psnr" in self.metrics else "")


def write_report(run: Path | str) -> Path:
    """Write `report.html` into the run folder, whole or not at all, and return its path.

    Raises SplatlearnError where `run` is no folder or the disk refuses. A file that cannot be read, such as a
    metrics line cut short by a crash, is left out.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise SplatlearnError(f"{folder} is not a run folder.")
    found = _read(folder)
    name = folder.resolve().name or "run"
    body = "".join([_curves(found), _views(found), _numbers(found), _files(found), _next_steps(found)])
    path = folder / "report.html"
    with replacing(path) as temporary:
        temporary.write_text(page(f"{name} · splatlearn", _hero(found, name), body), encoding="utf-8")
    return path


# ---- reading ----


def _read(folder: Path) -> _Run:
    import yaml

    run = _Run(folder, config_text=_text(folder / "config.yaml"))
    try:
        config = yaml.safe_load(run.config_text)
    except yaml.YAMLError:
        config = None
    run.config = config if isinstance(config, dict) else {}
    run.curves = _read_curves(_text(folder / "metrics.jsonl"))
    metrics = _parsed(_text(folder / "eval" / "metrics.json"))
    run.metrics = metrics if isinstance(metrics, dict) else {}
    run.views = sorted(path for path in (folder / "eval").glob("*.png") if not path.name.startswith("."))
    films = [
        path for path in sorted(folder.rglob("*")) if path.suffix.lower() in VIDEO_TYPES and path.is_file()
    ]
    films = [path for path in films if not path.name.startswith(".")]
    played = {path.with_suffix("") for path in films if path.suffix.lower() == ".mp4"}
    run.videos = [p for p in films if p.suffix.lower() == ".mp4" or p.with_suffix("") not in played]
    run.videos.sort(key=lambda path: ("orbit" not in path.name and "turntable" not in path.name, str(path)))
    return run


def _read_curves(text: str) -> dict[str, list[tuple[float, float]]]:
    """The finite numbers of metrics.jsonl by key; of a step that is there twice the later line counts."""
    lines: dict[int, dict[str, Any]] = {}
    for line in text.splitlines():
        row = _parsed(line)
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            lines[row["step"]] = row
    curves: dict[str, list[tuple[float, float]]] = {}
    for step in sorted(lines):
        for key, value in lines[step].items():
            if _is_number(value):
                curves.setdefault(str(key), []).append((step, float(value)))
    return curves


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# ---- sections ----


def _hero(run: _Run, name: str) -> str:
    eyebrow = f"splatlearn · {run.task}" if run.task else "splatlearn"
    words = f'<p class="eyebrow">{_e(eyebrow)}</p><h1>{_e(name)}</h1><p class="lead">{_lead(run)}</p>'
    tiles = "".join(_tile(key, run.metrics[key]) for key in TILES if _is_number(run.metrics.get(key)))
    tiles = f'<div class="tiles">{tiles}</div>' if tiles else ""
    films = [film for path in run.videos[:MOST_VIDEOS] if (film := _film(run, path))]
    if not films:
        return words + tiles
    rest = f'<div class="pair" style="margin-top:32px">{"".join(films[1:])}</div>' if films[1:] else ""
    return f'<div class="hero two"><div>{words}{tiles}</div>{films[0]}</div>{rest}'


def _lead(run: _Run) -> str:
    m = run.metrics
    if _is_number(m.get("weight")) and _is_number(m.get("bias")):
        sign = "+" if m["bias"] >= 0 else "−"
        return f"The line that was learned: <b>y = {m['weight']:.4g} x {sign} {abs(m['bias']):.4g}</b>"
    if _is_number(m.get("psnr")):
        count = f"{int(m['num_gaussians']):,} Gaussians" if _is_number(m.get("num_gaussians")) else "a scene"
        split = {"test": "held-out photographs", "train": "the training photographs"}.get(
            str(m.get("split")), "photographs"
        )
        return f"Photographs became {count}. The figures compare their renders with {split}."
    if run.curves:
        last = max(points[-1][0] for points in run.curves.values())
        return f"{int(last):,} steps so far. There is no evaluation yet."
    return "There is nothing to show yet: this run has no metrics."


def _tile(key: str, value: float) -> str:
    label, unit, decimals, hint = TILES[key]
    shown = _e(short(value) if decimals is None else f"{value:.{decimals}f}")
    if key == "train_seconds" and value >= 100:
        minutes, seconds = divmod(round(value), 60)
        shown, unit = f"{minutes}:{seconds:02}", "min"
    best = " best" if key in ("psnr", "weight") else ""
    unit = f"<small>{unit}</small>" if unit else ""
    return f'<div class="tile{best}"><span>{label}</span><b>{shown}{unit}</b><i>{hint}</i></div>'


def _film(run: _Run, path: Path) -> str:
    """The video itself, or a link to it where it is large; "" where it cannot be read."""
    kind = VIDEO_TYPES[path.suffix.lower()]
    try:
        size = path.stat().st_size
        link = f"{_link(run, path)} ({_bytes(size)})"
        if size > EMBED_BYTES:
            return f'<figure class="screen"><figcaption>The video is beside this page: {link}</figcaption></figure>'
        source = _data_uri(kind, path.read_bytes())
    except OSError:
        return ""
    if kind.startswith("video"):
        media = f'<video src="{source}" autoplay muted loop playsinline controls></video>'
    else:
        media = f'<img src="{source}" alt="{_e(path.stem)}">'
    return f'<figure class="screen">{media}<figcaption>{link}</figcaption></figure>'


def _curves(run: _Run) -> str:
    others = [
        k for k in sorted(run.curves) if k not in CURVES and k not in NO_CURVE and "lr" not in k.split("_")
    ]
    charts = []
    for key in [*CURVES, *others]:
        title, note, hue = CURVES.get(key, (key.replace("_", " "), "", 4))
        points = run.curves.get(key, [])
        charts.append(curve(title, note, [s for s, _ in points], [v for _, v in points], hue))
    charts = [chart for chart in charts if chart][:MOST_CHARTS]
    if not charts:
        return ""
    intro = (
        "<h2>How it learned</h2><p>Each value over the steps of training. Point at a curve to read it.</p>"
    )
    return f'{intro}<div class="charts">{"".join(charts)}</div>'


def _views(run: _Run) -> str:
    chosen = (
        [run.views[i * len(run.views) // MOST_VIEWS] for i in range(MOST_VIEWS)]
        if len(run.views) > MOST_VIEWS
        else run.views
    )
    scores = {_stem(row["name"]): row for row in _rows(run.metrics)[1]}
    figures, widest = [], 0.0
    for path in chosen:
        picture = _picture(path)
        if picture is None:
            continue
        source, width, height = picture
        widest = max(widest, width / height)
        psnr = scores.get(_stem(path.name), {}).get("psnr")
        score = f"<span>{psnr:.2f} dB</span>" if _is_number(psnr) else ""
        image = f'<img src="{source}" width="{width}" height="{height}" alt="{_e(path.stem)}" loading="lazy">'
        figures.append(
            f'<figure class="view"><div>{image}</div><figcaption><span>{_e(path.stem)}</span>{score}</figcaption></figure>'
        )
    if not figures:
        return ""
    held_out = "Held-out views" if run.metrics.get("split") == "test" else "Views"
    more = (
        f" {len(figures)} of {len(run.views)} are shown, evenly chosen."
        if len(run.views) > len(figures)
        else ""
    )
    intro = f"<h2>{held_out}</h2><p>The photograph, the render from the same place, and their difference, magnified: dark is right.{more} Select a picture to enlarge it.</p>"
    least, narrow = (760, 720) if widest > 2.4 else (480, 320)
    return f'{intro}<div class="views" style="--least:{least}px;--narrow:{narrow}px">{"".join(figures)}</div>'


def _numbers(run: _Run) -> str:
    scalars = {
        key: value for key, value in run.metrics.items() if not isinstance(value, (dict, list, type(None)))
    }
    if isinstance(size := run.metrics.get("resolution"), list):
        scalars["resolution"] = " × ".join(str(side) for side in size)
    if not scalars:
        return ""
    rows = "".join(
        f"<tr><th>{_e(k.replace('_', ' '))}</th><td class=n>{_e(_value(k, v))}</td></tr>"
        for k, v in scalars.items()
    )
    tables = f'<div class="card"><table>{rows}</table></div>'
    columns, views = _rows(run.metrics)
    if views:
        head = "".join(f"<th class=n>{_e(c)}</th>" for c in columns)
        lines = "".join(
            f"<tr><td>{_e(row['name'])}</td>{''.join(f'<td class=n>{_e(_value(c, row.get(c)))}</td>' for c in columns)}</tr>"
            for row in views
        )
        tables += f'<div class="card"><table><tr><th>view</th>{head}</tr>{lines}</table></div>'
    return f'<h2>In numbers</h2><p>The content of eval/metrics.json.</p><div class="pair">{tables}</div>'


def _rows(metrics: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """The figures of single views, where the metrics hold such a list or mapping: columns, and rows with a name."""
    for value in metrics.values():
        rows: list[dict[str, Any]] = []
        if isinstance(value, dict) and value and all(isinstance(row, dict) for row in value.values()):
            rows = [{**row, "name": str(name)} for name, row in value.items()]
        elif isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            rows = [{**row, "name": str(row.get("name", row.get("image", i)))} for i, row in enumerate(value)]
        if rows:
            columns = [str(key) for key in rows[0] if _is_number(rows[0][key])]
            return columns, rows
    return [], []


def _files(run: _Run) -> str:
    notes = {
        "point_cloud.ply": "the scene, for any 3DGS viewer", "config.yaml": "all settings of this run",
        "metrics.jsonl": "a line a logged step", "eval/metrics.json": "the figures above",
        "checkpoints": "to go on from",
    }  # fmt: skip
    rows = ""
    for name, note in notes.items():
        path = run.folder / name
        if path.exists():
            size = _bytes(path.stat().st_size) if path.is_file() else ""
            rows += f"<tr><td>{_link(run, path)}</td><td>{note}</td><td class=n>{size}</td></tr>"
    config = f"<details><summary>config.yaml</summary><div class=card><pre>{_e(run.config_text)}</pre></div></details>"
    table = (
        f"<h2>What is in the folder</h2><p>Beside this page.</p><div class=card><table>{rows}</table></div>"
    )
    return (table if rows else "") + (config if run.config_text.strip() else "")


def _next_steps(run: _Run) -> str:
    if run.task != "scene":
        return ""
    where = shlex.quote(str(run.folder))
    steps = {
        "Learn a scene of your own from a COLMAP folder": "splatlearn train configs/scene.yaml --data.path YOUR_FOLDER",
        "Fly along the photographs": f"splatlearn render {where}",
        "Take the scene to another viewer": f"splatlearn export {where}",
    }
    items = "".join(
        f"<div><p>{_e(what)}</p><code>{_e(command)}</code></div>" for what, command in steps.items()
    )
    return f'<h2>What to try next</h2><div class="card next">{items}</div>'


# ---- small things ----


def _picture(path: Path) -> tuple[str, int, int] | None:
    """The picture as a JPEG data URI of at most VIEW_WIDTH pixels across, with its size; None if it is damaged."""
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


def _link(run: _Run, path: Path) -> str:
    relative = path.relative_to(run.folder).as_posix()
    return f'<a href="{_e(quote(relative))}">{_e(relative)}</a>'


def _stem(name: str) -> str:
    """A view's name without folders' slashes and suffix, by which pictures and figures find each other."""
    return str(Path(name.replace("/", "_")).with_suffix("")) if name else ""


def _value(key: str, value: object) -> str:
    if key.endswith("seconds") and _is_number(value):
        return f"{float(value):,.1f} s"  # type: ignore[arg-type]
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else "–"
    return (
        "–"
        if value is None
        else f"{value:,}"
        if isinstance(value, int) and not isinstance(value, bool)
        else str(value)
    )


def _bytes(size: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _e(text: object) -> str:
    return html.escape(str(text))
