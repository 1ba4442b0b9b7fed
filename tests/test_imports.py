"""Who may import whom: the grid stays a grid only while a machine says no to the first shortcut."""

import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "splatlearn"

BASE = {"errors", "files", "locks", "notices", "registry"}
LEARNER = BASE | {"ops", "task", "interrupt", "loop", "run", "config", "checkpoint", "devices", "processes"}
LEARNER |= {"provenance"}
MAY_IMPORT = {
    "errors": set(),
    "files": {"errors"},
    "notices": set(),
    "registry": {"errors"},
    "locks": {"errors", "files", "notices"},
    "streams": set(),
    "yaml12": {"errors", "files"},
    "config_values": {"errors", "yaml12"},
    "config": BASE | {"yaml12", "config_values"},
    "checkpoint": BASE,
    "interrupt": set(),
    "devices": BASE,
    "processes": BASE,
    "task": set(),
    "loop": BASE | {"interrupt", "task"},
    "provenance": BASE | {"task"},
    "run": BASE | {"task", "config", "checkpoint", "provenance"},
    "landscape": BASE | {"loop"},
    "gradients": BASE,
    "ops": BASE,
    "line": LEARNER,
    "scene": LEARNER,
    "demo": BASE,
    "text": LEARNER,
    "viewer": BASE
    | {"task", "loop", "scene", "ops", "show"},  # it watches the loop, as a callback, and films what it shows
    "show": BASE | {"task", "loop", "line", "scene", "text", "ops", "landscape", "gradients"},
}  # all else is the outermost layer, as the command line is: it may import all of these, and none of these it

LAZY = {"pycolmap", "scipy", "matplotlib", "imageio", "imageio_ffmpeg", "jsonargparse", "viser", "tokenizers", "jinja2"}

MAY_INCLUDE = {
    "math": {"math", "abi.h"},  # its constants
    "cpu": {"cpu", "math", "abi.h"},
    "cuda": {"cuda", "math", "abi.h", "emulator"},  # launch.h alone names the emulator, for g++
    "emulator": {"emulator", "cuda"},
}


# ---- Python ----


