"""Contenders on the same inputs in alternation, so that what disturbs the machine disturbs all of them alike."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tqdm import tqdm

from splatlearn.bench.clock import wait
from splatlearn.bench.command_peer import CommandPeer
from splatlearn.bench.contenders import Contender
from splatlearn.bench.inputs import Inputs
from splatlearn.ops.photometric import photometric_loss
from splatlearn.scene.gaussians import Gaussians
from splatlearn.scene.training.memory import memory, reset_peak

WARM_UP = 5
BLOCKS = 3  # of steps that follow each other without a wait, and of runs of a command


def race(contenders: Sequence[Contender], inputs: Inputs, steps: int) -> dict[str, dict[str, Any]]:
    """Medians in milliseconds by contender: step_ms, queued_step_ms, and where it can be taken apart, of its parts.

    `step_ms` is forward, loss, backward and update from an idle device to an idle device. `forward_ms`,
    `loss_and_backward_ms` and `update_ms` are of steps with a wait between the parts; on a card they add up to more.
    `queued_step_ms` is of steps that follow each other as in training, `frame_ms` of pictures without gradients that do
    so.
    """
    device, views = inputs.device, len(inputs.views)
    times: dict[str, dict[str, list[float]]] = {c.name: defaultdict(list) for c in contenders}
    peaks: dict[str, int] = {}
    for index in tqdm(range(-WARM_UP, steps), desc="in alternation", unit="step", leave=False):
        for contender in contenders:
            if index == steps - 1:
                reset_peak(device)
            one = _whole(contender, index % views, device) | _parts(contender, index % views, inputs)
            peaks[contender.name] = memory(device).cuda_peak
            for name, ms in one.items():
                if index >= 0:
                    times[contender.name][name].append(ms)
    for _ in range(BLOCKS):
        for contender in contenders:
            times[contender.name]["queued_step_ms"].append(_queued(contender.step, steps, views, device))
    for _ in range(BLOCKS):
        for contender in contenders:
            if contender.frame is not None:
                _queued(contender.frame, WARM_UP, views, device)
                times[contender.name]["frame_ms"].append(_queued(contender.frame, steps, views, device))
    medians: dict[str, dict[str, Any]] = {
        name: {part: statistics.median(values) for part, values in parts.items()} for name, parts in times.items()
    }
    for name in medians:
        if peaks[name]:
            medians[name]["peak_memory_bytes"] = peaks[name]
    return medians


def _whole(contender: Contender, index: int, device: torch.device) -> dict[str, float]:
    wait(device)
    begin = time.perf_counter()
    contender.step(index)
    wait(device)
    return {"step_ms": 1e3 * (time.perf_counter() - begin)}


def _parts(contender: Contender, index: int, inputs: Inputs) -> dict[str, float]:
    if contender.forward is None or contender.update is None:
        return {}
    device = inputs.device
    wait(device)
    moments = [time.perf_counter()]

    def done() -> None:
        wait(device)
        moments.append(time.perf_counter())

    image = contender.forward(index)
    done()
    photometric_loss(image, inputs.views[index].image).backward()  # type: ignore[no-untyped-call]
    done()
    contender.update()
    done()
    names = ("forward_ms", "loss_and_backward_ms", "update_ms")
    return {name: 1e3 * (end - begin) for name, begin, end in zip(names, moments, moments[1:], strict=False)}


def _queued(work: Callable[[int], object], steps: int, views: int, device: torch.device) -> float:
    """Milliseconds a step when steps follow each other without a wait between them, as in training."""
    wait(device)
    begin = time.perf_counter()
    for step in range(steps):
        work(step % views)
    wait(device)
    return 1e3 * (time.perf_counter() - begin) / steps


def footprint(make: Callable[[Inputs], Contender], inputs: Inputs) -> int:
    """Bytes of a CUDA device that a contender's training takes at its peak by itself, its Gaussians included."""
    device = inputs.device
    wait(device)
    before = torch.cuda.memory_allocated(device)
    contender = make(Inputs(Gaussians(inputs.gaussians.tensors()), inputs.views, inputs.folder))
    reset_peak(device)
    for step in range(WARM_UP):
        contender.step(step % len(inputs.views))
    wait(device)
    return torch.cuda.max_memory_allocated(device) - before


def race_command(contender: Contender, peer: CommandPeer, inputs: Inputs, steps: int) -> dict[str, float]:
    """Medians of milliseconds a step of ours and of a program, block by block in alternation."""
    blocks = []
    for _ in tqdm(range(BLOCKS), desc=f"in alternation with {peer.name}", unit="block", leave=False):
        blocks.append((_queued(contender.step, steps, len(inputs.views), inputs.device), peer.step_ms()))
    our_ms, peer_ms = (statistics.median(values) for values in zip(*blocks, strict=True))
    return {"ours_step_ms": our_ms, "step_ms": peer_ms}


def largest_difference(one: Contender, other: Contender) -> float | None:
    """Of the pictures of the first view, where both draw one: whether they compare the same work."""
    if one.forward is None or other.forward is None:
        return None
    return float((one.forward(0) - other.forward(0)).detach().abs().max())
