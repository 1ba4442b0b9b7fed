"""The page of the story: one HTML file that opens offline, with figures, short texts and interactive parts."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from splatlearn.line import hard
from splatlearn.show import planar
from splatlearn.show.pages import data_uri, render, write_page
from splatlearn.show.pictures import to_uint8

GAUSSIANS = 180

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
    """Write the page and return its path.

    Args:
        points: x and y [n] of the line's data.
        pictures: PNG files by the names of `SHOWN`; what is missing is left out.
        writings: steps of a Transformer's training, and what it wrote after each.
    """
    document = render(
        "story.html",
        title="The story",
        gaussians=GAUSSIANS,
        data=_data(points),
        pictures={name: data_uri("image/png", content) for name, content in pictures.items() if name in SHOWN},
        captions=SHOWN,
        writings=writings,
    )
    return write_page(path, document)


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
