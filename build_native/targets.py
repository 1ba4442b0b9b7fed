"""What the native libraries consist of: sources, compilers, flags, and the steps that compile and link them."""

import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from build_native import abi
from build_native.steps import Step

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
STAGES = ["project", "bin", "rasterize", "photometric", "adam"]
CPU_SOURCES = ["rasterize_backward", "project_update", "project_backward", *STAGES, "rasterize_sums", "peak"]
KERNELS = ["rasterize_backward", "project_update", "project_backward", *STAGES, "bin_write", "bin_tiles"]
KERNELS += ["rasterize_sums", "rasterize_order", "api"]
EMULATED_SOURCES = [f"csrc/cuda/{name}.cu" for name in KERNELS]
CUDA_SOURCES = ["csrc/cuda/sort.cu", *EMULATED_SOURCES]  # what takes longest goes first
EMULATOR_SOURCES = [f"csrc/emulator/{name}.cpp" for name in ("machine", "exchange", "report", "fiber", "sort")]
# Never -march=native (wheels travel) and never -ffast-math (it breaks rounding by a magic number).
CXX_FLAGS = ["-std=c++17", "-O3", "-fopenmp", "-fPIC", "-fvisibility=hidden", "-fno-exceptions"]
CXX_FLAGS += ["-ffp-contract=off"]  # csrc/cpu/lanes.h says where a product is fused with a sum
CXX_FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-fno-tree-loop-distribute-patterns"]
CXX_FLAGS += ["-Wall", "-Wextra", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]
CUDA_FLAGS = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
CUDA_DEFAULT_ARCHS = ["75", "80", "90", "120"]
EMULATOR_FLAGS = ["-std=c++17", "-DSPLATLEARN_EMULATOR", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-g1"]
EMULATOR_FLAGS += ["-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-bitwise-instead-of-logical"]


def machine() -> str:
    """The processor that the libraries are for: this one's, or for a cross-compiler what SPLATLEARN_MACHINE names."""
    name = os.environ.get("SPLATLEARN_MACHINE") or platform.machine()
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(name, name)


def wheel_platform(own: str) -> str:
    """The platform tag of a wheel: `own`, this machine's, or the other processor's of a cross-compiler."""
    there = os.environ.get("SPLATLEARN_MACHINE")
    return re.sub(rf"{re.escape(platform.machine())}$", machine(), own) if there else own


def isa_levels() -> dict[str, list[str]]:
    """Instruction-set levels with their flags; the library chooses one of them when it is loaded."""
    if machine() == "x86_64":
        levels = {level: [f"-march=x86-64-{level}"] for level in ("v2", "v3", "v4")}
        return levels | {"v2_exact": [*levels["v2"], "-DSPLATLEARN_EMULATE_FMA"]}
    if machine() == "aarch64":
        return {"neon": []}
    return {"portable": []}


def cxx() -> list[str]:
    """The C++ compiler, with the flags that CXX may hold."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler or not shutil.which(compiler.split()[0]):
        sys.exit(
            "splatlearn: no C++ compiler was found, and its native core is compiled on installation; "
            "install one (Debian/Ubuntu: apt install g++; Fedora: dnf install gcc-c++) or name one in CXX."
        )
    return compiler.split()


def cxx_flags(compiler: list[str]) -> list[str]:
    """CXX_FLAGS as this compiler takes them: clang has no flag for what GCC does with loops, nor GCC's pragmas."""
    if "clang" not in answer(*compiler, "--version"):
        return CXX_FLAGS
    gcc_only = ("-fno-tree-loop-distribute-patterns", "-Wno-maybe-uninitialized")
    return [
        *(flag for flag in CXX_FLAGS if flag not in gcc_only),
        "-Wno-unknown-pragmas",
        "-Wno-bitwise-instead-of-logical",
    ]


def answer(*command: str) -> str:
    """What a command prints; nothing if it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def nvcc() -> str | None:
    """The CUDA compiler; None to build without CUDA. SPLATLEARN_CUDA is auto (if a compiler is found), 0 or 1."""
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
    """Architectures: those of SPLATLEARN_CUDA_ARCHS, else of the GPUs here, else the usual ones that nvcc knows."""
    archs = os.environ.get("SPLATLEARN_CUDA_ARCHS", "").replace(".", "").replace(",", " ").replace(";", " ").split()
    for arch in archs:
        if not re.fullmatch(r"\d{2,3}[af]?", arch):
            sys.exit(f'splatlearn: SPLATLEARN_CUDA_ARCHS holds "{arch}", but it takes numbers such as 90 or 8.6.')
    if not archs:
        found = answer("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
        archs = [major + minor for major, minor in re.findall(r"^(\d+)\.(\d)$", found, re.M)]
    if not archs:
        known = re.findall(r"compute_(\d+)\b", answer(compiler, "--list-gpu-arch"))
        archs = [arch for arch in CUDA_DEFAULT_ARCHS if arch in known] or known[-1:]
    return sorted(set(archs), key=lambda arch: int(arch.rstrip("af")))


def cpu_library(folder: Path) -> list[Step]:
    """Steps that compile each CPU file once per instruction-set level; the last one links the library."""
    steps = []
    for level, flags in isa_levels().items():
        for name in CPU_SOURCES:
            command = [*cxx(), *cxx_flags(cxx()), *flags, f"-DSPLATLEARN_NAMESPACE=splatlearn_{level}", "-c"]
            steps.append(Step(command, [CSRC / f"cpu/{name}.cpp"], folder / f"cpu_{name}_{level}.o"))
    for name in ("dispatch", "scratch"):  # of no level
        steps.append(Step([*cxx(), *cxx_flags(cxx()), "-c"], [CSRC / f"cpu/{name}.cpp"], folder / f"cpu_{name}.o"))
    steps.append(layout_object(folder))
    return [*steps, linked([*cxx(), "-shared", "-fopenmp"], steps, folder / "libsplatlearn_cpu.so")]


def cuda_library(folder: Path, compiler: str) -> list[Step]:
    """Steps that compile each CUDA file for all architectures, with PTX of the highest for later GPUs, and link."""
    archs = cuda_archs(compiler)
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    flags.append(f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}")
    if "--compress-mode" in answer(compiler, "--help"):  # since CUDA 12.8; halves the library
        flags.append("--compress-mode=size")
    if os.environ.get("SPLATLEARN_CUDA_LINEINFO") == "1":  # for profilers and compute-sanitizer
        flags.append("-lineinfo")
    if os.environ.get("CXX"):
        flags.append(f"-ccbin={cxx()[0]}")
    command = [compiler, *CUDA_FLAGS, *flags, "-c"]
    steps = [Step(command, [ROOT / source], folder / f"cuda_{Path(source).stem}.o") for source in CUDA_SOURCES]
    steps.append(layout_object(folder))
    link = [compiler, "-shared", "-cudart=static", "-Xlinker", "--exclude-libs,ALL"]
    return [*steps, linked(link, steps, folder / "libsplatlearn_cuda.so")]


def emulator(folder: Path, sanitize: str | None, program: str | None) -> list[Step]:
    """Steps that compile the CUDA kernels with the C++ compiler, or `program` instead of them, and link."""
    flags = [*EMULATOR_FLAGS, "-O0" if sanitize else "-O2"]
    sanitizers = [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"] if sanitize else []
    steps = []
    for source in [*([program] if program else EMULATED_SOURCES), *EMULATOR_SOURCES]:
        out = folder / f"{Path(source).stem}_{Path(source).suffix[1:]}.o"
        steps.append(Step([*cxx(), *flags, *sanitizers, "-x", "c++", "-c"], [ROOT / source], out))
    if not program:
        steps.append(layout_object(folder))
    kind = [] if program else ["-shared"]
    return [*steps, linked([*cxx(), *kind, *sanitizers], steps, folder / "emulated")]


def linked(command: list[str], objects: list[Step], out: Path) -> Step:
    return Step(command, [step.out for step in objects], out, depfile=False)


def layout_object(folder: Path) -> Step:
    """The step that compiles what a library reports of itself: its ABI and the digest of its sources."""
    source = folder / "layout.cpp"
    write_if_new(source, abi.layout_source(header(), CSRC / "abi.h", digest_of_sources()))
    return Step([*cxx(), "-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-c"], [source], folder / "layout.o")


def header() -> abi.Abi:
    """csrc/abi.h, from which the Python side is written too, if it has changed."""
    try:
        known = abi.read(CSRC / "abi.h")
    except abi.AbiError as error:
        sys.exit(f"splatlearn: {error}.")
    write_if_new(ROOT / "splatlearn/ops/abi.py", abi.python_source(known))
    return known


def digest_of_sources() -> str:
    """As the package computes it: from its file, since the package itself needs torch."""
    spec = spec_from_file_location("libraries", ROOT / "splatlearn/ops/libraries.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.digest_of_sources(CSRC))


def write_if_new(path: Path, text: str) -> None:
    """Writes a file unless it has this text, so that a folder that is read-only will do."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
