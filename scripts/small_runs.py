"""Small trainings for `kill_runs.py` and `full_disk.py`: each in a process of its own, and compared byte for byte.

A process is forked from this one, which has imported everything, so that a run takes a second or less.
"""

import hashlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch: a fork takes no threads along
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

TRAINERS = ("line", "scene", "text")
TIMES = ("seconds", "train_seconds")  # fields that no two runs share
LONGEST = 300  # seconds of a process; what takes longer hangs


def imports() -> None:
    """Import what a command may need."""
    from importlib import import_module

    for name in ("line.task", "scene.training.task", "text.task", "trainer", "commands.train", "commands.export",
                 "show.sculpture", "show.scene_page"):  # fmt: skip
        import_module(f"splatlearn.{name}")


def child(work: Callable[[], int], folder: Path, log: Path) -> int:
    """Fork a process that does the work in a folder; return its id. Its output goes into `log`."""
    sys.stdout.flush()
    if (process := os.fork()) == 0:
        status = 70
        try:
            target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(target, 1)
            os.dup2(target, 2)
            os.chdir(folder)
            status = work()
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    return process


def wait(process: int) -> int:
    """The exit status of a process, negative for the signal that ended it."""
    end = time.monotonic() + LONGEST
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise SystemExit(f"a process took more than {LONGEST} s: it hangs")


def command(*words: str) -> Callable[[], int]:
    """The work of one command."""

    def work() -> int:
        from splatlearn.cli import main

        return main(list(words))

    return work


def make_material(folder: Path) -> None:
    """Write the pictures and the text that are learned from."""

    def work() -> int:
        from splatlearn.show.sculpture import write_folder

        write_folder(folder / "colmap", 8)
        words = ["the", "loop", "goes", "forward", "to", "its", "loss", "and", "back", "again"]
        rows = (f"{n}: " + " ".join(words[(n * k + k) % 10] for k in range(1, 9)) for n in range(200))
        (folder / "text.txt").write_text("\n".join(rows) + "\n")
        return 0

    folder.mkdir(parents=True, exist_ok=True)
    if wait(child(work, folder, folder / "log")) != 0:
        raise SystemExit((folder / "log").read_text())


def words_of(trainer: str, material: Path) -> list[str]:
    """The words of `splatlearn train` of a small training with evaluations, into the folder `run`."""
    configs = Path(__file__).resolve().parents[1] / "configs"
    own = {
        "line": f"{configs}/line.yaml --steps 1500 --checkpoint_every 100 --log_every 10 --batch 8 "
        "--optimizer momentum --rate 0.001",
        "scene": f"{configs}/scene.yaml --data.path {material}/colmap --data.downscale 4 --steps 60 --log_every 1 "
        "--checkpoint_every 15 --evaluate_every 10 --patience 3 --coarse [] --sh_degree 1 --exposure "
        "--densify.start 10 --densify.every 10 --densify.stop 0.8",
        "text": f"{configs}/text.yaml --data.path {material}/text.txt --data.tokenizer character --data.cache "
        f"{material}/cache --model.width 16 --model.heads 2 --model.layers 1 --model.context 16 --batch 8 --steps 60 "
        "--log_every 1 --checkpoint_every 15 --evaluate_every 10 --sample_every 20 --sample_length 10",
    }[trainer]
    return [*own.split(), "--device", "cpu", "--out", "run"]


def digests(run: Path) -> dict[str, str]:
    """What a finished run holds: a hash by file, without times and what depends on them.

    Of the checkpoints only the last one counts: the one before it may be that of a SIGTERM.
    Temporary files and locks that a killed process has left would be there by name.
    """
    found = {}
    last = max((path.name for path in run.glob("checkpoints/step_*")), default="")
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.parent.name.startswith("step_") and path.parent.name != last:
            continue
        if path.is_dir() or name in ("report.html", "versions.json"):
            continue
        content = path.read_bytes()
        if path.suffix == ".jsonl" or name == "eval/metrics.json":
            lines = content.decode().splitlines() if path.suffix == ".jsonl" else [content.decode()]
            kept = [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
            content = json.dumps(kept, sort_keys=True).encode()
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def differences(reference: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names of files that are not the same in both."""
    return sorted(n for n in reference.keys() | other.keys() if reference.get(n) != other.get(n))


def complaint(log: Path) -> str:
    """What is wrong with the output of a command that was to end in one sentence, or ""."""
    text = log.read_text(errors="replace")
    return "a traceback" if "Traceback" in text or "Exception ignored" in text else ""


def print_table(works: Mapping[str, Callable[[], Counter[str]]], columns: Sequence[str]) -> int:
    """Run campaigns in turn and print a row of counts for each; return the sum of the last column, the faults."""
    print("| work | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|", flush=True)
    faults = 0
    for name, work in works.items():
        counts = work()
        print(f"| {name} | " + " | ".join(str(counts[column]) for column in columns) + " |", flush=True)
        faults += counts[columns[-1]]
    return faults
