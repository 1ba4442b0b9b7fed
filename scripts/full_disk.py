"""Let trainings and exports meet a disk that fails, then go on, and compare the end byte for byte.

    python scripts/full_disk.py --faults 100

Two kinds of faults: one call of the process fails (opening for writing, mkdir, fsync, rename, replace) with ENOSPC, EIO
or EDQUOT, each call in turn; or the system refuses to let any file grow beyond a size (RLIMIT_FSIZE). A command must
end in one sentence and status 1, or go on where the file was not needed. A training then goes on to the end of an
undisturbed one; what an export was to replace is the old file or the new one.
"""

import argparse
import builtins
import errno
import io
import mmap
import os
import random
import resource
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from small_runs import (
    TRAINERS,
    child,
    command,
    complaint,
    differences,
    digests,
    imports,
    make_material,
    print_table,
    wait,
    words_of,
)

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
EXPORTS = ("out.ply", "out.spz", "out.splat", "out.glb", "out.gltf", "out.html")
COUNTED = mmap.mmap(-1, 8)  # shared with the processes that are forked from this one
COLUMNS = ("faults", "by a call", "by a size", "refused", "went on", "faults found")


class Disk:
    """Counts the calls that write below the current folder, and lets number `failing` fail."""

    def __init__(self, failing: int, error: int) -> None:
        self.calls, self.failing, self.error = 0, failing, error
        self.root = os.getcwd() + os.sep

    def install(self) -> None:
        for name in ("mkdir", "rename", "replace", "fsync"):
            setattr(os, name, self._watched(getattr(os, name)))
        self._open, self._os_open = builtins.open, os.open
        builtins.open = io.open = self._opened  # type: ignore[assignment,misc]
        os.open = self._os_opened  # type: ignore[assignment]

    def _call(self, place: Any) -> None:
        path = os.readlink(f"/proc/self/fd/{place}") if isinstance(place, int) else os.path.abspath(os.fspath(place))
        if not path.startswith(self.root):
            return
        self.calls += 1
        if self.calls == self.failing:
            raise OSError(self.error, os.strerror(self.error), path)

    def _watched(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(place: Any, *arguments: Any, **options: Any) -> Any:
            self._call(place)
            return real(place, *arguments, **options)

        return call

    def _opened(self, file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not isinstance(file, int) and set(mode) & set("wax+"):
            self._call(file)
        return self._open(file, mode, *arguments, **options)

    def _os_opened(self, path: Any, flags: int, *arguments: Any, **options: Any) -> Any:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not options.get("dir_fd"):
            self._call(path)
        return self._os_open(path, flags, *arguments, **options)


def disturbed(work: Callable[[], int], kind: str, at: int, error: int) -> Callable[[], int]:
    """The work on a disk that fails: at call number `at`, or where a file would have more than `at` bytes.

    The kind "count" fails nowhere and stores the number of calls in `COUNTED`.
    """

    def run() -> int:
        disk = Disk(at if kind == "by a call" else 0, error)
        disk.install()
        if kind == "by a size":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (at, at))
        status = work()
        if kind == "count":
            COUNTED[:] = disk.calls.to_bytes(len(COUNTED), "little")
        return status

    return run


def count_calls(work: Callable[[], int], here: Path, log: Path) -> int:
    """The number of calls that an undisturbed command makes."""
    if wait(child(disturbed(work, "count", 0, 0), here, log)) != 0:
        raise SystemExit(log.read_text())
    return int.from_bytes(COUNTED[:], "little")


def choose(draw: random.Random, number: int, calls: int, largest: int) -> tuple[str, int, int]:
    """The kind of fault, where it strikes, and its error."""
    if number % 4 == 3:
        return "by a size", int(largest * draw.random() ** 2), 0
    return "by a call", draw.randrange(1, calls + 1), draw.choice(ERRORS)


def trainings(trainer: str, faults: int, seed: int, folder: Path, material: Path) -> Counter[str]:
    """Disturb trainings, let them go on, and compare."""
    draw, counts = random.Random(f"{seed} {trainer}"), Counter[str]()
    words, whole = words_of(trainer, material), folder / "whole"
    whole.mkdir(parents=True)
    calls = count_calls(command("train", *words), whole, folder / "log")
    reference = digests(whole / "run")
    largest = max(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    for number in range(faults):
        here = folder / f"{number}"
        here.mkdir()
        log = here / "log"
        kind, at, error = choose(draw, number, calls, largest)
        status = wait(child(disturbed(command("train", *words), kind, at, error), here, log))
        counts.update({"faults": 1, kind: 1, "refused" if status else "went on": 1})
        wrong = [complaint(log)] if complaint(log) or status not in (0, 1) else []
        if status:
            go_on = ["--resume", "run"] if (here / "run" / "config.yaml").exists() else words
            status = wait(child(command("train", *go_on), here, log))
        wrong += differences(reference, digests(here / "run")) if status == 0 else [f"status {status} afterwards"]
        counts["faults found"] += report(f"{trainer} {number}, {kind} {at}", wrong, log)
        shutil.rmtree(here)
    return counts


def exports(faults: int, seed: int, folder: Path, run: Path) -> Counter[str]:
    """Disturb exports over a file that is there."""
    draw, counts = random.Random(f"{seed} exports"), Counter[str]()
    for number in range(faults):
        name = EXPORTS[number % len(EXPORTS)]
        here = folder / f"{number}"
        here.mkdir(parents=True)
        work, log = command("export", str(run), "--out", name), folder / "log"
        calls = count_calls(work, here, log)
        new = contents(here)
        for file in here.iterdir():
            file.write_bytes(b"what was there before " + file.suffix.encode())
        old = contents(here)
        kind, at, error = choose(draw, number, calls, max(map(len, new.values())))
        status = wait(child(disturbed(work, kind, at, error), here, log))
        counts.update({"faults": 1, kind: 1, "refused" if status else "went on": 1})
        wrong = [complaint(log)] if complaint(log) or status not in (0, 1) else []
        left = {file: text for file, text in contents(here).items() if not file.startswith(".splatlearn-")}
        if left != (old if status else new) and not (status and (left == new or is_pair(left, new))):
            wrong.append(f"it left {sorted(left)}")
        counts["faults found"] += report(f"export {name} {number}, {kind} {at}", wrong, log)
        shutil.rmtree(here)
    return counts


def is_pair(left: dict[str, bytes], new: dict[str, bytes]) -> bool:
    """Whether a new .gltf is there that names a part of the new content, which could not take the place of the old."""
    parts = [name for name in left if ".part-" in name]
    named = len(parts) == 1 and parts[0].encode() in left.get("out.gltf", b"")
    return named and left[parts[0]] == new["out.bin"]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def report(what: str, wrong: list[str], log: Path) -> int:
    if wrong:
        print(f"{what}: {wrong}\n{log.read_text(errors='replace')[-2000:]}", flush=True)
    return bool(wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=100, help="of each trainer, and of the exports (default: 100)")
    parser.add_argument("--trainers", nargs="*", choices=TRAINERS, default=TRAINERS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    imports()
    with tempfile.TemporaryDirectory(prefix="full_disk_") as name:
        folder, material = Path(name), Path(name) / "material"
        make_material(material)
        works = {
            trainer: partial(trainings, trainer, options.faults, options.seed, folder / trainer, material)
            for trainer in options.trainers
        }
        if "scene" in options.trainers:
            run = folder / "scene" / "whole" / "run"
            works["exports"] = partial(exports, options.faults, options.seed, folder / "exports", run)
        return 1 if print_table(works, COLUMNS) else 0


if __name__ == "__main__":
    raise SystemExit(main())
