"""Train for hours with the viewer open and visitors who come and go: python scripts/soak.py --data SCENE --hours 8

The training changes its number of Gaussians all the time, saves, and evaluates. Each visitor connects, flies around in
another mode, changes the controls, and leaves. The resident memory of the training process is sampled; the table says
whether it stayed flat: the median of the last quarter against that of the second one (the first one warms up).
"""

import argparse
import json
import math
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from viewer_visitor import visit  # noqa: E402

from splatlearn.run import read_metrics  # noqa: E402
from splatlearn.scene.keyframes import look_rotation  # noqa: E402
from splatlearn.viewer.drawing import MODES  # noqa: E402

FLAT = 0.02, 16.0  # memory may grow by this share, plus so many MiB, and still counts as flat
SAMPLE = 5.0  # seconds between samples of the memory
VISIT = 20.0  # seconds that a visitor stays


def command(data: Path, run: Path) -> list[str]:
    """The training: it grows to its cap soon and goes on to clone, split and prune there."""
    keys = {
        "data.path": data, "out": run, "data.downscale": 4, "steps": 10**8, "coarse": "[]", "sh_every": 100,
        "densify.start": 100, "densify.cap": 20_000, "densify.reset_every": 3000, "checkpoint_every": 1000,
        "evaluate_every": 5000, "log_every": 100, "device": "cpu",
    }  # fmt: skip
    words = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
    config = ROOT / "configs/scene_fast.yaml"
    return [sys.executable, "-m", "splatlearn", "train", str(config), *words, "--viewer", "--viewer-port", "0"]


class Visitors:
    """Threads of visitors of one viewer; `failures` collects what went wrong."""

    def __init__(self, url: str, count: int) -> None:
        self.url, self.visits, self.pictures = url, 0, 0
        self.failures: list[str] = []
        self._leave = threading.Event()
        self._threads = [threading.Thread(target=self._come_and_go, args=(i,)) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def leave(self) -> None:
        self._leave.set()
        for thread in self._threads:
            thread.join()

    def _come_and_go(self, number: int) -> None:
        chance = random.Random(number)
        while not self._leave.is_set():
            try:
                self._stay(chance)
            except Exception as error:  # the viewer must serve the next one all the same
                if not self._leave.is_set():
                    self.failures.append(f"{type(error).__name__}: {error}")
                    self._leave.wait(5)

    def _stay(self, chance: random.Random) -> None:
        with visit(self.url) as page:
            end = time.monotonic() + VISIT
            angle, distance = chance.uniform(0, 6.3), chance.uniform(1, 4)
            while time.monotonic() < end and not self._leave.wait(0.1):
                angle += 0.05
                place = (distance * math.sin(angle), 0.0, -distance * math.cos(angle))
                wxyz = look_rotation(-_array(place), _array((0.0, -1.0, 0.0)))
                size = {"image_width": 640, "image_height": 360}
                page.camera(position=place, look_at=(0.0, 0.0, 0.0), wxyz=tuple(map(float, wxyz)), **size)
                if chance.random() < 0.02 and "Show" in page.controls:
                    page.control("Show", chance.choice(list(MODES)))
                    page.control("Splat size", chance.uniform(0.1, 2))
            self.visits += 1
            self.pictures += page.received["BackgroundImageMessage"]


def _array(values: tuple[float, ...]):  # noqa: ANN202
    import numpy as np

    return np.array(values)


def resident_mib(pid: int) -> float:
    """The resident memory of a process in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(data: Path, hours: float, visitors: int, folder: Path) -> dict[str, object]:
    """Train with visitors for so many hours, end with SIGTERM, and return the figures."""
    run = folder / "run"
    log = (folder / "log").open("w")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # the checkout, whether installed or not
    training = subprocess.Popen(
        command(data, run), stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder, env=environment
    )
    assert training.stdout is not None
    url = ""
    while not url:
        line = training.stdout.readline()
        if not line:
            sys.exit(f"the training did not start: {(folder / 'log').read_text()[-1000:]}")
        url = (re.findall(r"http://\S+", line) or [""])[0]
    threading.Thread(target=lambda: [None for _ in training.stdout], daemon=True).start()  # type: ignore[union-attr]
    crowd = Visitors(url, visitors)
    samples: list[float] = []
    end = time.monotonic() + 3600 * hours
    try:
        while time.monotonic() < end and training.poll() is None:
            samples.append(resident_mib(training.pid))
            time.sleep(SAMPLE)
    except KeyboardInterrupt:
        print("ending early")
    crowd.leave()
    training.send_signal(signal.SIGTERM)  # it saves, as at Ctrl-C, which a process in the background ignores
    try:
        status = training.wait(timeout=600)
    finally:
        training.kill()
    lines = read_metrics(run / "metrics.jsonl")
    quarter = len(samples) // 4
    early, late = (statistics.median(part) for part in (samples[quarter : 2 * quarter], samples[-quarter:]))
    return {
        "hours": round(len(samples) * SAMPLE / 3600, 3), "steps": lines[-1]["step"], "exit status": status,
        "Gaussians": lines[-1]["num_gaussians"], "visits": crowd.visits, "pictures": crowd.pictures,
        "failures": crowd.failures[:5], "checkpoints": sorted(p.name for p in (run / "checkpoints").iterdir()),
        "MiB second quarter": round(early), "MiB last quarter": round(late), "MiB peak": round(max(samples)),
        "flat": late <= early * (1 + FLAT[0]) + FLAT[1],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="SCENE", help="a COLMAP folder")
    parser.add_argument("--hours", type=float, default=8.0, help="how long (default: 8)")
    parser.add_argument("--visitors", type=int, default=3, help="visitors at a time (default: 3)")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = soak(a.data.resolve(), a.hours, a.visitors, Path(folder))
    print(json.dumps(figures, indent=1))
    sys.exit(0 if figures["flat"] and not figures["failures"] and figures["exit status"] == 128 + signal.SIGTERM else 1)


if __name__ == "__main__":
    main()
