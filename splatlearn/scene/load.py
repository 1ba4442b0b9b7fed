"""Gaussians from a run folder or from a file of any format."""

from pathlib import Path
from typing import NamedTuple

from splatlearn import config
from splatlearn.errors import SplatlearnError
from splatlearn.run import config_of, load_last, task_class
from splatlearn.scene.formats.registry import Splats, read
from splatlearn.scene.frame import Frame, frame_of_means
from splatlearn.scene.gaussians import Gaussians
from splatlearn.scene.schema import GAUSSIAN
from splatlearn.scene.training.task import SceneTask


class Placed(NamedTuple):
    """Gaussians in the frame in which they are rendered."""

    gaussians: Gaussians
    frame: Frame  # the way back to the frame of their capture
    antialiased: bool | None  # how they were trained; None: it is not known


def load_gaussians(source: Path) -> Gaussians:
    """Load the Gaussians of a run folder's last checkpoint (its photographs are not needed), or of a file.

    They are in the frame in which they are rendered, see `load_placed`.
    """
    return load_placed(source).gaussians


def load_placed(source: Path) -> Placed:
    """Load a run or a file, and the frame: that of the run, or one that suits the Gaussians of the file.

    Raises:
        SplatlearnError: There is no scene to load.
    """
    if not source.is_file():
        splats, frame = _of_run(source)
        return Placed(Gaussians(splats.tensors), frame, splats.antialiased)
    splats = read(source)
    frame = frame_of_means(splats.tensors["means"])
    return Placed(Gaussians(frame.normalised_tensors(splats.tensors)), frame, splats.antialiased)


def load_splats(source: Path, drop: bool = False) -> Splats:
    """Load the same as raw tensors in the frame of the capture, means in float64 where float32 would round them.

    Args:
        source: A run folder of a scene, or a file whose suffix names its format.
        drop: Leave out Gaussians of a file with values that are not finite, instead of refusing it.

    Raises:
        SplatlearnError: There is no scene to load.
    """
    if source.is_file():
        return read(source, drop)
    splats, frame = _of_run(source)
    return Splats(frame.capture_tensors(splats.tensors), splats.antialiased)


def _of_run(run: Path) -> tuple[Splats, Frame]:
    """The Gaussians of a run as they are learned, and their frame."""
    path = scene_config(run)
    saved, tensors, state = load_last(run)
    if missing := [name for name in GAUSSIAN.names if name not in tensors]:
        raise SplatlearnError(f"{saved} holds no tensor {missing[0]!r}: it is not the checkpoint of a scene")
    frame = Frame.of_record(state.get("frame"), str(saved))
    return Splats({name: tensors[name] for name in GAUSSIAN.names}, config.peek(path, "antialiased") is True), frame


def scene_config(run: Path) -> Path:
    """Find the config file of a run folder; raises SplatlearnError where the run is not of a scene."""
    path = config_of(run)
    if not issubclass(task_class(path), SceneTask):
        raise SplatlearnError(f"{run} is not the run of a scene: it has no Gaussians")
    return path
