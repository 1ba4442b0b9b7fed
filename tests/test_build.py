"""The build compiles what has changed and nothing else, and what `pip install .` leaves works in the checkout too."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))
from build_native.steps import Step, run_steps  # noqa: E402  (a folder beside setup.py, which no installation has)

CXX = os.environ.get("CXX", "g++").split()


class Project:
    """Two files of which one includes a header, and a program of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.flags = folder, ["-O0"]
        self.write("number.h", "constexpr int number = 1;")
        self.write("one.cpp", '#include "number.h"\nint one() { return number; }')
        self.write("main.cpp", "int one();\nint main() { return one(); }")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def build(self) -> list[str]:
        """The files that were made."""
        out = self.folder / "objects"
        command = [*CXX, *self.flags, "-c"]
        objects = [Step(command, [self.folder / f"{name}.cpp"], out / f"{name}.o") for name in ("one", "main")]
        program = Step(CXX, [step.out for step in objects], out / "program", depfile=False)
        made = [*run_steps(objects, self.folder), *run_steps([program], self.folder)]
        return sorted(step.out.name for step in made)

    def result(self) -> int:
        return subprocess.run([str(self.folder / "objects/program")]).returncode


def test_only_what_has_changed_is_compiled(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert project.build() == ["main.o", "one.o", "program"] and project.result() == 1
    assert project.build() == [], "nothing has changed"
    project.write("number.h", "constexpr int number = 2;")
    assert project.build() == ["one.o", "program"] and project.result() == 2
    project.write("main.cpp", "int one();\nint main() { return 10 * one(); }")
    assert project.build() == ["main.o", "program"] and project.result() == 20
    project.flags = ["-O1"]
    assert project.build() == ["main.o", "one.o", "program"], "objects of other flags are linked"


def test_a_stale_object_is_never_linked(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.build()
    dates = {name: (tmp_path / name).stat() for name in ("number.h", "one.cpp", "main.cpp")}
    project.write("number.h", "constexpr int number = 3;")
    for name, before in dates.items():  # as `cp -p` or an archive does
        os.utime(tmp_path / name, ns=(before.st_atime_ns, before.st_mtime_ns - 10**12))
    assert project.build() == ["one.o", "program"] and project.result() == 3, "a change with an old date goes unnoticed"
    shutil.copy(tmp_path / "objects/main.o", tmp_path / "objects/one.o")
    assert project.build() == ["one.o"] and project.result() == 3, "an object that something else wrote is linked"
    (tmp_path / "objects/one.o.d").unlink()
    assert "one.o" in project.build(), "an object is kept whose headers nobody knows"
    project.write("one.cpp", "int one() { return }")
    with pytest.raises(SystemExit, match="splatlearn: this command failed"):
        project.build()
    project.write("one.cpp", "int one() { return 4; }")
    assert project.build() == ["one.o", "program"] and project.result() == 4


def test_an_edit_during_the_build_is_compiled_by_the_next_one(tmp_path: Path) -> None:
    Project(tmp_path)
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\n{' '.join(CXX)} \"$@\" && echo 'constexpr int number = 5;' > {tmp_path}/number.h\n")
    slow.chmod(0o755)
    run_steps([Step([str(slow), "-O0", "-c"], [tmp_path / "one.cpp"], tmp_path / "one.o")], tmp_path)
    again = run_steps([Step([str(slow), "-O0", "-c"], [tmp_path / "one.cpp"], tmp_path / "one.o")], tmp_path)
    assert len(again) == 1, "an object of the file before the edit counts as one of the file after it"


def test_compile_commands_name_every_source(tmp_path: Path) -> None:
    out = tmp_path / "compile_commands.json"
    environment = dict(os.environ, SPLATLEARN_CUDA="0")
    command = [sys.executable, "setup.py", "-q", "compile_commands", f"--out={out}"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    entries = json.loads(out.read_text())
    files = {Path(entry["file"]).name for entry in entries}
    assert {path.name for path in (ROOT / "csrc/cpu").glob("*.cpp")} <= files
    assert all("-std=c++17" in entry["arguments"] for entry in entries)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout as the source distribution has it, without libraries."""
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "setup.py", "-q", "egg_info", "-e", str(folder), "sdist", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


ALONE = """
import sys
from pathlib import Path
import torch  # it may be in the folder that is taken out of the path
sys.path = [entry for entry in sys.path if not (Path(entry) / "splatlearn/ops/libsplatlearn_cpu.so").exists()]
"""
RENDER = """
import torch, splatlearn
from splatlearn.ops import native
quats = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
Ks, viewmats = torch.tensor([[[20.0, 0.0, 8.0], [0.0, 20.0, 8.0], [0.0, 0.0, 1.0]]]), torch.eye(4)[None]
means, scales = torch.tensor([[0.0, 0.0, 2.0]]), torch.full((1, 3), 0.2)
image, _, _ = splatlearn.rasterization(means, quats, scales, torch.ones(1), torch.ones(1, 3), viewmats, Ks, 16, 16)
assert image.max() > 0.9
print(splatlearn.__file__, native.CPU_LIBRARY)
"""


def test_a_checkout_works_after_pip_install(sdist: Path, tmp_path: Path) -> None:
    """Python started in the checkout finds its package first, which has no libraries: those installed serve it."""
    compiler = tmp_path / "g++"  # without optimization, which takes most of a minute
    compiler.write_text(f'#!/bin/sh\nexec {shutil.which(CXX[0])} "$@" -O0\n')
    compiler.chmod(0o755)
    site = tmp_path / "site"
    environment = dict(os.environ, SPLATLEARN_CUDA="0", CXX=str(compiler), PYTHONPATH=str(site))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--upgrade"]

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *arguments], cwd=sdist, env=environment, capture_output=True, text=True)

    def install() -> None:
        done = subprocess.run(
            [*pip, "--target", str(site), "."], cwd=sdist, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]

    missing = python("-c", ALONE + RENDER)  # the tests themselves may run in an environment that has it
    assert "is missing; reinstall with `pip install .`" in missing.stderr
    install()
    used = python("-c", RENDER)
    assert used.returncode == 0, used.stderr[-2000:]
    package, library = used.stdout.split()
    assert Path(package).is_relative_to(sdist) and Path(library).is_relative_to(site), "it does not test the checkout"
    (sdist / "csrc/math/adam.h").write_text((sdist / "csrc/math/adam.h").read_text() + "// changed\n")
    stale = python("-c", RENDER).stderr.strip().splitlines()[-1]
    assert "was not built from this checkout's csrc; reinstall with `pip install .`" in stale, stale
    (sdist / "splatlearn/gone.py").touch()
    install()
    (sdist / "splatlearn/gone.py").unlink()
    assert python("-c", RENDER).returncode == 0, "the remedy that the message names does not help"
    shutil.rmtree(site)
    install()
    assert not (site / "splatlearn/gone.py").exists(), "a module that is no more is installed from the build folder"
    assert (site / "splatlearn/configs").is_dir() and not (site / "build_native").exists()
