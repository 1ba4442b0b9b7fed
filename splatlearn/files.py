"""Writing files whole or not at all, because a crash or a full disk must never cost the last good one.

Everything is written under a temporary name in the folder of its target: ``.splatlearn-`` and 32 random hexadecimal
digits, made with O_EXCL, so that nobody can lay a link there beforehand. The writer holds a lock (flock) on it. What a
killed process has left is no longer locked; the next process that writes into the folder deletes it (`sweep`).
"""

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from splatlearn.errors import SplatlearnError

_TEMPORARY = re.compile(r"\.splatlearn-[0-9a-f]{32}\.tmp(\.[^/]*)?")
_LONGEST_SUFFIX = 32  # bytes; a name may have 255
_NO_FLOCK = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF)
_NO_FOLDER_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM, errno.EBADF)
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100
_swept: set[tuple[int, int]] = set()  # folders that this process has swept, by device and inode


# ---- one file ----


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary sibling of `path` to write to; on success it is fsynced and renamed over `path`.

    A crash, Ctrl-C or a full disk leaves either the old file or the new one, never half of one. The temporary name
    keeps the suffix, as encoders go by it. A file that was there keeps its permissions; a new one gets those of the
    umask. Folders that are missing are made. A link at `path` stays, and the file that it names is replaced, as with
    ``open(path, "w")``; in a folder that may come from a stranger, call `drop_link` first.

    Raises:
        SplatlearnError: The disk refuses, the folder or the file is read-only, or a folder, device or pipe is there.
    """
    target, mode = _checked_target(path)
    temporary = None
    try:
        if not path.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(target.parent)
        temporary = _Temporary.file(target.parent, target.suffix, mode)
        yield temporary.path
        temporary.sync()
        os.replace(temporary.path, target)
        _confirm(target)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        if temporary is not None:
            temporary.remove()


def drop_link(path: Path) -> None:
    """Delete a symbolic link at `path`, so that what is written there next stays in this folder."""
    if path.is_symlink():
        with suppress(OSError):
            path.unlink()


def replace_with_part(path: Path, part: Path, write: Callable[[Path, str], object], data: bytes) -> None:
    """Write a file and a second one that it names, so that a kill leaves the old pair or the new one, never a mixture.

    The file that names the other is written last. Where there is an old `part`, the new one first stands under a name
    that is free, ``STEM.part-DIGITS.SUFFIX``; `path` is replaced by one that names it, and both by their final
    versions.

    Args:
        path: The file that names the other.
        part: The other file, in the same folder.
        write: Called with a temporary path and the name of the part; writes the first file. Called up to twice.
        data: The content of the part.

    Raises:
        SplatlearnError: As for `replacing`.
    """
    _checked_target(path)  # before the part is written
    between = part.with_name(f"{part.stem}.part-{secrets.token_hex(8)}{part.suffix}")
    names = [between, part] if part.exists() else [part]
    written = False
    try:
        for name in names:
            with replacing(name) as temporary:
                temporary.write_bytes(data)
            with replacing(path) as temporary:
                write(temporary, name.name)
            written = True
    except SplatlearnError as error:
        if written:
            raise SplatlearnError(f"{path} is written and names {between.name}, because {error}") from error
        with suppress(OSError):
            names[0].unlink(missing_ok=True)
        raise
    pattern = re.compile(rf"{re.escape(part.stem)}\.part-[0-9a-f]{{16}}{re.escape(part.suffix)}")
    for other in list(part.parent.iterdir()):  # of this call, or of one that was killed
        if pattern.fullmatch(other.name):
            with suppress(OSError):
                other.unlink()


# ---- a folder ----


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give an empty temporary folder beside `path` to fill; on success it takes the place of `path` in one step.

    All files in it are fsynced first. A folder that was there is exchanged for the new one (renameat2), then deleted.
    Where the system cannot exchange two folders, the old one is renamed away first, to a hidden name that ends in
    ``.old``: a kill between the two renames leaves it there.

    Raises:
        SplatlearnError: The disk refuses, or a file is there.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if target.exists() and not target.is_dir():
        raise _not_written(path, OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(target.parent)
        temporary = _Temporary.folder(target.parent)
        yield temporary.path
        for folder, _, names in os.walk(temporary.path):
            for name in names:
                _sync_file(Path(folder) / name)
            _sync_folder(Path(folder))
        _take_place(temporary.path, target)
        _confirm(target)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        if temporary is not None:
            temporary.remove()


def remove_folder(path: Path) -> None:
    """Delete a folder; renamed first, so that a kill leaves none that is half there. Errors are ignored."""
    doomed = path.with_name(_temporary_name())
    with suppress(OSError):
        path.rename(doomed)
        shutil.rmtree(doomed)


def _take_place(temporary: Path, target: Path) -> None:
    """Rename a folder; where there is one already, the two exchange their names."""
    if not target.exists():
        os.rename(temporary, target)
        return
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        exchange = libc.renameat2
    except (OSError, AttributeError):
        exchange = None
    if exchange is not None:
        if exchange(_AT_FDCWD, os.fsencode(temporary), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(number, os.strerror(number))
    old = temporary.with_name(f"{temporary.name.removesuffix('.tmp')}.old")
    os.rename(target, old)
    try:
        os.rename(temporary, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


# ---- what a kill has left ----


def sweep(folder: Path, deep: bool = False) -> int:
    """Delete temporary files and folders of ours that no living process holds; return their number.

    Only names that `replacing` and `replacing_folder` make count, and only where their lock can be had: on a file
    system without flock nothing is deleted. Links are neither followed nor deleted.

    Args:
        folder: Where to look; it may be missing.
        deep: Whether to look in its subfolders as well.
    """
    count, found = 0, []
    with suppress(OSError), os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        path = Path(entry.path)
        if _TEMPORARY.fullmatch(entry.name) and not entry.is_symlink():
            count += _remove_abandoned(path)
        elif deep and entry.is_dir(follow_symlinks=False):
            count += sweep(path, deep=True)
    return count


def _sweep_once(folder: Path) -> None:
    facts = os.stat(folder)
    if (facts.st_dev, facts.st_ino) not in _swept:
        _swept.add((facts.st_dev, facts.st_ino))
        sweep(folder)


def _remove_abandoned(path: Path) -> bool:
    descriptor = None
    try:
        mode = os.lstat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return False
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its process lives
        if stat.S_ISDIR(mode):
            shutil.rmtree(path)
        else:
            path.unlink()
        return True
    except OSError:
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)


# ---- temporary names ----


def _temporary_name(suffix: str = "") -> str:
    return f".splatlearn-{secrets.token_hex(16)}.tmp{suffix if len(os.fsencode(suffix)) <= _LONGEST_SUFFIX else ''}"


class _Temporary:
    """A new file or folder under a temporary name, locked for as long as this process works on it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def file(cls, folder: Path, suffix: str, mode: int | None) -> "_Temporary":
        """An empty file with the permissions `mode`, or those of the umask."""

        def make(path: Path) -> int:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            if mode is not None:
                os.fchmod(descriptor, mode)
            return descriptor

        return cls._locked(folder, suffix, make)

    @classmethod
    def folder(cls, folder: Path) -> "_Temporary":
        """An empty folder."""

        def make(path: Path) -> int:
            os.mkdir(path)  # fails where there is anything, be it a link
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC)

        return cls._locked(folder, "", make)

    @classmethod
    def _locked(cls, folder: Path, suffix: str, make: Callable[[Path], int]) -> "_Temporary":
        while True:
            path = folder / _temporary_name(suffix)
            try:
                descriptor = make(path)
            except FileNotFoundError:
                if folder.is_dir():  # a sweep has taken it between the two calls of `make`
                    continue
                raise
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in _NO_FLOCK:
                    return cls(path, descriptor)
            if os.path.lexists(path):  # else a sweep has taken it before it was locked
                return cls(path, descriptor)
            os.close(descriptor)

    def sync(self) -> None:
        """Wait until what stands under the temporary name is on the disk itself, and is a file."""
        facts = os.lstat(self.path)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, "its temporary file was exchanged for something else")
        held = os.fstat(self._descriptor)
        if (held.st_dev, held.st_ino) == (facts.st_dev, facts.st_ino):
            os.fsync(self._descriptor)
        else:  # the writer has made a new file
            _sync_file(self.path)

    def remove(self) -> None:
        """Delete what still stands under the temporary name, and give up the lock."""
        with suppress(OSError):
            if stat.S_ISDIR(os.lstat(self.path).st_mode):
                shutil.rmtree(self.path)
            else:
                self.path.unlink()
        with suppress(OSError):
            os.close(self._descriptor)


