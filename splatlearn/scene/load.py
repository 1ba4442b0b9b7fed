"""Gaussians from a run folder or from a file of any format."""

from pathlib import Path

from splatlearn import checkpoint, config
from splatlearn.errors import SplatlearnError
from splatlearn.run import config_of, last_checkpoint, task_class
from splatlearn.scene.formats.registry import Splats, read
from splatlearn.scene.gaussians import Gaussians
from splatlearn.scene.schema import GAUSSIAN
from splatlearn.scene.training.task import SceneTask


def load_gaussians(source: Path) -> Gaussians:
    """Load the Gaussians of a run folder's last checkpoint (its photographs are not needed), or of a file."""
    return Gaussians(load_splats(source).tensors)


def load_splats(source: Path, drop: bool = False) -> Splats:
    """Load the same as raw tensors, and whether they were trained antialiased.

    Args:
        source: A run folder of a scene, or a file whose suffix names its format.
        drop: Leave out Gaussians of a file with values that are not finite, instead of refusing it.

    Raises:
        SplatlearnError: There is no scene to load.
    """
    if source.is_file():
        return read(source, drop)
    path = scene_config(source)
    saved = last_checkpoint(source)
    tensors = checkpoint.load(saved)[0]
    if missing := [name for name in GAUSSIAN.names if name not in tensors]:
        raise SplatlearnError(f"{saved} holds no tensor {missing[0]!r}: it is not the checkpoint of a scene")
    return Splats({name: tensors[name] for name in GAUSSIAN.names}, config.peek(path, "antialiased") is True)


def scene_config(run: Path) -> Path:
    """Find the config file of a run folder; raises SplatlearnError where the run is not of a scene."""
    path = config_of(run)
    if not issubclass(task_class(path), SceneTask):
        raise SplatlearnError(f"{run} is not the run of a scene: it has no Gaussians")
    return path
