"""Runs: a task is trained, resumed and evaluated in its run folder, with its metrics, checkpoints and report."""

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from splatlearn import config as configs
from splatlearn import loop, notices
from splatlearn import run as runs
from splatlearn.files import drop_link
from splatlearn.interrupt import number_of
from splatlearn.show.report import write_report
from splatlearn.show.run_writer import FolderWriter
from splatlearn.show.tensorboard import TensorBoard
from splatlearn.task import AnyTask, Callback

Observers = Callable[[AnyTask, Path], Sequence[Callback]]  # further callbacks of a run


def train(cls: type[AnyTask], config: Any, observers: Observers | None = None) -> dict[str, Any]:
    """Train a task from its config in a new run folder, ``config.out``, and evaluate it.

    Args:
        cls: The class of the task.
        config: An instance of ``cls.Config``.
        observers: Called with task and run folder; returns further callbacks.

    Returns:
        The figures of the evaluation; {} in a process that writes nothing.

    Raises:
        SplatlearnError: The run folder is in use, or the config, the data or the training are at fault.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; a training was saved.
    """
    folder = Path(config.out)
    first = notices.is_first()  # of several processes the first makes the folder, perhaps by now
    with _stoppable(folder), notices.recording() as warnings:
        with runs.locked(folder, "splatlearn train") if first else nullcontext():
            if first:
                runs.refuse_occupied(folder)
            cls.prepare(config)
            task = cls(config)  # type: ignore[call-arg]
            callbacks = _callbacks(task, folder, observers)  # before anything is written: what one needs may be missing
            if task.writes:
                runs.create(folder)
                configs.dump(config, folder / runs.CONFIG)
                warnings.write_into(folder)
            return _fit(task, folder, 0, callbacks)


def resume(
    folder: Path,
    overrides: Sequence[str] = (),
    observers: Observers | None = None,
    *,
    allow_changed_data: bool = False,
) -> dict[str, Any]:
    """Continue a run from its last checkpoint, or from step 0 where it has none; see `train` and `run.open_run`.

    Overrides of its config are saved in it.
    """
    path = runs.config_of(folder)
    with _stoppable(folder), notices.recording() as warnings:
        with runs.locked(folder, "splatlearn train") if notices.is_first() else nullcontext():
            task, step = runs.open_run(folder, overrides, unsaved=True, allow_changed_data=allow_changed_data)
            callbacks = _callbacks(task, folder, observers)
            if overrides and task.writes:
                drop_link(path)
                configs.dump(task.config, path)
            if task.writes:
                warnings.write_into(folder)
                where = "going on after" if step else f"{folder} has no checkpoint yet: beginning at"
                print(f"{where} step {step} of {task.config.steps}")
            return _fit(task, folder, step, callbacks)


@contextmanager
def _stoppable(folder: Path) -> Iterator[None]:
    """Turn a signal outside of the loop into `Interrupted`, which says how to go on."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        begun = (folder / runs.CONFIG).is_file()
        advice = f"go on with: {runs.resume_command(folder)}" if begun else "the same command begins again"
        raise loop.Interrupted(0, f"stopped; {advice}", number_of(stopped)) from None


def evaluate(task: AnyTask, folder: Path, step: int) -> dict[str, Any]:
    """Evaluate a task; write eval/, its metrics.json and report.html into the run folder; return the figures."""
    writer = FolderWriter(folder)
    lines = runs.read_metrics(folder / "metrics.jsonl")
    figures = task.evaluate(step, writer)
    figures |= {"steps": step, "train_seconds": lines[-1]["seconds"] if lines else 0.0}
    writer.remove_others("eval", ".png")  # of views that were held out earlier
    writer.save("eval/metrics.json", figures)
    write_report(folder)
    return figures


def _callbacks(task: AnyTask, folder: Path, observers: Observers | None) -> list[Callback]:
    if not task.writes:
        return []
    config = task.config
    found: list[Callback] = [
        runs.MetricsLog(folder / "metrics.jsonl", config.log_every),
    ]
    if config.tensorboard:
        found.append(TensorBoard(folder / "tensorboard", config.log_every, config.steps))
    found += task.callbacks(FolderWriter(folder))
    found += observers(task, folder) if observers else ()
    return [*found, runs.Checkpoints(folder, config.checkpoint_every)]


def _fit(task: AnyTask, folder: Path, start: int, callbacks: Sequence[Callback]) -> dict[str, Any]:
    if not task.writes:  # of several processes that learn together, the first prints and writes everything
        loop.fit(task, task.config.steps, start=start, progress=False)
        return {}
    writer = FolderWriter(folder)
    writer.save("versions.json", _versions())
    runs.drop_later(folder / "eval" / "samples.jsonl", start)
    last = loop.fit(task, task.config.steps, start=start, callbacks=callbacks)
    task.artifacts(writer)
    figures = evaluate(task, folder, last)
    print(task.summarize(figures))
    print(f"wrote {folder}; to see it: {folder / 'report.html'}")
    return figures


def _instruction_set() -> str | None:
    """The level of the native CPU library; None where it is missing, as a task may not need it."""
    from splatlearn.ops import native

    if not native.CPU_LIBRARY.exists():
        return None
    return native.isa_level()


def _versions() -> dict[str, Any]:
    """The content of versions.json: the software and the machine of a run."""
    import numpy
    import torch

    import splatlearn

    cuda = torch.cuda.is_available()
    return {
        "splatlearn": splatlearn.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "instruction set": _instruction_set(),
        "threads": torch.get_num_threads(),
        "graphics card": torch.cuda.get_device_name() if cuda else None,
        "CUDA of torch": torch.version.cuda if cuda else None,
    }
