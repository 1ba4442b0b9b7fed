"""The work folder of a reconstruction: its state, so that a second run resumes where the first one stopped.

`OUT/.reconstruction` contains the copied images until all are complete, pycolmap's database, the models, and
`state.json`. That file stores for each phase a key, the hash of all its inputs, and whether the phase is complete. A
phase runs again if its key or that of an earlier phase has changed, or if it was interrupted.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.scene.reconstruct.gather import ImageInfo

FOLDER = ".reconstruction"
PHASES = ("photos", "features", "matches", "models")


class WorkFolder:
    """The work folder of one output folder and the state of its phases."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out / FOLDER
        self.images = self.folder / "images"
        self.masks = self.folder / "masks"
        self.database = self.folder / "database.db"
        self.models = self.folder / "models"
        self._state = self._read("state.json")

    def _read(self, name: str) -> dict[str, Any]:
        """Read a JSON object; an empty one if the file is missing or damaged, which only costs time."""
        with suppress(OSError, ValueError):
            value = json.loads((self.folder / name).read_text(encoding="utf-8"))
            if isinstance(value, dict):
                return value
        return {}

    def _write(self, name: str, value: dict[str, Any]) -> None:
        with replacing(self.folder / name) as path:
            path.write_text(json.dumps(value, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against a second process within the context; raises SplatlearnError if it is locked."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise SplatlearnError(f"{self.out} cannot be written: {error.strerror}") from None
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SplatlearnError(f"{self.out}: another reconstruction is at work there") from None
            yield
        finally:
            os.close(handle)

    def begun(self, phase: str, key: str) -> bool:
        """Return whether this phase was started with the same key."""
        return bool(self._phase(phase).get("key") == key)

    def done(self, phase: str, key: str) -> bool:
        """Return whether this phase is complete with the same key."""
        return self.begun(phase, key) and self._phase(phase).get("done") is True

    def begin(self, phase: str, key: str) -> None:
        """Mark this phase as started; discards the state of it and of later ones."""
        later = PHASES[PHASES.index(phase) :]
        self._state = {name: value for name, value in self._state.items() if name not in later}
        self._state[phase] = {"key": key, "done": False}
        self._write("state.json", self._state)

    def complete(self, phase: str, key: str, **facts: Any) -> None:
        """Mark this phase as complete and store facts for a later run."""
        self._state[phase] = {"key": key, "done": True, **facts}
        self._write("state.json", self._state)

    def fact(self, phase: str, name: str, default: Any = None) -> Any:
        """Return a fact that `complete` stored."""
        return self._phase(phase).get(name, default)

    def _phase(self, phase: str) -> dict[str, Any]:
        value = self._state.get(phase)
        return value if isinstance(value, dict) else {}

    def known_images(self) -> dict[str, ImageInfo]:
        """Return the measurements of an earlier run, by the image's name."""
        known = {}
        for name, facts in self._read("photos.json").items():
            with suppress(TypeError):
                known[name] = ImageInfo(**facts)
        return known

    def save_images(self, photos: list[ImageInfo]) -> None:
        """Store the measurements for a later run."""
        self._write("photos.json", {photo.name: asdict(photo) for photo in photos})


def hash_json(*parts: Any) -> str:
    """Hash the parts, which must be JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
