"""The emulated kernels in several orders of their threads: what depends on the order lacks a barrier."""

import subprocess
import sys
from pathlib import Path

import torch


def results_of(script: str, library: Path, folder: Path) -> list[dict[str, torch.Tensor]]:
    """What a script saves in three orders; its words are the folder of tests, the library, and the file to save to."""
    results = []
    for seed in ("0", "1", "7"):
        words = map(str, (Path(__file__).parent, library, folder / seed))
        command = [sys.executable, "-c", script, *words]
        environment = {"SPLATLEARN_EMULATOR_SEED": seed, "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"with seed {seed}: {done.stderr[-1500:]}"
        results.append(torch.load(folder / seed, weights_only=True))
    return results
