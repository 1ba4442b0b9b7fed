"""The report of a run: what was learned, in one HTML file.

A section is left out if the run folder has nothing for it, so that a scene, a line, a text and a run that was stopped
halfway are all served.
"""

import shlex
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from splatlearn.errors import SplatlearnError
from splatlearn.files import drop_link
from splatlearn.show.pages import data_uri, render, write_page
from splatlearn.show.report import line, samples, space, views
from splatlearn.show.report.charts import Chart, curve
from splatlearn.show.report.format import byte_size, cell, decibels, duration, short
from splatlearn.show.report.headline import headline, remarks
from splatlearn.show.report.images import Embedded, embed, read_image
from splatlearn.show.report.run_folder import VIDEO_TYPES, RunFolder, is_number, read_run

EMBED_BYTES = 8_000_000  # a larger video is linked: browsers grow slow on longer data URIs
MOST_VIEWS = 8  # images of eval/ shown, evenly chosen, if it holds no pairs of photos and renders
VIEW_WIDTH = 1800  # pixels to which such an image is scaled down
MOST_VIDEOS = 3
SHORTEST_LAP = 0.2  # seconds of training from which the time of a step is shown
MOST_CHARTS = 9

# key of metrics.jsonl -> title, note, hue; charts come in this order, unknown keys follow
CURVES = {
    "loss": ("Loss", "how wrong the last answer was", 2),
    "psnr": ("PSNR, dB", "similarity to the training photographs", 1),
    "test_psnr": ("Held-out PSNR, dB", "similarity to photographs never trained on", 1),
    "ssim": ("SSIM", "similarity of structure, 1 is equal", 1),
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
    "warnings.jsonl": "the warnings above",
    "eval/metrics.json": "the figures above",
    "eval/renders": "each render, and the photograph of its name in eval/photos",
    "renders": "what splatlearn render wrote",
    "timelapse": "pictures of the training, for splatlearn render --timelapse",
    "tensorboard": "the same curves for tensorboard --logdir",
    "checkpoints": "to go on from",
}


