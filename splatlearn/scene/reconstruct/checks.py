"""What is refused before anything is written: an output folder in use, masks that do not fit."""

import shutil
from pathlib import Path

from splatlearn.errors import SplatlearnError
from splatlearn.scene.photos.masks import mask_path, mask_size, warn_of_unused
from splatlearn.scene.photos.suffixes import is_image, some
from splatlearn.scene.reconstruct.gather import Photo
from splatlearn.scene.reconstruct.work import FOLDER, Work

RESULTS = ("images", "masks", "sparse", "reconstruction.txt", "reconstruction.json")


def check_out(source: Path, work: Work, masks: Path | None) -> None:
    """Refuses an output folder with anything in it that this run could mix up or overwrite."""
    out = work.out
    if source.is_file() and is_image(source):
        raise SplatlearnError(f"{source}: expected a folder of photographs or a video, got a single photograph")
    if out.exists() and not out.is_dir():
        raise SplatlearnError(f"{out}: expected a folder, got a file")
    if source.is_dir() and out.resolve() == source.resolve():
        raise SplatlearnError(
            f"{out}: expected another folder than that of the photographs (a new one within it will do)"
        )
    if not out.is_dir():
        return
    model = out / "sparse" / "0"
    if model.exists() and any(model.iterdir()):
        shutil.rmtree(work.folder, ignore_errors=True)  # of a run that was stopped when all was done but this
        raise SplatlearnError(f"{model}: expected no model there yet, got one; choose another folder or remove it")
    given = [path.resolve() for path in (source, masks) if path and path.resolve().is_relative_to(out.resolve())]
    allowed = {FOLDER, *(path.relative_to(out.resolve()).parts[0] for path in given)}
    if work.fact("photos", "moving"):
        allowed |= set(RESULTS)
    strangers = sorted(path.name for path in out.iterdir() if path.name not in allowed)
    if strangers:
        raise SplatlearnError(f"{out}: expected a new or empty folder, got one that holds {some(strangers)}")


def masks_for(photos: list[Photo], source: Path, masks: Path | None) -> dict[str, Path]:
    """The mask of each photograph that has one, found by COLMAP's naming; raises where none or a wrong one is there."""
    if masks is None:
        return {}
    found = {photo.name: mask_path(masks, photo.file) for photo in photos}
    found = {name: path for name, path in found.items() if path.is_file()}
    if not found:
        raise SplatlearnError(f"masks: expected files such as {photos[0].file}.png in {masks}, got none for {source}")
    warn_of_unused(masks, found.values())
    sizes = {photo.name: (photo.width, photo.height) for photo in photos}
    wrong = [f"{name}.png" for name, path in found.items() if mask_size(path) != sizes[name]]
    if wrong:
        raise SplatlearnError(f"masks: expected masks of their photographs' sizes, got others: {some(wrong)}")
    return found


def check_in_place(photos: list[Photo], source: Path, in_place: bool) -> None:
    """Refuse photographs that are used where they are and that COLMAP cannot read: no copy converts them."""
    others = [photo.file for photo in photos if photo.name != photo.file]
    if in_place and others:
        raise SplatlearnError(
            f"{source}: expected photographs that COLMAP reads, got {len(others)} to be converted ({some(others)}); "
            "name another folder for the result"
        )


def check_masks_in_place(masks: dict[str, Path], photos: list[Photo], in_place: bool) -> None:
    """Refuse masks that are used where they are if their photographs' copies have other names."""
    others = [photo.file for photo in photos if photo.name != photo.file and photo.name in masks]
    if in_place and others:
        raise SplatlearnError(
            f"masks: expected another folder than the result's, as copies are renamed: {some(others)}"
        )
