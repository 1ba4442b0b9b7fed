"""What to say of photographs that a model names and that cannot be used: names, a count, and where they may be."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from splatlearn.errors import brief, listed
from splatlearn.scene.photos.suffixes import is_image

SHOWN = 5
REASONS, LONGEST = 3, 100  # reasons, and characters of one, so that the sentence is printed to its end
MOST_FILES = 1_000_000  # of a folder that are compared with the names


def why_unusable(failed: Mapping[str, Exception], count: int, folder: Path, root: Path) -> str:
    """A sentence without its end on the photographs that failed.

    Args:
        failed: the error of each photograph by name. count: the photographs of the model.
        folder: of the photographs. root: of the capture.
    """
    missing = [name for name in sorted(failed) if not os.path.lexists(folder / name)]
    others = [name for name in sorted(failed) if name not in set(missing)]
    parts = []
    if others:
        reasons = [_reason(failed[name], folder, root) for name in others[:REASONS]]
        more = f"; and {len(others) - REASONS:,} more" if len(others) > REASONS else ""
        parts.append("; ".join(reasons) + more)
    if missing:
        parts.append(f"{listed(missing, SHOWN)} {'is' if len(missing) == 1 else 'are'} missing")
        if hint := _hint(missing, folder, root):
            parts.append(hint)
    return f"{len(failed):,} of {count:,} photographs in {folder} cannot be used: {'; '.join(parts)}"


def _reason(error: Exception, folder: Path, root: Path) -> str:
    """The sentence of one photograph, its path within the folder or the capture."""
    sentence = str(error).rstrip(".")
    for place in (folder, root):
        sentence = sentence.replace(f"{place}{os.sep}", "")
    return brief(sentence, LONGEST)


def _hint(missing: Sequence[str], folder: Path, root: Path) -> str:
    """Where the missing photographs are under another name, or ""."""
    for other in sorted(root.glob("images*")):
        if other.is_dir() and other != folder and (there := sum((other / name).is_file() for name in missing)):
            return f"{_count(there, missing)} in {other}: add --data.images {other.name}"
    files = _files(folder)
    best: tuple[int, str] = (0, "")
    for key, say in _WAYS:
        by_key: dict[str, list[str]] = {}
        for file in files:
            by_key.setdefault(key(file), []).append(file)
        found = {name: by_key[key(name)] for name in missing if len(by_key.get(key(name), ())) == 1}
        if len(found) > best[0]:
            name, (file,) = next(iter(found.items()))
            best = (len(found), f"{_count(len(found), missing)} {say.format(name=_quoted(name), file=_quoted(file))}")
        if len(found) == len(missing):
            break
    if not files:
        return f"{folder} holds no photographs at all"
    return best[1]


def _count(found: int, missing: Sequence[str]) -> str:
    if found == len(missing):
        return "it is" if found == 1 else "all of them are"
    return f"{found:,} of them {'is' if found == 1 else 'are'}"


def _quoted(name: str) -> str:
    """The name in quotes, with characters that look alike written as their codes."""
    return ascii(name)


def _files(folder: Path) -> list[str]:
    found: list[str] = []
    for root, _, files in os.walk(folder, followlinks=False):
        found += [Path(root, file).relative_to(folder).as_posix() for file in files if is_image(file)]
        if len(found) > MOST_FILES:
            break
    return found


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _case(name: str) -> str:
    return _normal(name).casefold()


def _stem(name: str) -> str:
    return str(PurePosixPath(_case(name)).with_suffix(""))


def _last(name: str) -> str:
    return PurePosixPath(_case(name)).name


def _last_stem(name: str) -> str:
    return PurePosixPath(_case(name)).stem


# From the closest to the loosest: what two names have in common, and what to do.
_WAYS: tuple[tuple[Callable[[str], str], str], ...] = (
    (
        _normal,
        "there in another Unicode form ({name} as {file}): rename the files, as with `convmv --nfc`",
    ),
    (_case, "there in upper or lower case ({name} as {file}): rename the files as the model names them"),
    (_stem, "there with another suffix ({name} as {file}): convert them, or change the names in the model"),
    (_last, "there in another folder ({name} as {file}): move the files to where the model names them"),
    (_last_stem, "there in another folder with another suffix ({name} as {file})"),
)
