"""One process at a time in a folder: a lock that the kernel releases when its process ends, however it ends."""

import errno
import fcntl
import json
import os
import platform
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from splatlearn.errors import SplatlearnError
from splatlearn.files import sweep
from splatlearn.notices import warn

NAME = ".lock"
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_LONGEST = 4096  # bytes read of a lock file
_held: set[int] = set()  # descriptors


@contextmanager
def locked(folder: Path, work: str) -> Iterator[None]:
    """Keep other processes out of a folder for as long as the context lasts; sweep it first, see `files.sweep`.

    The folder is made where it is missing, and removed at the end where nothing was put into it. Its file ``.lock``
    names the process and the machine; it is deleted at the end. A killed process leaves the file, but not the lock.

    Args:
        folder: The folder.
        work: What is done there, such as ``splatlearn train``; another process says so when it is refused.

    Raises:
        SplatlearnError: Another process is at work there, or the folder cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    path = folder / NAME
    try:
        descriptor = _acquired(folder, path)
        facts = {"pid": os.getpid(), "host": platform.node(), "work": work}
        with suppress(OSError):  # as on a full disk; the lock counts, not the name
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, (json.dumps(facts) + "\n").encode(), 0)
    except OSError as error:
        raise SplatlearnError(f"cannot write into the folder {folder}: {error.strerror or error}") from error
    _held.add(descriptor)
    try:
        sweep(folder, deep=True)
        yield
    finally:
        with suppress(OSError):
            if _is_at(descriptor, path):
                path.unlink()
        _held.discard(descriptor)
        os.close(descriptor)
        for empty in made:
            with suppress(OSError):
                empty.rmdir()


def _acquired(folder: Path, path: Path) -> int:
    """A descriptor of the file at `path`, with its lock."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _BUSY:
                sentence = f"{folder} is in use by {_holder(descriptor)}; wait for its end, or name another folder"
                os.close(descriptor)
                raise SplatlearnError(sentence) from None
            warn(f"{folder} cannot be locked ({error.strerror}): start no second process on it.")
            return descriptor
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # its last holder has deleted it in between


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        ours, there = os.fstat(descriptor), os.lstat(path)
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def _holder(descriptor: int) -> str:
    """The process that a lock file names."""
    try:
        facts = json.loads(os.pread(descriptor, _LONGEST, 0))
        pid, host, work = int(facts["pid"]), str(facts["host"]), str(facts["work"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "another process"
    return f"process {pid} on {_short(host)} ({_short(work)})"


def _short(text: str) -> str:
    return text if text.isprintable() and len(text) <= 60 else reprlib.repr(text)


def _close_in_child() -> None:
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)  # a child that outlives its parent must not keep the lock
