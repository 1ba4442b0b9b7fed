"""The story as a page: one HTML file that opens offline, with figures in order, short texts, and parts that live."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from splatlearn.files import replacing
from splatlearn.line import hard
from splatlearn.show import planar
from splatlearn.show.page import page
from splatlearn.show.pictures import to_uint8

GAUSSIANS = 180
SCRIPT = Path(__file__).with_name("story.js")

STYLE = """
.live { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); }
.pane { padding: 14px 16px; overflow: visible; min-width: 0; }
.pane canvas { display: block; width: 100%; border-radius: 10px; touch-action: none; cursor: crosshair; }
.pane .still { cursor: default; touch-action: auto; image-rendering: auto; aspect-ratio: 4 / 3; }
.pane p { margin: 0 0 8px; font-size: 13.5px; color: var(--soft); }
.pane p b { color: var(--ink); font-variant-numeric: tabular-nums; }
.bar { display: flex; flex-wrap: wrap; gap: 10px 18px; align-items: center; margin: 16px 0 0; font-size: 14px; }
.bar label { display: flex; align-items: center; gap: 8px; color: var(--soft); }
.bar output, .bar b { font-variant-numeric: tabular-nums; color: var(--ink); }
.bar input[type=range] { width: 150px; accent-color: var(--accent); }
.bar button, .bar select { font: inherit; color: var(--ink); background: var(--card); border: 1px solid var(--rule);
  border-radius: 9px; padding: 7px 14px; min-height: 38px; }
.bar button { cursor: pointer; }
.bar button.main { background: var(--accent); border-color: var(--accent); color: var(--paper); }
.warn { color: var(--h2); }
.equation { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 14px;
  display: flex; flex-wrap: wrap;
  gap: 4px 36px;
  background: var(--card); border-radius: 12px; padding: 12px 16px; margin: 0 0 16px; box-shadow: var(--shadow); }
.matrix { display: inline-grid; grid-template-columns: auto auto; gap: 2px 18px; padding: 4px 12px;
  border-left: 2px solid; border-right: 2px solid;
  border-radius: 8px; font-variant-numeric: tabular-nums; text-align: right; }
.written { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12.5px; line-height: 1.45;
  font-family: ui-monospace, "DejaVu Sans Mono", monospace; }
