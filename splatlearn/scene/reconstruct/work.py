"""The work folder of a reconstruction: what is done so far, so that a second run goes on where the first was stopped.

`OUT/.reconstruction` holds the copies of the photographs until all are there, pycolmap's database, the models, and
`state.json`: for each phase a key, the hash of all that its result depends on, and whether it is complete. A phase
is done again when its key or that of a phase before it has changed. Nothing that was cut short counts.
"""

import hashlib
import json
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from splatlearn.files import replacing
from splatlearn.locks import locked
from splatlearn.scene.reconstruct.gather import Photo

FOLDER = ".reconstruction"
PHASES = ("photos", "features", "matches", "models")


class Work:
    """The state of the work in one output folder."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out / FOLDER
        self.images = self.folder / "images"
        self.masks = self.folder / "masks"
        self.database = self.folder / "database.db"
        self.models = self.folder / "models"
        self._state = self._read("state.json")

    def _read(self, name: str) -> dict[str, Any]:
        """A JSON object; an empty one where there is none. A damaged one costs only time."""
        with suppress(OSError, ValueError):
            value = json.loads((self.folder / name).read_text(encoding="utf-8"))
            if isinstance(value, dict):
                return value
        return {}

    def _write(self, name: str, value: dict[str, Any]) -> None:
        with replacing(self.folder / name) as path:
            path.write_text(json.dumps(value, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")

    def locked(self) -> AbstractContextManager[None]:
        """Keep a second process out of the same folder for as long as the context lasts."""
        return locked(self.folder, "splatlearn reconstruct")

    def begun(self, phase: str, key: str) -> bool:
        """Whether there is something of this phase, whole or in part, made under the same key."""
        return bool(self._phase(phase).get("key") == key)

    def done(self, phase: str, key: str) -> bool:
        """Whether the phase is complete under this key."""
        return self.begun(phase, key) and self._phase(phase).get("done") is True

    def begin(self, phase: str, key: str) -> None:
        """Notes that this phase is under way; what was known of it and of later ones is forgotten."""
        later = PHASES[PHASES.index(phase) :]
        self._state = {name: value for name, value in self._state.items() if name not in later}
        self._state[phase] = {"key": key, "done": False}
        self._write("state.json", self._state)

    def complete(self, phase: str, key: str, **facts: Any) -> None:
        """Notes that this phase is complete, with what a later run must know of it."""
        self._state[phase] = {"key": key, "done": True, **facts}
        self._write("state.json", self._state)

    def fact(self, phase: str, name: str, default: Any = None) -> Any:
        """What `complete` has noted."""
        return self._phase(phase).get(name, default)

    def _phase(self, phase: str) -> dict[str, Any]:
        value = self._state.get(phase)
        return value if isinstance(value, dict) else {}

    def known_photos(self) -> dict[str, Photo]:
        """What an earlier run has seen of the photographs, by file."""
        known = {}
        for name, facts in self._read("photos.json").items():
            with suppress(TypeError):
                known[name] = Photo(**facts)
        return known

    def remember(self, photos: list[Photo]) -> None:
        """Keeps what is known of the photographs for a later run."""
        self._write("photos.json", {photo.file: asdict(photo) for photo in photos})


def hash_of(*parts: Any) -> str:
    """A key that changes with any of the parts, which must be what JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
