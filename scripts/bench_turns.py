"""Time a training step of this checkout against that of another one, in turns.

    python scripts/bench_turns.py --before ../before --data FOX --synthetic 1000000 --out turns.json

Each checkout works in a process of its own, with its native libraries built in place (`python setup.py build_ext
--inplace`), and the processes take turns of some steps, so that a busy machine slows both alike. The script prints the
median CPU and wall time of a step for both sides, the ratio of the medians, and a 90 % interval of that ratio by
resampling the turns. A refactoring should stay within 1 %.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
RESAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="the other checkout")
    parser.add_argument("--after", type=Path, default=HERE, help="a checkout to compare with it (default: this one)")
    parser.add_argument("--data", type=Path, action="append", default=[], help="a COLMAP folder; may be repeated")
    parser.add_argument("--gaussians", type=Path, help="a PLY file for the scenes of --data (default: their points)")
    parser.add_argument("--synthetic", type=int, help="also a synthetic scene of so many Gaussians at 1920x1080")
    parser.add_argument("--turns", type=int, default=12, help="turns of each side (default: 12)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="threads of a step (default: 1)")
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    parser.add_argument("--worker", nargs=2, metavar=("CHECKOUT", "SCENE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(Path(arguments.worker[0]), arguments.worker[1], arguments.gaussians)
        return
    if arguments.before is None or not (arguments.data or arguments.synthetic):
        parser.error("--before and at least one of --data and --synthetic are needed")
    if arguments.turns < 3 or arguments.seconds <= 0 or arguments.threads < 1:
        parser.error("--turns must be at least 3, --seconds above 0 and --threads at least 1")
    scenes = [str(folder.resolve()) for folder in arguments.data]
    scenes += [] if arguments.synthetic is None else [f"synthetic:{arguments.synthetic}"]
    found: dict[str, Any] = {"processor": processor(), "threads": arguments.threads, "load": os.getloadavg()[0]}
    for scene in scenes:
        found[Path(scene).name] = compare(scene, arguments)
        print(sentence(Path(scene).name, found[Path(scene).name]), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


# ---- the process that asks ----


def compare(scene: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Median times of both sides on one scene, and their ratios."""
    sides = {"before": arguments.before.resolve(), "after": arguments.after.resolve()}
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    extra = [] if arguments.gaussians is None else ["--gaussians", str(arguments.gaussians.resolve())]
    workers = {}
    with tempfile.TemporaryDirectory() as elsewhere:  # a process started in a checkout would import that one
        for name, checkout in sides.items():
            command = [sys.executable, str(Path(__file__).resolve()), *extra, "--worker", str(checkout), scene]
            workers[name] = subprocess.Popen(
                command, env=environment, cwd=elsewhere, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        steps = {name: ask(worker, arguments.seconds) for name, worker in workers.items()}  # also warms up
        count = max(1, min(turn["steps"] for turn in steps.values()))
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
        for number in range(arguments.turns):
            order = list(workers) if number % 2 == 0 else list(reversed(workers))
            for name in order:
                turns[name].append(ask(workers[name], -count))
        for worker in workers.values():
            assert worker.stdin is not None
            worker.stdin.close()
            worker.wait()
    result: dict[str, Any] = {"steps_of_a_turn": count, "turns": arguments.turns}
    for kind in ("cpu_ms", "wall_ms"):
        before, after = ([turn[kind] for turn in turns[name]] for name in ("before", "after"))
        result[kind] = {"before": statistics.median(before), "after": statistics.median(after)}
        result[kind] |= {"ratio": statistics.median(after) / statistics.median(before)}
        result[kind] |= {"interval": interval(before, after)}
    return result


def ask(worker: "subprocess.Popen[str]", amount: float) -> dict[str, float]:
    """What a worker measured over `amount` seconds, or over `-amount` steps."""
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(f"{amount}\n")
    worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        sys.exit("bench_turns: a worker ended early; its error is printed above")
    answer: dict[str, float] = json.loads(line)
    return answer


def interval(before: list[float], after: list[float]) -> list[float]:
    """The middle 90 % of the ratio of medians over resampled pairs of turns."""
    draw = random.Random(0)
    pairs = list(zip(before, after, strict=True))
    ratios = []
    for _ in range(RESAMPLES):
        chosen = draw.choices(pairs, k=len(pairs))
        ratios.append(statistics.median(b for _, b in chosen) / statistics.median(a for a, _ in chosen))
    ratios.sort()
    return [ratios[RESAMPLES // 20], ratios[-RESAMPLES // 20]]


def sentence(scene: str, result: dict[str, Any]) -> str:
    parts = []
    for kind in ("cpu_ms", "wall_ms"):
        r = result[kind]
        low, high = r["interval"]
        name = kind.removesuffix("_ms")
        parts.append(
            f"{name} {r['before']:.2f} -> {r['after']:.2f} ms, ratio {r['ratio']:.4f} ({low:.4f} to {high:.4f})"
        )
    return f"{scene}: {'; '.join(parts)}"


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


# ---- a process that works ----


def work(checkout: Path, scene: str, gaussians: Path | None) -> None:
    """Makes steps as asked on standard input; prints the time of a step as a JSON line."""
    sys.path.insert(0, str(checkout))
    import splatlearn
    from splatlearn.bench import contenders, inputs

    if Path(splatlearn.__file__).resolve().parents[1] != checkout:
        sys.exit(f"bench_turns: expected the package of {checkout}, got {splatlearn.__file__}")
    if scene.startswith("synthetic:"):
        made = inputs.synthetic(int(scene.partition(":")[2]), 1920, 1080)
    else:
        names = ("image_folder", "photographs")  # the second in older checkouts
        made = next(getattr(inputs, name) for name in names if hasattr(inputs, name))(Path(scene), gaussians)
    step, views, index = contenders.ours(made).step, len(made.views), 0
    for _ in range(5):
        step(index % views)
        index += 1
    for line in sys.stdin:
        amount = float(line)
        wall, cpu, steps = time.perf_counter(), time.process_time(), 0
        while steps < -amount if amount < 0 else time.perf_counter() < wall + amount:
            step(index % views)
            index += 1
            steps += 1
        times = {"wall_ms": time.perf_counter() - wall, "cpu_ms": time.process_time() - cpu}
        print(json.dumps({name: 1e3 * t / steps for name, t in times.items()} | {"steps": steps}), flush=True)


if __name__ == "__main__":
    main()
