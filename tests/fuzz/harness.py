"""The interface of a fuzzed format, and the check of one input.

A format is a module in ``tests/fuzz/formats``; the module's name is the format's. It declares

    seeds() -> list[Case]       small valid inputs; ``read`` must accept each of them
    mutate(case, rng) -> Case   a hostile input made from a valid one. It knows the structure: it forges headers,
                                counts, offsets, types and keys. ``rng`` is a `random.Random`; take every choice from it
    read(folder) -> object      the function under attack; the files of the case are in ``folder``

and optionally

    decoded_size(case) -> int   bytes to which the input honestly decodes (default: the bytes of its files)
    ALLOWED = (...)             further exceptions that are a correct end (default: none beside SplatlearnError)
    PROGRAMS = {"ffmpeg"}       programs that the reader may start (default: none)
    WEIGHT = 0.2                share of the cases compared with other formats; below 1 for a slow reader (default: 1)

A `Case` is a dict of file names to bytes: ``{"scene.ply": b"..."}``; names may contain folders. `fuzz.mutations` has
hostile numbers, texts, JSON trees and byte edits. Take large random content from `mutations.noise`, because Hypothesis
limits the choices of an example. ``formats/gpt2.py`` is an example.

`check` runs one input. It must succeed or raise SplatlearnError, whose message is one line of at most 300 characters;
within 2 s and 256 MiB above the decoded size; it must write only below its own folder, start no program and open no
connection. Hypothesis (in the tests), seeds or Atheris (``scripts/fuzz.py``) supply ``rng``.
"""

import importlib
import pkgutil
import re
import shutil
import time
import traceback
from pathlib import Path
from random import Random
from types import ModuleType
from typing import NamedTuple

from fuzz import formats, guard, mutations
from splatlearn.errors import SplatlearnError

Case = dict[str, bytes]

CORPUS = Path(__file__).with_name("corpus")  # corpus/FORMAT/NAME/: the files of a case that once failed
SECONDS = 2.0
MEMORY = 256 << 20  # bytes above the decoded size of the input
CHARACTERS = 300  # of a message, without the folder of the case
REPEATS = 2  # a slow input is tried again: another process may have slowed it down, beside waiting for a core
GARBAGE = re.compile(r"object at 0x|<class |<function |<built-in |Traceback|PosixPath\(|array\(|tensor\(")


class Outcome(NamedTuple):
    """The end of one input: "read", "refused", or the failure in one line; with the seconds it took."""

    end: str
    seconds: float

    @property
    def failed(self) -> bool:
        return self.end not in ("read", "refused")


def names() -> list[str]:
    """The names of all formats."""
    return sorted(module.name for module in pkgutil.iter_modules(formats.__path__))


def load(name: str) -> ModuleType:
    """The module of a format; a name with a dot is that of any module."""
    return importlib.import_module(name if "." in name else f"fuzz.formats.{name}")


def weight(name: str) -> float:
    """The share of a format, read from its source: the module itself is imported only by workers."""
    found = re.search(r"^WEIGHT = ([0-9.]+)$", Path(formats.__path__[0], f"{name}.py").read_text(), re.MULTILINE)
    return float(found[1]) if found else 1.0


def mutated(format: ModuleType, seeds: list[Case], rng: Random) -> Case:
    """A hostile input: structure-aware, and in one of eight cases with damaged bytes on top."""
    case = format.mutate(dict(rng.choice(seeds)), rng)
    if case and rng.randrange(8) == 0:
        name = rng.choice(sorted(case))
        case[name] = mutations.damaged(case[name], rng)
    return case


def write(case: Case, folder: Path) -> None:
    """Put the files of a case into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in case.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def read_case(folder: Path) -> Case:
    """The files of a case in ``folder``."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def corpus(name: str) -> dict[str, Case]:
    """Every case of a format that once failed, by its name."""
    folder = CORPUS / name
    return {each.name: read_case(each) for each in sorted(folder.iterdir()) if each.is_dir()} if folder.is_dir() else {}


def check(format: ModuleType, case: Case, folder: Path) -> Outcome:
    """Run one input, whose files it writes to ``folder``."""
    write(case, folder)
    seconds = 0.0
    for attempt in range(1 + REPEATS):
        guard.begin(folder.parent, getattr(format, "PROGRAMS", frozenset()))
        began = time.perf_counter() - guard.delay()
        try:
            format.read(folder)
            end = "read"
        except SplatlearnError as error:
            end = _fault_of_message(str(error).replace(str(folder), "")) or "refused"
        except getattr(format, "ALLOWED", ()):
            end = "refused"
        except BaseException as error:  # a panic of a Rust library is no Exception
            end = f"raises {type(error).__name__} in {_place(error)}: {_line(error)}"
        elapsed = time.perf_counter() - guard.delay() - began
        seconds = elapsed if attempt == 0 else min(seconds, elapsed)
        grown, forbidden = guard.end()
        if forbidden:
            end = f"does what a reader may not: {forbidden}"
        if seconds <= SECONDS:
            break
    size = getattr(format, "decoded_size", lambda case: sum(map(len, case.values())))(case)
    if end in ("read", "refused") and seconds > SECONDS:
        end = f"takes {seconds:.1f} s and is then {end}"
    elif end in ("read", "refused") and grown > MEMORY + size:
        end = f"takes {grown >> 20} MiB for {size >> 20} MiB and is then {end}"
    return Outcome(end, seconds)


def _fault_of_message(message: str) -> str:
    """What is wrong with the message of an error, or ""."""
    shown = ascii(message[:200])
    if len(message) > CHARACTERS:
        return f"says {len(message)} characters: {shown}"
    if not message.isprintable() or message != message.strip() or not message:
        return f"says more than one printable line: {shown}"
    return f"says what only a programmer reads: {shown}" if GARBAGE.search(message) else ""


def _place(error: BaseException) -> str:
    """The innermost function of the package in a traceback; without its line number, which changes."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "splatlearn" in Path(frame.filename).parts[-4:-1]] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].name}"


def _line(error: BaseException) -> str:
    return ascii(str(error)[:200])
