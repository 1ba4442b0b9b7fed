"""The viewer of a run: what it shows beside the Gaussians, and the callback of `splatlearn train --viewer`."""

from pathlib import Path
from typing import Any

from splatlearn.errors import SplatlearnError
from splatlearn.notices import is_first
from splatlearn.scene.training.task import SceneTask
from splatlearn.viewer.server import check, warn_if_open
from splatlearn.viewer.surroundings import Surroundings
from splatlearn.viewer.training import LiveView


def surroundings(settings: Any, scene: Any, folder: Path) -> Surroundings:
    """What a viewer shows of a scene beside its Gaussians.

    Args:
        settings: The config of the scene task.
        scene: Its photographs, or None.
        folder: Where camera paths and videos are written.
    """
    red, green, blue = settings.data.background
    if scene is None:
        return Surroundings(background=(red, green, blue), folder=folder)
    return Surroundings(scene.train, scene.test, scene.photo, (red, green, blue), folder)


def check_address(host: str, port: int) -> None:
    """Raise SplatlearnError unless a viewer can listen there; of several processes only the first one checks."""
    if is_first():
        check(host, port)
        warn_if_open(host)


def live_view(task: Any, folder: Path, where: tuple[str, int]) -> LiveView:
    """A callback that shows a scene task while it is trained.

    Args:
        task: The task.
        folder: Its run folder.
        where: Host and port to listen on.

    Raises:
        SplatlearnError: The task is not a scene.
    """
    if not isinstance(task, SceneTask):
        raise SplatlearnError(f"--viewer shows scenes, but 'task' is {task.config.task!r}")
    around = surroundings(task.config, task.scene, folder / "renders")
    return LiveView(
        around, task.config.steps, *where, opened=lambda url: print(f"to watch it learn: {url}", flush=True)
    )
