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

from splatlearn.commands.arguments import Parser
from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.loop import choose_device
from splatlearn.ops import native
from splatlearn.ops.bin import TILE
from splatlearn.ops.photometric import photometric_loss
from splatlearn.scene.cameras import Camera
from splatlearn.scene.gaussians import NAMES, Gaussians
from splatlearn.scene.optimizer import GaussianAdam

View = tuple[Camera, torch.Tensor]


def run(words: list[str]) -> None:
    parser = Parser("bench", __doc__)
    parser.add_argument("--data", type=Path, help="a COLMAP folder; without it, a synthetic scene")
    parser.add_argument("--gaussians", type=Path, help="a PLY file or a run folder (default: the points of --data)")
    parser.add_argument("--count", type=int, default=10_000, help="Gaussians of the synthetic scene (default: 10000)")
    parser.add_argument("--size", default="960x540", help="picture of the synthetic scene (default: 960x540)")
    parser.add_argument("--steps", type=int, default=40, help="steps to time, after 5 to warm up (default: 40)")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--gsplat", action="store_true", help="also time gsplat on the same inputs (CUDA only)")
    parser.add_argument("--threads", type=int, help="threads (default: as torch chooses)")
    parser.add_argument("--peer-ms", type=float, help="a peer's milliseconds a step on this machine, for the ratio")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args(words)
    if arguments.threads is not None:
        if arguments.threads < 1:
            raise SplatlearnError(f"--threads must be at least 1, got {arguments.threads}")
        torch.set_num_threads(arguments.threads)
    if arguments.steps < 1:
        raise SplatlearnError(f"--steps must be at least 1, got {arguments.steps}")
    device = choose_device(arguments.device)
    if arguments.gsplat and device.type != "cuda":
        raise SplatlearnError(f"--gsplat needs --device cuda, got {arguments.device!r}")
    gaussians, views = _photographs(arguments) if arguments.data else _synthetic(arguments)
    gaussians, views = gaussians.to(device), [(camera, photo.to(device)) for camera, photo in views]
    result = measure(gaussians, views, arguments.steps)
    if arguments.gsplat:
        result["gsplat"] = measure_gsplat(gaussians, views, arguments.steps)
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
    """Medians in milliseconds over `steps` training steps that go round the views, by stage and as a whole.

    On a CUDA device stages are timed by events on the stream, and a step from an idle device to an idle device.
    """
    optimizer = GaussianAdam(gaussians)
    device = gaussians.means.device
    wall, cpu, stages = [], [], defaultdict(list)
    instances = []
    for step in tqdm(range(-5, steps), desc="timing", unit="step", leave=False):
        if step == 0 and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        with _timed_stages() as clock:
            wait(device)
            wall_begin, cpu_begin = time.perf_counter(), time.process_time()
            training_step(gaussians, optimizer, views[step % len(views)])
            wait(device)
            if step < 0:
                continue
            wall.append(time.perf_counter() - wall_begin)
            cpu.append(time.process_time() - cpu_begin)
        instances.append(clock.instances)
        for name, seconds in clock.seconds().items():
            stages[name].append(seconds)
    milliseconds = {name: 1e3 * statistics.median(values) for name, values in stages.items()}
    step_ms = 1e3 * statistics.median(wall)
    camera = views[0][0]
    count = int(statistics.median(instances))
    gigabytes = copied_gigabytes_per_second(device)
    least = {name: bytes_ / gigabytes / 1e6 for name, bytes_ in least_bytes(gaussians, camera).items()}
    return {
        "device": str(device),
        "step_ms": step_ms,
        "queued_step_ms": queued_ms(lambda view: training_step(gaussians, optimizer, view), views, steps),
        "step_cpu_ms": 1e3 * statistics.median(cpu),
        "stages_ms": milliseconds | {"torch and python": step_ms - sum(milliseconds.values())},
        "copied_gigabytes_per_second": gigabytes,
        "least_ms": least,  # for reading and writing each tensor of the stage once, at that rate
        "instances": count,
        "listed_pairs_per_pixel": count * TILE * TILE / (camera.width * camera.height),
        "num_gaussians": len(gaussians),
        "resolution": [camera.width, camera.height],
        "steps": steps,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "processor": _processor(),
        "isa_level": native.isa_level(),
    } | (_card(device) if device.type == "cuda" else {})


def least_bytes(gaussians: Gaussians, camera: Camera) -> dict[str, int]:
    """Bytes that stages bound by memory must read and write: each of their tensors once, in float32."""
    n, coefficients = len(gaussians), 3 * (gaussians.sh_degree + 1) ** 2
    values = 3 * camera.width * camera.height
    parameters, flat = n * (11 + coefficients), n * (2 + 1 + 3 + 1 + 3 + 2)  # of a Gaussian in 3D and in 2D
    return {
        "project forward": 4 * (parameters + flat),
        "project backward": 4 * (2 * parameters + flat),
        "photometric": 4 * 2 * values + values,  # the picture, its gradient, and the photo's bytes
        "adam": 4 * 7 * parameters,
    }


def copied_gigabytes_per_second(device: torch.device) -> float:
    """What a large copy reads and writes a second here, in this run: the best of five."""
    source = torch.zeros(1 << (28 if device.type == "cuda" else 23), device=device)
    target, best = torch.empty_like(source), 0.0
    for _ in range(6):
        wait(device)
        begin = time.perf_counter()
        target.copy_(source)
        wait(device)
        best = max(best, 2 * source.numel() * source.element_size() / (time.perf_counter() - begin) / 1e9)
    return best