.view img { background: #fff; border-radius: 9px; }
"""

# where a picture of the figures goes: name, what is said of it
SHOWN = {
    "b_loss": "The loss of each step of the shipped run, on a logarithmic axis: it stops early, above least squares.",
    "d_basins": "Measured: where walks from each of 1,600 starts end, by way of walking.",
    "f_covariance": "From sliver to disc: a covariance's principal axes are its eigenvectors.",
    "g_scene": "The same in three dimensions: a scene emerges while it is trained, seen from one camera of the run.",
    "h_pipeline": "One training step, from photograph to the gradient on the means; all of it results of the run.",
    "i_attention": "Whom each character looks at while the trained model reads text that it never learned from.",
    "i_modules": "The blocks of that model in the order of the data, with the shapes of what leaves them.",
    "j_chain": "The norm of the loss's gradient after every link, and how well analytic and numeric derivatives agree.",
}


def write_story(
    path: Path,
    points: tuple[Tensor, Tensor],
    pictures: Mapping[str, bytes],
    writings: Sequence[tuple[int, str]] = (),
) -> Path:
    """Writes the page and returns its path.

    Args:
        points: x and y [n] of the line's data.
        pictures: PNG files by the names of `SHOWN`; what is missing is left out.
        writings: steps of a Transformer's training, and what it wrote after each.
    """
    data = f'<script type="application/json" id="data">{json.dumps(_data(points))}</script>'
    script = f"{data}<script>{SCRIPT.read_text(encoding='utf-8')}</script>"
    parts = [_line(pictures), _walks(pictures), _shapes(pictures), _fitting(pictures)]
    parts += [_writing(pictures, writings), _chain(pictures)]
    body = f"<style>{STYLE}</style>" + "".join(parts) + script
    with replacing(path) as temporary:
        temporary.write_text(page("The story · splatlearn", _TOP, body), encoding="utf-8")
    return path


def _data(points: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """What the script computes with, the same numbers as Python's."""
    target = planar.picture(48)
    rows = planar.begin(GAUSSIANS)
    return {
        "line": {"x": points[0].flatten().tolist(), "y": points[1].flatten().tolist()},
        "hard": {"bowl": hard.BOWL, "center": hard.CENTER, "wells": hard.WELLS, "minima": hard.minima().tolist()},
        "planar": {
            "height": target.shape[0],
            "width": target.shape[1],
            "pixels": base64.b64encode(to_uint8(target).tobytes()).decode("ascii"),
            "rows": rows.tolist(),
            "rates": planar.RATES,
        },
    }


_TOP = """<p class="eyebrow">splatlearn · the story</p><h1>If you can differentiate it, you can learn it</h1>
<p class="lead">A line through points, a scene from photographs, a language from text: one loop learns them all.
<b>Forward, loss, backward, update, repeat.</b> Everything below is computed, most of it here and now: drag it.</p>"""


def _figure(pictures: Mapping[str, bytes], name: str) -> str:
    if name not in pictures:
        return ""
    source = "data:image/png;base64," + base64.b64encode(pictures[name]).decode("ascii")
    text = html.escape(SHOWN[name])
    figure = (
        f'<figure class="view"><div><img src="{source}" alt="{text}"></div><figcaption><span>{text}</span></figcaption>'
    )
    return f'<div class="views more" style="--least:600px;--narrow:560px">{figure}</figure></div>'


def _line(pictures: Mapping[str, bytes]) -> str:
    return f"""<section id="line"><h2>1 · A neuron without an activation is a line</h2>
<p>Drag the line by its two handles, or the white dot on the bowl. The bowl shows the loss of every line: dark is low.
The arrow points against the gradient, and is longer where the slope is steeper.</p>
<div class="equation"><span>L(w, b) = 1/n Σ ((w·x + b) − y)²</span><span>∂L/∂w = 2/n Σ ((w·x + b) − y)·x</span>
<span>∂L/∂b = 2/n Σ ((w·x + b) − y)</span></div>
<div class="live"><div class="card pane"><p><b id="line-told"></b></p>
<canvas id="line-points" aria-label="data, line and residuals; drag the handles"></canvas></div>
<div class="card pane"><p>loss <b id="line-loss"></b> · gradient <b id="line-slope"></b></p>
<canvas id="line-bowl" aria-label="the loss over weight and bias; drag the dot"></canvas></div></div>
<div class="bar"><label>weight <input id="line-w" type="range" min="-2.6" max="6.6" step="0.01"></label>
<label>bias <input id="line-b" type="range" min="-7.2" max="9.2" step="0.01"></label>
<button id="line-step" class="main">One step downhill</button><button id="line-best">Least squares</button></div>
{_figure(pictures, "b_loss")}</section>"""


def _walks(pictures: Mapping[str, bytes]) -> str:
    return f"""<section id="walks"><h2>2 · Learning is walking downhill</h2>
<p>Choose how to walk and how far each step goes, drag the start, and watch 300 steps on two surfaces: the bowl of the
line, which has one minimum, and a hard landscape with a global one (green) and four local ones (red).</p>
<div class="bar"><label>method <select id="walk-kind"><option value="sgd">gradient descent</option>
<option value="momentum">momentum 0.9</option><option value="adam">Adam</option></select></label>
<label>learning rate <input id="walk-rate" type="range" min="-2.5" max="0.3" step="0.05" value="-1.3">
<output id="walk-rate-told"></output></label><button id="walk-go" class="main">Walk</button>
<span id="walk-limit" class="warn"></span></div><br>
<div class="live"><div class="card pane"><p>the bowl: <b id="walk-line-told"></b></p>
<canvas id="walk-line" aria-label="the bowl; drag the start"></canvas></div>
<div class="card pane"><p>the hard landscape: <b id="walk-hard-told"></b></p>
<canvas id="walk-hard" aria-label="the hard landscape; drag the start"></canvas></div></div>
{_figure(pictures, "d_basins")}</section>"""


def _shapes(pictures: Mapping[str, bytes]) -> str:
    return f"""<section id="shapes"><h2>3 · A Gaussian is a soft ellipse</h2>
<p>Its covariance Σ = R diag(σ₁², σ₂²) Rᵀ holds lengths and angle of its axes, and can be differentiated by all of them.
Drag the two tips.</p>
<div class="live"><div class="card pane">
<canvas id="shape" aria-label="a Gaussian; drag the tips of its axes"></canvas></div>
<div class="card pane"><p><b id="shape-told"></b></p>
<p>Σ = <span class="matrix"><b id="shape-xx"></b><b id="shape-xy"></b>
<b id="shape-yx"></b><b id="shape-yy"></b></span></p>
<p>The solid ring is one standard deviation, the dashed one is two.
A flat σ₂ makes a sliver, equal ones a disc, for which the angle no longer matters.</p></div></div>
{_figure(pictures, "f_covariance")}</section>"""


def _fitting(pictures: Mapping[str, bytes]) -> str:
    return f"""<section id="fitting"><h2>4 · Many of them learn a picture, then a scene</h2>
<p>{GAUSSIANS} Gaussians add up their colours. Place, size, angle and colour of each follow the gradient of the squared
error, by formulas written out in this page, with Adam.</p>
<div class="live"><div class="card pane"><p><b id="fit-told"></b></p>
<canvas id="fit-render" class="still" aria-label="the learned picture"></canvas></div>
<div class="card pane"><p>each Gaussian at one σ</p>
<canvas id="fit-shapes" class="still" aria-label="the Gaussians"></canvas></div>
<div class="card pane"><p>the picture to learn</p>
<canvas id="fit-target" class="still" aria-label="the picture to learn"></canvas></div></div>
<div class="bar"><button id="fit-go" class="main">Learn</button><button id="fit-reset">Start over</button></div>
{_figure(pictures, "g_scene")}{_figure(pictures, "h_pipeline")}</section>"""


def _writing(pictures: Mapping[str, bytes], writings: Sequence[tuple[int, str]]) -> str:
    samples = "".join(
        f'<div class="card pane"><p>after <b>{step}</b> steps</p><pre class="written">{html.escape(text)}</pre></div>'
        for step, text in writings
    )
    shown = _figure(pictures, "i_attention") + _figure(pictures, "i_modules")
    if not samples and not shown:
        return ""
    return f"""<section id="writing"><h2>5 · The same walk makes a Transformer a writer</h2>
<p>Its loss is how much the next character surprises it. It reads short windows of Python's own documentation, and
walks downhill by the same loop: first come the letters and blanks, then words.</p>
<div class="live">{samples}</div>{shown}</section>"""


def _chain(pictures: Mapping[str, bytes]) -> str:
    shown = _figure(pictures, "j_chain")
    if not shown:
        return ""
    return f"""<section id="chain"><h2>6 · All of it works because each step can be differentiated</h2>
<p>The chain rule multiplies the derivatives of all links between a parameter and the loss. One link that passes nothing
on cuts off everything before it: <code>splatlearn check-gradients</code> finds it.</p>{shown}</section>"""
