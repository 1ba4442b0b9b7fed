"""What it costs that gradients are the same bits in every run: backward with and without atomics."""

from typing import Any

from splatlearn.bench.inputs import Inputs
from splatlearn.ops import native


def price_of_determinism(inputs: Inputs, steps: int) -> dict[str, Any]:
    """A note where there is one variant alone, as on a CPU."""
    if not native.runs_kernels(inputs.gaussians.means):
        return {"note": "nothing to choose on a CPU, whose one backward gives the same bits for any number of threads"}
    return {"note": "this build has the deterministic backward alone"}
