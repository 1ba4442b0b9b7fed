"""Find the model and the photographs of a COLMAP folder; of several models the largest is taken, and said to be."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from splatlearn.errors import SplatlearnError
from splatlearn.notices import warn
from splatlearn.scene.photos import suffixes
from splatlearn.scene.photos.suffixes import counted, some

LAYOUT = "expected a COLMAP folder with the photographs in images/ and the model in sparse/0/ (or sparse/)"
_STEMS = ("cameras", "images", "points3D")
_SMALLEST_IMAGE = 73  # bytes of a record of images.bin: id, pose, camera, an empty name and the number of its points
_SMALLEST_POINT = 51


@dataclass(frozen=True)
class _Candidate:
    """A folder with files of a model; `images` is None where they are incomplete or cannot be counted."""

    folder: Path
    name: str  # within the capture's folder
    images: int | None
    points: int

    def order(self) -> tuple[int, int, bool, int, str]:
        """Sort key: the largest first, then the lowest number."""
        number = self.folder.name
        is_number = number.isascii() and number.isdigit() and len(number) < 10
        return (-(self.images or 0), -self.points, not is_number, int(number) if is_number else 0, self.name)


def find_folders(path: Path, images: str | None, model: int | str | None) -> tuple[Path, Path]:
    """Find the folders of the model and of the photographs.

    Args:
        path: the capture's folder, or that of the model itself.
        images: the folder of the photographs in it; None: `images`.
        model: the name of the sub-model in `sparse`; None: the largest, with a warning that names the others.

    Raises:
        SplatlearnError: there is no model, none of this name, or no folder of photographs.
    """
    if not path.is_dir():
        raise SplatlearnError(f"{path} is not there or is no folder: {LAYOUT}.")
    root, folder = _model(path, model)
    image_folder = root / (images or "images")
    if not image_folder.is_dir():
        scaled = sorted(entry.name for entry in root.glob("images*") if entry.is_dir())
        hint = f" (there is {some(scaled)}: add --data.images {scaled[0]})" if scaled else ""
        raise SplatlearnError(f"{image_folder} is not there or is no folder: {LAYOUT}{hint}.")
    return folder, image_folder


def _model(path: Path, wanted: int | str | None) -> tuple[Path, Path]:
    """The capture's folder and the model's."""
    if _has_files(path):  # the model itself
        roots = [path, *list(path.absolute().parents)[:2]]
        return next((root for root in roots if (root / "images").is_dir()), path), path
    sparse = path / "sparse"
    folders = [sparse, *(sorted(entry for entry in sparse.iterdir() if entry.is_dir()) if sparse.is_dir() else [])]
    found = [_candidate(folder, path) for folder in folders if _has_files(folder)]
    if not found:
        raise SplatlearnError(f"{path} holds no model in sparse/0/ or sparse/: {LAYOUT}.")
    if wanted is not None:
        chosen = next((each for each in found if each.folder.name == str(wanted)), None)
        if chosen is None:
            names = some([each.folder.name for each in found])
            raise SplatlearnError(f"model {wanted!r} is not in {sparse}: expected one of {names}.")
        return path, chosen.folder
    best, *others = sorted(found, key=_Candidate.order)
    if others:
        _say(sparse, best, others)
    return path, best.folder


def _say(sparse: Path, best: _Candidate, others: list[_Candidate]) -> None:
    damaged = [each.name for each in others if each.images is None]
    whole = [f"{each.name} with {each.images:,}" for each in others if each.images is not None]
    sentence = f"{sparse} holds {len(others) + 1} models; {best.name} is taken, "
    if whole and any(each.images == best.images for each in others):
        sentence += f"the first of equal size, with {counted(best.images or 0, 'photograph')}"
    else:
        sentence += f"the largest, with {counted(best.images or 0, 'photograph')}"
    if whole:
        sentence += f"; left out are {some(whole)} (--data.model {others[0].folder.name} takes one of them)"
    if damaged:
        sentence += f"; incomplete or damaged: {some(damaged)}"
    warn(f"{sentence}.")


def _has_files(folder: Path) -> bool:
    return any((folder / f"{stem}{suffix}").is_file() for stem in _STEMS for suffix in (".bin", ".txt"))


def _candidate(folder: Path, root: Path) -> _Candidate:
    name = folder.relative_to(root).as_posix()
    try:
        for suffix, count in ((".bin", _records), (".txt", _lines)):
            files = [folder / f"{stem}{suffix}" for stem in _STEMS]
            if all(file.is_file() for file in files):
                images, points = count(files[1], 2, _SMALLEST_IMAGE), count(files[2], 1, _SMALLEST_POINT)
                return _Candidate(folder, name, images, points or 0)
    except OSError:
        pass
    return _Candidate(folder, name, None, 0)


def _records(file: Path, lines: int, smallest: int) -> int | None:
    """The count that a .bin file begins with, or None where the file cannot hold so many records."""
    with file.open("rb") as content:
        start = content.read(8)
    count = struct.unpack("<Q", start)[0] if len(start) == 8 else None
    return count if count is not None and count * smallest <= file.stat().st_size - 8 else None


def _lines(file: Path, lines: int, smallest: int) -> int | None:
    """The number of records in a .txt file, of one line each, or of two of which the second may be empty."""
    count, skip = 0, False
    with file.open("rb") as content:
        for line in content:
            if skip:
                skip = False
            elif line.strip() and not line.lstrip().startswith(b"#"):
                count, skip = count + 1, lines == 2
    return count


def warn_of_unposed(image_folder: Path, known: Iterable[str], leave_out: Path | None) -> None:
    """Warn of the photographs that the model does not hold, and of files that are no photographs to read here.

    Args:
        image_folder: the folder of the photographs. known: the names in the model.
        leave_out: a folder of masks, which may lie within; or None.
    """
    names = set(known)
    unposed: list[str] = []
    others: list[tuple[Path, str]] = []
    for root, folders, files in os.walk(image_folder):
        folders[:] = [entry for entry in folders if leave_out is None or Path(root, entry) != leave_out]
        for file in files:
            path = Path(root, file)
            name = path.relative_to(image_folder).as_posix()
            if name not in names:
                others.append((path, name))
                hidden = any(part.startswith(".") for part in name.split("/"))
                if suffixes.is_image(name) and not hidden:
                    unposed.append(others.pop()[1])
    if unposed:
        all_of_them = len(unposed) + len(names)
        warn(
            f"{len(unposed):,} of {all_of_them:,} photographs in {image_folder} have no pose in the model and are left "
            f"out: {some(sorted(unposed))}."
        )
    left_out = suffixes.left_out(others)
    if left_out:
        warn(f"{image_folder}: {suffixes.sentence(left_out)}.")
