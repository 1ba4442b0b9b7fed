"""Saves what a task leaves in its run folder: the suffix of a name says how a value is encoded."""

import json
from pathlib import Path
from typing import Any

from splatlearn.errors import SplatlearnError
from splatlearn.files import drop_link, replacing
from splatlearn.show.pictures import save_png
from splatlearn.show.video import write_video


class FolderWriter:
    """Writes files into a run folder, each whole or not at all; see `splatlearn.task.RunWriter`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved: set[str] = set()  # names

    def save(self, name: str, content: Any) -> None:
        """Write ``folder/name``.

        Raises:
            SplatlearnError: The content does not fit the suffix, or the disk refuses.
        """
        path = self.folder / name
        self.saved.add(name)
        drop_link(path)
        if callable(content):
            content(path)
        elif isinstance(content, str):
            with replacing(path) as temporary:
                temporary.write_text(content, encoding="utf-8")
        else:
            match path.suffix.lower():
                case ".png":
                    save_png(path, content)
                case ".mp4" | ".gif":
                    write_video(path, content.images, content.fps)
                case ".json":
                    self.save(name, _json(path, content, 1) + "\n")
                case ".jsonl":
                    self.save(name, "".join([*_earlier_lines(path, content["step"]), _json(path, content) + "\n"]))
                case suffix:
                    raise SplatlearnError(
                        f"{path} must end in .png, .mp4, .gif, .json or .jsonl to save a {type(content).__name__}, "
                        f"got {suffix!r}"
                    )

    def remove_others(self, folder: str, suffix: str) -> None:
        """Delete the files with this suffix in the subfolders of ``folder`` that this writer has not saved.

        Subfolders that are links are left alone: the files there may be somebody else's.
        """
        for path in (self.folder / folder).glob(f"*/*{suffix}"):
            if path.parent.is_symlink() or path.parents[1].is_symlink():
                continue
            if path.relative_to(self.folder).as_posix() not in self.saved and not path.name.startswith("."):
                path.unlink()


def _json(path: Path, content: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(content, indent=indent, allow_nan=False)
    except ValueError:
        raise SplatlearnError(f"{path} is not written: a figure of it is not finite") from None
    except TypeError as error:
        raise SplatlearnError(f"{path} is not written: {error}") from None


def _earlier_lines(path: Path, step: int) -> list[str]:
    """The lines of earlier steps; later ones are of a run that stopped after its last checkpoint."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if json.loads(line)["step"] < step]
