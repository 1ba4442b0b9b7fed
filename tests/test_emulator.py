"""The emulator, which proves the CUDA kernels, is proven itself: right kernels run rightly, every planted bug shows.

The kernels are in emulator_kernels.cu; each test runs a program of them, in many schedules, under ASan, UBSan and TSan.
The kernels of the package run under ASan and UBSan here, and under TSan by hand (no report is the right answer):

    python setup.py build_emulator --out build/emulated_tsan.so --sanitize thread
    export PYTHONPATH=. LD_PRELOAD=$(g++ -print-file-name=libtsan.so) OMP_NUM_THREADS=1
    python tests/run_kernels.py build/emulated_tsan.so
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import splatlearn

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2, 3, 4, 5, 6, 7)
BLOCK, N = 128, 356  # threads of a block; numbers given to the kernels, 1/1, 1/2, ...
Program = Callable[..., str]


def build(out: Path, *options: str, cxx: str | None = None) -> Path:
    """Builds with `setup.py build_emulator`; skips the test where the compiler lacks the sanitizer asked for."""
    environment = dict(os.environ, **({"CXX": cxx} if cxx else {}))
    command = [sys.executable, "setup.py", "-q", "build_emulator", "--out", str(out), *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode and re.search(r"cannot find .*lib[atu][a-z]*san", done.stderr):
        pytest.skip("this compiler has no sanitizers")
    assert done.returncode == 0, f"the emulator does not compile: {done.stderr[-3000:]}"
    return out


def program(folder: Path, *options: str, cxx: str | None = None) -> Program:
    """Builds the test kernels into a program; returns what runs one of them: program(kernel, seed) -> its output."""
    path = build(folder / "kernels", "--program", "tests/emulator_kernels.cu", *options, cxx=cxx)

    def run(kernel: str, seed: int = 0, fails: bool = False) -> str:
        environment = dict(os.environ, SPLATLEARN_EMULATOR_SEED=str(seed))
        done = subprocess.run([str(path), kernel], env=environment, capture_output=True, text=True, timeout=120)
        assert (done.returncode != 0) == fails, f"{kernel}: exit status {done.returncode}: {done.stderr[-3000:]}"
        return done.stderr if fails else done.stdout

    return run


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return program(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return program(tmp_path_factory.mktemp("sanitized"), "--sanitize=address,undefined")


def numbers(text: str) -> np.ndarray:
    return np.array([float(word) for word in text.split()])


def block_sums() -> np.ndarray:
    x = np.pad(1 / np.arange(1, N + 1), (0, -N % BLOCK))
    return x.reshape(-1, BLOCK).sum(1)


# ---- a right kernel, and three planted bugs ----


def test_right_reduction_has_the_same_bits_in_every_schedule(plain: Program, sanitized: Program) -> None:
    outputs = {plain("right", seed) for seed in SEEDS} | {sanitized("right", seed) for seed in (0, 3)}
    assert len(outputs) == 1, "a correct reduction depends on the schedule: the emulator lets threads pass a barrier"
    assert np.allclose(numbers(outputs.pop())[:3], block_sums(), rtol=1e-6), "a number is lost"


def test_missing_barrier_shows(plain: Program) -> None:
    for seed in SEEDS:
        sums = numbers(plain("missing barrier", seed))[:3]
        assert np.isnan(sums).any(), f"seed {seed}: a read of shared memory before it is written goes unseen"


def test_out_of_bounds_shows(sanitized: Program) -> None:
    report = sanitized("out of bounds", fails=True)
    assert "heap-buffer-overflow" in report and "READ of size 4" in report, "a read beyond a tensor goes unseen"
    assert re.search(r"#0 .*block_sum.* .*emulator_kernels\.cu:\d+", report), "the kernel's line is not named"
    report = sanitized("shared overrun", fails=True)
    assert "use-after-poison" in report and "shared_overrun" in report, "a write beyond shared memory goes unseen"


def test_wrong_lane_shows(plain: Program) -> None:
    sums = numbers(plain("wrong lane"))[:3]
    assert not np.isclose(sums, block_sums(), rtol=1e-6).any(), "a partial sum is taken for the whole"


# ---- schedules ----


def test_schedules_are_permuted(plain: Program) -> None:
    assert len({plain("ring0", seed) for seed in SEEDS}) == 1, "a kernel with its barriers depends on the schedule"
    outputs = {plain("ring1", seed) for seed in SEEDS}
    assert len(outputs) > 1, "no schedule shows that a second barrier is missing"
    right = 1 / np.roll(np.arange(1, BLOCK + 1), -2) + 2
    assert np.allclose(numbers(plain("ring0"))[:BLOCK], right, rtol=1e-6), "a barrier lets threads pass too early"


def test_lanes_do_not_run_in_step(plain: Program) -> None:
    for seed in SEEDS:
        right, wrong = (numbers(plain(f"neighbours{variant}", seed))[:BLOCK] for variant in (0, 1))
        assert np.allclose(right, 1 / ((np.arange(BLOCK) ^ 1) + 1), rtol=1e-6), "__syncwarp does not wait"
        assert np.isnan(wrong).any(), f"seed {seed}: a missing __syncwarp goes unseen"


def test_race_is_named_by_line(tmp_path: Path) -> None:
    threads = program(tmp_path, "--sanitize=thread")
    try:
        threads("right", 1)
    except AssertionError as error:
        if "unexpected memory mapping" in str(error):
            pytest.skip("this kernel's address layout is too random for TSan")
        raise
    for kernel in ("ring0", "neighbours0", "operations"):
        threads(kernel, 1)  # fails where TSan sees a race in a right kernel
    for kernel in ("ring1", "neighbours1"):  # in the schedule in which the results happen to be right as well
        report = threads(kernel, 0, fails=True)
        assert re.search(rf"data race.*\n.*\n.*#0 {kernel[:-1]} .*emulator_kernels\.cu:\d+", report), "unseen"


# ---- shared memory ----


def test_shared_memory_holds_nans_in_every_block(plain: Program) -> None:
    sums = numbers(plain("unwritten"))[:3]
    assert sums[0] == 2 and np.isnan(sums[1:]).all(), "a block finds what the block before it left in shared memory"


# ---- what must be reported ----

DIVERGENCES = (
    "a thread returned while others wait at a barrier: 7 threads",
    "a thread returned while others wait at a barrier|a barrier that not all threads of the block reach",
    "threads wait at different barriers",
    "__shfl_xor_sync with mask 0xffffffff, which names lanes that have returned",
    "calls __shfl_xor_sync with mask 0x0000ffff, which leaves it out",
    "__shfl_xor_sync reads lane 16, which mask 0x0000ffff leaves out",
    "wait at different operations or with different masks",
    "wait at different operations or with different masks",
    "its threads wait for each other for ever",
)


@pytest.mark.parametrize("variant", range(len(DIVERGENCES)))
def test_divergence_is_reported(plain: Program, sanitized: Program, variant: int) -> None:
    first = plain(f"diverge{variant}")
    assert re.match(r"-1719: kernel diverge, block \(0,0,0\): ", first), "it passes, or the kernel is not named"
    assert re.search(DIVERGENCES[variant], first), f"another reason is given: {first}"
    assert re.search(r"\(emulator_kernels\.cu:\d+\)", first), "the place where threads wait is not named"
    for seed in SEEDS[1:4]:
        assert plain(f"diverge{variant}", seed).startswith("-1719"), f"seed {seed}: a schedule hides the divergence"
    assert sanitized(f"diverge{variant}").startswith("-1719"), "leaving a block's threads where they are upsets ASan"


def test_emulator_goes_on_after_a_failure(plain: Program, sanitized: Program) -> None:
    for run in (plain, sanitized):
        assert np.allclose(numbers(run("after"))[:3], block_sums(), rtol=1e-6), "a failed launch spoils the next one"


def test_limits_of_a_gpu_hold(plain: Program) -> None:
    assert "declares 49160 bytes of shared memory" in plain("too much shared"), "a kernel that no GPU loads passes"
    assert "no GPU launches a grid of 1x1x1 blocks of 1025x1x1" in plain("too many threads"), "a block is too large"
    assert "no GPU launches a grid of 1x65536x1" in plain("too many rows"), "65,536 rows of blocks pass"
    assert numbers(plain("no blocks"))[0] == -1, "an empty grid ran a block"


# ---- what every operation answers ----


def test_operations(plain: Program, sanitized: Program) -> None:
    text = plain("operations", 3)
    assert text == sanitized("operations", 3) == plain("operations", 0), "an operation's answer depends on the schedule"
    found, lane, thread = numbers(text), np.arange(BLOCK) % 32, np.arange(BLOCK)
    wanted = [
        np.full(BLOCK, 5),
        lane // 8 * 8 + 1,
        np.where(lane < 3, lane, lane - 3),
        np.where(lane % 16 > 12, lane, lane + 3),
        lane ^ 9,
        np.full(BLOCK, 11 + 200),
        np.full(BLOCK, 496),
        np.where(lane < 30, 5, 2),
        np.where(lane < 8, 7, 31),
        np.full(BLOCK, 32),
        np.full(BLOCK, 1 + 4),
        np.ones(BLOCK),
    ]
    for i, row in enumerate(wanted):
        assert (found[i * BLOCK : (i + 1) * BLOCK] == row).all(), f"operation {i} answers wrongly"
    assert found[len(wanted) * BLOCK] == -1 + BLOCK / 2, "an atomic addition of floats is lost"
    counts = found[13 * BLOCK :]
    wanted_counts = [BLOCK, (thread * 3 % BLOCK).max(), 3 + 310 + 1000]
    assert counts.tolist() == wanted_counts, "an integer atomic, __ffs, __clz or __brev is wrong"


def test_sort_and_scan(plain: Program) -> None:
    rows = plain("sorts").split("\n")
    keys = np.array([0x0301, 0xFFFF, 0x0102, 0x0201, 0x0101])
    for part, digits in ((rows[:5], keys & 255), (rows[5:10], keys >> 8)):
        order = np.argsort(digits, kind="stable")
        assert part == [f"{keys[i]} {i}" for i in order], "not stable, or bits outside of the range count"
    top = 2**31 - 1
    sums = (top, 2 * top, 2 * top - 1, 0, top, 2 * top)
    assert rows[10:16] == [str(s) for s in sums], "a prefix sum is wrong or overflows 32 bits"


def test_portable_switch_gives_the_same(plain: Program, tmp_path: Path) -> None:
    portable = program(tmp_path, cxx=f"{os.environ.get('CXX', 'g++')} -DSPLATLEARN_UCONTEXT")
    for kernel in ("right", "ring1", "operations", "diverge3"):
        assert portable(kernel, 5) == plain(kernel, 5), "the switch for other processors schedules differently"


# ---- the kernels of the package ----


def test_kernels_run_clean_under_sanitizers(tmp_path: Path) -> None:
    library = build(tmp_path / "emulated.so", "--sanitize=address,undefined")
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(runtime).is_absolute():
        pytest.skip("this compiler's libasan was not found")
    environment = dict(os.environ, LD_PRELOAD=runtime, ASAN_OPTIONS="detect_leaks=0", OMP_NUM_THREADS="1")
    environment["PYTHONPATH"] = str(Path(splatlearn.__file__).parents[1])
    command = [sys.executable, str(ROOT / "tests/run_kernels.py"), str(library)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"a kernel leaves its tensors or does something undefined: {done.stderr[-4000:]}"
    assert "all kernels ran" in done.stdout, "the kernels were not run to the end"
