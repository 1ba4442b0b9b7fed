"""Choose the images of a scene that are held out for evaluation."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from splatlearn.errors import SplatlearnError, listed
from splatlearn.notices import warn

DEFAULT_EVERY = 8
FILE = "test.txt"


def check_holdout(holdout: str) -> None:
    """Raise SplatlearnError unless `holdout` is auto, every:N, fraction:F, file or none."""
    kind, colon, value = holdout.partition(":")
    usable = kind in ("auto", "file", "none") and not colon
    if kind == "every":
        usable = value.isdecimal() and int(value) >= 1
    elif kind == "fraction":
        try:
            usable = 0 < float(value) < 1
        except ValueError:
            usable = False
    if not usable:
        raise SplatlearnError(
            "holdout must be auto, every:N with a whole N, fraction:F with F between 0 and 1, file or none, "
            f"but is {holdout!r}."
        )


def held_out_images(
    holdout: str, names: Sequence[str], registered: Collection[str], places: Sequence[Path], images: Path
) -> set[str]:
    """Choose the held-out images by name.

    Args:
        holdout: a word that `check_holdout` accepts. "auto" takes the file test.txt if there is one, else "every:8".
        names: the usable images, sorted.
        registered: all images of the model.
        places: the folders in which test.txt may be; the first one is named where it is in none.
        images: the folder of the images.

    Raises:
        SplatlearnError: the file cannot be read, or names images that the model does not hold.
    """
    kind, _, value = holdout.partition(":")
    file = next((file for place in places if (file := place / FILE).is_file()), places[0] / FILE)
    if kind == "none":
        return set()
    if kind == "file" or (kind == "auto" and file.is_file()):
        return set(names) & _listed_in(file, holdout, registered, images)
    if kind == "fraction":
        count = max(1, round(float(value) * len(names)))
        return {names[int((index + 0.5) * len(names) / count)] for index in range(count)}
    return set(names[:: int(value or DEFAULT_EVERY)])


def _listed_in(file: Path, holdout: str, registered: Collection[str], images: Path) -> set[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SplatlearnError(
            f"holdout {holdout!r} needs {file}, one name a line, but cannot read it: {error}."
        ) from None
    wanted = {line.strip() for line in lines if line.strip()}
    unknown = sorted(wanted - set(registered))
    without_pose = [name for name in unknown if (images / name).is_file()]
    if len(without_pose) < len(unknown):
        missing = [name for name in unknown if name not in without_pose]
        raise SplatlearnError(f"{file} names photographs that the model does not hold: {listed(missing)}.")
    if without_pose:
        warn(f"{file} names photographs that have no pose and stay out: {listed(without_pose)}.")
    return wanted
