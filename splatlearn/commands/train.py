"""splatlearn train: learns what a config says, evaluates it, and leaves a run folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from splatlearn import config as configs
from splatlearn import trainer
from splatlearn.commands.view import live_options
from splatlearn.errors import SplatlearnError
from splatlearn.processes import leave
from splatlearn.registry import import_from
from splatlearn.run import task_class
from splatlearn.scene.reconstruct.ready import is_photographs

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
        _shown(live, lambda observers: trainer.resume(Path(words[1]), words[2:], observers))
        return
    if not words:
        raise SplatlearnError("expected a config file such as configs/scene.yaml first, got nothing")
    if is_photographs(Path(words[0])):
        path, words = configs.shipped("scene.yaml"), ["--data.path", *words]
    else:
        path, words = _config(words[0]), words[1:]
        import_from(path.parent)  # a task of the user's own may be in a file beside its config
    cls = task_class(path)
    if "--help" in words or "-h" in words:
        given = configs.load(cls.Config, path)
        print(
            f"{USAGE}\n\nkeys, and what they are in {path} or else by default:\n{configs.help_text(cls.Config, given)}"
        )
        return
    config = configs.load(cls.Config, path, words)
    _shown(live, lambda observers: trainer.train(cls, config, observers))


def _shown(live: tuple[str, int] | None, train: Callable[[trainer.Observers], object]) -> None:
    """Train, with a viewer on host and port `live`."""
    views: list[Any] = []

    def observers(task: Any, folder: Path) -> list[Any]:
        from splatlearn.viewer.live import live_view

        if live is not None:
            views.append(live_view(task, folder, live))
        return views

    try:
        train(observers)
    finally:
        for view in views:
            view.close()
    leave()


def _config(name: str) -> Path:
    """The file of this name, or the config of this name that came with splatlearn."""
    path = Path(name)
    if not path.is_file() and path.parent in (Path("."), Path("configs")):
        path = configs.shipped(path.name)
    if not path.is_file():
        raise SplatlearnError(f"expected a config file such as configs/scene.yaml first, got {name!r}")
    return path
