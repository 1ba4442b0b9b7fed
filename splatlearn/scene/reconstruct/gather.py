"""Find, check, measure and copy the input images; the user's own files are only read.

The search follows symbolic links and visits each real folder once, so that a loop of links ends. It skips hidden files
and folders.
"""

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
FOREIGN = (".heic", ".heif", ".avif", ".webp", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".gif")
MEASURED_SIDE = 960  # pixels of the longer side at which sharpness is measured: about the size in training
EXIF_MAKE, EXIF_MODEL, EXIF_ORIENTATION, EXIF_TIME, EXIF_IFD, EXIF_GPS = 0x010F, 0x0110, 0x0112, 0x0132, 0x8769, 0x8825
EXIF_FOCAL, EXIF_FOCAL_35MM = 0x920A, 0xA405  # within EXIF_IFD


@dataclass(frozen=True)
class ImageInfo:
    """Measurements of one image.

    Attributes:
        name: its path relative to the folder, with forward slashes.
        size: of the file, in bytes.
        changed_ns: the file's modification time in nanoseconds.
        width, height: in pixels, as stored.
        exif_camera: maker, model and focal lengths of its EXIF data, "" without.
        sharpness: variance of the Laplacian of its grey values (0 to 255) at MEASURED_SIDE pixels.
        brightness: mean of these grey values.
        digest: SHA-256 of the file.
    """

    name: str
    size: int
    changed_ns: int
    width: int
    height: int
    exif_camera: str
    sharpness: float
    brightness: float
    digest: str


def list_names(names: Sequence[str], most: int = 5) -> str:
    """List the first names and the number of the others."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def find_images(folder: Path, leave_out: Iterable[Path] = ()) -> list[str]:
    """Find the images below a folder.

    Args:
        folder: the folder to search.
        leave_out: folders whose content is ignored.

    Returns:
        Names relative to `folder`, with forward slashes, sorted.

    Raises:
        SplatlearnError: there are fewer than two images, or COLMAP's files cannot store a name.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise SplatlearnError(f"{folder}: expected a folder of photographs or a video, got {found}")
    names, foreign = [], Counter[str]()
    for path in _files(folder, {path.resolve() for path in leave_out}):
        suffix = path.suffix.lower()
        if suffix in SUFFIXES:
            names.append(path.relative_to(folder).as_posix())
        elif suffix in FOREIGN:
            foreign[suffix] += 1
    if len(names) < 2:
        others = "".join(f" and {count} {suffix}, to be converted first" for suffix, count in foreign.items())
        raise SplatlearnError(
            f"{folder}: expected at least 2 photographs ({', '.join(SUFFIXES)}), got {len(names)}{others}"
        )
    odd = [ascii(name) for name in names if not name.isprintable() or "\\" in name]
    if odd:
        raise SplatlearnError(f"{folder}: expected names that can be printed, without backslash, got {list_names(odd)}")
    return sorted(names)


def _files(folder: Path, leave_out: set[Path]) -> Iterable[Path]:
    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        here = os.stat(root)
        if (here.st_dev, here.st_ino) in seen or Path(root).resolve() in leave_out:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root) / name for name in files if not name.startswith("."))


def measure_images(
    folder: Path, names: list[str], known: dict[str, ImageInfo], threads: int, progress: bool = False
) -> list[ImageInfo]:
    """Decode and measure every image, except those in `known` that have not changed.

    Raises:
        SplatlearnError: files are missing, truncated or not images; one error names them all.
    """

    def measure(name: str) -> ImageInfo | None:
        try:
            return _measure(folder, name, known.get(name))
        except Exception:  # Pillow's decoders raise many kinds for damaged files
            return None

    pool = ThreadPoolExecutor(threads)
    try:
        bar = tqdm(pool.map(measure, names), "check photos", len(names), unit="photo", disable=not progress)
        photos = list(bar)
    finally:
        pool.shutdown(cancel_futures=True)
    bad = [name for name, photo in zip(names, photos, strict=True) if photo is None]
    if bad:
        raise SplatlearnError(
            f"{folder}: expected only readable photographs, got {len(bad)} damaged: {list_names(bad, 20)}"
        )
    return [photo for photo in photos if photo]


