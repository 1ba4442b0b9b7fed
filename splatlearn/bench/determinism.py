"""What it costs that gradients are the same bits in every run: backward with and without atomics."""

import statistics
from collections import defaultdict
from typing import Any

from tqdm import tqdm

from splatlearn.bench.clock import timed_stages, wait
from splatlearn.bench.contenders import ours
from splatlearn.bench.inputs import Inputs
from splatlearn.ops import native
from splatlearn.ops.rasterize import deterministic

STAGE = "rasterize backward"


def price_of_determinism(inputs: Inputs, steps: int) -> dict[str, Any]:
    """Medians of the stage's milliseconds with rows of gradients and with atomics, in alternation; a note on a CPU."""
    if not native.runs_kernels(inputs.gaussians.means):
        return {"note": "nothing to choose on a CPU, whose one backward gives the same bits for any number of threads"}
    step, times = ours(inputs).step, defaultdict(list)
    for index in tqdm(range(-2, steps), desc="with and without atomics", unit="step", leave=False):
        for wanted, name in ((True, "deterministic_ms"), (False, "atomic_ms")):
            with deterministic(wanted), timed_stages() as clock:
                wait(inputs.device)
                step(index % len(inputs.views))
                wait(inputs.device)
            if index >= 0:
                times[name].append(1e3 * clock.seconds()[STAGE][0])
    return {name: statistics.median(values) for name, values in times.items()}
