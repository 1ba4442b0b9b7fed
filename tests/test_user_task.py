"""A task from another package: a config names its class, and every command works with it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = '''"""A task of a user: the minimum of a parabola in two dimensions."""

from dataclasses import dataclass

import torch

import splatlearn
from splatlearn.config import Common, key
from splatlearn.errors import SplatlearnError
from splatlearn.run import Every


class Parabola(splatlearn.Task):
    @dataclass
    class Config(Common):
        task: str = key("parabolas.task:Parabola", "what is learned")
        rate: float = key(0.1, "learning rate")
        report_every: int = key(0, "steps between lines of RUN/steps.txt; 0: none")

        def __post_init__(self):
            super().__post_init__()
            if self.rate <= 0:
                raise SplatlearnError(f"'rate' must be above 0, got {self.rate}")

    def __init__(self, config):
        self.config = config
        self.generator = torch.Generator().manual_seed(config.seed)
        self.x = torch.tensor([3.0, -2.0], requires_grad=True)

    def batch(self, step):
        return torch.randn(2, generator=self.generator)

    def forward(self, batch):
        return self.x + 0.1 * batch

    def loss(self, output, batch):
        return (output - 1).square().sum()

    def update(self, step):
        with torch.no_grad():
            self.x -= self.config.rate * self.x.grad
        self.x.grad = None

    def metrics(self):
        return {"distance": (self.x - 1).norm().item()}

    def named_parameters(self):
        return [("x", self.x)]

    def state(self):
        return {"x": self.x.detach(), "generator": self.generator.get_state()}, {}

    def load_state(self, tensors, state):
        self.x = tensors["x"].clone().requires_grad_()
        self.generator.set_state(tensors["generator"])

    def evaluate(self, step=0, writer=None):
        return {"distance_to_minimum": (self.x - 1).norm().item(), "curvature": "2 <b>exactly</b>"}

    def artifacts(self, writer):
        writer.save("minimum.json", self.x.tolist())

    def callbacks(self, writer):
        every = self.config.report_every

        def note(step, task):
            with (writer.folder / "steps.txt").open("a") as file:
                file.write(f"{step}\\n")

        return [Every(every, note)] if every else []
'''
CONFIG = "task: {word}\nsteps: 40\nlog_every: 5\ncheckpoint_every: 10\nrate: 0.05\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of a user, with a package and a config that names its task."""
    package = tmp_path / "parabolas"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "task.py").write_text(PACKAGE)
    (tmp_path / "my.yaml").write_text(CONFIG.format(word="parabolas.task:Parabola"))
    return tmp_path


def splatlearn(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "splatlearn", *words], cwd=folder, env=os.environ, capture_output=True, text=True
    )


def succeeds(folder: Path, *words: str) -> str:
    done = splatlearn(folder, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def lines(run: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in found]


def test_it_trains_evaluates_and_reports(folder: Path) -> None:
    printed = succeeds(folder, "train", "my.yaml", "--out", "run", "--report_every", "15")
    assert "distance_to_minimum" in printed, "the figures of its evaluation are not printed"
    figures = json.loads((folder / "run/eval/metrics.json").read_text())
    assert figures["distance_to_minimum"] < 0.5 and figures["steps"] == 40, "it learned nothing, or too little is kept"
    assert len(json.loads((folder / "run/minimum.json").read_text())) == 2, "its artifact is missing"
    assert (folder / "run/steps.txt").read_text().split() == ["15", "30"], "its callback was not called"
    assert [line["step"] for line in lines(folder / "run")] == [1, *range(5, 41, 5)]
    report = (folder / "run/report.html").read_text()
    assert "distance to minimum" in report and "<svg" in report, "the report lacks its figures or its loss curve"
    assert "<b>exactly</b>" not in report, "a figure of a task is HTML in the report"
    (folder / "run/report.html").unlink()
    assert "distance_to_minimum" in succeeds(folder, "eval", "run")
    assert (folder / "run/report.html").exists(), "eval writes no report"


def test_a_resumed_run_repeats_an_uninterrupted_one(folder: Path) -> None:
    succeeds(folder, "train", "my.yaml", "--out", "whole")
    succeeds(folder, "train", "my.yaml", "--out", "half", "--steps", "20")
    succeeds(folder, "train", "--resume", "half", "--steps", "40")
    assert lines(folder / "half") == lines(folder / "whole"), "the resumed run has other figures"
    results = [json.loads((folder / run / "minimum.json").read_text()) for run in ("half", "whole")]
    assert results[0] == results[1], "the resumed run ends elsewhere"


def test_its_config_is_read_as_ours_are(folder: Path) -> None:
    assert "learning rate" in succeeds(folder, "train", "my.yaml", "--help")
    done = splatlearn(folder, "train", "my.yaml", "--rte", "1")
    assert done.returncode == 1 and "the nearest valid one is '--rate'" in done.stderr
    done = splatlearn(folder, "train", "my.yaml", "--rate", "-1")
    assert done.returncode == 1 and done.stderr.strip() == "splatlearn train: 'rate' must be above 0, got -1.0"
    assert not (folder / "runs").exists(), "a refused config leaves a run folder"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("parabolas.task:Parable", "got no 'Parable' there"),
        ("parabola.task:Parabola", "got no module 'parabola'"),
        ("parabolas.task:SplatlearnError", "'task' must name a subclass of splatlearn.Task"),
        ("lime", "the nearest one is 'line'"),
    ],
)
def test_a_wrong_word_is_one_sentence(folder: Path, word: str, message: str) -> None:
    (folder / "my.yaml").write_text(CONFIG.format(word=word))
    done = splatlearn(folder, "train", "my.yaml")
    assert done.returncode == 1 and message in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, "more than a sentence"


def test_an_installed_package_declares_its_task(folder: Path) -> None:
    metadata = folder / "parabolas-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: parabolas\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[splatlearn.tasks]\nparabola = parabolas.task:Parabola\n")
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "my.yaml").write_text(CONFIG.format(word="parabola"))
    environment = {**os.environ, "PYTHONPATH": f"{os.environ['PYTHONPATH']}{os.pathsep}{folder}"}
    done = subprocess.run(
        [sys.executable, "-m", "splatlearn", "train", "my.yaml", "--out", "run"],
        cwd=elsewhere, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "run/minimum.json").exists()
