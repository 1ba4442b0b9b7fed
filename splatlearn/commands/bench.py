"""splatlearn bench: times every stage of full training steps, on photographs or on a synthetic scene, against goals."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from splatlearn.bench import goals
from splatlearn.bench.collected import collect
from splatlearn.bench.command_peer import CommandPeer
from splatlearn.bench.contenders import from_callable, gsplat, has_gsplat, ours, replayed
from splatlearn.bench.determinism import price_of_determinism
from splatlearn.bench.inputs import Inputs, image_folder, picture_size, synthetic
from splatlearn.bench.measure import measure, median_counts
from splatlearn.bench.race import footprint, largest_difference, race, race_command
from splatlearn.bench.scaling import plot, scaling, scaling_table
from splatlearn.bench.table import table
from splatlearn.commands.arguments import Parser
from splatlearn.devices import choose_device
from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing

MAX_THREADS = 1024


def run(words: list[str]) -> None:
    arguments = _parse(words)
    if arguments.collect:
        told = collect(arguments.collect)
        print(goals.table([goals.Row(**row) for row in told["goals"]]))
        print(f"wrote goals.json, goals.md and log.md to {arguments.collect}")
        return
    device = choose_device(arguments.device)
    threads = _threads(arguments.threads, device)
    for name in ("gsplat", "replay"):
        if getattr(arguments, name) and device.type != "cuda":
            raise SplatlearnError(f"--{name} needs --device cuda, got {arguments.device!r}")
    before = torch.get_num_threads()
    try:
        if arguments.scaling:
            torch.set_num_threads(threads[-1])
            result = scaling(device, arguments.budget)
            result["goals"] = [row._asdict() for row in goals.rows({"scaling": result})]
            print(scaling_table(result))
            plot(result, arguments.plot)
            print(f"wrote {arguments.plot}")
        else:
            result = _benchmark(arguments, device, threads)
            found = goals.rows({goals.kind_of(result) or "": result})
            result["goals"] = [row._asdict() for row in found]
            print(table(result, arguments.peer_ms))
            if device.type == "cuda":
                print(f"\nGoals, of a card:\n{goals.table(found)}")
    finally:
        torch.set_num_threads(before)
    if arguments.json:
        with replacing(arguments.json) as path:
            path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")


def _parse(words: list[str]) -> argparse.Namespace:
    parser = Parser("bench", __doc__)
    add = parser.add_argument
    add("--data", type=Path, help="a COLMAP folder; without it, a synthetic scene")
    add("--gaussians", type=Path, help="a PLY file or a run folder (default: the points of --data)")
    add("--count", type=int, help="Gaussians of the synthetic scene (default: 10000)")
    add("--size", help="picture of the synthetic scene (default: 960x540)")
    add("--steps", type=int, default=40, help="steps to time, after 5 to warm up (default: 40)")
    add("--device", default="cpu", help="auto, cpu, cuda or cuda:N (default: cpu)")
    add("--threads", help="threads, or several numbers to compare such as 1,2 (default: as torch chooses)")
    add("--gsplat", action="store_true", help="demand gsplat beside ours (where installed, a card has it anyway)")
    add("--replay", action="store_true", help="also time whole steps as CUDA graphs")
    add("--peer", action="append", default=[], metavar="COMMAND|MODULE:FUNCTION",
        help="time this too, in alternation: a command with {data}, {gaussians}, {steps}, {width}, {height} filled in, "
        "or a Python function of the inputs that returns step(index) or forward(index), update()")  # fmt: skip
    add("--peer-ms", type=float, help="a peer's milliseconds a step, measured elsewhere, for the ratio")
    add("--scaling", action="store_true", help="instead: synthetic scenes, 10^4 to 10^7 Gaussians, 0.5 to 8 megapixels")
    add("--budget", type=float, default=120.0, help="seconds that --scaling may take (default: 120)")
    add("--plot", type=Path, default=Path("scaling.png"), help="figure of --scaling (default: scaling.png)")
    add("--collect", type=Path, metavar="FOLDER",
        help="instead: the table of goals and a section for docs/LOG.md, of what on_gpu.sh left there")  # fmt: skip
    add("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args(words)
    if arguments.steps < 1:
        raise SplatlearnError(f"--steps must be at least 1, got {arguments.steps}")
    if not arguments.budget > 0:
        raise SplatlearnError(f"--budget must be above 0 seconds, got {arguments.budget:g}")
    if arguments.peer_ms is not None and not arguments.peer_ms > 0:
        raise SplatlearnError(f"--peer-ms must be above 0, got {arguments.peer_ms:g}")
    if arguments.plot.suffix not in (".png", ".svg", ".pdf"):
        raise SplatlearnError(f"--plot must end in .png, .svg or .pdf, got {str(arguments.plot)!r}")
    _refuse_idle(arguments)
    return arguments


def _refuse_idle(arguments: argparse.Namespace) -> None:
    """Options that would have no effect are refused rather than ignored."""
    if arguments.data and (arguments.count is not None or arguments.size is not None):
        raise SplatlearnError("--count and --size are of a synthetic scene, and do not go with --data")
    if arguments.gaussians and not arguments.data:
        raise SplatlearnError("--gaussians needs --data, the photographs they are seen from")
    for name in ("data", "count", "size", "peer", "gsplat", "replay", "peer_ms"):
        if arguments.scaling and getattr(arguments, name):
            raise SplatlearnError(f"--scaling makes scenes of its own, and does not go with --{name.replace('_', '-')}")


def _threads(text: str | None, device: torch.device) -> list[int]:
    if text is None:
        return [torch.get_num_threads()]
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= MAX_THREADS for part in parts):
        raise SplatlearnError(f"--threads must be numbers from 1 to {MAX_THREADS} such as 2 or 1,2, got {text!r}")
    if len(parts) > 1 and device.type == "cuda":
        raise SplatlearnError(f"--threads compares numbers of threads on a CPU alone, got {text!r} for {device}")
    return [int(part) for part in parts]


def _benchmark(arguments: argparse.Namespace, device: torch.device, threads: list[int]) -> dict[str, Any]:
    if arguments.data:
        inputs = image_folder(arguments.data, arguments.gaussians)
    else:
        size = picture_size(arguments.size or "960x540")
        inputs = synthetic(10_000 if arguments.count is None else arguments.count, *size)
    inputs = inputs.to(device)
    runs: dict[str, Any] = {}
    counts = median_counts(inputs)
    for number in threads:  # the last one is what all other figures are of
        torch.set_num_threads(number)
        result = measure(inputs, arguments.steps, counts)
        runs[str(number)] = {name: result[name] for name in ("step_ms", "step_cpu_ms", "stages_ms", "peaks")}
    result["threads_ms"] = runs
    result |= _compared(arguments, inputs)
    result["determinism"] = price_of_determinism(inputs, arguments.steps)
    return result


def _compared(arguments: argparse.Namespace, inputs: Inputs) -> dict[str, Any]:
    """Ours and the peers, in alternation: `alternation` by name of contender, `peers` by name of program."""
    contenders = [ours(inputs)]
    if arguments.gsplat or (inputs.device.type == "cuda" and has_gsplat()):
        contenders.append(gsplat(inputs))
    if arguments.replay:
        contenders.append(replayed(inputs))
    commands = []
    try:
        for peer in arguments.peer:
            if _is_callable(peer):
                contenders.append(from_callable(peer, inputs))
            else:
                commands.append(CommandPeer(peer, inputs, arguments.steps))
        result = race(contenders, inputs, arguments.steps)
        for contender in contenders[1:]:
            difference = largest_difference(contenders[0], contender)
            if difference is not None:
                result[contender.name]["largest_difference_of_pictures"] = difference
        own = result["splatlearn"]
        compared = {"alternation": result, "queued_step_ms": own["queued_step_ms"]}
        if inputs.device.type == "cuda":
            makers = {"splatlearn": ours, **{c.name: gsplat for c in contenders if c.name.startswith("gsplat")}}
            compared["footprint_bytes"] = {name: footprint(make, inputs) for name, make in makers.items()}
        if commands:
            compared["peers"] = {c.name: race_command(contenders[0], c, inputs, arguments.steps) for c in commands}
        return compared
    finally:
        for command in commands:
            command.close()


def _is_callable(peer: str) -> bool:
    """Whether a peer is MODULE:FUNCTION rather than a command line."""
    module, colon, name = peer.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))