def queued_ms(work: Callable[[View], Any], views: list[View], steps: int) -> float:
    """Milliseconds a step when steps follow each other without a wait between them, as in training."""
    device = views[0][1].device
    wait(device)
    begin = time.perf_counter()
    for step in range(steps):
        work(views[step % len(views)])
    wait(device)
    return 1e3 * (time.perf_counter() - begin) / steps


def _card(device: torch.device) -> dict[str, Any]:
    return {"card": torch.cuda.get_device_name(device), "peak_memory_bytes": torch.cuda.max_memory_allocated(device)}


def wait(device: torch.device) -> None:
    """Returns when the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Clock:
    """When each native call began and ended: the host's time, or events on the stream of a CUDA device."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, Any]] = []
        self.instances = 0

    @staticmethod
    def now(tensor: torch.Tensor) -> Any:
        if not tensor.is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(tensor.device))
        return event

    def seconds(self) -> dict[str, float]:
        """Seconds by stage; on a CUDA device only once it is idle."""
        sums: dict[str, float] = defaultdict(float)
        for name, begin, end in self.calls:
            sums[name] += end - begin if isinstance(begin, float) else begin.elapsed_time(end) / 1e3
        return sums


@contextmanager
def _timed_stages() -> Iterator[_Clock]:
    """Times each native stage while the context lasts, and notes the number of instances."""
    clock = _Clock()
    original: Callable[[str, Structure, torch.Tensor], None] = native.call

    def timed(stage: str, params: Structure, tensor: torch.Tensor) -> None:
        begin = clock.now(tensor)
        original(stage, params, tensor)
        clock.calls.append((stage.replace("_", " "), begin, clock.now(tensor)))
        if stage == "rasterize_backward":  # by then the lists have their exact length
            clock.instances = params.inputs.n_instances

    setattr(native, "call", timed)  # noqa: B010  (a plain assignment would be a type error)
    try:
        yield clock
    finally:
        setattr(native, "call", original)  # noqa: B010


def measure_gsplat(gaussians: Gaussians, views: list[View], steps: int) -> dict[str, Any]:
    """Milliseconds a training step with gsplat in place of project, bin and rasterize.

    The Gaussians, the pictures and the loss are the same; the update is torch's fused Adam, as in gsplat's own trainer.
    """
    try:
        import gsplat
    except ImportError:
        raise SplatlearnError("--gsplat needs the package gsplat, which is not installed") from None
    values = {name: tensor.clone().requires_grad_() for name, tensor in gaussians.tensors().items()}
    optimizer = torch.optim.Adam(values.values(), lr=1e-12, eps=1e-15, fused=True)
    device = values["means"].device

    def forward(camera: Camera) -> torch.Tensor:
        pose, K = (torch.from_numpy(array).float().to(device)[None] for array in (camera.world_to_camera, camera.K))
        colors = torch.cat([values["sh0"], values["shN"]], dim=1)
        image, _, _ = gsplat.rasterization(
            values["means"], values["quats"], values["scales"].exp(), values["opacities"].sigmoid(), colors, pose, K,
            camera.width, camera.height, sh_degree=gaussians.sh_degree, packed=False,
        )  # fmt: skip
        return image[0]

    def step(view: View) -> None:
        photometric_loss(forward(view[0]), view[1]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    queued_ms(step, views, 5)
    torch.cuda.reset_peak_memory_stats(device)
    times = []
    for index in range(steps):
        wait(device)
        begin = time.perf_counter()
        step(views[index % len(views)])
        wait(device)
        times.append(1e3 * (time.perf_counter() - begin))
    ours, theirs = gaussians(views[0][0]).image, forward(views[0][0])
    return {
        "version": getattr(gsplat, "__version__", "unknown"),
        "step_ms": statistics.median(times),
        "queued_step_ms": queued_ms(step, views, steps),
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device),
        "largest_difference_of_pictures": float((ours - theirs).abs().max()),
    }


def table(result: dict[str, Any], peer_ms: float | None = None) -> str:
    """The figures as text."""
    width, height = result["resolution"]
    lines = [
        f"{result['num_gaussians']:,} Gaussians, {width}x{height}, {result['instances']:,} instances, "
        f"{result['listed_pairs_per_pixel']:.0f} pairs a pixel, "
        + (
            f"{result['card']}, {result['peak_memory_bytes'] / 2**20:,.0f} MiB"
            if "card" in result
            else f"{result['threads']} threads, {result['isa_level']} on {result['processor']}, "
            f"load {result['load_average']:.1f}"
        ),
        f"{'stage':<20}{'ms (median)':>12}{'share':>8}   of a copy's {result['copied_gigabytes_per_second']:.0f} GB/s",
    ]
    for name, ms in result["stages_ms"].items():
        least = f"{result['least_ms'][name] / ms:>8.0%}" if name in result["least_ms"] else ""
        lines.append(f"{name:<20}{ms:>12.2f}{ms / result['step_ms']:>8.0%}{least}")
    lines.append(f"{'training step':<20}{result['step_ms']:>12.2f}   ({result['step_cpu_ms']:.1f} CPU ms)")
    lines.append(f"{'queued steps':<20}{result['queued_step_ms']:>12.2f}")
    if gsplat := result.get("gsplat"):
        for name in ("step_ms", "queued_step_ms"):
            label, ratio = f"gsplat {gsplat['version']}", gsplat[name] / result[name]
            lines.append(f"{label:<20}{gsplat[name]:>12.2f}   ({name}: {ratio:.1f} times as long)")
    if peer_ms:
        lines.append(f"{'peer':<20}{peer_ms:>12.2f}   ({peer_ms / result['step_ms']:.1f} times as long)")
    return "\n".join(lines)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
