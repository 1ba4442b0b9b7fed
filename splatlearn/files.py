"""Writing a file whole or not at all, because a crash or a full disk must never cost the last good one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from splatlearn.errors import SplatlearnError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary sibling of `path` to write to; on success it is fsynced and renamed over `path`.

    So a crash, Ctrl-C or a full disk leaves either the old file or the new one, never half of one. The
    temporary name keeps the suffix, as encoders go by it. Raises SplatlearnError if the disk refuses.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself must reach the disk too
        finally:
            os.close(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SplatlearnError(f"{path} could not be written ({reason}); what was there before is untouched.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
