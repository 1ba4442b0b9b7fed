"""A copy of the sources that gains a capability: its files are edited and counted, and its CPU library is built."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("csrc", "build_native", "splatlearn")
Edits = Mapping[str, tuple[tuple[str, str], ...]]  # file: (what stands there, what is put before it)

# The library of one instruction-set level, with little optimisation: this test is about derivatives, not speed.
BUILD = """
import sys
from pathlib import Path
from build_native import targets
from build_native.steps import run_steps
targets.isa_levels = lambda: {"portable": []}
targets.CXX_FLAGS = [flag for flag in targets.CXX_FLAGS if flag != "-O3"] + ["-O1", "-DSPLATLEARN_PORTABLE"]
steps = targets.cpu_library(Path("build").resolve())
run_steps(steps[:-1], targets.CSRC)
run_steps(steps[-1:], targets.CSRC)
Path("build/libsplatlearn_cpu.so").rename("splatlearn/ops/libsplatlearn_cpu.so")
"""


def copy_with(folder: Path, new: Mapping[str, str], edits: Edits) -> None:
    """Copy the sources into a folder, write the new files and edit others; a place must be there once."""
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name, text in new.items():
        (folder / name).write_text(text)
    for name, places in edits.items():
        text = (ROOT / name).read_text()
        for place, addition in places:
            assert text.count(place) == 1, f"{name} has {text.count(place)} places like {place!r}"
            text = text.replace(place, addition + place)
        (folder / name).write_text(text)


def build(folder: Path) -> None:
    """Build the CPU library of the copy; files that the build writes are written too."""
    python(BUILD, folder)


def changed_files(folder: Path) -> list[str]:
    """The source files of the copy that differ from ours, sorted."""
    sources = [path for part in PARTS for path in (folder / part).rglob("*") if path.suffix in (".h", ".cpp", ".py")]
    return sorted(
        path.relative_to(folder).as_posix()
        for path in sources
        if not (old := ROOT / path.relative_to(folder)).exists() or not filecmp.cmp(path, old, shallow=False)
    )


def python(script: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:] or done.stdout[-3000:]
    return done.stdout
