"""The figures of full training steps: each stage's time and work, the machine's peaks, and how near they are."""

import os
import platform
import statistics
import time
from collections import defaultdict
from typing import Any

import torch
from tqdm import tqdm

from splatlearn.bench import pairs, peaks, work
from splatlearn.bench.clock import timed_stages, wait
from splatlearn.bench.contenders import ours
from splatlearn.bench.inputs import Inputs
from splatlearn.bench.race import WARM_UP
from splatlearn.ops import native
from splatlearn.scene.training.memory import memory, reset_peak

COUNTED = 6  # views, evenly spread, whose pairs are counted; a view takes about a second


def measure(inputs: Inputs, steps: int, counts: pairs.Counts, machine: peaks.Peaks | None = None) -> dict[str, Any]:
    """Medians over `steps` training steps that go round the views, by stage and as a whole.

    On a CUDA device stages are timed by events on the stream, and a step from an idle device to an idle device.

    Args:
        counts: the pairs of a view. machine: its peaks; None: they are measured.
    """
    device, step = inputs.device, ours(inputs).step
    wall, cpu, stages = [], [], defaultdict(list)
    for index in tqdm(range(-WARM_UP, steps), desc="timing", unit="step", leave=False):
        if index == 0:
            reset_peak(device)
        with timed_stages() as clock:
            wait(device)
            begin = time.perf_counter(), time.process_time()
            step(index % len(inputs.views))
            wait(device)
            end = time.perf_counter(), time.process_time()
        if index >= 0:
            wall.append(1e3 * (end[0] - begin[0]))
            cpu.append(1e3 * (end[1] - begin[1]))
            for name, spent in clock.seconds().items():
                stages[name].append(spent)
    used = memory(device)
    machine = machine or peaks.measured(device)
    times = {
        name: [1e3 * statistics.median(column) for column in zip(*seconds, strict=True)]
        for name, seconds in stages.items()
    }
    step_ms = statistics.median(wall)
    stages_ms = {name: ms for name, (ms, _) in times.items()}
    camera = inputs.views[0].camera
    pixels = camera.width * camera.height
    return {
        "device": str(device),
        "step_ms": step_ms,
        "step_cpu_ms": statistics.median(cpu),
        "stages_ms": stages_ms | {"torch and python": step_ms - sum(stages_ms.values())},
        "stages": against_peaks(inputs, times, machine, counts),
        "peaks": {"gflops": machine.gflops, "gigabytes_per_second": machine.gigabytes},
        "pairs": counts._asdict() | {"views_counted": min(COUNTED, len(inputs.views))},
        "pairs_per_pixel": {
            "evaluated": counts.evaluated_forward / pixels,
            "contributed": counts.contributed / pixels,
        },
        "instances": counts.instances,
        "num_gaussians": len(inputs.gaussians),
        "resolution": [camera.width, camera.height],
        "views": len(inputs.views),
        "steps": steps,
        "peak_memory_bytes": used.cuda_peak or used.resident_peak,
    } | conditions(device)


def median_counts(inputs: Inputs) -> pairs.Counts:
    """The counts of the median of some views, number by number."""
    views = inputs.views[:: -(-len(inputs.views) // COUNTED)][:COUNTED]
    counted = [pairs.count(inputs.gaussians, view) for view in tqdm(views, "counting pairs", leave=False)]
    return pairs.Counts(*(int(statistics.median(values)) for values in zip(*counted, strict=True)))


def against_peaks(
    inputs: Inputs, times: dict[str, list[float]], machine: peaks.Peaks, counts: pairs.Counts
) -> dict[str, dict[str, float]]:
    """Of each stage: its time, work and rates, and the share of the time that a roofline explains."""
    kind = "cuda" if native.runs_kernels(inputs.gaussians.means) else "cpu"
    works = work.of_stages(inputs.gaussians, inputs.views[0].camera, counts, kind)
    stages = {}
    for name, (ms, cpu_ms) in times.items():
        stages[name] = {"ms": ms, "cpu_ms": cpu_ms}
        if done := works.get(name):
            least = done.least_ms(machine)
            stages[name] |= {
                "flops": done.flops,
                "bytes": done.bytes,
                "gflops": done.flops / ms / 1e6,
                "gigabytes_per_second": done.bytes / ms / 1e6,
                "least_ms": least,
                "roofline": least / ms,
            }
    return stages


def conditions(device: torch.device) -> dict[str, Any]:
    """What the figures depend on."""
    if device.type == "cuda":
        return {"card": torch.cuda.get_device_name(device)}
    return {
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "processor": _processor(),
        "isa_level": native.isa_level(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
