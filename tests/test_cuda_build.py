"""The CUDA library without a card: its kernels compile for Hopper and spill no register, and it loads without a driver.

`pytest -s tests/test_cuda_build.py` prints registers and shared memory of every kernel, for docs/LOG.md; with
SPLATLEARN_CUDA_ARCHS=75,80,90,120 in the environment, of these architectures.
"""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from splatlearn.ops import native

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "csrc/cuda").glob("*.cu"))
ARCHS = os.environ.get("SPLATLEARN_CUDA_ARCHS", "90").replace(",", " ").split()
NVCC = os.environ.get("NVCC") or shutil.which("nvcc")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is not here, so nothing can be compiled for a GPU")


class Kernel(NamedTuple):
    """What ptxas says of a kernel; bytes a block (shared) and a thread (stack, spills)."""

    source: str
    name: str
    arch: str
    registers: int
    shared: int
    stack: int
    spilled: int


def compiled(source: Path, arch: str, folder: Path) -> list[Kernel]:
    """Compiles a file for an architecture and reads the resource report."""
    command = ["nice", str(NVCC), "-std=c++17", "-O3", f"-arch=sm_{arch}", "-Xptxas", "-v", "-cubin", str(source)]
    done = subprocess.run([*command, "-o", str(folder / f"{source.stem}_{arch}")], capture_output=True, text=True)
    assert done.returncode == 0, f"{source.name} does not compile for sm_{arch}: {done.stderr[-3000:]}"
    report = done.stderr
    if "_Z" in report and shutil.which("c++filt"):  # older compilers print mangled names
        report = subprocess.run(["c++filt"], input=report, capture_output=True, text=True).stdout
    kernels = []
    for entry in report.split("Compiling entry function '")[1:]:
        name = entry[: entry.index(f"' for 'sm_{arch}'")].removeprefix("void ")
        name = name.replace("(anonymous namespace)::", "").replace("splatlearn::", "").split("(")[0]
        stack, stores, loads = map(int, re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", entry)[:3])
        shared = re.search(r"(\d+) bytes smem", entry)
        registers = re.search(r"Used (\d+) registers", entry)
        assert registers, f"no registers are told of {name}"
        sizes = int(registers[1]), int(shared[1]) if shared else 0, stack, stores + loads
        kernels.append(Kernel(source.name, name, arch, *sizes))
    return kernels


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[Kernel]:
    folder = tmp_path_factory.mktemp("cubin")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [(source, arch) for arch in ARCHS for source in SOURCES]
        reports = list(pool.map(lambda job: compiled(*job, folder), jobs))
    return [kernel for report in reports for kernel in report]


@needs_nvcc
def test_no_kernel_spills(kernels: list[Kernel]) -> None:
    ours = [kernel for kernel in kernels if kernel.source != "sort.cu"]
    print("\n| file | kernel | sm | registers | shared bytes | stack bytes |\n| --- | --- | --- | --- | --- | --- |")
    for kernel in sorted(ours):
        print(f"| {' | '.join(map(str, kernel[:-1]))} |")
    # CUB's own kernels spill a few bytes on other architectures than Hopper's.
    spilling = [f"{kernel.source}: {kernel.name} on sm_{kernel.arch}" for kernel in ours if kernel.spilled]
    assert not spilling, f"registers spill to memory in {spilling}"


@needs_nvcc
def test_every_kernel_is_compiled(kernels: list[Kernel]) -> None:
    written = {
        (source.name, name)
        for source in SOURCES
        for name in re.findall(r"SPLATLEARN_KERNEL (?:__launch_bounds__\([^()]*\) )?void (\w+)\(", source.read_text())
    }
    assert len(written) >= 10, "the kernels were not found in the sources"
    found = {(kernel.source, re.split(r"[<(]", kernel.name)[0]) for kernel in kernels}
    assert written <= found, f"kernels that nothing launches, or that the report lost: {sorted(written - found)}"


LOAD = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.splatlearn_error.restype = ctypes.c_char_p
class Context(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_char * 4096)]
code = library.splatlearn_adam(ctypes.byref(Context()))
print(code, library.splatlearn_error(code).decode())
"""


@pytest.mark.skipif(not native.CUDA_LIBRARY.exists(), reason="the CUDA library was not built")
def test_library_loads_without_a_driver() -> None:
    needed = subprocess.run(["readelf", "-d", str(native.CUDA_LIBRARY)], capture_output=True, text=True).stdout
    assert "libcuda.so" not in needed and "libcudart" not in needed, "the library cannot be loaded where CUDA is absent"
    environment = dict(os.environ, CUDA_VISIBLE_DEVICES="")
    command = [sys.executable, "-c", LOAD, str(native.CUDA_LIBRARY)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"the library does not load, or a call ends the process: {done.stderr[-2000:]}"
    code, sentence = done.stdout.split("\n")[0].split(" ", 1)
    assert int(code) <= -1000, "a call without a card does not fail"
    assert "CUDA" in sentence, f"the failure is not told as CUDA's: {sentence}"


def test_build_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    def refused(**environment: str) -> str:
        command = [sys.executable, "setup.py", "-q", "build_ext", f"--build-temp={tmp_path}", f"--build-lib={tmp_path}"]
        plain = {name: value for name, value in os.environ.items() if name not in ("NVCC", "CUDA_HOME", "CUDA_PATH")}
        plain.update(environment)
        done = subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True, timeout=120)
        assert done.returncode != 0, f"{environment} was accepted"
        return [line for line in done.stderr.splitlines() if line.startswith("splatlearn:")][-1]

    assert 'SPLATLEARN_CUDA is "yes"' in refused(SPLATLEARN_CUDA="yes"), "a misspelt choice is taken for another one"
    empty = {"SPLATLEARN_CUDA": "1", "PATH": str(tmp_path), "CUDA_HOME": str(tmp_path)}
    assert "no nvcc was found" in refused(**empty), "CUDA was asked for, its compiler is absent, and nobody is told"
    if NVCC:
        sentence = refused(SPLATLEARN_CUDA="1", SPLATLEARN_CUDA_ARCHS="90;fast")
        assert 'SPLATLEARN_CUDA_ARCHS holds "fast"' in sentence, "a misspelt architecture reaches nvcc"
