"""Runs: a task is trained, resumed and evaluated in its run folder, with its metrics, checkpoints and report."""

import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from splatlearn import config as configs
from splatlearn import loop, notices
from splatlearn import run as runs
from splatlearn.files import drop_link
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
        Interrupted: Ctrl-C was pressed; the run was saved.
    """
    folder = Path(config.out)
    if os.environ.get("RANK", "0") == "0":  # of several processes the first makes the folder, perhaps by now
        runs.refuse_occupied(folder)
    with notices.recording() as warnings:
        cls.prepare(config)
        task = cls(config)  # type: ignore[call-arg]
        callbacks = _callbacks(task, folder, observers)  # before anything is written: what one needs may be missing
        if task.writes:
            runs.create(folder)
            configs.dump(config, folder / runs.CONFIG)
            warnings.write_into(folder)
        return _fit(task, folder, 0, callbacks)


def resume(folder: Path, overrides: Sequence[str] = (), observers: Observers | None = None) -> dict[str, Any]:
    """Continue a run from its last checkpoint; overrides of its config are saved in it. See `train`."""
    path = runs.config_of(folder)
    with notices.recording() as warnings:
        task, step = runs.open_run(folder, overrides)
        callbacks = _callbacks(task, folder, observers)
        if overrides:
            drop_link(path)
            configs.dump(task.config, path)
        warnings.write_into(folder)
        print(f"going on after step {step} of {task.config.steps}")
        return _fit(task, folder, step, callbacks)


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
        runs.Checkpoints(folder, config.checkpoint_every),
    ]
    if config.tensorboard:
        found.append(TensorBoard(folder / "tensorboard", config.log_every, config.steps))
    found += task.callbacks(FolderWriter(folder))
    return [*found, *(observers(task, folder) if observers else ())]


def _fit(task: AnyTask, folder: Path, start: int, callbacks: Sequence[Callback]) -> dict[str, Any]:
    if not task.writes:  # of several processes that learn together, the first prints and writes everything
        loop.fit(task, task.config.steps, start=start, progress=False)
        return {}
    writer = FolderWriter(folder)
    writer.save("versions.json", _versions())
    last = loop.fit(task, task.config.steps, start=start, callbacks=callbacks)
    task.artifacts(writer)
    figures = evaluate(task, folder, last)
    print(task.summarize(figures))
    print(f"wrote {folder}; to see it: {folder / 'report.html'}")
    return figures


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
        "threads": torch.get_num_threads(),
        "graphics card": torch.cuda.get_device_name() if cuda else None,
        "CUDA of torch": torch.version.cuda if cuda else None,
    }
