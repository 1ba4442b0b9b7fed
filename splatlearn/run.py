"""A run folder: made, opened again, and written while training: metrics, checkpoints, evaluations."""

import json
import reprlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from splatlearn import checkpoint, config
from splatlearn.errors import SplatlearnError
from splatlearn.files import drop_link, replacing
from splatlearn.registry import TASKS
from splatlearn.task import AnyTask, Callback, RunWriter, Task

CONFIG = "config.yaml"


# ---- a run folder ----


def create(run: Path) -> None:
    """Make the run folder.

    Raises:
        SplatlearnError: It exists and is not empty, or cannot be made.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SplatlearnError(f"cannot make the run folder {run}: {error.strerror}") from error
    refuse_occupied(run)


def refuse_occupied(run: Path) -> None:
    """Raise SplatlearnError if the run folder exists and is not empty; also to be called before long work."""
    try:
        occupied = run.exists() and any(run.iterdir())
    except OSError as error:
        raise SplatlearnError(f"cannot make the run folder {run}: {error.strerror}") from error
    if occupied:
        raise SplatlearnError(
            f"run folder {run} exists already; name another with --out, or go on with: splatlearn train --resume {run}"
        )


def resume(task: AnyTask, run: Path) -> int:
    """Load the last checkpoint of ``run`` into ``task``; return its step, which is ``start`` for ``fit``.

    Raises:
        SplatlearnError: There is no checkpoint, or it is damaged or of another task.
    """
    task.load_state(*checkpoint.load(last_checkpoint(run)))
    return checkpoint.step_of(last_checkpoint(run))


def last_checkpoint(run: Path) -> Path:
    """Find the newest complete checkpoint of a run; raises SplatlearnError where there is none."""
    path = checkpoint.latest(run / "checkpoints")
    if path is None:
        raise SplatlearnError(f"run folder {run} holds no checkpoint to go on from")
    return path


def config_of(run: Path) -> Path:
    """Find the config file of a run folder; raises SplatlearnError where there is none."""
    path = run / CONFIG
    if not path.is_file():
        raise SplatlearnError(f"{run} is not a run folder: it has no {CONFIG}")
    return path


def task_class(path: Path) -> type[AnyTask]:
    """Find the class of the task that the key `task` of a config file names.

    Raises:
        SplatlearnError: The key names none, or a class that cannot be made from a config.
    """
    word = config.peek(path, "task")
    cls = TASKS.find(word if isinstance(word, str) else "", "task")
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        raise SplatlearnError(f"{path}: 'task' must name a subclass of splatlearn.Task, got {cls!r}")
    if not (isinstance(cls.Config, type) and issubclass(cls.Config, config.Common)):
        raise SplatlearnError(
            f"{path}: task {word!r} must have a dataclass Config derived from splatlearn.config.Common, "
            f"got {cls.Config!r}"
        )
    return cls


def open_run(run: Path, overrides: Sequence[str] = ()) -> tuple[Any, int]:
    """Make the task of a run folder and load its last checkpoint.

    Args:
        run: The run folder.
        overrides: ``--key value`` words that change its config.

    Returns:
        The task, and the step of the checkpoint.

    Raises:
        SplatlearnError: The folder is not a run, or holds no checkpoint.
    """
    path = config_of(run)
    cls = task_class(path)
    last_checkpoint(run)  # before the data are read
    task = cls(config.load(cls.Config, path, overrides))  # type: ignore[call-arg]
    return task, resume(task, run)


# ---- callbacks that write it ----


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
        drop_link(self.path)
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


class HeldOut(Callback):
    """Evaluates the task after every ``every``-th step: a printed line, and a line of eval/history.jsonl."""

    def __init__(self, writer: RunWriter, every: int) -> None:
        self.writer = writer
        self.every = every

    def wants(self, step: int) -> bool:
        return step % self.every == 0

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        figures = task.evaluate(step)
        tqdm.write(f"step {step:,}, {task.summarize(figures)}")
        row = {name: value for name, value in figures.items() if isinstance(value, (int, float, str))}
        self.writer.save("eval/history.jsonl", {"step": step, **row})
        self.evaluated(step, figures)

    def evaluated(self, step: int, figures: Mapping[str, Any]) -> None:
        """Called with the figures of every evaluation; for subclasses."""
