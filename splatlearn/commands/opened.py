"""What commands share: which task a config is for, and a run folder opened again."""

from pathlib import Path
from typing import Any

from splatlearn import checkpoint, config, run
from splatlearn.errors import SplatlearnError
from splatlearn.line.task import LineTask

CONFIG = "config.yaml"


def task_class(path: Path | None) -> Any:
    """The task that the `task:` key of a config file names."""
    from splatlearn.scene.training.task import SceneTask
    from splatlearn.text.task import TextTask

    classes: dict[Any, Any] = {"line": LineTask, "scene": SceneTask, "text": TextTask}
    name = None if path is None else config.peek(path, "task")
    if name not in classes:
        raise SplatlearnError(f"{path}: 'task' must be one of {', '.join(classes)}, got {name!r}")
    return classes[name]


def open_run(folder: Path, overrides: list[str] | None = None) -> tuple[Any, int]:
    """The task of a run folder with its last checkpoint loaded, and that checkpoint's step.

    Raises SplatlearnError where the folder is no run, or holds no checkpoint.
    """
    path = config_of(folder)
    cls = task_class(path)
    if checkpoint.latest(folder / "checkpoints") is None:
        raise SplatlearnError(f"run folder {folder} holds no checkpoint yet")
    task = cls(config.load(cls.Config, path, overrides or []))
    return task, run.resume(task, folder)


def config_of(folder: Path) -> Path:
    """The config file of a run folder."""
    path = folder / CONFIG
    if not path.is_file():
        raise SplatlearnError(f"{folder} is not a run folder: it has no {CONFIG}")
    return path


def picture_name(image: str) -> str:
    """File name of the PNG of a photograph; folders and the faces of a panorama (`a/b.jpg#left`) are kept apart."""
    path, _, face = image.partition("#")
    stem = path.replace("/", "_").rsplit(".", 1)[0]
    return f"{stem}_{face}.png" if face else f"{stem}.png"


def load_gaussians(source: Path) -> Any:
    """The Gaussians of a run folder's last checkpoint (its photographs are not needed), or of a file of any format."""
    from splatlearn.scene.gaussians import Gaussians

    return Gaussians(load_splats(source).tensors)


def load_splats(source: Path, drop: bool = False) -> Any:
    """The same as raw tensors, and whether they were trained antialiased: a `formats.registry.Splats`.

    `drop` leaves out Gaussians of a file with values that are not finite, which are refused otherwise.
    """
    from splatlearn.scene.formats.registry import Splats, read
    from splatlearn.scene.schema import GAUSSIAN

    if source.is_file():
        return read(source, drop)
    path = config_of(source)
    if config.peek(path, "task") != "scene":
        raise SplatlearnError(f"{source} is not the run of a scene: it has no Gaussians")
    saved = checkpoint.latest(source / "checkpoints")
    if saved is None:
        raise SplatlearnError(f"run folder {source} holds no checkpoint yet")
    tensors = checkpoint.load(saved)[0]
    if missing := [name for name in GAUSSIAN.names if name not in tensors]:
        raise SplatlearnError(f"{saved} holds no tensor {missing[0]!r}: it is not the checkpoint of a scene")
    return Splats({name: tensors[name] for name in GAUSSIAN.names}, config.peek(path, "antialiased") is True)
