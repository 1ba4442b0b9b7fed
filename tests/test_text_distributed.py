"""Several processes learn one text: two under torchrun give the losses of one, and one of them writes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "text_cpu.yaml"
WORDS = ["--model.width", "16", "--model.heads", "2", "--model.layers", "2", "--model.context", "16", "--batch", "8"]
WORDS += ["--accumulate", "2", "--steps", "6", "--log_every", "1", "--device", "cpu", "--evaluate_every", "3"]
WORDS += ["--optimizer.rate", "1e-2", "--optimizer.warmup", "1"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def trained(folder: Path, processes: int, *words: str) -> "subprocess.CompletedProcess[str]":
    """`splatlearn train` in as many processes, in the folder, into its subfolder run."""
    (folder / "text.txt").write_text("".join(f"{n} times {n} is {n * n}, and so on.\n" for n in range(300)))
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={free_port()}"]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "splatlearn", "train", str(CONFIG)]
    command += ["--data.path", "text.txt", "--out", "run", *WORDS, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    lines = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        done = trained(folder, processes)
        assert done.returncode == 0, done.stderr[-3000:]
        lines[processes] = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        assert done.stdout.count("wrote run") == 1, "not one process alone tells what was written"
    one, two = lines[1], lines[2]
    assert [line["step"] for line in two] == [1, 2, 3, 4, 5, 6], "two processes write one log twice, or not at all"
    for ours, theirs in zip(one, two, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-5), "two processes learn something else than one"
        assert theirs["gradient_norm"] == pytest.approx(ours["gradient_norm"], rel=1e-4), "gradients are not averaged"
    assert one[0]["loss"] - one[-1]["loss"] > 0.1, "nothing is learned, so that nothing is compared"
    evaluated = [json.loads((tmp_path / str(n) / "run" / "eval" / "metrics.json").read_text())["loss"] for n in (1, 2)]
    assert evaluated[1] == pytest.approx(evaluated[0], abs=1e-5), "another model was saved"


def test_a_batch_that_does_not_divide_is_one_sentence(tmp_path: Path) -> None:
    done = trained(tmp_path, 2, "--batch", "6")
    assert done.returncode != 0, "a batch that leaves a process without work is taken"
    told = "'batch' must be a multiple of 4, the 2 processes times the 2 parts of a step, got 6"
    assert told in done.stderr, done.stderr[-3000:]
    assert not (tmp_path / "run").exists(), "a run that never began left its folder"
