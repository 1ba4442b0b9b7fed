"""Held-out views of a report: photograph and render under one slider, the error on top, the worst views first."""

import math
from typing import Any, NamedTuple

import numpy as np

from splatlearn.show.pictures import ERROR_COLORS, error_map
from splatlearn.show.report_html import data_uri, escaped, jpeg, opened_picture
from splatlearn.show.run_folder import Pair, RunFolder, is_number

VIEW_BYTES = 12_000_000  # of pictures in a page: more open slowly, above all on a phone
WIDEST = 960  # pixels across to which an embedded picture is scaled down
MAGNIFY = 4  # the error's scale ends at a quarter of the full range
FEATURED = 3  # views shown as the worst, and as the best

STYLE = """
.swipes { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--least)), 1fr)); }
.swipe { margin: 0; padding: 10px 10px 9px; min-width: 0; background: var(--card); border-radius: 16px;
  box-shadow: var(--shadow); scroll-margin: 24px; }
.swipe.wide { grid-column: 1 / -1; }
.swipe.found { outline: 3px solid var(--accent); }
.swipe .stage { position: relative; border-radius: 9px; overflow: hidden; --at: 50%; background: #000;
  max-width: calc(88vh * var(--ratio)); margin: 0 auto; }
.swipe img { display: block; width: 100%; height: auto; }
.swipe .over, .swipe .error { position: absolute; inset: 0; height: 100%; }
.swipe .over { clip-path: inset(0 0 0 var(--at)); }
.swipe .error { display: none; }
.swipe.erring .error { display: block; }
.swipe.erring .edge, .swipe.erring .side { display: none; }
.swipe .edge { position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px; background: #fff;
  box-shadow: 0 0 4px #000a; pointer-events: none; }
.swipe .edge::after { content: "\\2194"; position: absolute; top: 50%; left: 50%; width: 30px; height: 30px;
  margin: -15px; border-radius: 50%; background: #fff; color: #1d1b26; text-align: center; font: 18px/29px sans-serif;
  box-shadow: 0 1px 5px #0008; }
.swipe .side { position: absolute; top: 8px; padding: 1px 8px; border-radius: 8px; background: #0c0c14b0; color: #fff;
  font-size: 12px; pointer-events: none; }
.swipe .side.right { right: 8px; } .swipe .side.left { left: 8px; }
.swipe input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize;
  touch-action: pan-y; }
.swipe .stage:focus-within { outline: 3px solid var(--accent); outline-offset: 2px; }
.swipe figcaption { display: flex; flex-wrap: wrap; gap: 6px 12px; align-items: center; padding: 9px 4px 0;
  font-size: 13px; color: var(--soft); }
.swipe figcaption b { color: var(--ink); font-variant-numeric: tabular-nums; font-weight: 650; }
.swipe figcaption span:first-child { flex: 1; min-width: 6em; overflow-wrap: anywhere; }
.small { font: inherit; font-size: 13px; color: var(--ink); background: none; border: 1px solid var(--rule);
  border-radius: 8px; padding: 3px 10px; min-height: 30px; cursor: pointer; }
.small[aria-pressed=true] { background: var(--accent); color: var(--paper); border-color: var(--accent); }
.scale { display: inline-block; width: 120px; height: 10px; border-radius: 5px; margin: 0 8px; vertical-align: -1px;
  background: linear-gradient(90deg, SCALE); }
h3 { margin: 26px 0 10px; font-size: 17px; letter-spacing: -.008em; }
""".replace("SCALE", ", ".join("rgb({},{},{})".format(*map(int, color)) for color in ERROR_COLORS))


class _View(NamedTuple):
    pair: Pair
    row: dict[str, Any]  # of eval/metrics.json, {} where there is none

    @property
    def psnr(self) -> float:
        value = self.row.get("psnr")
        return float(value) if is_number(value) else math.inf


