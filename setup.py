"""Builds the native core with compilers alone: no torch, no CMake, a library per backend, one wheel for all Pythons.

    pip install .                            a package with its libraries
    python setup.py build_ext --inplace      libraries into this checkout; compiles only what has changed
    python setup.py compile_commands         compile_commands.json, for editors and clang's tools
    python setup.py build_emulator --out F   the CUDA kernels for the CPU emulator, for tests

build_native/ has the sources, flags and the reader of csrc/abi.h.
"""

import json
import shutil
import sys
from pathlib import Path

from setuptools import Command, Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # a build in isolation does not have it
from build_native import targets  # noqa: E402
from build_native.steps import Step, locked, run_steps  # noqa: E402

CPU, CUDA = "splatlearn.ops.libsplatlearn_cpu", "splatlearn.ops.libsplatlearn_cuda"


class PackageBuild(build_py):
    """Copies the configs into the package too, so that `splatlearn train scene.yaml` needs no checkout."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib) / "splatlearn", ignore_errors=True)  # of modules that are no more
        super().run()
        if not self.editable_mode:
            shutil.copytree(ROOT / "configs", Path(self.build_lib) / "splatlearn/configs", dirs_exist_ok=True)


class NativeBuild(build_ext):
    """Compiles and links the library of each backend."""

    def finalize_options(self) -> None:
        self.nvcc = targets.nvcc()
        if self.nvcc and all(extension.name != CUDA for extension in self.distribution.ext_modules):
            self.distribution.ext_modules.append(Extension(CUDA, sources=["csrc/cuda/api.cu"]))
        super().finalize_options()

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"  # a plain library loaded by ctypes, not a Python module

    def build_extensions(self) -> None:
        folder = Path(self.build_temp).resolve()
        with locked(folder):
            libraries = native_libraries(folder, self.nvcc)
            build(libraries)
            for name, steps in libraries.items():
                replace(steps[-1].out, Path(self.get_ext_fullpath(name)))
        if not self.nvcc:
            self.remove_cuda(Path(self.build_lib))

    def copy_extensions_to_source(self) -> None:
        if not self.nvcc:
            self.remove_cuda(ROOT)
        super().copy_extensions_to_source()

    def remove_cuda(self, place: Path) -> None:
        """Removes the library of an earlier build: built without CUDA, this one must not contain it."""
        (place / self.get_ext_filename(CUDA)).unlink(missing_ok=True)


def native_libraries(folder: Path, nvcc: str | None) -> dict[str, list[Step]]:
    """The steps of each library, of which the last one links it."""
    cpu = {CPU: targets.cpu_library(folder)}
    return cpu | {CUDA: targets.cuda_library(folder, nvcc)} if nvcc else cpu


def build(libraries: dict[str, list[Step]]) -> None:
    """Compiles what has changed, of all libraries side by side, and then links them."""
    objects = {step.out: step for steps in reversed(libraries.values()) for step in steps[:-1]}
    compiled = run_steps(list(objects.values()), targets.CSRC)
    linked = run_steps([steps[-1] for steps in libraries.values()], targets.CSRC)
    print(f"splatlearn: compiled {len(compiled)} of {len(objects)} files, linked {len(linked)} of {len(libraries)}")


def replace(built: Path, target: Path) -> None:
    """Copies a library over another one, which a running process may have mapped."""
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(target.name + ".new")
    shutil.copy(built, new)
    new.replace(target)


class CompileCommands(Command):
    """Writes compile_commands.json, the compilation database that clangd and clang-tidy read."""

    description = "write compile_commands.json"
    user_options = [("out=", None, "the file to write (default: compile_commands.json beside setup.py)")]

    def initialize_options(self) -> None:
        self.out: str | None = None

    def finalize_options(self) -> None:
        self.out = self.out or str(ROOT / "compile_commands.json")

    def run(self) -> None:
        libraries = native_libraries(ROOT / "build/objects", targets.nvcc())
        steps = {step.out: step for steps in libraries.values() for step in steps[:-1]}.values()
        entries = [
            {
                "directory": str(ROOT),
                "file": str(step.inputs[0]),
                "arguments": step.arguments(),
                "output": str(step.out),
            }
            for step in steps
        ]
        Path(str(self.out)).write_text(json.dumps(entries, indent=1) + "\n")


class EmulatorBuild(Command):
    """Compiles the CUDA kernels with the C++ compiler for the emulator (csrc/emulator), for tests alone.

    `python setup.py build_emulator --out FILE [--sanitize thread | --sanitize address,undefined]` builds the library of
    all kernels; with `--program SOURCE`, a file that has a main, a program of it and the emulator alone.
    """

    description = "compile the CUDA kernels for the CPU emulator (tests)"
    user_options = [
        ("out=", None, "the file to write"),
        ("objects=", None, "the folder to keep object files in (default: build/emulator beside setup.py)"),
        ("sanitize=", None, "sanitizers to build with: thread, or address,undefined"),
        ("program=", None, "a file with a main: build a program of it and the emulator alone"),
    ]

    def initialize_options(self) -> None:
        self.out: str | None = None
        self.objects: str | None = None
        self.sanitize: str | None = None
        self.program: str | None = None

    def finalize_options(self) -> None:
        if not self.out:
            sys.exit("splatlearn: build_emulator needs --out FILE.")

    def run(self) -> None:
        kind = "-".join(["program" if self.program else "kernels", *(self.sanitize or "").split(",")])
        folder = Path(self.objects or ROOT / "build/emulator").resolve() / kind
        with locked(folder):
            steps = targets.emulator(folder, self.sanitize, self.program)
            build({"emulator": steps})
            replace(steps[-1].out, Path(str(self.out)))


class AnyPythonWheel(bdist_wheel):
    """Tags the wheel for every version of Python, as the libraries depend on none."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", targets.wheel_platform(super().get_tag()[2])


setup(
    ext_modules=[Extension(CPU, sources=["csrc/cpu/dispatch.cpp"])],
    cmdclass={
        "build_py": PackageBuild,
        "build_ext": NativeBuild,
        "bdist_wheel": AnyPythonWheel,
        "build_emulator": EmulatorBuild,
        "compile_commands": CompileCommands,
    },
)
