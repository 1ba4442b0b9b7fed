"""Recognise 360° photographs: by their metadata, and by their shape."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from splatlearn.notices import warn
from splatlearn.scene.photos.suffixes import some

if TYPE_CHECKING:
    from PIL import Image

HEAD_BYTES = 1 << 18  # of a file that are searched where Pillow finds no XMP packet
SMALLEST_WIDTH = 1024  # pixels; a smaller picture of 2:1 is more likely cropped
# Google's Photo Sphere: xmlns GPano, as an attribute or an element.
_SPHERE = re.compile(rb"ProjectionType\s*(?:=\s*[\"']|>)\s*(equirectangular|cylindrical|cubemap)", re.IGNORECASE)

Panorama = Literal["", "tagged", "shaped"]


def panorama(image: Image.Image, path: Path) -> Panorama:
    """Whether an image says of itself that it is a panorama ("tagged"), or has the shape of one, 2:1 ("shaped").

    Args:
        image: the opened image; its pixels are not decoded. path: its file.
    """
    width, height = image.size
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    if isinstance(xmp, str):
        xmp = xmp.encode(errors="replace")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if _SPHERE.search(xmp) or _SPHERE.search(head):
        return "tagged"
    return "shaped" if width == 2 * height and width >= SMALLEST_WIDTH else ""


def warn_of_panoramas(found: Mapping[str, Panorama], model: str, remedy: str) -> None:
    """Warn once of 360° photographs whose camera model is another one.

    Args:
        found: the photographs by name. model: COLMAP's camera model. remedy: what to do, a part of a sentence.
    """
    if model == "EQUIRECTANGULAR":
        return
    for kind, say in (("tagged", "say of themselves that they are"), ("shaped", "have the shape (2:1) of")):
        names = [name for name, what in found.items() if what == kind]
        if names:
            warn(
                f"{len(names):,} of {len(found):,} photographs {say} 360° panoramas (equirectangular): {some(names)}; "
                f"the camera model {model} does not fit them: {remedy}."
            )
