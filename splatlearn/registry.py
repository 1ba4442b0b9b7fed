"""Registries: a word in a config names a class, which may be ours, a user's, or of an installed package."""

import difflib
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from splatlearn.errors import SplatlearnError, brief


class Registry:
    """Classes of one kind, found by a word; a class is imported when it is first asked for.

    A word is a name of ``built_in``, or ``package.module:Class``, or the name of a Python entry point that an
    installed package declares in ``group``. Built-in names come first.

    Args:
        kind: What the classes are, for error messages, such as ``strategy``.
        group: The group of entry points, such as ``splatlearn.strategies``.
        built_in: ``package.module:Class`` by name.
    """

    def __init__(self, kind: str, group: str, built_in: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self.built_in = dict(built_in)

    def words(self) -> list[str]:
        """The built-in names, then those of installed packages."""
        return [*self.built_in, *(name for name in self._installed() if name not in self.built_in)]

    def find(self, word: str, key: str | None = None) -> Any:
        """Import the class that ``word`` names.

        Args:
            word: A built-in name, ``package.module:Class`` (also of the current folder), or an entry point's name.
            key: The key of a config that holds the word, for error messages.

        Raises:
            SplatlearnError: No class has this name, two packages declare it, or its import fails.
        """
        target = self.built_in.get(word, word)
        if ":" not in target:
            found = sorted({point.value for point in self._installed().get(word, [])})
            if len(found) > 1:
                raise SplatlearnError(
                    f"{self.kind} {word!r} must be declared by one package, got {' and '.join(found)}"
                )
            target = found[0].partition("[")[0].strip() if found else ""
        module, _, name = target.partition(":")
        if not all(part.isidentifier() for part in f"{module}.{name}".split(".")):
            label = f"'{brief(key, 80)}'" if key else self.kind
            raise SplatlearnError(
                f"{label} must be {self.expected()}, got {brief(repr(word), 80)}{self._nearest(word)}"
            )
        return self._imported(f"{self.kind} {brief(repr(word), 80)}", module, name)

    def expected(self) -> str:
        """The valid words, for an error message or a help text."""
        return f"one of {', '.join(self.words())} or a package.module:Class"

    def _installed(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self.group):
            found.setdefault(point.name, []).append(point)
        return found

    def _nearest(self, word: str) -> str:
        near = difflib.get_close_matches(word[:100], self.words(), 1)
        return f"; the nearest one is {near[0]!r}" if near else ""

    def _imported(self, label: str, module: str, name: str) -> Any:
        import_from(Path.cwd())
        try:
            found: Any = import_module(module)
        except SplatlearnError:
            raise
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise SplatlearnError(
                    f"{label} cannot be imported: {module} needs the module {error.name!r}"
                ) from error
            missing = brief(repr(error.name), 80)
            raise SplatlearnError(
                f"{label} must be in an installed package or in the current folder, got no module {missing}"
            ) from error
        except Exception as error:
            reason = brief(error)
            raise SplatlearnError(
                f"{label} cannot be imported: {type(error).__name__} in {_place(error)}: {reason}"
            ) from error
        for part in name.split("."):
            if not hasattr(found, part):
                where = getattr(sys.modules[module], "__file__", None) or module
                raise SplatlearnError(f"{label} must be defined in {where}, got no {brief(repr(name), 80)} there")
            found = getattr(found, part)
        return found


def import_from(folder: Path) -> None:
    """Let modules in ``folder`` be imported; installed modules of the same name come first."""
    path = str(folder.resolve())
    if path not in sys.path:
        sys.path.append(path)


def _place(error: Exception) -> str:
    """File and line at which an import failed."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}"


TASKS = Registry(
    "task",
    "splatlearn.tasks",
    {
        "line": "splatlearn.line.task:LineTask",
        "scene": "splatlearn.scene.training.task:SceneTask",
        "text": "splatlearn.text.task:TextTask",
    },
)
STRATEGIES = Registry(
    "strategy",
    "splatlearn.strategies",
    {
        "adaptive": "splatlearn.scene.training.densify:AdaptiveDensity",
        "fixed": "splatlearn.scene.training.strategy:Strategy",
    },
)
LOSSES = Registry(
    "loss term",
    "splatlearn.losses",
    {
        "photometric": "splatlearn.scene.training.losses:Photometric",
        "exposure": "splatlearn.scene.training.losses:ExposurePenalty",
        "depth": "splatlearn.scene.training.losses:Depth",
        "opacity": "splatlearn.scene.training.losses:OpacityRegulariser",
        "scale": "splatlearn.scene.training.losses:ScaleRegulariser",
    },
)
READERS = Registry("reader of scenes", "splatlearn.readers", {"colmap": "splatlearn.scene.readers.colmap:ColmapScene"})
WRITERS = Registry(
    "file format",
    "splatlearn.formats",
    {
        "ply": "splatlearn.scene.formats.registry:Ply",
        "splat": "splatlearn.scene.formats.registry:Splat",
        "spz": "splatlearn.scene.formats.registry:Spz",
        "gltf": "splatlearn.scene.formats.registry:Gltf",
        "glb": "splatlearn.scene.formats.registry:Gltf",
    },
)
