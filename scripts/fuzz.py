"""Attack the readers of files with hostile inputs for hours: ``python scripts/fuzz.py --hours 8 [--format gpt2]``.

Guided by coverage where Atheris is installed (``pip install atheris``), otherwise by random numbers. Every failure that
is new is made smaller and saved in ``tests/fuzz/corpus``, which the tests replay. Ctrl-C ends it with the counts.
"""

import argparse
import importlib.util
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import SystemRandom
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from fuzz import campaign, harness  # noqa: E402  (the package beside the tests, not this file)

ROUND = 2000  # inputs of a format in turn
SHRINKING = 40.0  # seconds for making a failing input smaller
LARGEST = 64 << 10  # bytes of a case that is kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=8.0, help="how long (default: 8)")
    parser.add_argument("--cases", type=int, help="end after this many inputs of all formats")
    parser.add_argument("--format", action="append", choices=harness.names(), help="only this format; repeatable")
    parser.add_argument("--seed", type=int, help="first number of the random source (default: another each time)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--random", action="store_true", help="random numbers even where Atheris is installed")
    parser.add_argument("--no-save", action="store_true", help="do not change the corpus")
    arguments = parser.parse_args()
    guided = not arguments.random and importlib.util.find_spec("atheris") is not None
    names = arguments.format or harness.names()
    seed = SystemRandom().randrange(10**9) if arguments.seed is None else arguments.seed
    print(f"{'guided by coverage' if guided else 'random numbers'}, seed {seed}: {', '.join(names)}", flush=True)
    tallies = run(names, arguments, guided, seed)
    print(table(tallies))
    failures = [(name, found) for name in names for found in tallies[name].failures.values()]
    for name, found in failures:
        print(f"\n{name}: {found.end} ({found.count} inputs)")
        if not arguments.no_save and not found.name and found.case:
            print(f"  saved as {save(name, found)}", flush=True)
    return 1 if failures else 0


def run(names: list[str], arguments: argparse.Namespace, guided: bool, seed: int) -> dict[str, campaign.Tally]:
    """The counts of a campaign that time, a number of cases or Ctrl-C ends."""
    stop = threading.Event()
    tallies = {name: campaign.Tally() for name in names}
    end = time.monotonic() + 3600 * arguments.hours
    weights = sum(map(harness.weight, names))

    def requests() -> Iterator[dict[str, Any]]:
        """The corpus, then rounds over all formats."""
        yield from ({"format": name, "source": "corpus"} for name in names)
        first, issued = seed, 0
        while time.monotonic() < end:
            failures = sum(len(tally.failures) for tally in tallies.values())
            print(f"{sum(tally.cases for tally in tallies.values()):,} inputs, {failures} failures", flush=True)
            left = ROUND * len(names)
            if arguments.cases is not None:
                left = min(left, arguments.cases - issued)
            if left <= 0:
                return
            for name in names:
                cases = max(1, round(left * harness.weight(name) / weights))
                issued += cases
                yield {"format": name, "source": "atheris" if guided else "seeds", "cases": cases, "first": first}
            first += ROUND * len(names)

    clock = threading.Timer(max(0.0, end - time.monotonic()), stop.set)
    clock.daemon = True
    clock.start()
    try:
        campaign.attack(requests(), arguments.workers, stop, tallies)
    except KeyboardInterrupt:
        print("\nstopped", flush=True)
    clock.cancel()
    return tallies


def table(tallies: dict[str, campaign.Tally]) -> str:
    """Counts and seconds of each format."""
    lines = [f"{'format':<16}{'cases':>10}{'read':>10}{'refused':>10}{'failed':>8}{'seconds':>9}{'slowest':>9}"]
    for name, tally in tallies.items():
        failed = sum(found.count for found in tally.failures.values())
        lines.append(
            f"{name:<16}{tally.cases:>10,}{tally.read:>10,}{tally.refused:>10,}{failed:>8,}{tally.seconds:>9.1f}"
            f"{tally.slowest:>8.2f}s"
        )
    total = sum(tally.cases for tally in tallies.values())
    return "\n".join([*lines, f"{'all':<16}{total:>10,}"])


def save(name: str, found: campaign.Found) -> Path | str:
    """Keep a failing input in the corpus, as small as `SHRINKING` seconds make it."""
    case = smaller(name, found)
    if sum(map(len, case.values())) > LARGEST:
        return f"nothing: {sum(map(len, case.values())):,} bytes are too many"
    words = "".join(c if c.isalnum() else "_" for c in found.end.split(": ")[0])[:60].strip("_").lower()
    folder = harness.CORPUS / name / words
    while folder.exists():
        folder = folder.with_name(folder.name + "_")
    harness.write(case, folder)
    return folder


def smaller(name: str, found: campaign.Found) -> harness.Case:
    """The input with as few files and bytes as still fail in the same way."""
    with tempfile.TemporaryDirectory() as root:
        tried = campaign.Replay(name, Path(root))
        kind = campaign.kind_of(found.end)
        end = time.monotonic() + SHRINKING
        case = dict(found.case)
        for file in sorted(case):
            without = {other: content for other, content in case.items() if other != file}
            if without and tried.kind(without) == kind:
                case = without
        for file in sorted(case):
            size = max(1, len(case[file]) // 2)
            while size and time.monotonic() < end:
                place = 0
                while place < len(case[file]) and time.monotonic() < end:
                    cut = case[file][:place] + case[file][place + size :]
                    if tried.kind({**case, file: cut}) == kind:
                        case[file] = cut
                    else:
                        place += size
                size //= 2
        tried.close()
    return case


if __name__ == "__main__":
    sys.exit(main())
