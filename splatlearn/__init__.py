"""splatlearn: if you can write it as a differentiable equation, you can learn it.

Public names, each loaded when it is first used:

- ``rasterization``: 3D Gaussians to images, differentiable in everything; gsplat's signature
- ``photometric_loss``, ``ssim``: the training loss and the similarity in it
- ``Gaussians``, ``ColmapScene``, ``Camera``, ``SceneTask``: a scene's model, data and task
- ``LinearNeuron``, ``LineTask``: the smallest learner
- ``Transformer``, ``TextTask``: a language model, and the task that teaches it
- ``Task``, ``fit``: the five steps, and what plugs into them
- ``SplatlearnError``: the one error for what a user can mend
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from splatlearn.errors import SplatlearnError
    from splatlearn.line.neuron import LinearNeuron
    from splatlearn.line.task import LineTask
    from splatlearn.loop import Task, fit
    from splatlearn.ops.photometric import photometric_loss, ssim
    from splatlearn.ops.rasterization import rasterization
    from splatlearn.scene.cameras import Camera
    from splatlearn.scene.gaussians import Gaussians
    from splatlearn.scene.readers.colmap import ColmapScene
    from splatlearn.scene.training.task import SceneTask
    from splatlearn.text.task import TextTask
    from splatlearn.text.transformer import Transformer

_HOMES = {
    "SplatlearnError": "errors",
    "LinearNeuron": "line.neuron",
    "LineTask": "line.task",
    "Task": "loop",
    "fit": "loop",
    "photometric_loss": "ops.photometric",
    "ssim": "ops.photometric",
    "rasterization": "ops.rasterization",
    "Camera": "scene.cameras",
    "ColmapScene": "scene.readers.colmap",
    "Gaussians": "scene.gaussians",
    "SceneTask": "scene.training.task",
    "TextTask": "text.task",
    "Transformer": "text.transformer",
}
__all__ = [
    "Camera",
    "ColmapScene",
    "Gaussians",
    "LineTask",
    "LinearNeuron",
    "SceneTask",
    "SplatlearnError",
    "Task",
    "TextTask",
    "Transformer",
    "fit",
    "photometric_loss",
    "rasterization",
    "ssim",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'splatlearn' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"splatlearn.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
