"""A run folder and what watches a run: the metrics log, the checkpoints, and what is called now and then."""

import json
import reprlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from splatlearn import checkpoint
from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.loop import AnyTask, Callback


def create(run: Path) -> None:
    """Make the run folder; raises SplatlearnError if it holds something already."""
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SplatlearnError(f"cannot make the run folder {run}: {error.strerror}") from error
    refuse_occupied(run)


def refuse_occupied(run: Path) -> None:
    """Raises SplatlearnError if the run folder holds something already; to be asked before long work as well."""
    try:
        occupied = run.exists() and any(run.iterdir())
    except OSError as error:
        raise SplatlearnError(f"cannot make the run folder {run}: {error.strerror}") from error
    if occupied:
        raise SplatlearnError(
            f"run folder {run} exists already; name another with --out, or go on with: splatlearn train --resume {run}"
        )


def resume(task: AnyTask, run: Path) -> int:
    """Load the last checkpoint of ``run`` into ``task``; returns its step, which is ``start`` for ``fit``."""
    path = checkpoint.latest(run / "checkpoints")
    if path is None:
        raise SplatlearnError(f"run folder {run} holds no checkpoint to go on from")
    task.load_state(*checkpoint.load(path))
    return checkpoint.step_of(path)


class Checkpoints(Callback):
    """Saves the task into ``run/checkpoints`` every ``every`` steps, at the end, and on Ctrl-C."""

    def __init__(self, run: Path, every: int, keep: int = 2) -> None:
        self.run = run
        self.every = every
        self.keep = keep
        self._saved = 0

    def on_start(self, start: int, task: AnyTask) -> None:
        self._saved = start

    def wants(self, step: int) -> bool:
        return step % self.every == 0

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        self._save(step, task)

    def on_interrupt(self, step: int, task: AnyTask) -> str:
        self._save(step, task)
        return f"go on with: splatlearn train --resume {self.run}"

    def on_end(self, step: int, task: AnyTask) -> None:
        self._save(step, task)

    def _save(self, step: int, task: AnyTask) -> None:
        if step != self._saved:
            checkpoint.save(self.run / "checkpoints", step, *task.state(), keep=self.keep)
            self._saved = step


class MetricsLog(Callback):
    """Appends a JSON line to ``path`` for step 1 and every ``every``-th: step, loss, task's metrics, seconds.

    ``loss`` is that of before the update, the metrics are of after it. ``seconds`` is the wall time of the
    training so far, over all its parts. All other fields of a resumed run equal those of an uninterrupted
    one: lines beyond the checkpoint are dropped when the loop starts.
    """

    def __init__(self, path: Path, every: int = 1) -> None:
        self.path = path
        self.every = every
        self._began = time.perf_counter()

    def on_start(self, start: int, task: AnyTask) -> None:
        kept = [line for line in read_metrics(self.path) if line["step"] <= start]
        with replacing(self.path) as path:
            path.write_text("".join(map(_json_line, kept)), encoding="utf-8")
        self._began = time.perf_counter() - (kept[-1]["seconds"] if kept else 0.0)

    def wants(self, step: int) -> bool:
        return step == 1 or step % self.every == 0

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        seconds = round(time.perf_counter() - self._began, 3)
        line = _json_line({"step": step, "loss": loss, **task.metrics(), "seconds": seconds})
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise SplatlearnError(f"cannot write the metrics to {self.path}: {error.strerror}") from error


def _json_line(fields: dict[str, Any]) -> str:
    try:
        return json.dumps(fields, allow_nan=False) + "\n"
    except ValueError as error:
        raise SplatlearnError(f"a metric is not finite: {fields}") from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, oldest first; a last line that a crash cut short is left out."""
    lines = []
    texts = path.read_bytes().split(b"\n") if path.exists() else []
    for number, text in enumerate(texts[:-1], start=1):  # what follows the last newline is empty or cut short
        try:
            line = json.loads(text)
            lines.append({**line, "step": int(line["step"]), "seconds": float(line["seconds"])})
        except (ValueError, TypeError, KeyError) as error:
            raise SplatlearnError(
                f"{path}, line {number}: expected JSON with step and seconds, got {reprlib.repr(text)}"
            ) from error
    return lines


class Every(Callback):
    """Calls ``function(step, task)`` after every ``every``-th step, such as an evaluation."""

    def __init__(self, every: int, function: Callable[[int, AnyTask], object]) -> None:
        self.every = every
        self.function = function

    def wants(self, step: int) -> bool:
        return step % self.every == 0

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        self.function(step, task)