def views_section(run: RunFolder) -> str:
    """The section, or "" for a run without pairs of pictures."""
    rows = {picture_stem(row): row for row in run.view_scores()[1]}
    ranked = sorted((_View(pair, rows.get(pair.name, {})) for pair in run.pairs), key=lambda view: view.psnr)
    shown: dict[str, str] = {}
    spent, widest = 0, 0.0
    for view in _from_both_ends(ranked):
        if (made := figure(view.pair, escaped(view.pair.name), _score(view.row), ("photo", "render"))) is None:
            continue
        markup, ratio = made
        if shown and spent + len(markup) > VIEW_BYTES:
            break
        shown[view.pair.name], spent, widest = markup, spent + len(markup), max(widest, ratio)
    if not shown:
        return ""
    kept = [view for view in ranked if view.pair.name in shown]
    groups = [("", kept)]
    if len(kept) > 2 * FEATURED and math.isfinite(kept[-1].psnr):
        rest = sorted(kept[FEATURED:-FEATURED], key=lambda view: view.pair.name)
        groups = [("The worst", kept[:FEATURED]), ("The best", kept[: -FEATURED - 1 : -1]), ("The others", rest)]
    elif len(kept) > 1 and math.isfinite(kept[-1].psnr):
        groups = [("From the worst to the best", kept)]
    least = 300 if widest < 1 else 420
    body = "".join(_group(title, [shown[view.pair.name] for view in views], least) for title, views in groups)
    return _intro(run, len(kept)) + body


def picture_stem(row: dict[str, Any]) -> str:
    """The stem of the picture files of a row of the metrics' views: told by the row, else derived from its name."""
    told = row.get("picture")
    name = told if isinstance(told, str) else str(row.get("name"))
    return name.replace("/", "_").rpartition(".")[0] or name


def figure(pair: Pair, caption: str, note: str, sides: tuple[str, str]) -> tuple[str, float] | None:
    """A slider between two pictures of one size with their difference, as HTML, and its width by height.

    `caption` and `note` are HTML, `sides` names left and right. None where a picture is damaged or the sizes differ.
    """
    photo, render = opened_picture(pair.photo), opened_picture(pair.render)
    if photo is None or render is None or photo.size != render.size:
        return None
    from PIL import Image

    error = Image.fromarray(error_map(np.asarray(photo), np.asarray(render), MAGNIFY))
    sources, size = [], (1, 1)
    for picture in (photo, render, error):
        content, *size_ = jpeg(picture, WIDEST)
        sources.append(data_uri("image/jpeg", content))
        size = (size_[0], size_[1])
    shape = f'width="{size[0]}" height="{size[1]}"'
    name, (left, right) = escaped(pair.name), sides
    word = "error" if left == "photo" else "difference"
    markup = f"""<figure class="swipe" data-view="{name}">
<div class="stage" style="--ratio:{size[0] / size[1]:.4f}">
<img src="{sources[0]}" {shape} alt="{left} {name}" decoding="async">
<img class="over" src="{sources[1]}" {shape} alt="{right} {name}" decoding="async">
<img class="error" src="{sources[2]}" {shape} alt="error of {name}" decoding="async">
<i class="edge"></i><span class="side left">{left}</span><span class="side right">{right}</span>
<input type="range" min="0" max="100" step="1" value="50" aria-label="{left} or {right}: {name}"></div>
<figcaption><span>{caption}</span>{note}<button class="small" data-error aria-pressed="false">{word}</button>
<button class="small" data-wide aria-pressed="false">wider</button></figcaption></figure>
"""
    return markup, size[0] / size[1]


def error_scale(word: str = "Error") -> str:
    """The legend of error maps, as HTML."""
    end = f"{100 / MAGNIFY:.0f} %"
    return f'{word}: 0<i class="scale" role="img" aria-label="dark to bright"></i>{end} of full range and more.'


def _from_both_ends(ranked: list[_View]) -> list[_View]:
    """The worst, the best, the second worst ...: whichever are left out are those in the middle."""
    half = -(-len(ranked) // 2)
    worst, best = ranked[:half], ranked[half:][::-1]
    return [view for i in range(half) for view in (worst[i : i + 1] + best[i : i + 1])]


def _group(title: str, figures: list[str], least: int) -> str:
    heading = f"<h3>{title}</h3>" if title else ""
    return f'{heading}<div class="swipes" style="--least:{least}px">{"".join(figures)}</div>' if figures else ""


def _score(row: dict[str, Any]) -> str:
    psnr = row.get("psnr")
    return f"<b>{psnr:.2f} dB</b>" if is_number(psnr) else ""


def _intro(run: RunFolder, shown: int) -> str:
    title = "Held-out views" if run.metrics.get("split") == "test" else "Views"
    never = " These photographs were not trained on." if run.metrics.get("split") == "test" else ""
    some = ""
    if shown < len(run.pairs):
        some = f" {shown} of {len(run.pairs)} are inside this page, the worst and the best; all are in eval/."
    return (
        f"<h2>{title}</h2><p>Drag across a picture, or use the arrow keys: the photograph is on the left, the render "
        f"from its place on the right.{never}{some} {error_scale()}</p>"
    )
