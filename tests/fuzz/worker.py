"""A process that reads hostile inputs: one JSON request per line on stdin, one JSON line per input on stdout.

Run as ``python -m fuzz.worker FOLDER``. A request names a format, the source of choices and their number:
"corpus" (every case that once failed), "hypothesis", "seeds" (numbers ``first``, ``first`` + 1, …), "folder" (the one
case that it holds) or "atheris" (guided by coverage; it ends with the process). The input under way is always in
``FOLDER/case``, so that a crash leaves it there.
"""

import json
import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

from fuzz import guard, harness

BEGINNINGS, LONGEST = 50, 1024  # Atheris: random inputs that it begins with, and bytes of choices for an input


class ByteChoices(Random):
    """Choices from the bytes of a coverage-guided fuzzer; zeros when they run out."""

    def __new__(cls, content: bytes) -> "ByteChoices":
        return super().__new__(cls)

    def __init__(self, content: bytes) -> None:
        self._content, self._place = content, 0
        super().__init__(0)

    def getrandbits(self, bits: int) -> int:
        size = (bits + 7) // 8
        taken = self._content[self._place : self._place + size]
        self._place += size
        return int.from_bytes(taken, "little") & ((1 << bits) - 1)

    def random(self) -> float:
        return self.getrandbits(53) / (1 << 53)


class Attack:
    """Checks inputs of one format and prints the outcome of each."""

    def __init__(self, request: dict[str, Any], folder: Path, out: Any) -> None:
        self.request, self.folder, self.out = request, folder, out
        self.format: ModuleType = harness.load(request["format"])
        self.seeds = self.format.seeds()
        self.failures = 0

    def tell(self, **fields: Any) -> None:
        self.out.write(json.dumps(fields) + "\n")
        self.out.flush()

    def check(self, case: harness.Case, name: str = "") -> harness.Outcome:
        outcome = harness.check(self.format, case, self.folder / "case")
        kept = ""
        if outcome.failed:  # the folder of the case is written again before anyone reads it
            self.failures += 1
            kept = str(self.folder / "failed" / str(self.failures))
            harness.write(case, Path(kept))
        self.tell(end=outcome.end, seconds=outcome.seconds, failed=outcome.failed, name=name, kept=kept)
        return outcome

    def mutate(self, rng: Random) -> None:
        """Check one hostile input; an error of the mutator itself is a failure, too."""
        try:
            case = harness.mutated(self.format, self.seeds, rng)
        except Exception as error:
            shutil.rmtree(self.folder / "case", ignore_errors=True)
            place = traceback.extract_tb(error.__traceback__)[-1]
            self.tell(
                end=f"the mutator raises {error!r} in line {place.lineno} of {place.name}", seconds=0, failed=True
            )
        else:
            self.check(case)

    def warm_up(self) -> None:
        """Read the seeds: imports and caches of libraries are not the cost of an input."""
        for index, seed in enumerate(self.seeds):
            harness.write(seed, self.folder / "case")
            try:
                self.format.read(self.folder / "case")
            except Exception as error:
                self.tell(end=f"refuses seed {index}: {error!r}", seconds=0, failed=True, name=f"seed {index}")

    def from_corpus(self) -> None:
        for name, case in harness.corpus(self.request["format"]).items():
            self.check(case, name)

    def from_folder(self) -> None:
        self.check(harness.read_case(Path(self.request["folder"])))

    def from_hypothesis(self) -> None:
        from hypothesis import HealthCheck, Phase, given, settings
        from hypothesis import strategies as st

        @settings(
            max_examples=self.request["cases"], derandomize=True, database=None, deadline=None,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(st.randoms(use_true_random=False))
        def attack(rng: Random) -> None:
            self.mutate(rng)

        attack()

    def from_seeds(self) -> None:
        for number in self.numbers():
            self.mutate(Random(f"{self.request['format']} {number}"))

    def numbers(self) -> Iterator[int]:
        first = int(self.request["first"])
        yield from range(first, first + int(self.request["cases"]))

    def from_atheris(self) -> None:
        import atheris

        def attack(content: bytes) -> None:
            self.mutate(ByteChoices(content))

        beginnings = self.folder / "guided" / self.request["format"]  # and what libFuzzer finds; without it, one choice
        beginnings.mkdir(parents=True, exist_ok=True)
        for index in range(BEGINNINGS):
            (beginnings / str(index)).write_bytes(Random(f"{self.request['first']} {index}").randbytes(LONGEST))
        options = [
            f"-runs={self.request['cases']}",
            f"-seed={self.request['first'] % 2**31 or 1}",
            f"-max_len={LONGEST}",
            "-len_control=0",
        ]
        atheris.Setup(
            [sys.argv[0], "-verbosity=0", "-print_final_stats=0", "-timeout=600", *options, str(beginnings)], attack
        )
        atheris.Fuzz()


def main() -> None:
    folder = Path(sys.argv[1])
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no outcome
    first = True
    for line in sys.stdin:
        request = json.loads(line)
        if request["source"] == "atheris" and first:
            import atheris

            with atheris.instrument_imports(include=["splatlearn"]):
                harness.load(request["format"])
        attack = Attack(request, folder, out)
        attack.warm_up()
        if first:
            guard.install()
        first = False
        {
            "corpus": attack.from_corpus, "hypothesis": attack.from_hypothesis, "seeds": attack.from_seeds,
            "atheris": attack.from_atheris, "folder": attack.from_folder,
        }[request["source"]]()  # fmt: skip
        attack.tell(done=True)


if __name__ == "__main__":
    main()
