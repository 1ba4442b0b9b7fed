"""Copies of the photographs for COLMAP: equal to the byte, or made smaller or of a format that COLMAP reads."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from splatlearn.files import replacing
from splatlearn.scene.photos.decode import read_image
from splatlearn.scene.photos.opening import HUGE_PIXELS, huge_lock, open_image
from splatlearn.scene.reconstruct.gather import (
    EXIF_GPS,
    EXIF_IFD,
    EXIF_MAKE,
    EXIF_MODEL,
    EXIF_ORIENTATION,
    EXIF_TIME,
    has_alpha,
)

JPEG_OPTIONS = {"quality": 95, "subsampling": 0}
JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")


def copy_photo(source: Path, target: Path, max_size: int | None, *, convert: bool = False) -> None:
    """Copy a photograph; the EXIF data, and so the focal length, stays with it.

    Args:
        source: the file. target: the copy.
        max_size: pixels that the copy's longer side has at most; None: as it is.
        convert: whether the copy takes the format of its suffix, as that of the file is none that COLMAP reads.
    """
    with replacing(target) as temporary:
        if not _write_changed(source, temporary, max_size, convert):
            shutil.copyfile(source, temporary)
            shutil.copystat(source, temporary)


def _write_changed(source: Path, target: Path, max_size: int | None, convert: bool) -> bool:
    """Write a smaller or a converted copy; return False where the file can be copied as it is."""
    from PIL import Image

    with open_image(source) as image:
        size = smaller(image.size, max_size) if max_size is not None else image.size
        is_smaller, is_huge = size != image.size, image.width * image.height > HUGE_PIXELS
        if not (is_smaller or convert):
            return False
        exif = _exif_to_keep(image)
        with huge_lock if is_huge else nullcontext():
            if is_huge and is_smaller:  # the JPEG decoder then reduces to at least twice the size
                image.draft(None, (2 * size[0], 2 * size[1]))
            # An alpha channel says what is background: it must stay. All other kinds become plain RGB.
            if image.mode in ("P", "PA") and has_alpha(image):
                picture = image.convert("RGBA")
            else:
                picture = image.copy() if image.mode in ("RGB", "RGBA", "L", "LA") else None
    if picture is None:
        picture = Image.fromarray(read_image(source).numpy())
    picture.info.clear()
    suffix = target.suffix.lower()
    options: dict[str, Any] = dict(JPEG_OPTIONS) if suffix in JPEG_SUFFIXES else {}
    if suffix not in (".bmp", ".ppm", ".pgm"):
        options["exif"] = exif
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    picture.save(target, format="JPEG" if suffix == ".mpo" else None, **options)
    return True


def _exif_to_keep(image: Any) -> bytes:
    """Camera, lens, place and time; not what describes the file itself, which would make a TIFF claim its old size."""
    from PIL import Image

    old, new = image.getexif(), Image.Exif()
    for tag in (EXIF_MAKE, EXIF_MODEL, EXIF_ORIENTATION, EXIF_TIME):
        if tag in old:
            new[tag] = old[tag]
    for tag in (EXIF_IFD, EXIF_GPS):
        if inner := old.get_ifd(tag):
            new[tag] = dict(inner)
    return new.tobytes()


def smaller(size: tuple[int, int], max_size: int) -> tuple[int, int]:
    """Width and height with the longer side at most `max_size`, in proportion."""
    share = min(1.0, max_size / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))
