"""The photographs that go in: found (links and all), checked, and measured; the user's own are only read.

Folders are walked through symbolic links, each real folder once, so that a loop of links ends. Hidden files and
whatever else is no photograph that can be read is left out, counted and named.
"""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from tqdm import tqdm

from splatlearn.errors import SplatlearnError
from splatlearn.notices import warn
from splatlearn.scene.photos import suffixes
from splatlearn.scene.photos.opening import HUGE_PIXELS, huge_lock, open_image, reason
from splatlearn.scene.photos.panorama import Panorama, panorama
from splatlearn.scene.photos.suffixes import LeftOut, some

WORK_FOLDERS = (".reconstruction",)  # of this program, within its output folder
LOOK = 960  # pixels of the longer side at which sharpness is judged: about what training sees
EXIF_MAKE, EXIF_MODEL, EXIF_ORIENTATION, EXIF_TIME, EXIF_IFD, EXIF_GPS = 0x010F, 0x0110, 0x0112, 0x0132, 0x8769, 0x8825
EXIF_FOCAL, EXIF_FOCAL_35MM = 0x920A, 0xA405  # within EXIF_IFD


@dataclass(frozen=True)
class Photo:
    """What one look at a photograph tells.

    name: of its copy, which differs from that of the file, `source`, where COLMAP cannot read the file's format.
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
    source: str = ""
    panorama: Panorama = ""

    @property
    def file(self) -> str:
        """The path of the user's own file in the folder of the photographs."""
        return self.source or self.name


@dataclass(frozen=True)
class Found:
    """The photographs of a folder (posix, relative, sorted), and what is left out."""

    names: list[str] = field(default_factory=list)
    left_out: tuple[LeftOut, ...] = ()


class OnlyLeftOut(SplatlearnError):
    """A folder whose photographs cannot be read, but for one at most."""


def find_images(folder: Path, leave_out: Iterable[Path] = ()) -> Found:
    """The photographs below `folder`, but for those below `leave_out`.

    Raises SplatlearnError where they are fewer than two, or where a name is one that COLMAP's files cannot hold.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise SplatlearnError(f"{folder}: expected a folder of photographs or a video, got {found}")
    names, others = [], []
    for path in _files(folder, {path.resolve() for path in leave_out}):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
        if suffixes.is_image(name) and not hidden:
            names.append(name)
        else:
            others.append((path, name))
    left_out = suffixes.left_out(others)
    if len(names) < 2:
        expected = f"{folder}: expected at least 2 photographs ({suffixes.readable()}), got {len(names)}"
        if left_out:
            raise OnlyLeftOut(f"{expected}; {suffixes.sentence(left_out)}")
        raise SplatlearnError(expected)
    strange = [ascii(name) for name in names if not name.isprintable() or "\\" in name]
    if strange:
        raise SplatlearnError(f"{folder}: expected names that can be printed, without backslash, got {some(strange)}")
    return Found(sorted(names), left_out)


def _files(folder: Path, leave_out: set[Path]) -> Iterable[Path]:
    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        here = os.stat(root)
        if (here.st_dev, here.st_ino) in seen or Path(root).resolve() in leave_out:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if name not in WORK_FOLDERS)
        yield from (Path(root) / name for name in files)


def look_at(
    folder: Path, names: list[str], known: dict[str, Photo], threads: int, progress: bool = False
) -> list[Photo]:
    """Decodes every photograph once, but for those `known` (by file) from before and unchanged since.

    Raises one SplatlearnError for all files that are missing, cut short or no pictures, with five names and reasons.
    """

    def look(name: str) -> Photo | str:
        try:
            return _look(folder, name, known.get(name))
        except SplatlearnError as error:
            why = str(error).removeprefix(f"{folder / name} is ").removeprefix("no image that can be read: ")
            return f"{name} ({why.removeprefix(f'{folder / name} ').rstrip('.')})"
        except Exception as error:  # Pillow's decoders raise many kinds for damaged files
            return f"{name} ({reason(error)})"

    pool = ThreadPoolExecutor(threads)
    try:
        bar = tqdm(pool.map(look, names), "check photos", len(names), unit="photo", disable=not progress)
        photos = list(bar)
    finally:
        pool.shutdown(cancel_futures=True)
    bad = [photo for photo in photos if isinstance(photo, str)]
    if bad:
        raise SplatlearnError(
            f"{folder}: expected only readable photographs, got {len(bad)} that cannot be read: {some(bad)}"
        )
    whole = [photo for photo in photos if isinstance(photo, Photo)]
    _check_names(folder, whole)
    return whole


def _check_names(folder: Path, photos: list[Photo]) -> None:
    """Refuse a photograph whose converted copy would take the name of another photograph."""
    files = {photo.name: photo.file for photo in photos if photo.name == photo.file}
    taken = [
        f"{photo.file} and {files[photo.name]}" for photo in photos if photo.file != files.get(photo.name, photo.file)
    ]
    if taken:
        raise SplatlearnError(f"{folder}: expected other names, as these would have one copy: {some(taken)}")


def _look(folder: Path, name: str, known: Photo | None) -> Photo:
    path = folder / name
    facts = path.stat()
    if known and (known.size, known.changed_ns) == (facts.st_size, facts.st_mtime_ns):
        return known
    with open_image(path) as image:
        width, height = image.size
        lens = _lens(image)
        kind = panorama(image, path)
        target = name if image.format in suffixes.COLMAP_FORMATS else f"{name}{'.png' if has_alpha(image) else '.jpg'}"
        if image.format != "TIFF" and getattr(image, "is_animated", False) and image.format != "MPO":
            warn(f"{path} is an animation; its first frame is taken as the photograph.")
        with huge_lock if width * height > HUGE_PIXELS else nullcontext():
            image.draft("L", (LOOK, LOOK))  # JPEGs: all data is read, but little of it transformed
            grey = _grey(image)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read())
    return Photo(
        target,
        facts.st_size,
        facts.st_mtime_ns,
        width,
        height,
        lens,
        sharpness(grey),
        float(grey.mean()),
        digest.hexdigest(),
        name,
        kind,
    )


def has_alpha(image: Any) -> bool:
    """Whether a Pillow image says which of its pixels are background."""
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


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
