"""Builds the native core with the compilers alone: no torch, no CMake, one shared library per backend, one wheel for every Python."""

import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools before 70.1 left it to the wheel package
    from wheel.bdist_wheel import bdist_wheel

ROOT = Path(__file__).parent
CPU_STAGES = ["project", "bin", "rasterize", "photometric", "adam"]
CPU_LIBRARY = "splatlearn/ops/libsplatlearn_cpu.so"
# Never -march=native (wheels travel) and never -ffast-math (it breaks rounding by a magic number).
CXX_FLAGS = ["-std=c++17", "-O3", "-fopenmp", "-fPIC", "-fvisibility=hidden", "-fno-exceptions"]
CXX_FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]


def isa_levels() -> dict[str, list[str]]:
    """Instruction-set levels to compile, each with its flags; the library chooses among them when it is loaded."""
    if platform.machine() in ("x86_64", "AMD64"):
        return {level: [f"-march=x86-64-{level}"] for level in ("v2", "v3", "v4")}
    return {"portable": []}


def cxx() -> str:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler or not shutil.which(compiler.split()[0]):
        sys.exit(
            "splatlearn: no C++ compiler was found, and its native core is compiled on installation; "
            "install one (Debian/Ubuntu: apt install g++; Fedora: dnf install gcc-c++) or name one in CXX."
        )
    return compiler


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"splatlearn: this command failed:\n  {' '.join(command)}\n{done.stderr or done.stdout}")


class NativeBuild(build_ext):
    """Compiles each CPU stage once per instruction-set level and links them into one library."""

    def get_ext_filename(self, fullname: str) -> str:
        return CPU_LIBRARY  # a plain library loaded by ctypes, not a Python module

    def build_extension(self, ext: Extension) -> None:
        target = ROOT / CPU_LIBRARY if self.inplace else Path(self.build_lib) / CPU_LIBRARY
        objects = Path(self.build_temp) / "cpu"
        shutil.rmtree(objects, ignore_errors=True)  # a stale object must never be linked
        objects.mkdir(parents=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        compiler, jobs = cxx().split(), []
        for level, flags in isa_levels().items():
            for stage in CPU_STAGES:
                space = f"-DSPLATLEARN_NAMESPACE=splatlearn_{level}"
                source, out = ROOT / f"csrc/cpu/{stage}.cpp", objects / f"{stage}_{level}.o"
                jobs.append([*compiler, *CXX_FLAGS, *flags, space, "-c", str(source), "-o", str(out)])
        dispatch = objects / "dispatch.o"
        jobs.append([*compiler, *CXX_FLAGS, "-c", str(ROOT / "csrc/cpu/dispatch.cpp"), "-o", str(dispatch)])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(run, jobs))
        linked = target.with_suffix(".new")
        run([*compiler, "-shared", "-fopenmp", *(job[-1] for job in jobs), "-o", str(linked)])
        linked.replace(target)  # never overwrite a library that a running process has mapped


class AnyPythonWheel(bdist_wheel):
    """The library knows no Python, so that one wheel serves every version of it."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("splatlearn.ops.libsplatlearn_cpu", sources=["csrc/cpu/dispatch.cpp"])],
    cmdclass={"build_ext": NativeBuild, "bdist_wheel": AnyPythonWheel},
)