# ---- targets, and the disk ----


def _checked_target(path: Path) -> tuple[Path, int | None]:
    """The file that is to be replaced, and its permissions if it exists."""
    try:
        facts = os.stat(path)
    except FileNotFoundError:
        facts = None
    except OSError as error:
        raise _not_written(path, error) from error
    except ValueError as error:  # a name that no file can have
        raise SplatlearnError(f"{os.fspath(path)!r} could not be written ({error}).") from error
    if facts is not None:
        if stat.S_ISDIR(facts.st_mode):
            raise _not_written(path, IsADirectoryError(errno.EISDIR, "it is a folder"))
        if not stat.S_ISREG(facts.st_mode):
            raise _not_written(path, OSError(errno.EINVAL, "it is a device or a pipe, not a file"))
        if not os.access(path, os.W_OK):
            raise _not_written(path, PermissionError(errno.EACCES, "the file is read-only"))
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    return target, None if facts is None else stat.S_IMODE(facts.st_mode) & 0o777


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, too, where the file system can say so."""
    try:
        _sync_file(path)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def _confirm(target: Path) -> None:
    """Wait until a rename is on the disk; where that fails the new content is there, but a crash may take it back."""
    try:
        _sync_folder(target.parent)
    except OSError as error:
        raise SplatlearnError(
            f"{target} is written, but the disk does not confirm it ({error.strerror}): a crash may undo it."
        ) from error


def _not_written(path: Path, error: OSError) -> SplatlearnError:
    reason = error.strerror or str(error)
    return SplatlearnError(f"{path} could not be written ({reason}); what was there before is untouched.")


# ---- reading ----


def require_regular(path: Path) -> int:
    """Check that ``path`` is a regular file: reading a pipe or a device may never end.

    Returns:
        Its size in bytes.

    Raises:
        OSError: there is nothing, or something else.
    """
    try:
        found = path.stat()
    except ValueError as error:  # a NUL character, or a surrogate
        raise OSError(None, f"it is no path ({error})") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise OSError(None, f"it must be a regular file, got {kind}", str(path))
    return found.st_size
