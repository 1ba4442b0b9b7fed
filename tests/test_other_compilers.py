"""The CPU library of other compilers and processors: the same bits from the same program."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from build_native import targets
from splatlearn.ops import native

ROOT = Path(__file__).resolve().parents[1]
SYSROOT = "/usr/aarch64-linux-gnu"


def built(folder: Path, compiler: str, level: str, *flags: str) -> Path:
    """The program of native_program.cpp with one level of the library in it."""
    sources = [*(f"csrc/cpu/{name}.cpp" for name in [*targets.CPU_SOURCES, "scratch"]), "tests/native_program.cpp"]
    space = [*flags, f"-DSPLATLEARN_NAMESPACE=splatlearn_{level}"]

    def compiled(source: str) -> str:
        out = folder / f"{Path(source).stem}.o"
        command = [compiler, *targets.cxx_flags([compiler]), "-O1", "-Werror", *space, "-c", source, "-o", str(out)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"{compiler}: {done.stderr[-2000:]}"
        return str(out)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, [*sources, "csrc/cpu/dispatch.cpp"]))
    program = folder / "program"
    done = subprocess.run([compiler, "-fopenmp", *objects, "-o", str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return program


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the library of this checkout gives."""
    program = tmp_path_factory.mktemp("own") / "program"
    compiler, library = os.environ.get("CXX", "g++"), native.CPU_LIBRARY
    command = [*compiler.split(), "-std=c++17", "-ffp-contract=off", "tests/native_program.cpp", str(library)]
    command += [f"-Wl,-rpath,{library.parent}", "-o", str(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return output(str(program))


def output(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "failed" not in done.stdout, done.stderr[-2000:] or done.stdout
    return done.stdout.splitlines()


def test_aarch64_gives_the_same_bits(tmp_path: Path, expected: list[str]) -> None:
    compiler, emulator = "aarch64-linux-gnu-g++", shutil.which("qemu-aarch64")
    if not shutil.which(compiler) or not emulator:
        pytest.skip("needs g++-aarch64-linux-gnu and qemu-user (apt)")
    program = built(tmp_path, compiler, "neon")
    found = output(emulator, "-L", SYSROOT, str(program))
    assert found == expected and len(found) > 400


def test_clang_gives_the_same_bits(tmp_path: Path, expected: list[str]) -> None:
    if not shutil.which("clang++") or targets.machine() != "x86_64":
        pytest.skip("needs clang++ on x86-64")
    probe = subprocess.run(
        ["clang++", "-fopenmp", "-x", "c++", "-", "-o", str(tmp_path / "probe")],
        input="#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }", capture_output=True, text=True,
    )  # fmt: skip
    if probe.returncode:
        pytest.skip("needs the OpenMP runtime of clang (apt install libomp-dev)")
    if "x86-64-v3" not in native.isa_levels():
        pytest.skip("this processor has no x86-64-v3")
    program = built(tmp_path, "clang++", "portable", "-DSPLATLEARN_PORTABLE", "-march=x86-64-v3")
    assert output(str(program)) == expected


def test_a_wheel_for_another_processor_has_its_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setenv("SPLATLEARN_MACHINE", "aarch64")
    assert targets.wheel_platform("linux_x86_64") == "linux_aarch64"
    assert list(targets.isa_levels()) == ["neon"]
    monkeypatch.delenv("SPLATLEARN_MACHINE")
    assert targets.wheel_platform("linux_x86_64") == "linux_x86_64" and "v4" in targets.isa_levels()
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert targets.wheel_platform("macosx_11_0_arm64") == "macosx_11_0_arm64"
    assert list(targets.isa_levels()) == ["neon"]
