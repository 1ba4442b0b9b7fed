"""What a reader does beside its answer: the growth of its memory, files that it writes, programs that it starts."""

import os
import resource
import sys
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
STARTS = {"subprocess.Popen", "os.posix_spawn", "os.exec", "os.system"}
ADDRESSES = 6 << 30  # bytes of address space that an input may add, so that a bomb ends as MemoryError

_root = ""  # of what may be written; "": nothing is watched
_programs: frozenset[str] = frozenset()
_forbidden: list[str] = []
_before = 0


def install() -> None:
    """Watch this process from now on, and bound its address space."""
    sys.addaudithook(_hook)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + ADDRESSES, resource.RLIM_INFINITY))


def begin(root: Path, programs: frozenset[str]) -> None:
    """Watch an input that may write below ``root`` and start ``programs``."""
    global _root, _programs, _before
    _forbidden.clear()
    _root, _programs = os.path.realpath(root), programs
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    _before = _status("VmRSS")


def end() -> tuple[int, str]:
    """The growth of the resident memory at its peak, in bytes, and the first forbidden act or ""."""
    global _root
    _root = ""
    return _status("VmHWM") - _before, _forbidden[0] if _forbidden else ""


def delay() -> float:
    """Seconds that the main thread was ready to run and had no core: they are not the reader's."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _root:
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, str | bytes | os.PathLike) and isinstance(flags, int) and flags & WRITES:
            _require_inside(event, path)
    elif event in CHANGES:
        for path in arguments[:2]:
            if isinstance(path, str | bytes | os.PathLike):
                _require_inside(event, path)
    elif event in STARTS:
        program = os.path.basename(os.fsdecode(arguments[0] or arguments[1][0]))
        if not any(program.startswith(each) for each in _programs):
            _forbidden.append(f"starts {program}")
    elif event == "socket.connect":
        _forbidden.append("opens a connection")


def _require_inside(event: str, path: Any) -> None:
    place = os.path.realpath(os.fsdecode(path))
    allowed = (_root + os.sep, "/proc/self/", f"/proc/{os.getpid()}/")
    if place not in (_root, os.devnull) and not place.startswith(allowed):
        _forbidden.append(f"{event} {place}")
