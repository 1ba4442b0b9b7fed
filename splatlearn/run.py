"""A run folder: made, opened again, and written while training: metrics, checkpoints, evaluations."""

import json
import reprlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from shlex import quote
from typing import Any

from torch import Tensor
from tqdm import tqdm

from splatlearn import checkpoint, config, locks, provenance
from splatlearn.errors import SplatlearnError
from splatlearn.files import drop_link, replacing
from splatlearn.notices import warn
from splatlearn.registry import TASKS
from splatlearn.task import AnyTask, Callback, RunWriter, Task

CONFIG = "config.yaml"


# ---- a run folder ----


def locked(run: Path, work: str) -> AbstractContextManager[None]:
    """Keep other processes from writing into a run folder for as long as the context lasts; see `locks.locked`."""
    return locks.locked(run, work)


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
    """Raise SplatlearnError if the run folder exists and holds anything but the lock; to be called before long work."""
    try:
        occupied = run.exists() and any(path.name != locks.NAME for path in run.iterdir())
    except OSError as error:
        raise SplatlearnError(f"cannot make the run folder {run}: {error.strerror}") from error
    if occupied:
        raise SplatlearnError(
            f"run folder {run} exists already; name another with --out, or go on with: {resume_command(run)}"
        )


def resume_command(run: Path) -> str:
    """The command that goes on with a run."""
    return f"splatlearn train --resume {quote(str(run))}"


def resume(task: AnyTask, run: Path, allow_changed_data: bool = False) -> int:
    """Load the last checkpoint of ``run`` into ``task``; return its step, which is ``start`` for ``fit``.

    Args:
        allow_changed_data: Warn if the data changed since the checkpoint, instead of refusing them.

    Raises:
        SplatlearnError: There is no checkpoint, or it is damaged or of another task, config or data.
    """
    path, tensors, state = load_last(run)
    step, saved = checkpoint.step_of(path), provenance.of_checkpoint(state)
    if saved is not None:
        provenance.check_keys(type(task), task.config, saved["keys"])
    _restore(task, step, tensors, state, allow_changed_data)
    return step


def _restore(
    task: AnyTask, step: int, tensors: dict[str, Tensor], state: dict[str, Any], allow_changed_data: bool
) -> None:
    saved = provenance.of_checkpoint(state)
    if saved is not None:
        provenance.check_data(task, saved["data"], step, allow_changed_data)
    elif task.fingerprints():
        warn(f"The checkpoint of step {step} has no record of its data: whether they changed since is unknown.")
    task.load_state(tensors, state)


def last_checkpoint(run: Path) -> Path:
    """Find the newest complete checkpoint of a run; raises SplatlearnError where there is none."""
    path = checkpoint.latest(run / "checkpoints")
    if path is None:
        raise SplatlearnError(f"run folder {run} holds no checkpoint to go on from")
    return path


def load_last(run: Path) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """Load the newest complete checkpoint of a run, which may be training: path, tensors and state.

    Raises:
        SplatlearnError: There is none, or it is damaged.
    """
    path = last_checkpoint(run)
    while True:
        try:
            return path, *checkpoint.load(path)
        except SplatlearnError:
            newer = last_checkpoint(run)
            if newer == path:
                raise
            path = newer  # the training has deleted the one that was being read


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


def open_run(
    run: Path, overrides: Sequence[str] = (), unsaved: bool = False, *, allow_changed_data: bool = False
) -> tuple[Any, int]:
    """Make the task of a run folder and load its last checkpoint.

    Args:
        run: The run folder.
        overrides: ``--key value`` words that change its config.
        unsaved: Whether a run that was ended before its first checkpoint will do: it is at step 0.
        allow_changed_data: Warn if the data changed since the checkpoint, instead of refusing them.

    Returns:
        The task, and the step of the checkpoint.

    Raises:
        SplatlearnError: The folder is not a run, or holds no checkpoint; a key that is fixed within a run changed, or
            the data did.
    """
    path = config_of(run)
    cls = task_class(path)
    if unsaved and checkpoint.latest(run / "checkpoints") is None:
        return cls(config.load(cls.Config, path, overrides)), 0  # type: ignore[call-arg]
    last, tensors, state = load_last(run)  # before the data are read
    step = checkpoint.step_of(last)
    chosen, saved = config.load(cls.Config, path, overrides), provenance.of_checkpoint(state)
    before = cls.fixed_keys(config.load(cls.Config, path)) if saved is None else saved["keys"]
    provenance.check_keys(cls, chosen, before)
    task = cls.restored(chosen)
    _restore(task, step, tensors, state, allow_changed_data)
    return task, step


