"""A peer that is a program: what it needs for a training step, found from outside."""

import json
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

from splatlearn.bench.inputs import Inputs, write_colmap
from splatlearn.errors import SplatlearnError


class CommandPeer:
    """A command line, run without a shell, in which {data}, {gaussians}, {steps}, {width} and {height} are filled in.

    {data} is the COLMAP folder of the inputs (one is written for a synthetic scene), {gaussians} a PLY file of them.
    What counts as its milliseconds a step is, in this order: `step_ms` of a JSON object that is a line of its output;
    with {steps}, the time of a run of twice the steps less that of a run of them, which leaves out how long it takes
    to begin and end; else the time of the run.
    """

    def __init__(self, command: str, inputs: Inputs, steps: int) -> None:
        try:
            self.words = shlex.split(command)
        except ValueError as error:
            raise SplatlearnError(f"--peer {command!r} is no command line: {error}") from None
        if not self.words:
            raise SplatlearnError("--peer must be a command or MODULE:FUNCTION, got an empty one")
        self.name, self.steps = Path(self.words[0]).name, steps
        self._folder = tempfile.TemporaryDirectory(prefix="splatlearn_peer_")
        root = Path(self._folder.name)
        camera = inputs.views[0].camera
        self.values = {"width": str(camera.width), "height": str(camera.height)}
        if "{data}" in command:
            self.values["data"] = str(inputs.folder or write_colmap(inputs, root / "data"))
        if "{gaussians}" in command:
            self.values["gaussians"] = str(root / "gaussians.ply")
            inputs.gaussians.save_ply(root / "gaussians.ply")

    def step_ms(self) -> float:
        """Milliseconds a step, by running the command once or twice."""
        seconds, told = self._run(self.steps)
        if told is not None:
            return told
        if not any("{steps}" in word for word in self.words):
            return 1e3 * seconds
        twice, _ = self._run(2 * self.steps)
        return max(1e3 * (twice - seconds) / self.steps, 0.0)

    def _run(self, steps: int) -> tuple[float, float | None]:
        """Seconds of a run, and the step_ms that it printed."""
        words = [self._filled(word, steps) for word in self.words]
        begin = time.perf_counter()
        try:
            done = subprocess.run(words, capture_output=True, text=True, errors="replace")
        except OSError as error:
            raise SplatlearnError(f"--peer {words[0]!r} cannot be run: {error.strerror}") from None
        seconds = time.perf_counter() - begin
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise SplatlearnError(f"--peer {words[0]!r} ended with status {done.returncode}: {last}")
        return seconds, _told(done.stdout)

    def _filled(self, word: str, steps: int) -> str:
        for name, value in (self.values | {"steps": str(steps)}).items():
            word = word.replace("{" + name + "}", value)
        return word

    def close(self) -> None:
        """Deletes what was written for the command."""
        self._folder.cleanup()


def _told(output: str) -> float | None:
    """`step_ms` of the last line that is a JSON object with it."""
    for line in reversed(output.splitlines()):
        try:
            return float(json.loads(line)["step_ms"])
        except (ValueError, TypeError, KeyError):
            continue
    return None
