"""Builds the native core with compilers alone: no torch, no CMake, a library per backend, one wheel for all Pythons."""

import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Command, Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools before 70.1 left it to the wheel package
    from wheel.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # a build in isolation does not have it
from build_native import abi  # noqa: E402

STAGES = ["project", "bin", "rasterize", "photometric", "adam"]
CPU_SOURCES = ["rasterize_backward", "project_update", "project_backward", *STAGES, "rasterize_sums", "peak"]
KERNELS = ["rasterize_backward", "project_update", "project_backward", *STAGES, "bin_write", "bin_tiles"]
KERNELS += ["rasterize_sums", "rasterize_order", "api"]
EMULATED_SOURCES = [f"csrc/cuda/{name}.cu" for name in KERNELS]
CUDA_SOURCES = ["csrc/cuda/sort.cu", *EMULATED_SOURCES]  # what takes longest goes first
EMULATOR_SOURCES = [f"csrc/emulator/{name}.cpp" for name in ("machine", "exchange", "report", "fiber", "sort")]
CPU, CUDA = "splatlearn.ops.libsplatlearn_cpu", "splatlearn.ops.libsplatlearn_cuda"
# Never -march=native (wheels travel) and never -ffast-math (it breaks rounding by a magic number).
CXX_FLAGS = ["-std=c++17", "-O3", "-fopenmp", "-fPIC", "-fvisibility=hidden", "-fno-exceptions"]
CXX_FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-fno-tree-loop-distribute-patterns"]
CXX_FLAGS += ["-Wall", "-Wextra", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]
CUDA_FLAGS = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
CUDA_DEFAULT_ARCHS = ["75", "80", "90", "120"]
EMULATOR_FLAGS = ["-std=c++17", "-DSPLATLEARN_EMULATOR", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-g1"]
EMULATOR_FLAGS += ["-Wall", "-Wextra", "-Wno-unknown-pragmas"]


def isa_levels() -> dict[str, list[str]]:
    """Instruction-set levels to compile, each with its flags; the library chooses among them when it is loaded."""
    if platform.machine() in ("x86_64", "AMD64"):
        return {level: [f"-march=x86-64-{level}"] for level in ("v2", "v3", "v4")}
    return {"portable": []}


def cxx() -> list[str]:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler or not shutil.which(compiler.split()[0]):
        sys.exit(
            "splatlearn: no C++ compiler was found, and its native core is compiled on installation; "
            "install one (Debian/Ubuntu: apt install g++; Fedora: dnf install gcc-c++) or name one in CXX."
        )
    return compiler.split()


def answer(*command: str) -> str:
    """What a command prints; nothing where it is absent or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def nvcc() -> str | None:
    """The CUDA compiler, or None to build without CUDA, as SPLATLEARN_CUDA (auto, 0 or 1) and the machine say."""
    wanted = os.environ.get("SPLATLEARN_CUDA", "auto") or "auto"
    if wanted not in ("auto", "0", "1"):
        sys.exit(f'splatlearn: SPLATLEARN_CUDA is "{wanted}", but it takes auto, 0 or 1.')
    if wanted == "0":
        return None
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    for compiler in (os.environ.get("NVCC"), shutil.which("nvcc"), f"{home}/bin/nvcc"):
        if compiler and "release" in answer(compiler, "--version"):
            return compiler
    if wanted == "1":
        sys.exit(
            "splatlearn: SPLATLEARN_CUDA=1 asks for the CUDA backend, but no nvcc was found; put the CUDA toolkit's "
            "bin folder on PATH, or name nvcc in NVCC, or leave SPLATLEARN_CUDA unset to build for the CPU alone."
        )
    return None


def cuda_archs(compiler: str) -> list[str]:
    """Architectures: those of SPLATLEARN_CUDA_ARCHS, else of the cards present, else the usual ones that nvcc knows."""
    archs = os.environ.get("SPLATLEARN_CUDA_ARCHS", "").replace(".", "").replace(",", " ").replace(";", " ").split()
    for arch in archs:
        if not re.fullmatch(r"\d{2,3}[af]?", arch):
            sys.exit(f'splatlearn: SPLATLEARN_CUDA_ARCHS holds "{arch}", but it takes numbers such as 90 or 8.6.')
    if not archs:
        cards = answer("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
        archs = [major + minor for major, minor in re.findall(r"^(\d+)\.(\d)$", cards, re.M)]
    if not archs:
        known = re.findall(r"compute_(\d+)\b", answer(compiler, "--list-gpu-arch"))
        archs = [arch for arch in CUDA_DEFAULT_ARCHS if arch in known] or known[-1:]
    return sorted(set(archs), key=lambda arch: int(arch.rstrip("af")))


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"splatlearn: this command failed:\n  {' '.join(command)}\n{done.stderr or done.stdout}")


def run_all(commands: list[list[str]]) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run, commands))


def cpu_objects(folder: Path) -> list[list[str]]:
    """Commands that compile each CPU file once per instruction-set level; the last word of each is the object."""
    commands = []
    for level, flags in isa_levels().items():
        for name in CPU_SOURCES:
            space = f"-DSPLATLEARN_NAMESPACE=splatlearn_{level}"
            source, out = ROOT / f"csrc/cpu/{name}.cpp", folder / f"cpu_{name}_{level}.o"
            commands.append([*cxx(), *CXX_FLAGS, *flags, space, "-c", str(source), "-o", str(out)])
    for name in ("dispatch", "scratch"):  # of no level
        source, out = ROOT / f"csrc/cpu/{name}.cpp", folder / f"cpu_{name}.o"
        commands.append([*cxx(), *CXX_FLAGS, "-c", str(source), "-o", str(out)])
    return commands


def cuda_objects(folder: Path, compiler: str) -> list[list[str]]:
    """Commands that compile each CUDA file for all architectures, with PTX of the highest for cards to come."""
    archs = cuda_archs(compiler)
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    flags.append(f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}")
    if "--compress-mode" in answer(compiler, "--help"):  # since CUDA 12.8; halves the library
        flags.append("--compress-mode=size")
    if os.environ.get("SPLATLEARN_CUDA_LINEINFO") == "1":  # for profilers and compute-sanitizer
        flags.append("-lineinfo")
    if os.environ.get("CXX"):
        flags.append(f"-ccbin={cxx()[0]}")
    outs = [(ROOT / source, folder / f"cuda_{Path(source).stem}.o") for source in CUDA_SOURCES]
    return [[compiler, *CUDA_FLAGS, *flags, "-c", str(source), "-o", str(out)] for source, out in outs]


def layout_object(folder: Path) -> list[str]:
    """The command that compiles what a library reports of its ABI; also writes the Python side of csrc/abi.h."""
    header = ROOT / "csrc/abi.h"
    try:
        known = abi.read(header)
    except abi.AbiError as error:
        sys.exit(f"splatlearn: {error}.")
    module, text = ROOT / "splatlearn/ops/abi.py", abi.python_source(known)
    if module.read_text() != text:
        module.write_text(text)
    source = folder / "layout.cpp"
    source.write_text(abi.layout_source(known, header, ""))
    return [*cxx(), "-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-c", str(source), "-o", f"{source}.o"]


class BuildWithConfigs(build_py):
    """The configs travel with the package, so that `splatlearn train scene.yaml` needs no checkout."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copytree(ROOT / "configs", Path(self.build_lib) / "splatlearn/configs", dirs_exist_ok=True)


class NativeBuild(build_ext):
    """Compiles the library of each backend; all objects at once, then a link each."""

    def finalize_options(self) -> None:
        self.nvcc = nvcc()
        if self.nvcc and all(extension.name != CUDA for extension in self.distribution.ext_modules):
            self.distribution.ext_modules.append(Extension(CUDA, sources=["csrc/cuda/api.cu"]))
        super().finalize_options()

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"  # a plain library loaded by ctypes, not a Python module

    def build_extensions(self) -> None:
        folder = Path(self.build_temp) / "objects"
        shutil.rmtree(folder, ignore_errors=True)  # a stale object must never be linked
        folder.mkdir(parents=True)
        cpu = cpu_objects(folder)
        cuda = cuda_objects(folder, self.nvcc) if self.nvcc else []
        layout = layout_object(folder)
        run_all([*cuda, *cpu, layout])
        cpu, cuda = [*cpu, layout], [*cuda, layout]
        self.link(CPU, [*cxx(), "-shared", "-fopenmp"], cpu)
        if self.nvcc:
            self.link(CUDA, [self.nvcc, "-shared", "-cudart=static", "-Xlinker", "--exclude-libs,ALL"], cuda)
        else:
            self.forget_cuda(Path(self.build_lib))

    def copy_extensions_to_source(self) -> None:
        if not self.nvcc:
            self.forget_cuda(ROOT)
        super().copy_extensions_to_source()

    def forget_cuda(self, place: Path) -> None:
        """Removes the library of an earlier build: built without CUDA, this one must not carry it."""
        (place / self.get_ext_filename(CUDA)).unlink(missing_ok=True)

    def link(self, name: str, command: list[str], compiled: list[list[str]]) -> None:
        target = Path(self.get_ext_fullpath(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        linked = target.with_suffix(".new")
        run([*command, *(words[-1] for words in compiled), "-o", str(linked)])
        linked.replace(target)  # never overwrite a library that a running process has mapped


class EmulatorBuild(Command):
    """Compiles the CUDA kernels with the C++ compiler for the emulator (csrc/emulator), for tests alone.

    `python setup.py build_emulator --out FILE [--sanitize thread | --sanitize address,undefined]` builds the library of
    all kernels; with `--program SOURCE`, a file that has a main, a program of it and the emulator alone.
    """

    description = "compile the CUDA kernels for the CPU emulator (tests)"
    user_options = [
        ("out=", None, "the file to write"),
        ("sanitize=", None, "sanitizers to build with: thread, or address,undefined"),
        ("program=", None, "a file with a main: build a program of it and the emulator alone"),
    ]

    def initialize_options(self) -> None:
        self.out: str | None = None
        self.sanitize: str | None = None
        self.program: str | None = None

    def finalize_options(self) -> None:
        if not self.out:
            sys.exit("splatlearn: build_emulator wants --out FILE.")

    def run(self) -> None:
        target = Path(str(self.out))
        folder = target.with_name(target.name + ".objects")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        sanitize: list[str] = []
        if self.sanitize:
            sanitize = [f"-fsanitize={self.sanitize}", "-fno-sanitize-recover=all"]
        sources = [*([self.program] if self.program else EMULATED_SOURCES), *EMULATOR_SOURCES]
        commands = []
        for source in sources:
            out = folder / f"{Path(source).stem}_{Path(source).suffix[1:]}.o"
            flags = [*EMULATOR_FLAGS, "-O0" if self.sanitize else "-O2", *sanitize]
            commands.append([*cxx(), *flags, "-x", "c++", "-c", str(ROOT / source), "-o", str(out)])
        commands.append(layout_object(folder))
        run_all(commands)
        kind = [] if self.program else ["-shared"]
        run([*cxx(), *kind, *sanitize, *(command[-1] for command in commands), "-o", str(target)])
        shutil.rmtree(folder)


class AnyPythonWheel(bdist_wheel):
    """The library knows no Python, so that one wheel serves every version of it."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension(CPU, sources=["csrc/cpu/dispatch.cpp"])],
    cmdclass={
        "build_py": BuildWithConfigs,
        "build_ext": NativeBuild,
        "bdist_wheel": AnyPythonWheel,
        "build_emulator": EmulatorBuild,
    },
)
