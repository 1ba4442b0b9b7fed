"""Runs from outside: locks, signals and lost output, each with processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from splatlearn import checkpoint, locks, run
from splatlearn.cli import main
from splatlearn.errors import SplatlearnError
from splatlearn.locks import locked

ROOT = Path(run.__file__).parents[1]
SLOW = """
import time
from splatlearn.line.task import LineTask

class Slow(LineTask):
    def batch(self, step):
        time.sleep(0.01)
        return super().batch(step)

    def evaluate(self, step=0, writer=None):
        if (self.config.seed == 1):
            time.sleep(30)
        return super().evaluate(step, writer)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a slow task and its config, from which commands are started."""
    (tmp_path / "slow_line.py").write_text(SLOW)
    (tmp_path / "slow.yaml").write_text("task: slow_line:Slow\nsteps: 2000\nlog_every: 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield tmp_path


def start(*words: str, **options: object) -> "subprocess.Popen[str]":
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen([sys.executable, "-m", "splatlearn", *words], **streams)  # type: ignore[call-overload,no-any-return]


def shell(command: str) -> "subprocess.Popen[str]":
    """`S` in the command is splatlearn."""
    words = ["bash", "-c", command.replace("S ", f"{sys.executable} -m splatlearn ", 1)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not (path.is_file() and path.stat().st_size):
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.02)


# ---- locks ----


def test_one_process_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with locked(folder, "splatlearn train"):
        told = f"in use by process {os.getpid()} on .* \\(splatlearn train\\); wait for its end"
        with pytest.raises(SplatlearnError, match=told), locked(folder, "splatlearn eval"):
            pass
        (folder / "x").write_text("x")
    assert [path.name for path in folder.iterdir()] == ["x"], "the lock stays behind"
    with locked(folder, "again"):
        pass
    with locked(tmp_path / "other" / "run", "nothing"):
        pass
    assert not (tmp_path / "other").exists(), "an empty folder stays behind"


def test_the_lock_of_a_killed_process_is_free_and_a_strangers_text_is_short(tmp_path: Path) -> None:
    for text in ("", "{", json.dumps({"pid": 1, "host": "\x1b[31m", "work": "x" * 10**6}), "[" * 10**5):
        (tmp_path / locks.NAME).write_text(text)
        with locked(tmp_path, "train"):
            pass
        (tmp_path / locks.NAME).write_text(text)
        descriptor = os.open(tmp_path / locks.NAME, os.O_RDWR)
        locks.fcntl.flock(descriptor, locks.fcntl.LOCK_EX)
        with pytest.raises(SplatlearnError) as caught, locked(tmp_path, "train"):
            pass
        os.close(descriptor)
        assert len(str(caught.value)) < 300 and str(caught.value).isprintable()


def test_without_locks_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", unknown)
    with locked(tmp_path, "train"):
        assert "cannot be locked (No locks available)" in capsys.readouterr().err


def test_readers_go_on_where_the_training_deletes_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for step in (1, 2):
        checkpoint.save(tmp_path / "checkpoints", step, {"x": torch.ones(1)}, {})
    real, newest = checkpoint.load, checkpoint.latest(tmp_path / "checkpoints")

    def overtaken(path: Path) -> object:
        if path == newest:
            checkpoint.save(tmp_path / "checkpoints", 3, {"x": torch.ones(1)}, {}, keep=1)
        return real(path)

    monkeypatch.setattr(checkpoint, "load", overtaken)
    assert run.load_last(tmp_path)[0].name == "step_0000003"


# ---- signals ----


def test_a_training_is_locked_and_signals_save_it(here: Path) -> None:
    training = start("train", "slow.yaml", "--out", "run")
    wait_for(here / "run" / "metrics.jsonl")
    for words in (["train", "--resume", "run"], ["eval", "run"], ["train", "slow.yaml", "--out", "run"]):
        assert main(words) == 1, "a second process writes into the folder"
    training.send_signal(signal.SIGTERM)
    _, errors = training.communicate(timeout=60)
    assert training.returncode == 143 and "Traceback" not in errors
    assert errors.splitlines()[-1].endswith("go on with: splatlearn train --resume run"), errors
    saved = checkpoint.latest(here / "run" / "checkpoints")
    assert saved is not None and checkpoint.step_of(saved) == len(run.read_metrics(here / "run" / "metrics.jsonl"))
    assert not (here / "run" / ".lock").exists()

    ignoring = shell("trap '' INT HUP; exec S train --resume run")  # as under nohup, in the background of a script
    done = len(run.read_metrics(here / "run" / "metrics.jsonl"))
    while len(run.read_metrics(here / "run" / "metrics.jsonl")) <= done + 2:
        time.sleep(0.05)
    for number in (signal.SIGINT, signal.SIGHUP):
        ignoring.send_signal(number)
    time.sleep(0.3)
    assert ignoring.poll() is None, "a signal that was ignored at the start ended the training"
    ignoring.terminate()
    ignoring.communicate(timeout=60)
    assert ignoring.returncode == 143


def test_without_a_checkpoint_it_begins_at_zero_and_evaluation_may_be_interrupted(here: Path) -> None:
    training = start("train", "slow.yaml", "--out", "run", "--seed", "1", "--steps", "30")
    wait_for(here / "run" / "metrics.jsonl")
    training.kill()
    training.communicate()
    assert checkpoint.latest(here / "run" / "checkpoints") is None and (here / "run" / ".lock").exists()
    again = start("train", "--resume", "run")
    wait_for(here / "run" / "checkpoints" / "step_0000030" / "manifest.json")
    time.sleep(0.5)
    again.send_signal(signal.SIGINT)  # while it evaluates
    output, errors = again.communicate(timeout=60)
    assert "run has no checkpoint yet: beginning at step 0 of 30" in output
    assert again.returncode == 130 and errors.splitlines()[-1] == "stopped; go on with: splatlearn train --resume run"
    assert len(run.read_metrics(here / "run" / "metrics.jsonl")) == 30 and not (here / "run" / ".lock").exists()


# ---- lost output ----


def test_lost_output_never_costs_a_result(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does output that its encoding cannot hold."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    line = "S train slow.yaml --steps 30 --out"
    cases = {
        "full": (f"{line} é-full > /dev/full", 1, "the output could not be written (No space left on device)"),
        "closed": (f"{line} é-closed >&-", 1, "the output could not be written (Bad file descriptor)"),
        "mute": (f"{line} é-mute 2>&-", 0, ""),
        "nothing": (f"{line} é-nothing <&- >&- 2>&-", 1, ""),
        "head": (f"set -o pipefail; {line} é-head | head -c 1", 1, ""),
    }
    running = {name: shell(command) for name, (command, _, _) in cases.items()}
    for name, process in running.items():
        _, errors = process.communicate(timeout=120)
        _, status, sentence = cases[name]
        assert process.returncode == status, f"{name}: {errors}"
        assert sentence in errors and "Traceback" not in errors and "Exception" not in errors, errors
        out = here / f"é-{name}"
        assert (out / "report.html").exists() and len(run.read_metrics(out / "metrics.jsonl")) == 30, name
        assert "step" not in (out / "config.yaml").read_text().splitlines()[0], "output landed in a file"
    full = shell("S --help > /dev/full"), shell("S --help >&-")
    for process in full:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1 and "could not be written" in errors and "Traceback" not in errors


def test_ctrl_c_while_it_starts_is_one_line(here: Path) -> None:
    """At any time after Python itself has started, be it within the import of PyTorch."""
    processes = []
    for delay in (0.5, 1.0, 1.5, 2.0):
        process = start("train", "slow.yaml", "--out", f"at{delay}", "--steps", "100000")
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        processes.append(process)
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130 and "Traceback" not in errors, errors
        assert "stopped" in errors.splitlines()[-1]
