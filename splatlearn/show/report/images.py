"""Images of a run folder, read with patience and embedded as JPEG."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from splatlearn.show.pages import data_uri

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


class Embedded(NamedTuple):
    """An image inside a page."""

    source: str  # a data URI
    width: int  # pixels
    height: int


def read_image(path: Path) -> "Picture | None":
    """The image as RGB; None if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def embed(picture: "Picture", max_width: int, quality: int = 86) -> Embedded:
    """Encode an image as JPEG, scaled down to at most ``max_width`` pixels."""
    from PIL import Image

    if picture.width > max_width:
        size = (max_width, max(1, round(picture.height * max_width / picture.width)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return Embedded(data_uri("image/jpeg", buffer.getvalue()), picture.width, picture.height)
