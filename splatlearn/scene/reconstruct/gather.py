"""The photographs that go in: found (links and all), checked, measured, and copied; the user's own are only read.

Folders are walked through symbolic links, each real folder once, so that a loop of links ends. Hidden files and
folders are left out.
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
LOOK = 960  # pixels of the longer side at which sharpness is judged: about what training sees
EXIF_MAKE, EXIF_MODEL, EXIF_ORIENTATION, EXIF_TIME, EXIF_IFD, EXIF_GPS = 0x010F, 0x0110, 0x0112, 0x0132, 0x8769, 0x8825
EXIF_FOCAL, EXIF_FOCAL_35MM = 0x920A, 0xA405  # within EXIF_IFD


@dataclass(frozen=True)
class Photo:
    """What one look at a photograph tells.

    lens: maker, model and focal lengths of its EXIF data, "" without; sharpness: variance of the Laplacian of its
    grey values (0 to 255) at LOOK pixels; brightness: their mean; digest: SHA-256 of the file.
    """

    name: str
    size: int  # bytes
    changed_ns: int
    width: int
    height: int
    lens: str
    sharpness: float
    brightness: float
    digest: str


def some(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def find_images(folder: Path, leave_out: Iterable[Path] = ()) -> list[str]:
    """Names (posix, relative, sorted) of the photographs below `folder`, but for those below `leave_out`.

    Raises SplatlearnError where they are fewer than two, or where a name is one that COLMAP's files cannot hold.
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
    strange = [ascii(name) for name in names if not name.isprintable() or "\\" in name]
    if strange:
        raise SplatlearnError(f"{folder}: expected names that can be printed, without backslash, got {some(strange)}")
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


def look_at(
    folder: Path, names: list[str], known: dict[str, Photo], threads: int, progress: bool = False
) -> list[Photo]:
    """Decodes every photograph once, but for those `known` from before and unchanged since.

    Raises one SplatlearnError that names all files that are missing, cut short or no pictures.
    """

    def look(name: str) -> Photo | None:
        try:
            return _look(folder, name, known.get(name))
        except Exception:  # Pillow's decoders raise many kinds for damaged files
            return None

    pool = ThreadPoolExecutor(threads)
    try:
        bar = tqdm(pool.map(look, names), "check photos", len(names), unit="photo", disable=not progress)
        photos = list(bar)
    finally:
        pool.shutdown(cancel_futures=True)
    bad = [name for name, photo in zip(names, photos, strict=True) if photo is None]
    if bad:
        raise SplatlearnError(f"{folder}: expected only readable photographs, got {len(bad)} damaged: {some(bad, 20)}")
    return [photo for photo in photos if photo]


def _look(folder: Path, name: str, known: Photo | None) -> Photo:
    from PIL import Image

    path = folder / name
    facts = path.stat()
    if known and (known.size, known.changed_ns) == (facts.st_size, facts.st_mtime_ns):
        return known
    with Image.open(path) as image:
        width, height = image.size
        lens = _lens(image)
        image.draft("L", (LOOK, LOOK))  # JPEGs: all data is read, but little of it transformed
        grey = _grey(image)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read())
    return Photo(
        name,
        facts.st_size,
        facts.st_mtime_ns,
        width,
        height,
        lens,
        sharpness(grey),
        float(grey.mean()),
        digest.hexdigest(),
    )


def _lens(image: Any) -> str:
    exif = image.getexif()
    inner = exif.get_ifd(EXIF_IFD)
    words = [exif.get(EXIF_MAKE), exif.get(EXIF_MODEL), inner.get(EXIF_FOCAL), inner.get(EXIF_FOCAL_35MM)]
    return " ".join(str(word).strip("\0 ") for word in words if word is not None)


def _grey(image: Any) -> np.ndarray:
    """[h, w] float32, 0 to 255, with LOOK pixels on the longer side at most."""
    if image.mode.startswith("I") or image.mode == "F":  # Pillow would cut these at 255
        from PIL import Image

        values = np.asarray(image, dtype=np.float32)
        white = 65535.0 if values.max() > 255 else 255.0
        image = Image.fromarray((values * (255 / white)).clip(0, 255).astype(np.uint8))
    image = image.convert("L")
    image.thumbnail((LOOK, LOOK), reducing_gap=2.0)
    return np.asarray(image, dtype=np.float32)


def sharpness(grey: np.ndarray) -> float:
    """Variance of the Laplacian of [h, w] grey values: edges that are sharp have a large one."""
    if min(grey.shape) < 3:
        return 0.0
    grey = grey.astype(np.float32, copy=False)
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(laplacian.var())


def without_copies(photos: list[Photo]) -> tuple[list[Photo], dict[str, str]]:
    """The photographs without files that are equal to the last byte, and for each of those the name that is kept.

    A copy adds nothing, and one that is held out for evaluation while its twin is learned would flatter the result.
    """
    first: dict[str, str] = {}
    copies = {}
    for photo in photos:
        if photo.digest in first:
            copies[photo.name] = first[photo.digest]
        else:
            first[photo.digest] = photo.name
    return [photo for photo in photos if photo.name not in copies], copies


def copy_photo(source: Path, target: Path, max_size: int | None) -> None:
    """A copy, its longer side at most `max_size` pixels; the EXIF data, and so the focal length, stays with it."""
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
        # An alpha channel says what is background: it must stay. All other kinds become plain RGB.
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