def imported_names(path: Path, package: Path) -> Iterator[str]:
    """Full names of all that a file imports, within functions too: ``splatlearn.ops.adam`` and so on."""
    inside = [package.name, *path.relative_to(package).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(inside[: len(inside) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (above, node.module) if part)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def part_of(path: Path, package: Path) -> str:
    """The part of the package that a file belongs to: a folder, or a module beside the folders."""
    return path.relative_to(package).parts[0].removesuffix(".py")


def wrong_imports(package: Path) -> list[str]:
    parts = {path.name.removesuffix(".py") for path in package.iterdir()} - {"__init__", "__pycache__"}
    found = []
    for path in sorted(package.rglob("*.py")):
        part = part_of(path, package)
        for name in imported_names(path, package):
            words = name.split(".")
            if words[0] != package.name or part not in MAY_IMPORT:
                continue
            whom = words[1] if len(words) > 1 and words[1] in parts else "__init__"
            if whom != part and whom not in MAY_IMPORT[part]:
                found.append(f"{path.relative_to(package)} imports {whom}")
    return found


def test_no_part_imports_upward_or_sideways() -> None:
    assert wrong_imports(PACKAGE) == [], "the layers of the package are crossed"


def test_crossed_layers_are_found(tmp_path: Path) -> None:
    package = tmp_path / "splatlearn"
    files = {
        "loop.py": "from splatlearn.line.task import LineTask",
        "cli.py": "import splatlearn.show.report",
        "config.py": "from splatlearn.errors import SplatlearnError\nfrom splatlearn.files import replacing",
        "errors.py": "import splatlearn",
        "files.py": "",
        "line/task.py": "def f():\n    from splatlearn import scene",
        "scene/gaussians.py": "from ..text import sampling\nfrom ..ops import adam\nfrom . import ply",
        "scene/ply.py": "from splatlearn import rasterization",
        "ops/adam.py": "import splatlearn.config",
        "show/report.py": "from splatlearn.cli import main",
        "text/sampling.py": "import torch",
    }
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    assert wrong_imports(package) == [
        "errors.py imports __init__",
        "line/task.py imports scene",
        "loop.py imports line",
        "ops/adam.py imports config",
        "scene/gaussians.py imports text",
        "scene/ply.py imports __init__",
        "show/report.py imports cli",
    ], "the check above misses a kind of import, or objects to a right one"


def imported_files(package: Path) -> dict[str, set[str]]:
    """Each file of a package, and the files of it that it imports: within functions and for type checkers, too."""
    files = {module_of(path, package): path for path in package.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for module, path in files.items():
        names = set(imported_names(path, package))
        exact = {name for name in names if name in files}  # a module of a package
        found[module] = (exact | {name.rpartition(".")[0] for name in names - exact} & files.keys()) - {module}
    return found


def module_of(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Circles of a graph, each once, from a depth-first search."""
    found, done = [], set()

    def walk(node: str, path: list[str]) -> None:
        if node in path:
            found.append(path[path.index(node) :])
        elif node not in done:
            for target in sorted(graph[node]):
                walk(target, [*path, node])
            done.add(node)

    for node in sorted(graph):
        walk(node, [])
    return found


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles(imported_files(PACKAGE)) == [], "these files cannot be understood or tested one by one"


def test_circles_are_found(tmp_path: Path) -> None:
    package = tmp_path / "splatlearn"
    files = {
        "__init__.py": "",
        "a.py": "from splatlearn.b import f",
        "b.py": "def f():\n    from splatlearn import c",
        "c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import splatlearn.a",
        "room/__init__.py": "from splatlearn.room.d import x",
        "room/d.py": "from splatlearn import errors",
        "errors.py": "",
        "e.py": "from splatlearn.room import x\nfrom splatlearn import a",
    }
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    graph = imported_files(package)
    assert graph["splatlearn.e"] == {"splatlearn.room", "splatlearn.a"}, "the files that a file imports are others"
    assert circles(graph) == [["splatlearn.a", "splatlearn.b", "splatlearn.c"]], "a circle is missed, or one invented"


def test_the_loop_knows_torch_and_errors_alone() -> None:
    names = {name.split(".")[0] for name in imported_names(PACKAGE / "loop.py", PACKAGE)}
    assert names - set(sys.stdlib_module_names) == {"torch", "tqdm", "splatlearn"}, "the loop depends on more"


def test_no_shipped_file_imports_the_reference() -> None:
    shipped = [path for folder in ("splatlearn", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(shipped) > 10, "the shipped files were not found"
    for path in shipped:
        names = imported_names(path, PACKAGE) if path.is_relative_to(PACKAGE) else imported_names(path, path.parent)
        for name in names:
            assert "splatlearn.ops.reference" not in name, f"{path}: the oracle is for tests, not for users"


def top_level_imports(body: list[ast.stmt]) -> Iterator[str]:
    """What runs at import time: not within functions, and not for type checkers alone."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from top_level_imports(node.orelse)
        elif isinstance(node, (ast.If, ast.Try, ast.With, ast.ClassDef)):
            for block in ("body", "orelse", "finalbody"):
                yield from top_level_imports(getattr(node, block, []))
            for handler in getattr(node, "handlers", []):
                yield from top_level_imports(handler.body)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_libraries_are_imported_where_they_are_used(path: Path) -> None:
    heavy = {name.split(".")[0] for name in top_level_imports(ast.parse(path.read_text(encoding="utf-8")).body)}
    assert not heavy & LAZY, f"{path} makes `import splatlearn` slow"


def test_importing_the_package_is_light() -> None:
    program = "import sys, splatlearn; print(*{name.split('.')[0] for name in sys.modules})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program]
    loaded = subprocess.run(command, check=True, env=environment, capture_output=True, text=True).stdout.split()
    assert "splatlearn" in loaded, "the list of modules was not read"
    assert not LAZY & set(loaded), "`import splatlearn` loads a library that few users need"


def test_pycolmap_is_loaded_in_one_place() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    found = [name for name, text in texts.items() if re.search(r"^\s+import pycolmap", text, re.MULTILINE)]
    assert found == ["sfm_library.py"], "elsewhere its signal handler would stay"


def test_a_program_that_is_told_to_end_ends_without_a_word() -> None:
    program = (
        "import os, signal; from splatlearn.scene.sfm_library import load_pycolmap; load_pycolmap();"
        "os.kill(os.getpid(), signal.SIGTERM)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM, "SIGTERM did not end it"
    assert done.stderr == "", "a stack of C++ was printed"


# ---- C++ and CUDA ----


def wrong_includes(csrc: Path) -> list[str]:
    found = []
    for path in sorted(csrc.rglob("*")):
        part = path.relative_to(csrc).parts[0]
        if path.suffix not in (".h", ".cpp", ".cu", ".cuh") or part not in MAY_INCLUDE:
            continue
        for included in re.findall(r'^\s*#\s*include\s*"([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE):
            beside, below = path.parent / included, csrc / included
            target = (beside if beside.exists() else below).resolve()
            if not target.is_relative_to(csrc.resolve()):
                found.append(f"{path.relative_to(csrc)} includes {included}, which is outside of csrc")
            elif target.relative_to(csrc.resolve()).parts[0] not in MAY_INCLUDE[part]:
                found.append(f"{path.relative_to(csrc)} includes {included}")
    return found


def test_backends_include_math_alone() -> None:
    csrc = ROOT / "csrc"
    if not csrc.is_dir():
        pytest.skip("the native sources are not here")
    # With SPLATLEARN_EMULATOR set, launch.h is the one door from the kernels to the emulator.
    crossed = set(wrong_includes(csrc)) - {"cuda/launch.h includes ../emulator/emulator.h"}
    assert not crossed, f"the layers of the native core are crossed: {crossed}"


def test_crossed_includes_are_found(tmp_path: Path) -> None:
    files = {
        "abi.h": "",
        "math/sh.h": '#include "scalar.h"\n#include <cmath>',
        "math/scalar.h": '# include "../cpu/lanes.h"',
        "math/tile.h": '#include "abi.h"\n#include "../cuda/launch.cuh"',
        "cpu/lanes.h": '#include "math/sh.h"\n#include "abi.h"',
        "cpu/bin.cpp": '#include "lanes.h"\n  #include "../cuda/launch.cuh"',
        "cuda/launch.cuh": '#include "../math/sh.h"\n#include "../../secret.h"',
        "cuda/bin.cu": '#include "launch.cuh"\n#include "cpu/lanes.h"',
    }
    for name, text in files.items():
        (tmp_path / "csrc" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "csrc" / name).write_text(text)
    assert wrong_includes(tmp_path / "csrc") == [
        "cpu/bin.cpp includes ../cuda/launch.cuh",
        "cuda/bin.cu includes cpu/lanes.h",
        "cuda/launch.cuh includes ../../secret.h, which is outside of csrc",
        "math/scalar.h includes ../cpu/lanes.h",
        "math/tile.h includes ../cuda/launch.cuh",
    ], "the check above misses a kind of include, or objects to a right one"