# ---- callbacks that write it ----


class Checkpoints(Callback):
    """Saves the task into ``run/checkpoints`` every ``every`` steps, at the end, and on Ctrl-C.

    To be the last callback: what the others write of a step is then there before its checkpoint.
    """

    def __init__(self, run: Path, every: int, keep: int = 2) -> None:
        self.run = run
        self.every = every
        self.keep = keep
        self._saved = 0
        self._provenance: dict[str, Any] = {}

    def on_start(self, start: int, task: AnyTask) -> None:
        self._saved = start
        self._provenance = provenance.record(task)

    def wants(self, step: int) -> bool:
        return step % self.every == 0

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        self._save(step, task)

    def on_interrupt(self, step: int, task: AnyTask) -> str:
        self._save(step, task)
        return f"go on with: {resume_command(self.run)}"

    def on_end(self, step: int, task: AnyTask) -> None:
        self._save(step, task)

    def _save(self, step: int, task: AnyTask) -> None:
        if step != self._saved:
            tensors, state = task.state()
            state = {**state, provenance.KEY: self._provenance}
            checkpoint.save(self.run / "checkpoints", step, tensors, state, keep=self.keep)
            self._saved = step


def drop_later(path: Path, step: int) -> list[dict[str, Any]]:
    """Delete the lines of a .jsonl file that are of later steps than `step`; return the others, oldest first.

    A run that goes on from a checkpoint writes the later ones again. A last line that a crash cut short goes, too.

    Raises:
        SplatlearnError: A line is damaged, or the disk refuses.
    """
    lines = read_lines(path)
    kept = [line for line in lines if line["step"] <= step]
    if path.exists() or path.is_symlink():
        drop_link(path)
        with replacing(path) as temporary:
            temporary.write_text("".join(map(_json_line, kept)), encoding="utf-8")
    return kept


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
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SplatlearnError(f"cannot make the folder {self.path.parent}: {error.strerror}") from error
        kept = drop_later(self.path, start)
        self._began = time.perf_counter() - (kept[-1].get("seconds", 0.0) if kept else 0.0)

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


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a .jsonl file, each with a step, oldest first; a last line that a crash cut short is left out."""
    lines = []
    try:
        texts = path.read_bytes().split(b"\n") if path.exists() else []
    except OSError as error:
        raise SplatlearnError(f"{path} cannot be read: {error.strerror}") from error
    for number, text in enumerate(texts[:-1], start=1):  # what follows the last newline is empty or cut short
        try:
            line = json.loads(text)
            lines.append({**line, "step": int(line["step"])})
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            told = reprlib.repr(text)
            raise SplatlearnError(f"{path}, line {number}: expected JSON with a step, got {told}") from error
    return lines


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, which have a step and seconds."""
    lines = read_lines(path)
    for number, line in enumerate(lines, start=1):
        try:
            line["seconds"] = float(line["seconds"])
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise SplatlearnError(
                f"{path}, line {number}: expected JSON with step and seconds, got {reprlib.repr(line)}"
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
    """Evaluates the task after every ``every``-th step: a printed line, and a line of eval/history.jsonl.

    When the loop starts, lines beyond the checkpoint are dropped, and `noted` is called with each of the others.
    """

    def __init__(self, writer: RunWriter, every: int) -> None:
        self.writer = writer
        self.every = every

    def on_start(self, start: int, task: AnyTask) -> None:
        for line in drop_later(self.writer.folder / "eval" / "history.jsonl", start):
            self.noted(line)

    def wants(self, step: int) -> bool:
        return step % self.every == 0

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        figures = task.evaluate(step)
        tqdm.write(f"step {step:,}, {task.summarize(figures)}")
        row = {name: value for name, value in figures.items() if isinstance(value, (int, float, str))}
        self.writer.save("eval/history.jsonl", {"step": step, **row})
        self.evaluated(step, figures)

    def noted(self, line: Mapping[str, Any]) -> None:
        """Called with each line of an evaluation before the start of the loop; for subclasses."""

    def evaluated(self, step: int, figures: Mapping[str, Any]) -> None:
        """Called with the figures of every evaluation; for subclasses."""
