"""Attacks formats with worker processes, survives their crashes, and counts."""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz import harness

TESTS = Path(__file__).resolve().parents[1]
PATIENCE = 30.0  # seconds without an outcome after which a worker is ended
MEMORY = "/dev/shm"  # a folder without a disk, where waiting for the disk costs nothing
LOADING = 120.0  # seconds for the imports of a worker


def kind_of(end: str) -> str:
    """What failures of one bug have in common."""
    return re.sub(r"\b[0-9]+(\.[0-9]+)?\b", "N", end.split(": ")[0])


@dataclass
class Found:
    """A failure: what happened, the first input that did it, and how many did."""

    end: str
    case: harness.Case
    name: str = ""
    count: int = 1


@dataclass
class Tally:
    """The counts of one format."""

    cases: int = 0
    read: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    failures: dict[str, Found] = field(default_factory=dict)

    def add(self, outcome: dict[str, Any], case: Path) -> Found | None:
        """Count an outcome; returns a failure that is new."""
        self.cases += 1
        self.seconds += outcome["seconds"]
        self.slowest = max(self.slowest, outcome["seconds"])
        if not outcome["failed"]:
            setattr(self, outcome["end"], getattr(self, outcome["end"]) + 1)
            return None
        kind = kind_of(outcome["end"])
        known = self.failures.get(kind)
        if known:
            known.count += 1
            return None
        case = Path(outcome.get("kept") or case)
        self.failures[kind] = Found(outcome["end"], harness.read_case(case), outcome.get("name", ""))
        return self.failures[kind]


class Worker:
    """A worker process; it is started again after a crash."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.unread = b""  # what the process has written

    def run(self, request: dict[str, Any], tally: Tally, stop: threading.Event) -> int:
        """Attack a format as ``request`` says until it is done, or the worker ends; returns the number of inputs."""
        process = self._started()
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        before, patience = tally.cases, LOADING
        while not stop.is_set():
            line = self._line(patience)
            if not line:
                if line is None:
                    process.send_signal(signal.SIGABRT)  # prints where it is
                if line is None or not self._ended_well(request):
                    tally.add({"end": self._end(line is None), "seconds": 0.0, "failed": True}, self.folder / "case")
                break
            outcome = json.loads(line)
            if outcome.get("done"):
                return tally.cases - before
            patience = PATIENCE
            tally.add(outcome, self.folder / "case")
        self.close()
        return tally.cases - before

    def close(self) -> None:
        """End the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process, self.unread = None, b""

    def _started(self) -> "subprocess.Popen[bytes]":
        if self.process is None:
            home = self.folder / "home"
            home.mkdir(parents=True, exist_ok=True)
            paths = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
            settings = {"PYTHONPATH": paths, "HOME": str(home), "XDG_CACHE_HOME": str(home), "TMPDIR": str(home)}
            settings |= {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
            settings |= {"PYTHONFAULTHANDLER": "1", "OMP_WAIT_POLICY": "PASSIVE"}
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fuzz.worker", str(self.folder)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(self.folder / "log").open("w"),
                cwd=home, env={**os.environ, **settings}, start_new_session=True,
            )  # fmt: skip
        return self.process

    def _line(self, patience: float) -> bytes | None:
        """The next line of the process, empty at its end, None if there is none in time."""
        assert self.process is not None and self.process.stdout is not None
        while b"\n" not in self.unread:
            if not select.select([self.process.stdout], [], [], patience)[0]:
                return None
            content = os.read(self.process.stdout.fileno(), 1 << 16)
            if not content:
                return b""
            self.unread += content
        line, self.unread = self.unread.split(b"\n", 1)
        return line

    def _ended_well(self, request: dict[str, Any]) -> bool:
        """Whether the process has done its work: Atheris ends its own."""
        assert self.process is not None
        return request["source"] == "atheris" and self.process.wait() == 0

    def _end(self, late: bool) -> str:
        """How the process ended, with the first lines that it printed about that."""
        assert self.process is not None
        code = self.process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        log = (self.folder / "log").read_text(errors="replace").strip().splitlines()
        fatal = [index for index, line in enumerate(log) if line.startswith(("Fatal", "Traceback"))]
        what = "gives no answer" if late else f"ends the process by {how}"
        return f"{what}: {' | '.join(log[fatal[-1] :] if fatal else log[-12:])[:1500]}"


class Replay:
    """Reads given inputs of one format, to find out how each ends."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.worker, self.given = name, Worker(folder / "worker"), folder / "given"

    def kind(self, case: harness.Case) -> str:
        """The kind of the failure of an input, or ""."""
        harness.write(case, self.given)
        tally = Tally()
        self.worker.run({"format": self.name, "source": "folder", "folder": str(self.given)}, tally, threading.Event())
        return next(iter(tally.failures), "")

    def close(self) -> None:
        self.worker.close()


def attack(
    requests: Iterable[dict[str, Any]],
    workers: int = 2,
    stop: threading.Event | None = None,
    tallies: dict[str, Tally] | None = None,
) -> dict[str, Tally]:
    """Run all requests, which are taken one by one, on some workers.

    Args:
        requests: each a format, a source of choices and its settings, as `fuzz.worker` reads them.
        workers: number of processes.
        stop: ends the campaign when it is set.
        tallies: counts to add to.

    Returns:
        The counts of each format.
    """
    stop = stop or threading.Event()
    tallies = {} if tallies is None else tallies
    waiting, lock = iter(requests), threading.Lock()

    def work(folder: Path) -> None:
        worker = Worker(folder)
        try:
            while not stop.is_set():
                with lock:
                    request = next(waiting, None)
                if request is None:
                    return
                worker.run(request, tallies.setdefault(request["format"], Tally()), stop)
        finally:
            worker.close()

    root = Path(tempfile.mkdtemp(prefix="fuzz", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
    threads = [threading.Thread(target=work, args=(root / str(index),)) for index in range(workers)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)  # an interruptible wait
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        shutil.rmtree(root, ignore_errors=True)
    return tallies
