"""Open image files of unknown origin with Pillow: by a list of formats, up to a limit of pixels."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from splatlearn.errors import SplatlearnError
from splatlearn.scene.photos.suffixes import HEIF, HEIF_REMEDY, heif_is_readable

if TYPE_CHECKING:
    from PIL import Image

LARGEST_PIXELS = 1 << 29  # of an image, 537 megapixels; the largest sensors of phones and cameras have 200 and 150
HUGE_PIXELS = 1 << 26  # beyond it, one image is decoded at a time, and a reduced one by the JPEG decoder itself
LARGE_PIXELS = 1 << 23  # beyond it, a photograph's file has a byte for 200 pixels: one of a single grey has 85
PIXELS_PER_BYTE = 200
MOST_SCANS = 24  # of a JPEG, each of which costs a pass over all pixels; encoders write about 10
# Pillow's names (JPEG includes MPO). Nothing else is tried: it starts Ghostscript for an EPS file of any suffix.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "AVIF", "JPEG2000", "GIF", "PPM")

_prepared = False
_prepare_lock = threading.Lock()
huge_lock = threading.Lock()  # held while a huge image is decoded, so that only one is in memory


def open_image(path: Path, *, is_mask: bool = False) -> Image.Image:
    """Open an image and check its header; the pixels are decoded at first use.

    Args:
        path: the file. Its format is that of its content, whatever its suffix.
        is_mask: a mask may be compressed further than a photograph.

    Raises:
        SplatlearnError: the file is missing, is in none of the formats, or is larger than the limits above.
    """
    from PIL import Image

    _check_file(path)
    try:
        image = Image.open(path, formats=_formats())
    except Image.DecompressionBombError:
        raise SplatlearnError(f"{path} has more than the {LARGEST_PIXELS:,} pixels that an image may have.") from None
    except Image.UnidentifiedImageError:
        raise SplatlearnError(f"{path} is no image that can be read: {_what(path)}.") from None
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise SplatlearnError(f"{path} is no image that can be read: {reason(error)}.") from None
    try:
        _check_header(image, path, is_mask)
    except BaseException:
        image.close()
        raise
    return image


def reason(error: BaseException) -> str:
    """A library's message as a part of a sentence: one line, not long."""
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    text = " ".join(str(getattr(error, "strerror", None) or error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 100 else f"{text[:97]}..."


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise SplatlearnError(f"{path} is a folder, not an image.")
        if not path.is_file():
            kind = "no regular file" if path.exists() else "missing"
            raise SplatlearnError(f"{path} is {kind}.")
        if path.stat().st_size == 0:
            raise SplatlearnError(f"{path} is no image that can be read: it is empty (0 bytes).")
    except SplatlearnError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise SplatlearnError(f"{path} is no image that can be read: {reason(error)}.") from None


def _formats() -> tuple[str, ...]:
    """The formats to try, after Pillow's own limit was set to ours, once."""
    global _prepared
    from PIL import Image

    with _prepare_lock:
        if not _prepared:
            # Pillow raises beyond twice this number, and below that warns of an attack, which a photograph is not.
            Image.MAX_IMAGE_PIXELS = LARGEST_PIXELS // 2
            warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of metadata, not of pixels
            if heif_is_readable():
                from pillow_heif import register_heif_opener

                register_heif_opener()
            _prepared = True
    return (*FORMATS, "HEIF") if heif_is_readable() else FORMATS


def _what(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(32)
    if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc", b"heim", b"heis"):
        return "a damaged HEIF image" if heif_is_readable() else f"it is a HEIF image; {HEIF_REMEDY}"
    if start.startswith((b"%!PS", b"%PDF", b"\xc5\xd0\xd3\xc6")):
        return "it is a PostScript or PDF document, which is never opened"
    if path.suffix.lower() in HEIF and not heif_is_readable():
        return HEIF_REMEDY
    return f"damaged, or in none of the formats {', '.join(FORMATS)}"


def _check_header(image: Image.Image, path: Path, is_mask: bool) -> None:
    width, height = image.size
    pixels = width * height
    if pixels < 1:
        raise SplatlearnError(f"{path} has no pixels: its size is {width}x{height}.")
    if pixels > LARGEST_PIXELS:
        raise SplatlearnError(
            f"{path} has {pixels:,} pixels ({width}x{height}); an image may have {LARGEST_PIXELS:,} at most."
        )
    size = path.stat().st_size
    if not is_mask and pixels > LARGE_PIXELS and pixels > PIXELS_PER_BYTE * size:
        raise SplatlearnError(
            f"{path} is no photograph: {size:,} bytes that would become {pixels:,} pixels ({width}x{height})."
        )
    if image.format in ("JPEG", "MPO"):
        scans = path.read_bytes().count(b"\xff\xda")
        if scans > MOST_SCANS:
            raise SplatlearnError(f"{path} is a JPEG of {scans:,} scans; expected {MOST_SCANS} at most.")
