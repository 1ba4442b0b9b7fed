"""splatlearn train: learns what a config says, evaluates it, and leaves a run folder."""

import os
from pathlib import Path
from typing import Any

from tqdm import tqdm

from splatlearn import config as configs
from splatlearn import loop
from splatlearn import run as runs
from splatlearn.commands import eval as evaluation
from splatlearn.commands.held_out import HeldOut
from splatlearn.commands.opened import CONFIG, config_of, task_class
from splatlearn.commands.reconstruct import is_photographs, ready
from splatlearn.commands.view import live_options, live_view
from splatlearn.commands.watching import watching
from splatlearn.errors import SplatlearnError
from splatlearn.processes import leave

USAGE = """usage: splatlearn train CONFIG [--key.sub value ...] [--viewer [--viewer-port N] [--viewer-host HOST]]
       splatlearn train PHOTOS [--key.sub value ...]
       splatlearn train --resume RUN

Learns what CONFIG says, a file or one that came with splatlearn (configs/line.yaml, scene.yaml, text.yaml or another
there), into a new run folder; Ctrl-C saves.
PHOTOS, a COLMAP folder, a folder of photographs or a video, is learned by the recipe of configs/scene.yaml.
--resume goes on from the last checkpoint of RUN, bit for bit as if it had never stopped (on the CPU).
--viewer shows a scene in the browser while it learns, with pause, resume, step and charts."""


def run(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(USAGE + "\n\nWith a config, --help lists all its keys: splatlearn train configs/scene.yaml --help")
        return
    words, live = live_options(words)
    if words[:1] == ["--resume"]:
        if len(words) < 2:
            raise SplatlearnError("--resume needs the run folder to go on with")
        resume(Path(words[1]), words[2:], live)
        leave()
        return
    if not words:
        raise SplatlearnError("expected a config file such as configs/scene.yaml first, got nothing")
    if is_photographs(Path(words[0])):
        path, words = configs.shipped("scene.yaml"), ["--data.path", *words]
    else:
        path, words = _config(words[0]), words[1:]
    cls = task_class(path)
    if "--help" in words or "-h" in words:
        given = configs.load(cls.Config, path)
        print(
            f"{USAGE}\n\nkeys, and what they are in {path} or else by default:\n{configs.help_text(cls.Config, given)}"
        )
        return
    start(cls, configs.load(cls.Config, path, words), live)
    leave()


def _config(name: str) -> Path:
    """The file of this name, or the config of this name that came with splatlearn."""
    path = Path(name)
    if not path.is_file() and path.parent in (Path("."), Path("configs")):
        path = configs.shipped(path.name)
    if not path.is_file():
        raise SplatlearnError(f"expected a config file such as configs/scene.yaml first, got {name!r}")
    return path


def start(cls: Any, config: Any, live: tuple[str, int] | None = None) -> dict[str, Any]:
    """A new run, shown on host and port `live` while it learns; returns its evaluation."""
    folder = Path(config.out)
    if os.environ.get("RANK", "0") == "0":  # of several processes the first makes the folder, perhaps by now
        runs.refuse_occupied(folder)
    if hasattr(config.data, "reconstruct"):
        config.data.path = ready(config.data.path, config.data.reconstruct)
    if getattr(config.data, "path", None):
        config.data.path = str(Path(config.data.path).expanduser().resolve())  # so that --resume works from anywhere
    task = cls(config)
    watching(folder, config)  # before anything is written: what it needs may not be installed
    views = [] if live is None else [live_view(task, folder, live)]
    if task.writes:
        runs.create(folder)
        configs.dump(config, folder / CONFIG)
    return _fit(task, folder, 0, views)


def resume(folder: Path, overrides: list[str], live: tuple[str, int] | None = None) -> None:
    """Goes on with a run; overrides of its config are kept in it."""
    path = config_of(folder)
    cls = task_class(path)
    config = configs.load(cls.Config, path, overrides)
    task = cls(config)
    step = runs.resume(task, folder)
    if overrides:
        configs.dump(config, path)
    print(f"going on after step {step} of {config.steps}")
    _fit(task, folder, step, [] if live is None else [live_view(task, folder, live)])


def _fit(task: Any, folder: Path, start: int, views: list[Any]) -> dict[str, Any]:
    config = task.config
    if not task.writes:  # of several processes that learn together, the first tells and keeps everything
        loop.fit(task, config.steps, start=start, progress=False)
        return {}
    evaluation.write_versions(folder)
    callbacks: list[loop.Callback] = [
        runs.MetricsLog(folder / "metrics.jsonl", config.log_every),
        runs.Checkpoints(folder, config.checkpoint_every),
    ]
    callbacks += watching(folder, config)
    if getattr(config, "evaluate_every", 0):
        callbacks.append(HeldOut(folder, config.evaluate_every, getattr(config, "patience", 0)))
    if getattr(config, "sample_every", 0):
        callbacks.append(runs.Every(config.sample_every, lambda step, task: _sample_now(step, task, folder)))
    try:
        last = loop.fit(task, config.steps, start=start, callbacks=[*callbacks, *views])
    finally:
        for view in views:
            view.close()
    if hasattr(task, "gaussians"):
        task.gaussians.save_ply(folder / "point_cloud.ply")
    result = evaluation.evaluate_run(task, folder, last)
    print(evaluation.sentence(result))
    print(f"wrote {folder}; to see it: {folder / 'report.html'}")
    return result


def _sample_now(step: int, task: Any, folder: Path) -> None:
    """A sample while training: told, and one line in eval/samples.jsonl."""
    sample = task.sample(step)
    tqdm.write(f"step {step:,}, a sample:\n{sample['prompt']}{sample['text']}\n")
    evaluation.add_line(folder / "eval" / "samples.jsonl", sample)