def write_report(run: Path | str) -> Path:
    """Write `report.html` into the run folder, whole or not at all.

    Args:
        run: the run folder.

    Returns:
        The path of the report.

    Raises:
        SplatlearnError: `run` is not a folder, or the file cannot be written.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise SplatlearnError(f"{folder} is not a run folder.")
    drop_link(folder / "report.html")
    return write_page(folder / "report.html", report_html(read_run(folder)))


def report_html(run: RunFolder) -> str:
    """The report as an HTML document."""
    pairs = views.views_section(run)
    return render(
        "report.html",
        title=run.folder.resolve().name or "run",
        task=run.task,
        headline=headline(run),
        tiles=_tiles(run),
        remarks=remarks(run),
        warnings=run.warnings,
        films=[film for path in run.videos[:MOST_VIDEOS] if (film := _film(run, path))],
        line=line.line_section(run),
        line_size=(line.WIDTH, line.HEIGHT),
        samples=samples.samples_section(run),
        charts=_charts(run),
        views=pairs,
        pictures=None if pairs else _pictures(run),
        error_scale=views.error_scale(),
        space=space.space_section(run),
        scene=space.scene_section(run),
        **_tables(run),
        files=_files(run),
        config_text=run.config_text if run.config_text.strip() else "",
        versions=[(key, cell(value)) for key, value in run.versions.items()],
        next_steps=_next_steps(run),
    )


# ---- the top ----


class Tile(NamedTuple):
    """A figure of eval/metrics.json in a tile of its own."""

    label: str
    value: str
    unit: str
    hint: str
    best: bool


class Link(NamedTuple):
    """A link to a file in the run folder."""

    href: str
    name: str

    @classmethod
    def to(cls, run: RunFolder, path: Path) -> "Link":
        relative = path.relative_to(run.folder).as_posix()
        return cls(quote(relative), relative)


class Film(NamedTuple):
    """A video of the run; `source` is "" for one that is too large and only linked."""

    source: str
    is_video: bool  # else an animated GIF
    name: str
    link: Link
    size: str


def _tiles(run: RunFolder) -> list[Tile]:
    return [_tile(key, run.metrics[key]) for key in TILES if is_number(run.metrics.get(key))]


def _tile(key: str, value: float) -> Tile:
    label, unit, decimals, hint = TILES[key]
    shown = short(value) if decimals is None else f"{value:.{decimals}f}"
    if key == "train_seconds" and value >= 0:
        shown, _, unit = duration(value).partition(" ")
    return Tile(label, shown, unit, hint, key in ("psnr", "weight", "bias", "bits_per_byte"))


def _film(run: RunFolder, path: Path) -> Film | None:
    """A video, or None if it cannot be read."""
    kind = VIDEO_TYPES[path.suffix.lower()]
    try:
        size = path.stat().st_size
        source = "" if size > EMBED_BYTES else data_uri(kind, path.read_bytes())
    except OSError:
        return None
    return Film(source, kind.startswith("video"), path.stem, Link.to(run, path), byte_size(size))


# ---- sections ----


def _charts(run: RunFolder) -> list[Chart]:
    curves = run.curves | {"step_ms": _step_times(run)}
    known = (*CURVES, *NO_CURVE)
    others = [key for key in sorted(curves) if key not in known and "lr" not in key.split("_")]
    charts = []
    for key in [*CURVES, *others]:
        title, note, hue = CURVES.get(key, (key.replace("_", " "), "", 4))
        steps, values = zip(*(curves.get(key) or [(0.0, 0.0)]), strict=True)
        charts.append(curve(title, note, steps, values, hue, logarithmic="loss" in key))
    return [chart for chart in charts if chart][:MOST_CHARTS]


def _step_times(run: RunFolder) -> list[tuple[float, float]]:
    """Milliseconds per step, over lines of the log that are far enough apart for its clock of milliseconds."""
    clock = run.curves.get("seconds", [])
    found: list[tuple[float, float, float]] = []
    for step, seconds in clock[1:]:
        since, then = (found[-1][0], found[-1][2]) if found else clock[0]
        if seconds - then >= SHORTEST_LAP:
            found.append((step, 1000 * (seconds - then) / (step - since), seconds))
    return [(step, lap) for step, lap, _ in found]


class Picture(NamedTuple):
    """An image of eval/ with the score of its view."""

    image: Embedded
    name: str
    score: str


class Pictures(NamedTuple):
    """The section of the images of eval/ of a run without pairs of photos and renders."""

    title: str
    is_scene: bool
    total: int
    chosen: bool  # whether there are more than MOST_VIEWS
    shown: list[Picture]
    least: int  # pixels that an image has at least, in width
    narrow: int  # and on a narrow screen


def _pictures(run: RunFolder) -> Pictures | None:
    n = min(MOST_VIEWS, len(run.views))
    scores = {views.picture_stem(row): row.get("psnr") for row in run.view_scores()[1]}
    shown = []
    for path in (run.views[i * len(run.views) // n] for i in range(n)):
        picture = read_image(path)
        if picture is not None:
            shown.append(Picture(embed(picture, VIEW_WIDTH), path.stem, decibels(scores.get(path.stem))))
    if not shown:
        return None
    scene = run.task == "scene"
    title = "Pictures" if not scene else "Held-out views" if run.metrics.get("split") == "test" else "Views"
    strips = max(image.width / image.height for image, _, _ in shown) > 2.4  # three landscapes side by side
    chosen = len(run.views) > MOST_VIEWS
    return Pictures(title, scene, len(run.views), chosen, shown, *((760, 720) if strips else (480, 320)))


def _tables(run: RunFolder) -> dict[str, Any]:
    """The figures of eval/metrics.json as rows, and those of its views as a table."""
    figures = {key: value for key, value in run.metrics.items() if isinstance(value, (int, float, str))}
    size = run.metrics.get("resolution")
    if isinstance(size, list):
        figures["resolution"] = " × ".join(map(str, size))
    columns, rows = run.view_scores()
    return {
        "figures": [(key.replace("_", " "), cell(value)) for key, value in figures.items()],
        "view_columns": columns,
        "view_rows": [(row["name"], [cell(row.get(column)) for column in columns]) for row in rows],
    }


def _files(run: RunFolder) -> list[tuple[Link, str, str]]:
    """Link, note and size of each known file that is there."""
    found = [(run.folder / name, note) for name, note in FILES.items() if (run.folder / name).exists()]
    return [
        (Link.to(run, path), note, byte_size(path.stat().st_size) if path.is_file() else "folder")
        for path, note in found
    ]


def _next_steps(run: RunFolder) -> dict[str, str]:
    """Commands to try, by what they do."""
    if run.task != "scene":
        return {}
    where = shlex.quote(str(run.folder))
    return {
        "Learn a scene of your own, from a COLMAP folder": (
            "splatlearn train configs/scene.yaml --data.path YOUR_FOLDER"
        ),
        "Render held-out views, an orbit, or a flight along the photographs": f"splatlearn render {where}",
        "Take the scene to another viewer": f"splatlearn export {where}",
    }
