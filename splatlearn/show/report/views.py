"""Held-out views of a report: photo and render under one slider, the error map over both, the worst views first."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from splatlearn.show.pictures import ERROR_COLORS, error_map
from splatlearn.show.report.format import decibels
from splatlearn.show.report.images import embed, read_image
from splatlearn.show.report.run_folder import Pair, RunFolder, is_number

VIEW_BYTES = 12_000_000  # of images in a page: more open slowly, above all on a phone
MAX_WIDTH = 960  # pixels; a wider image is scaled down
MAGNIFY = 4  # the scale of the error map ends at a quarter of the full range
FEATURED = 3  # views shown as the worst, and as the best


@dataclass(frozen=True)
class Comparison:
    """Two images of one size under a slider, with their difference."""

    name: str
    caption: str
    note: str
    left: str  # what the left image is
    right: str
    difference: str  # what the difference is called
    sources: tuple[str, str, str]  # data URIs of left, right, difference
    width: int
    height: int

    @property
    def ratio(self) -> float:
        """Width divided by height."""
        return self.width / self.height

    @property
    def size(self) -> int:
        """Bytes in the page."""
        return sum(map(len, self.sources))


@dataclass(frozen=True)
class Group:
    """Comparisons under one heading, which may be empty."""

    title: str
    views: list[Comparison]


@dataclass(frozen=True)
class Views:
    """The section of the held-out views."""

    held_out: bool
    total: int  # views of the run, of which those in `groups` are shown
    groups: list[Group]

    @property
    def shown(self) -> int:
        return sum(len(group.views) for group in self.groups)

    @property
    def least(self) -> int:
        """Pixels that a view has at least, in width."""
        return least_width([view for group in self.groups for view in group.views])


class _View(NamedTuple):
    pair: Pair
    row: dict[str, Any]  # of eval/metrics.json, {} if there is none

    @property
    def psnr(self) -> float:
        value = self.row.get("psnr")
        return float(value) if is_number(value) else math.inf


def views_section(run: RunFolder) -> Views | None:
    """The views of a run, or None for a run without pairs of images."""
    rows = {picture_stem(row): row for row in run.view_scores()[1]}
    ranked = sorted((_View(pair, rows.get(pair.name, {})) for pair in run.pairs), key=lambda view: view.psnr)
    shown: dict[str, Comparison] = {}
    for view in _from_both_ends(ranked):
        made = compare(view.pair, view.pair.name, decibels(view.row.get("psnr")), ("photo", "render"), "error")
        if made is None:
            continue
        if shown and sum(other.size for other in shown.values()) + made.size > VIEW_BYTES:
            break
        shown[view.pair.name] = made
    if not shown:
        return None
    kept = [view for view in ranked if view.pair.name in shown]
    groups = [("", kept)]
    if len(kept) > 2 * FEATURED and math.isfinite(kept[-1].psnr):
        rest = sorted(kept[FEATURED:-FEATURED], key=lambda view: view.pair.name)
        groups = [("The worst", kept[:FEATURED]), ("The best", kept[: -FEATURED - 1 : -1]), ("The others", rest)]
    elif len(kept) > 1 and math.isfinite(kept[-1].psnr):
        groups = [("From the worst to the best", kept)]
    made_groups = [Group(title, [shown[view.pair.name] for view in views]) for title, views in groups if views]
    return Views(run.metrics.get("split") == "test", len(run.pairs), made_groups)


def picture_stem(row: dict[str, Any]) -> str:
    """The stem of the image files of a view: from its row of the metrics, else derived from its name."""
    given = row.get("picture")
    name = given if isinstance(given, str) else str(row.get("name"))
    return name.replace("/", "_").rpartition(".")[0] or name


def compare(pair: Pair, caption: str, note: str, sides: tuple[str, str], difference: str) -> Comparison | None:
    """Two images under a slider; None if one cannot be read or their sizes differ.

    Args:
        pair: the left image is its photo, the right one its render.
        sides: what left and right are.
        difference: what their difference is called.
    """
    photo, render = read_image(pair.photo), read_image(pair.render)
    if photo is None or render is None or photo.size != render.size:
        return None
    from PIL import Image

    error = Image.fromarray(error_map(np.asarray(photo), np.asarray(render), MAGNIFY))
    left, right, between = (embed(picture, MAX_WIDTH) for picture in (photo, render, error))
    sources = (left.source, right.source, between.source)
    return Comparison(pair.name, caption, note, *sides, difference, sources, between.width, between.height)


def least_width(views: list[Comparison]) -> int:
    """Pixels that a view has at least, in width: fewer if all are upright."""
    return 300 if max(view.ratio for view in views) < 1 else 420


def error_scale() -> dict[str, str]:
    """The legend of error maps: its colours as CSS, and where the scale ends."""
    colors = ", ".join("rgb({},{},{})".format(*map(int, color)) for color in ERROR_COLORS)
    return {"colors": colors, "end": f"{100 / MAGNIFY:.0f} %"}


def _from_both_ends(ranked: list[_View]) -> list[_View]:
    """The worst, the best, the second worst ...: views that do not fit are those in the middle."""
    half = -(-len(ranked) // 2)
    worst, best = ranked[:half], ranked[half:][::-1]
    return [view for i in range(half) for view in (worst[i : i + 1] + best[i : i + 1])]
