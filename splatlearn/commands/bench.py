"""splatlearn bench: times every stage of full training steps, on photographs or on a synthetic scene."""

import argparse
import json
import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import Structure
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.ops import native
from splatlearn.ops.photometric import photometric_loss
from splatlearn.scene.cameras import Camera
from splatlearn.scene.gaussians import NAMES, Gaussians
from splatlearn.scene.optimizer import GaussianAdam

View = tuple[Camera, torch.Tensor]


def run(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="splatlearn bench", description=__doc__)
    parser.add_argument("--data", type=Path, help="a COLMAP folder; without it, a synthetic scene")
    parser.add_argument("--gaussians", type=Path, help="a PLY file or a run folder (default: the points of --data)")
    parser.add_argument("--count", type=int, default=10_000, help="Gaussians of the synthetic scene (default: 10000)")
    parser.add_argument("--size", default="960x540", help="picture of the synthetic scene (default: 960x540)")
    parser.add_argument("--steps", type=int, default=40, help="steps to time, after 5 to warm up (default: 40)")
    parser.add_argument("--threads", type=int, help="threads (default: as torch chooses)")
    parser.add_argument("--peer-ms", type=float, help="a peer's milliseconds a step on this machine, for the ratio")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args(words)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.steps < 1:
        raise SplatlearnError(f"--steps must be at least 1, got {arguments.steps}")
    gaussians, views = _photographs(arguments) if arguments.data else _synthetic(arguments)
    result = measure(gaussians, views, arguments.steps)
    print(table(result, arguments.peer_ms))
    if arguments.json:
        with replacing(arguments.json) as path:
            path.write_text(json.dumps(result, indent=1) + "\n")


def _photographs(arguments: argparse.Namespace) -> tuple[Gaussians, list[View]]:
    from splatlearn.commands.opened import load_gaussians
    from splatlearn.scene.colmap import ColmapScene

    scene = ColmapScene(ColmapScene.Config(path=str(arguments.data)))
    if arguments.gaussians:
        gaussians = load_gaussians(arguments.gaussians)
    else:
        gaussians = Gaussians.from_points(scene.points, scene.point_colors)
    return gaussians, [(camera, scene.photo(camera)) for camera in scene.train]


def _synthetic(arguments: argparse.Namespace) -> tuple[Gaussians, list[View]]:
    """A ball of Gaussians whose sizes cover the picture about alike for any count, and a picture of noise."""
    import numpy as np

    try:
        width, height = (int(side) for side in arguments.size.split("x"))
        assert width > 0 and height > 0
    except (ValueError, AssertionError):
        raise SplatlearnError(f"--size must be WIDTHxHEIGHT, got {arguments.size!r}") from None
    if arguments.count < 1:
        raise SplatlearnError(f"--count must be at least 1, got {arguments.count}")
    random = np.random.default_rng(0)
    points = random.normal(size=(arguments.count, 3)) * [1.5, 1.0, 1.0]
    gaussians = Gaussians.from_points(points, random.integers(0, 256, (arguments.count, 3), dtype=np.uint8))
    K = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    pose = np.eye(4)
    pose[2, 3] = 5
    photo = torch.from_numpy(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return gaussians, [(Camera("synthetic", width, height, K, pose), photo)]


def training_step(gaussians: Gaussians, optimizer: GaussianAdam, view: View) -> None:
    """Forward, loss, backward, update, with rates so small that the scene stays as it is."""
    rendering = gaussians(view[0])
    photometric_loss(rendering.image, view[1]).backward()  # type: ignore[no-untyped-call]
    optimizer.step(dict.fromkeys(NAMES, 1e-12))


def measure(gaussians: Gaussians, views: list[View], steps: int) -> dict[str, Any]:
    """Medians in milliseconds over `steps` training steps that go round the views, by stage and as a whole."""
    optimizer = GaussianAdam(gaussians)
    wall, cpu, stages = [], [], defaultdict(list)
    instances = []
    for step in tqdm(range(-5, steps), desc="timing", unit="step", leave=False):
        with _timed_stages() as times:
            wall_begin, cpu_begin = time.perf_counter(), time.process_time()
            training_step(gaussians, optimizer, views[step % len(views)])
            if step < 0:
                continue
            wall.append(time.perf_counter() - wall_begin)
            cpu.append(time.process_time() - cpu_begin)
        instances.append(times.pop("instances"))
        for name, seconds in times.items():
            stages[name].append(seconds)
    milliseconds = {name: 1e3 * statistics.median(values) for name, values in stages.items()}
    step_ms = 1e3 * statistics.median(wall)
    camera = views[0][0]
    return {
        "step_ms": step_ms,
        "step_cpu_ms": 1e3 * statistics.median(cpu),
        "stages_ms": milliseconds | {"torch and python": step_ms - sum(milliseconds.values())},
        "instances": int(statistics.median(instances)),
        "num_gaussians": len(gaussians),
        "resolution": [camera.width, camera.height],
        "steps": steps,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "processor": _processor(),
        "isa_level": native.isa_level(),
    }


@contextmanager
def _timed_stages() -> Iterator[dict[str, float]]:
    """Seconds spent in each native stage while the context lasts, and the number of instances."""
    times: dict[str, float] = defaultdict(float)
    original: Callable[[str, Structure], None] = native.call

    def timed(stage: str, params: Structure) -> None:
        begin = time.perf_counter()
        original(stage, params)
        times[stage.replace("_", " ")] += time.perf_counter() - begin
        if stage == "rasterize_forward":
            times["instances"] = params.inputs.n_instances

    setattr(native, "call", timed)  # noqa: B010  (a plain assignment would be a type error)
    try:
        yield times
    finally:
        setattr(native, "call", original)  # noqa: B010


def table(result: dict[str, Any], peer_ms: float | None = None) -> str:
    """The figures as text."""
    width, height = result["resolution"]
    lines = [
        f"{result['num_gaussians']:,} Gaussians, {width}x{height}, {result['instances']:,} instances, "
        f"{result['threads']} threads, {result['isa_level']} on {result['processor']}, load {result['load_average']:.1f}",
        f"{'stage':<20}{'ms (median)':>12}{'share':>8}",
    ]
    for name, ms in result["stages_ms"].items():
        lines.append(f"{name:<20}{ms:>12.2f}{ms / result['step_ms']:>8.0%}")
    lines.append(f"{'training step':<20}{result['step_ms']:>12.2f}   ({result['step_cpu_ms']:.1f} CPU ms)")
    if peer_ms:
        lines.append(f"{'peer':<20}{peer_ms:>12.2f}   ({peer_ms / result['step_ms']:.1f} times as long)")
    return "\n".join(lines)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
