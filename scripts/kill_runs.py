"""Kill trainings at random moments, resume them, and compare the end with that of an uninterrupted run, byte for byte.

    python scripts/kill_runs.py --kills 100

A training is killed up to four times, then goes on to its end: by SIGKILL, by SIGTERM in one of four cases. The table
counts runs, kills by signal, and the moments: before the first checkpoint, in training, after the last step.
"""

import argparse
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from small_runs import (
    TRAINERS,
    child,
    command,
    complaint,
    differences,
    digests,
    imports,
    make_material,
    print_table,
    wait,
    words_of,
)

MOST = 4  # kills of one run
TERM_SHARE = 0.25
COLUMNS = ("runs", "kills", "SIGKILL", "SIGTERM", "before a checkpoint", "in training", "after the last step", "faults")


def campaign(trainer: str, kills: int, seed: int, folder: Path, material: Path) -> Counter[str]:
    """Kill runs of a trainer until there were `kills`; return the counts, of which `faults` are to be 0."""
    draw, counts = random.Random(f"{seed} {trainer}"), Counter[str]()
    words = words_of(trainer, material)
    (folder / "whole").mkdir(parents=True)
    began = time.monotonic()
    if wait(child(command("train", *words), folder / "whole", folder / "log")) != 0:
        raise SystemExit((folder / "log").read_text())
    duration = time.monotonic() - began
    reference = digests(folder / "whole" / "run")
    while counts["kills"] < kills:
        here = folder / f"{counts['runs']}"
        here.mkdir()
        log = here / "log"
        for left in reversed(range(MOST + 1)):  # the last one is left alone
            go_on = (here / "run" / "config.yaml").exists()
            process = child(command("train", *(["--resume", "run"] if go_on else words)), here, log)
            if left and counts["kills"] < kills:
                number = signal.SIGTERM if draw.random() < TERM_SHARE else signal.SIGKILL
                time.sleep(draw.uniform(0, duration))
                os.kill(process, number)
            status = wait(process)
            if status == 0:
                break
            counts["kills"] += 1
            counts[f"{signal.Signals(number).name}"] += 1
            counts[_moment(here / "run", reference)] += 1
            if status not in (-number, 128 + number):
                counts["faults"] += 1
                print(f"{trainer}, run {counts['runs']}: exit status {status}\n{log.read_text()}")
                break
        wrong = differences(reference, digests(here / "run")) if status == 0 else ["exit status"]
        if wrong or complaint(log):
            counts["faults"] += 1
            print(f"{trainer}, run {counts['runs']}: {complaint(log)} {wrong}\n{log.read_text()[-3000:]}")
        else:
            shutil.rmtree(here)
        counts["runs"] += 1
    return counts


def _moment(run: Path, reference: dict[str, str]) -> str:
    saved = sorted(path.name for path in run.glob("checkpoints/step_*"))
    last = max(name.split("/")[1] for name in reference if name.startswith("checkpoints/"))
    return "before a checkpoint" if not saved else "after the last step" if last in saved else "in training"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of each trainer (default: 100)")
    parser.add_argument("--trainers", nargs="+", choices=TRAINERS, default=TRAINERS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    imports()
    with tempfile.TemporaryDirectory(prefix="kill_runs_") as name:
        folder, material = Path(name), Path(name) / "material"
        make_material(material)
        works = {
            trainer: partial(campaign, trainer, options.kills, options.seed, folder / trainer, material)
            for trainer in options.trainers
        }
        return 1 if print_table(works, COLUMNS) else 0


if __name__ == "__main__":
    raise SystemExit(main())
