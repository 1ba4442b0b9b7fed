"""Build the CPU library with AddressSanitizer and UndefinedBehaviorSanitizer, and run tests of the stages under them.

    python scripts/sanitize.py                                   # the tests that CI runs
    python scripts/sanitize.py --march x86-64-v4 -- tests/test_ops_backward.py tests/test_gradcheck.py -k cpu
    python scripts/sanitize.py --sanitize undefined --march ''   # another sanitizer, the compiler's default processor

What follows `--` goes to pytest. The first finding ends the run with a stack trace and exit status 1. GCC only; the
libraries in use are left alone.

AddressSanitizer is preloaded, since Python itself is built without it; leaks are not searched for, as Python keeps
memory until it ends. Tensors come from PyTorch's allocator, which AddressSanitizer replaces as any other. UBSan also
checks that a float fits the integer that it is converted to. It does not object to a division by zero: the equations
divide and mask afterwards. ThreadSanitizer is of no use here, because GCC's OpenMP runtime synchronises in ways that it
does not see, and it reports every parallel region.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from build_native import targets  # noqa: E402
from build_native.steps import Step, locked, run_steps  # noqa: E402

CHECKS = "address,undefined,float-cast-overflow"
TESTS = ["tests/test_bad_numbers.py", "tests/test_adam.py", "tests/test_photometric.py", "tests/test_project_update.py"]
TESTS += ["-k", "not emulated and not cuda and not reference and not finite_differences and not any_order"]
# Runs pytest with the library at argv[1] in place of the CPU library. It captures nothing, so that what a sanitizer
# writes before it ends the process is seen.
RUNNER = """
import sys
from pathlib import Path
import pytest
from splatlearn.ops import native
native.CPU_LIBRARY = Path(sys.argv[1])
sys.exit(pytest.main(sys.argv[2:]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sanitize", default=CHECKS, help=f"sanitizers (default: {CHECKS})")
    parser.add_argument("--march", default="x86-64-v3", help="processor to compile for; '' for the compiler's default")
    parser.add_argument("--build", type=Path, default=ROOT / "build/sanitize", help="folder for what is compiled")
    parser.add_argument("tests", nargs="*", help="arguments of pytest, after --")
    arguments = parser.parse_args()
    folder = (arguments.build / f"{arguments.sanitize.replace(',', '-')}_{arguments.march or 'default'}").resolve()
    with locked(folder):
        *objects, link = steps(folder, arguments.sanitize, arguments.march)
        run_steps(objects, targets.CSRC)
        run_steps([link], targets.CSRC)
    sys.exit(run(link.out, arguments.sanitize, arguments.tests or TESTS))


def steps(folder: Path, sanitize: str, march: str) -> list[Step]:
    """Compile every CPU file for one processor; the last step links the library."""
    flags = [flag for flag in targets.CXX_FLAGS if flag != "-O3"] + ["-O1", "-g1", "-fno-omit-frame-pointer"]
    flags += [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-DSPLATLEARN_PORTABLE"]
    flags += ["-DSPLATLEARN_NAMESPACE=splatlearn_portable"] + ([f"-march={march}"] if march else [])
    compiled = []
    for name in [*targets.CPU_SOURCES, "dispatch", "scratch"]:
        source = targets.CSRC / f"cpu/{name}.cpp"
        compiled.append(Step([*targets.cxx(), *flags, "-c"], [source], folder / f"{name}.o"))
    compiled.append(targets.layout_object(folder))
    link = [*targets.cxx(), "-shared", "-fopenmp", f"-fsanitize={sanitize}"]
    return [*compiled, targets.linked(link, compiled, folder / "libsplatlearn_cpu.so")]


def run(library: Path, sanitize: str, tests: list[str]) -> int:
    """The exit status of pytest with this library."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    environment |= {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    if "address" in sanitize.split(","):
        runtime = targets.answer(*targets.cxx(), "-print-file-name=libasan.so").strip()
        cpp = targets.answer(*targets.cxx(), "-print-file-name=libstdc++.so").strip()  # whose exceptions it follows
        environment["LD_PRELOAD"] = f"{runtime} {cpp}"
    command = [sys.executable, "-c", RUNNER, str(library), "-q", "-x", "-s", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    main()