def _measure(folder: Path, name: str, known: ImageInfo | None) -> ImageInfo:
    from PIL import Image

    path = folder / name
    stat = path.stat()
    if known and (known.size, known.changed_ns) == (stat.st_size, stat.st_mtime_ns):
        return known
    with Image.open(path) as image:
        width, height = image.size
        exif_camera = _exif_camera(image)
        image.draft("L", (MEASURED_SIDE, MEASURED_SIDE))  # JPEG: reads all data but decodes it at a reduced size
        grey = _grey(image)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read())
    return ImageInfo(
        name,
        stat.st_size,
        stat.st_mtime_ns,
        width,
        height,
        exif_camera,
        sharpness(grey),
        float(grey.mean()),
        digest.hexdigest(),
    )


def _exif_camera(image: Any) -> str:
    exif = image.getexif()
    inner = exif.get_ifd(EXIF_IFD)
    words = [exif.get(EXIF_MAKE), exif.get(EXIF_MODEL), inner.get(EXIF_FOCAL), inner.get(EXIF_FOCAL_35MM)]
    return " ".join(str(word).strip("\0 ") for word in words if word is not None)


def _grey(image: Any) -> np.ndarray:
    """Return grey values [h, w] float32, 0 to 255, with at most MEASURED_SIDE pixels on the longer side."""
    if image.mode.startswith("I") or image.mode == "F":  # Pillow would clamp these at 255
        from PIL import Image

        values = np.asarray(image, dtype=np.float32)
        white = 65535.0 if values.max() > 255 else 255.0
        image = Image.fromarray((values * (255 / white)).clip(0, 255).astype(np.uint8))
    image = image.convert("L")
    image.thumbnail((MEASURED_SIDE, MEASURED_SIDE), reducing_gap=2.0)
    return np.asarray(image, dtype=np.float32)


def sharpness(grey: np.ndarray) -> float:
    """Compute the variance of the Laplacian of grey values [h, w]; sharp edges make it large."""
    if min(grey.shape) < 3:
        return 0.0
    grey = grey.astype(np.float32, copy=False)
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(laplacian.var())


def without_duplicates(photos: list[ImageInfo]) -> tuple[list[ImageInfo], dict[str, str]]:
    """Separate exact duplicates: the images without them, and the kept name of each duplicate by its name.

    A duplicate adds nothing. One that is held out while the other is trained on would make the evaluation too good.
    """
    first: dict[str, str] = {}
    copies = {}
    for photo in photos:
        if photo.digest in first:
            copies[photo.name] = first[photo.digest]
        else:
            first[photo.digest] = photo.name
    return [photo for photo in photos if photo.name not in copies], copies


def copy_image(source: Path, target: Path, max_size: int | None) -> None:
    """Copy an image with its longer side reduced to at most `max_size` pixels, and with its EXIF data."""
    with replacing(target) as temporary:
        if max_size is None or not _write_smaller(source, temporary, max_size):
            shutil.copyfile(source, temporary)
            shutil.copystat(source, temporary)


def _write_smaller(source: Path, target: Path, max_size: int) -> bool:
    from PIL import Image

    from splatlearn.scene.photos.decode import read_image

    with Image.open(source) as image:
        if max(image.size) <= max_size:
            return False
        size = smaller(image.size, max_size)
        exif = _exif_to_keep(image)
        # An alpha channel marks the background and must stay. All other modes become RGB.
        picture = image.copy() if image.mode in ("RGB", "RGBA", "L", "LA") else None
    if picture is None:
        picture = Image.fromarray(read_image(source).numpy())
    picture.info.clear()
    kind = {".jpg": {"quality": 95, "subsampling": 0}, ".jpeg": {"quality": 95, "subsampling": 0}}
    options: dict[str, Any] = dict(kind.get(source.suffix.lower(), {}))
    if source.suffix.lower() != ".bmp":
        options["exif"] = exif
    picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0).save(target, **options)
    return True


def _exif_to_keep(image: Any) -> bytes:
    """Keep the EXIF tags of camera, lens, place and time; those of the file itself would give a TIFF its old size."""
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
    """Return width and height scaled so that the longer side is at most `max_size`."""
    scale = min(1.0, max_size / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
