"""The one style of all figures: colours that survive colour blindness and grey printing, type, and how files are made.

Colours are those of Okabe and Ito (2008); what must be told apart without colour differs in line style or marker too.
Surfaces are drawn in cividis, whose lightness rises evenly.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from splatlearn.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, RED, GREEN, SKY, PINK = "#0072B2", "#E69F00", "#D55E00", "#009E73", "#56B4E9", "#CC79A7"
INK, SOFT, RULE = "#1d1b26", "#6a6676", "#e5e2da"
SURFACE = "cividis"
WIDTH = 7.2  # inches: a full page's text width
DPI = 200  # of PNG files
FORMATS = ("svg", "pdf", "png")

SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.grid": False,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "splatlearn",  # the same figure is the same file
    "pdf.fonttype": 42,
}

F = TypeVar("F", bound=Callable[..., Any])


def styled(function: F) -> F:
    """Runs a function that draws in the style above, whatever the caller's own settings are."""

    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        import matplotlib

        with matplotlib.rc_context(SETTINGS):
            return function(*args, **kwargs)

    return inner  # type: ignore[return-value]


def new_figure(height: float, width: float = WIDTH) -> "Figure":
    """An empty figure, of no window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="white")


def outlined(color: str, width: float) -> list[Any]:
    """Path effects: a line of `width` points and `color` under a thinner one, so that grey printing shows it."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=width, foreground=color)]


def bare(axes: Any, title: str = "") -> None:
    """Axes without ticks and frame, for pictures."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if title:
        axes.set_title(title)


@styled
def write(figure: "Figure", folder: Path, name: str) -> list[Path]:
    """Writes the figure as SVG, PDF and PNG, each whole or not at all, and returns the paths."""
    paths = [folder / f"{name}.{kind}" for kind in FORMATS]
    for path, kind in zip(paths, FORMATS, strict=True):
        stamp: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        with replacing(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=DPI, metadata=stamp)
    return paths


@styled
def pixels(figure: "Figure", dpi: int = 100) -> np.ndarray:
    """The figure as a picture, uint8 [H, W, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def animate(figures: Iterable["Figure"], folder: Path, name: str, fps: float = 12.0, dpi: int = 100) -> list[Path]:
    """Writes figures, all of one size, as the frames of an MP4 and of a GIF, and returns the paths."""
    from splatlearn.show.video import write_video

    frames = [pixels(figure, dpi) for figure in figures]
    paths = [folder / f"{name}.mp4", folder / f"{name}.gif"]
    for path in paths:
        write_video(path, _held(frames, round(fps)), fps)
    return paths


def _held(frames: list[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """The frames, the last one repeated, so that the end of a loop can be seen."""
    yield from frames
    for _ in range(count):
        yield frames[-1]
