"""Warnings for users: each is printed once on stderr, and the run in progress keeps it in its folder."""

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

FILE = "warnings.jsonl"  # in a run folder: one {"warning": sentence} per line

_collected: dict[str, None] = {}  # in order
_recordings: list["Recording"] = []  # those in progress
_lock = threading.RLock()  # images are decoded in threads


class Recording:
    """The warnings of a run, kept in memory until its folder exists."""

    def __init__(self) -> None:
        self._sentences: list[str] = []
        self._file: Path | None = None

    def write_into(self, folder: Path) -> None:
        """Append the warnings so far, and each one from now on, to ``folder/warnings.jsonl``; none twice."""
        with _lock:
            self._file = folder / FILE
            kept, self._sentences = self._sentences, read(folder)
            for sentence in kept:
                self._add(sentence)

    def _add(self, sentence: str) -> None:
        if sentence in self._sentences:
            return
        self._sentences.append(sentence)
        if self._file is not None and is_first():
            with suppress(OSError), self._file.open("a", encoding="utf-8") as file:  # it was printed
                file.write(json.dumps({"warning": sentence}) + "\n")


def warn(sentence: str) -> None:
    """Print ``splatlearn: warning: sentence`` on stderr, once per process, and add it to the run in progress.

    Of several processes that learn together only the first prints and writes.

    Args:
        sentence: One sentence with its full stop. Characters that cannot be printed, as in a file's name, are escaped.
    """
    sentence = "".join(c if c.isprintable() else repr(c)[1:-1] for c in sentence)
    with _lock:
        for recording in _recordings:
            recording._add(sentence)
        if sentence in _collected:
            return
        _collected[sentence] = None
        if is_first() and sys.stderr is not None:
            with suppress(OSError, ValueError):  # a closed stderr must not cost a run
                tqdm.write(f"splatlearn: warning: {sentence}", file=sys.stderr)


def collected() -> list[str]:
    """The different warnings of this process, in order."""
    with _lock:
        return list(_collected)


@contextmanager
def recording() -> Iterator[Recording]:
    """While this lasts, warnings are recorded too, for the run folder that ``Recording.write_into`` is given."""
    record = Recording()
    with _lock:
        _recordings.append(record)
    try:
        yield record
    finally:
        with _lock:
            _recordings.remove(record)


def read(folder: Path) -> list[str]:
    """The warnings in a run folder, in order; lines that are damaged are left out."""
    try:
        lines = (folder / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return list(dict.fromkeys(sentence for line in lines if (sentence := _sentence(line))))


def _sentence(line: str) -> str:
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    sentence = found.get("warning") if isinstance(found, dict) else None
    return sentence if isinstance(sentence, str) else ""


def is_first() -> bool:
    """Whether this is the first of the processes that learn together, or the only one."""
    return os.environ.get("RANK", "0") == "0"
