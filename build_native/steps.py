"""Runs commands that make files of files, each only if something that it depends on has changed.

Beside its output a step leaves a record: the command, the compiler's version, and digests of the output and of every
file that the compiler read, headers included. It runs again unless all of these are the same. No times are compared, so
a file that comes back with an old date is noticed too: a stale object is never linked.
"""

import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple


class Step(NamedTuple):
    """A command that makes a file. With `depfile` it is a compiler's, and reports the files that it has read."""

    command: list[str]  # without its output
    inputs: list[Path]
    out: Path
    depfile: bool = True

    def arguments(self) -> list[str]:
        """The whole command line."""
        depends = ["-MMD", "-MF", f"{self.out}.d"] if self.depfile else []
        return [*self.command, *map(str, self.inputs), *depends, "-o", str(self.out)]


def run_steps(steps: Sequence[Step], sources: Path) -> list[Step]:
    """Runs the steps that are not up to date, side by side, and returns them. Exits with the message of one that fails.

    Args:
        sources: a folder of files that the steps read; an edit while they run makes them run again the next time.
    """
    digests = Digests()
    for path in sources.rglob("*"):
        digests.of(str(path))
    stale = [step for step in steps if _record(step, digests) != _read_record(step)]
    for folder in {step.out.parent for step in stale}:
        folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda step: _run(step, digests), stale))
    return stale


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within this context no other build writes into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Digests:
    """Digests of files as they were when the build first read them."""

    def __init__(self) -> None:
        self._known: dict[str, str | None] = {}

    def of(self, path: str) -> str | None:
        """The digest of a file; None if it is not there."""
        if path not in self._known:
            self._known[path] = digest_of(path)
        return self._known[path]

    def set(self, path: str) -> None:
        """Reads a file that the build has just written."""
        self._known[path] = digest_of(path)

    def unchanged(self, paths: Iterable[str]) -> bool:
        """Whether files still are as they were when the build first read them."""
        return all(self.of(path) == digest_of(path) for path in paths)


def digest_of(path: str) -> str | None:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return None


def _record_file(step: Step) -> Path:
    return Path(f"{step.out}.json")


def _read_record(step: Step) -> Any:
    try:
        return json.loads(_record_file(step).read_text())
    except (OSError, ValueError):
        return None


def _record(step: Step, digests: Digests) -> dict[str, Any]:
    files = [*map(str, step.inputs), *_headers(step), str(step.out)]
    return {
        "command": step.arguments(),
        "compiler": _version(*takewhile(lambda word: not word.startswith("-"), step.command)),
        "files": {path: digests.of(path) for path in files},
    }


def _headers(step: Step) -> list[str]:
    """The files that the compiler read when it last made the output, as its dependency file lists them."""
    try:
        text = Path(f"{step.out}.d").read_text() if step.depfile else ""
    except OSError:
        return []
    words = re.split(r"(?<!\\)\s+", text.replace("\\\n", " ").partition(": ")[2].strip())
    return sorted({os.path.normpath(word.replace("\\ ", " ")) for word in words if word})


@cache
def _version(*compiler: str) -> str:
    return subprocess.run([*compiler, "--version"], capture_output=True, text=True).stdout


def _run(step: Step, digests: Digests) -> None:
    _record_file(step).unlink(missing_ok=True)
    new = step.out.with_name(step.out.name + ".new")
    arguments = [*step.arguments()[:-1], str(new)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"splatlearn: this command failed:\n  {' '.join(arguments)}\n{done.stderr or done.stdout}")
    new.replace(step.out)  # never overwrite a library that a running process has mapped
    digests.set(str(step.out))
    read = [*map(str, step.inputs), *_headers(step)]
    record = _record(step, digests)
    if digests.unchanged(read):  # a file that was edited meanwhile: the step runs again the next time
        _record_file(step).write_text(json.dumps(record))
