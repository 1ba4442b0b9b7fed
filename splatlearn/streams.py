"""Output that cannot be written never costs a result: a closed terminal, a full disk, ``| head``, ``2>&-``."""

import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Stream:
    """A text stream that drops what cannot be written, and keeps the first error.

    Characters that its encoding lacks are written as escapes.

    Args:
        stream: The stream below, or None where the process was started without one.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream if stream is not None else open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        self._absent = stream is None
        self.error: Exception | None = None

    def write(self, text: str) -> int:
        """Write what can be written."""
        if self._absent and text:
            self._lose(OSError(errno.EBADF, os.strerror(errno.EBADF)))
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding or "ascii"
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            self._lose(error)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of the lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what waits, if it can be written."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, error: Exception) -> None:
        """Keep the error; from now on everything goes to /dev/null, also what waits in the buffers below."""
        if self.error is not None:
            return
        self.error = error
        with suppress(OSError, ValueError):
            target = self._stream.fileno()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, target)
            os.close(null)


class Output:
    """The two streams of a command."""

    def __init__(self, out: Stream, err: Stream) -> None:
        self._out, self._err = out, err

    def status(self, status: int) -> int:
        """The exit status of a command that ended with `status`: 1 instead of 0 where standard output was lost.

        A sentence on standard error says so, but for a reader that wanted no more, as ``head`` does.
        """
        self._out.flush()
        error = self._out.error
        if error is not None and getattr(error, "errno", None) != errno.EPIPE:
            reason = getattr(error, "strerror", None) or str(error)
            done = "; the work is done" if status == 0 else ""
            self._err.write(f"splatlearn: the output could not be written ({reason}){done}\n")
        self._err.flush()
        return 1 if error is not None and status == 0 else status


@contextmanager
def kept() -> Iterator[Output]:
    """Put a `Stream` in place of sys.stdout and sys.stderr; give missing descriptors 0, 1 and 2 to /dev/null.

    Otherwise the next file to be opened would get such a number, and what other libraries print would land in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number that is free
    before = sys.stdin, sys.stdout, sys.stderr
    out, err = Stream(sys.stdout), Stream(sys.stderr)
    sys.stdin = sys.stdin if sys.stdin is not None else open(os.devnull, encoding="utf-8")  # noqa: SIM115
    sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
    try:
        yield Output(out, err)
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
